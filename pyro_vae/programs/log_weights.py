"""Importance weights of rows from traces: one matrix (S, N) of log p(x, z) − log q(z | x), for any program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.context import evaluating, seeded
from pyro_vae.errors import InputError
from pyro_vae.programs.plates import PlateStructure, require_rows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import SubstituteLatents, log_weight_terms, sample_sites, trace_program
from pyro_vae.typing import LogWeights


@dataclass(frozen=True)
class LogWeightTerms:
    """Log weights of S draws for N rows, nats: `log_weights` = `log_likelihood` + `log_ratio`, each (S, N).

    `log_likelihood` is log p(x | z) over all observed sites, `log_ratio` is log p(z) − log q(z | x) over all latent
    ones.
    """

    log_likelihood: LogWeights
    log_ratio: LogWeights

    @property
    def log_weights(self) -> LogWeights:
        return self.log_likelihood + self.log_ratio


class LogWeightSampler:
    """Draws weights for batches of rows; made once for a program, since it learns by trial how that takes many draws.

    Where the program gives the same weights for draws side by side (a plate to the left of all its own) as for one draw
    at a time, draws go side by side, and the guide's network runs once for all of them. Otherwise rows are repeated,
    once for each draw, which any program with a row plate can do. Scales (`poutine.scale`, a subsampling plate) belong
    to an objective and are left out; masks belong to the model and count. Raises `RowsError` where rows have no weight
    of their own.
    """

    def __init__(self, program: Any, plates: PlateStructure, example: Batch) -> None:
        self.program, self.plates = program, plates
        self.row_dim = require_rows(plates)
        few = example.take(torch.arange(2, device=example.x.device) % len(example.x))
        with torch.no_grad(), seeded(0), evaluating(program):
            self.vectorized = self._agrees(few, draws=3)

    def __call__(self, batch: Batch, draws: int, *, from_prior: bool = False) -> LogWeightTerms:
        """Weights of draws from the guide, or the same two parts for draws from the prior."""
        if self.vectorized:
            kept, around = {self.row_dim, -self.plates.nesting - 1}, self._draws_plate(draws)
        else:
            kept, around = {self.row_dim}, _as_it_is
            batch = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(draws))
        outer, values = around, {}
        if from_prior:
            values = self._from_prior(batch, around)

            def outer(function: Any) -> Any:
                return around(SubstituteLatents(values)(function))

        model, guide = trace_program(self.program, batch, around=outer)
        if from_prior and (own := sample_sites(guide).keys() - values.keys()):
            raise InputError(
                f"draws of the prior cannot be weighed against this guide: its auxiliary {', '.join(sorted(own))} "
                "leave it without a density of z alone; take prior_share=0"
            )
        likelihood, ratio = log_weight_terms(model, guide, kept)
        return LogWeightTerms(likelihood.reshape(draws, -1), ratio.reshape(draws, -1))

    def _from_prior(self, batch: Batch, around: Callable[[Any], Any]) -> dict[str, Tensor]:
        """The latents' values in a run of the model on its own."""
        model = around(lambda: bind_supported_kwargs(self.program.model)(batch.x, batch.row_inputs))
        sites = sample_sites(poutine.trace(model).get_trace())
        return {name: site["value"] for name, site in sites.items() if not site["is_observed"]}

    def _draws_plate(self, draws: int) -> Callable[[Any], Any]:
        return pyro.plate("_draws", draws, dim=-self.plates.nesting - 1)

    def _agrees(self, few: Batch, draws: int) -> bool:
        """Whether draws side by side weigh what each of them weighs alone."""
        try:
            kept = {self.row_dim, -self.plates.nesting - 1}
            model, guide = trace_program(self.program, few, around=self._draws_plate(draws))
            together = log_weight_terms(model, guide, kept)
            for draw in range(draws):
                values = {name: site["value"][draw] for name, site in sample_sites(guide).items()}
                alone = log_weight_terms(
                    *trace_program(self.program, few, around=SubstituteLatents(values)), {self.row_dim}
                )
                if not all(
                    torch.allclose(a[draw], b, rtol=1e-5, atol=1e-3) for a, b in zip(together, alone, strict=True)
                ):
                    return False
        except Exception:  # whatever the program's own code says to a second axis in front, it does not take one
            return False
        return True

    def bytes_per_weight(self, example: Batch) -> int:
        """Bytes that one draw of one row makes the program write: what a memory budget is divided by."""
        rows, draws = 8, 4
        trial = example.take(torch.arange(rows, device=example.x.device) % len(example.x))
        with torch.no_grad(), seeded(0), _Written() as written:
            self(trial, draws)
        return max(64, written.bytes // (rows * draws))


class _Written(TorchDispatchMode):
    """Counts the bytes of every tensor that operations write, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            for value in made if isinstance(made, (tuple, list)) else (made,):
                if isinstance(value, Tensor):
                    self.bytes += value.numel() * value.element_size()
        return made


def _as_it_is(function: Any) -> Any:
    return function
