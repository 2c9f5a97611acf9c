"""Importance weights from traces: one matrix (S, N) of log p(x, z) − log q(z | x), for any program."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch._ops import OpOverload

from pyro_vae.context_managers import DispatchMode, evaluating, seeded
from pyro_vae.errors import InputError, RowsError
from pyro_vae.programs.enumeration import enumerate_sites
from pyro_vae.programs.log_densities import enumerated_weight_terms, log_weight_terms
from pyro_vae.programs.masked_latents import require_masks_alike
from pyro_vae.programs.plates import PlateStructure, require_row_plate
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import SubstituteLatents, Wrapper, sample_sites, trace_program, unchanged
from pyro_vae.typing import LogWeights, Program

MAX_LOG_RATIO = 100.0  # nats


@dataclass(frozen=True)
class LogWeightTerms:
    """Log weights of S draws for N rows, nats: `log_weights` = `log_likelihood` + `log_ratio`, each (S, N).

    Attributes:
        log_likelihood: log p(x | z) over all observed sites.
        log_ratio: log p(z) − log q(z | x) over all latent sites.
        expected_likelihood: its expectation over the latents that the guide enumerates; None where there are none, and
            the mean log weight is the ELBO.
        expected_ratio: likewise of the other term.
    """

    log_likelihood: LogWeights
    log_ratio: LogWeights
    expected_likelihood: LogWeights | None = None
    expected_ratio: LogWeights | None = None

    @property
    def log_weights(self) -> LogWeights:
        return self.log_likelihood + self.log_ratio


class LogWeightSampler:
    """Draws log weights for batches of rows; made once for a program, as it tests whether draws can be vectorized.

    If the program gives the same weights for vectorized draws (a plate to the left of all its own) as for one draw at a
    time, draws are vectorized, and the guide's network runs once for all of them. Otherwise rows are repeated, once for
    each draw, which any program with a row plate supports. Scales (`poutine.scale`, a subsampling plate) belong to an
    objective and are ignored; masks belong to the model and are applied. Discrete latents that the guide leaves out are
    summed inside each weight, and with `sum_out` those that it enumerates, with a draw of the others for each value.
    Raises `RowsError` where rows have no weight of their own.

    Args:
        program: any program.
        plates: its plates.
        example: some of the rows, with their inputs.
        sum_out: whether latents that the guide enumerates are summed out and not drawn.
    """

    def __init__(self, program: Program, plates: PlateStructure, example: Batch, *, sum_out: bool = False) -> None:
        self.program, self.plates = program, plates
        self.row_dim, self.has_auxiliary = require_row_plate(plates), False
        self._enumerate: Wrapper = partial(enumerate_sites, plates=plates)
        rows = self._some_rows(example, 2)
        with torch.no_grad(), seeded(0), evaluating(program):
            self.vectorized = self._supports_vectorized_draws(rows, draws=3)
            self.sums_out = sum_out and self._supports_enumeration(rows)

    def __call__(
        self, batch: Batch, draws: int, *, from_prior: bool = False, on_support: bool = True, check: bool = True
    ) -> LogWeightTerms:
        """Log weights of draws from the guide, or the same two terms for draws from the prior.

        Args:
            batch: rows (N, D) with their inputs.
            draws: the number S of draws for each row.
            from_prior: whether the latents are drawn from the prior.
            on_support: whether supports are checked; False to measure what the program alone writes.
            check: whether draws of the guide that no density allows are refused; False where the caller does it.

        Returns:
            The terms, (S, N) nats each.
        """
        if self.sums_out and not from_prior:
            return self._summed_out(batch, draws, on_support)
        if draws > 1 and not self.vectorized and self.plates.num_rows is not None:  # rows cannot be repeated
            parts = [self(batch, 1, from_prior=from_prior, on_support=on_support) for _ in range(draws)]
            terms = zip(*((part.log_likelihood, part.log_ratio) for part in parts), strict=True)
            return LogWeightTerms(*(torch.cat(term) for term in terms))
        if self.vectorized:
            keep, draws_plate = {self.row_dim, -self.plates.nesting - 1}, self._draws_plate(draws)
        else:
            keep, draws_plate = {self.row_dim}, unchanged
            batch = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(draws))
        around: Wrapper = draws_plate
        values: dict[str, Tensor] = {}
        if from_prior:
            values = self._draw_from_prior(batch, draws_plate)
            around = lambda function: draws_plate(SubstituteLatents(values)(function))  # noqa: E731
        model, guide = trace_program(self.program, batch, around, self._enumerate)
        if from_prior and (auxiliary := sample_sites(guide).keys() - values.keys()):
            raise InputError(
                f"draws of the prior have no weight under this guide: its auxiliary {', '.join(sorted(auxiliary))} "
                "leave it without a density of z alone; take prior_share=0"
            )
        require_masks_alike(model, guide)
        likelihood, ratio = log_weight_terms(model, guide, keep, on_support=on_support)
        found = LogWeightTerms(likelihood.reshape(draws, -1), ratio.reshape(draws, -1))
        self.has_auxiliary = not sample_sites(guide).keys() <= sample_sites(model).keys()
        if not from_prior and check:
            self.require_possible(found.log_ratio)
        return found

    def require_possible(self, log_ratio: LogWeights) -> None:
        r"""`RowsError` where log p(z) − log q(z|x) of a draw z ~ q is more than a density can make it.

        $E_q[p(z)/q(z|x)] \le 1$, so by Markov's inequality a draw exceeds t nats with probability $e^{-t}$ at most. It
        says nothing of a guide with auxiliary latents.

        Args:
            log_ratio: of draws of the guide (S, N), nats.
        """
        largest = float(log_ratio.max()) if log_ratio.numel() and not self.has_auxiliary else -math.inf
        if largest > MAX_LOG_RATIO:
            row = int(log_ratio.amax(0).argmax())
            raise RowsError(
                f"row {row} of a block has a draw of the guide whose log p(z) − log q(z|x) is {largest:.4g} nats, "
                f"which is above {MAX_LOG_RATIO:.0f} with probability e^−{MAX_LOG_RATIO:.0f} at most: rounding has "
                "spoiled log q (take --dtype float64, dtype=torch.float64, or another scale of the values), or the "
                "prior is no density"
            )

    def _summed_out(self, batch: Batch, draws: int, on_support: bool) -> LogWeightTerms:
        """Log weights of draws from the guide with the latents that it enumerates summed out."""
        first, keep = -self.plates.nesting - 2, {self.row_dim}
        draws_plate: Wrapper = unchanged
        if self.vectorized:
            keep, draws_plate = {self.row_dim, first + 1}, self._draws_plate(draws)
        else:
            batch = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(draws))

        def around(function: Callable[[], object]) -> Callable[[], object]:
            enumerated: Callable[[], object] = poutine.enum(function, first_available_dim=first)
            return draws_plate(enumerated)

        model, guide = trace_program(self.program, batch, around)
        values = {first - number for number in range(len(self.plates.enumerated_in_guide))}
        terms = enumerated_weight_terms(model, guide, keep, values, on_support=on_support)
        return LogWeightTerms(*(term.reshape(draws, -1) for term in terms))

    def _supports_enumeration(self, rows: Batch) -> bool:
        """Whether the guide enumerates latents, and the program runs with all their values in one call."""
        plates = self.plates
        if not plates.enumerated_in_guide or plates.enumerated or plates.num_rows is not None:
            return False
        try:
            terms = self._summed_out(rows, 3, on_support=False)
        except Exception:  # any error of the program's own code on a further batch axis
            return False
        return terms.log_likelihood.shape == (3, len(rows.x))

    def _draw_from_prior(self, batch: Batch, draws_plate: Wrapper) -> dict[str, Tensor]:
        """The values of the latents, but for those that are summed out, in a run of the model alone."""
        model = draws_plate(lambda: bind_supported_kwargs(self.program.model)(batch.x, batch.row_inputs))
        with pyro.validation_enabled(False):  # a row without a number must not stop the others
            sites = sample_sites(poutine.trace(model).get_trace())
        latents = {name: site for name, site in sites.items() if not site["is_observed"]}
        return {name: site["value"] for name, site in latents.items() if name not in self.plates.enumerated}

    def _draws_plate(self, draws: int) -> Wrapper:
        plate: Wrapper = pyro.plate("_draws", draws, dim=-self.plates.nesting - 1)
        return plate

    def _supports_vectorized_draws(self, rows: Batch, draws: int) -> bool:
        """Whether vectorized draws have the same weights as one draw at a time."""
        try:
            keep = {self.row_dim, -self.plates.nesting - 1}
            model, guide = trace_program(self.program, rows, self._draws_plate(draws), self._enumerate)
            vectorized = log_weight_terms(model, guide, keep)
            for draw in range(draws):
                values = {name: site["value"][draw] for name, site in sample_sites(guide).items()}
                traces = trace_program(self.program, rows, SubstituteLatents(values), self._enumerate)
                pairs = zip(vectorized, log_weight_terms(*traces, {self.row_dim}), strict=True)
                if not all(_are_close(terms[draw], term) for terms, term in pairs):
                    return False
        except Exception:  # any error of the program's own code on a second batch axis
            return False
        return True

    def bytes_per_weight(self, example: Batch) -> int:
        """Bytes that one draw of one row makes the program write: what a memory budget is divided by."""
        trial, draws = self._some_rows(example, 8), 4
        with torch.no_grad(), seeded(0), CountOperations() as counter:
            self(trial, draws, on_support=False)
        return max(64, int(counter.bytes) // (len(trial.x) * draws))

    def _some_rows(self, example: Batch, number: int) -> Batch:
        """So many rows, repeated where there are fewer; all rows where the program runs for no other number."""
        if self.plates.num_rows is not None:
            return example
        return example.take(torch.arange(number, device=example.x.device) % len(example.x))


class CountOperations(DispatchMode):
    """Counts the bytes of every tensor that operations write, views left out, and the convolutions among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.bytes: int = 0
        self.convolutions: int = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        self.convolutions += int("convolution" in str(func))
        if not (isinstance(func, OpOverload) and func.is_view):
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, Tensor):
                    self.bytes += value.numel() * value.element_size()
        return result


def _are_close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-5, atol=1e-3, equal_nan=True)
