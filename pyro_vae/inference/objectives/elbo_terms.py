"""The objective in nats per row: what each site weighs, and its two terms as they pass by."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceTailAdaptive_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO, factorizes
from pyro_vae.inference.objectives.importance_weighted import PARTICLES, ImportanceWeighted_ELBO
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.traces import sample_sites

OWN = (ImportanceWeighted_ELBO, FreeBits_ELBO, ReweightedWakeSleep)
LINEAR = (Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO)  # a scale on every site is a scale on these, and on few others


class RowWeighted(Messenger):
    r"""Weigh every site so that the ELBO of a batch is the ELBO per row, with β on the latent sites.

    Sites inside the row plate weigh 1/B, sites outside it (global latents) 1/N: for a batch of B of the N rows the sum
    is $\frac1B\sum_i [\log p(x_i|z_i) + \beta(\log p(z_i) - \log q(z_i|x_i))] + \frac1N \beta [\log p(w) - \log q(w)]$.
    A plate that subsamples has scaled its sites by N/B already, and they weigh 1/N.
    """

    def __init__(self, plates: PlateStructure, num_rows: int) -> None:
        super().__init__()
        self.plates, self.num_rows = plates, num_rows
        self.beta: float | Tensor = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        frame = self.plates.row_plate_frame(msg)
        weight = 1.0 / (self.num_rows if frame is None else frame.full_size or frame.size)
        msg["scale"] = msg["scale"] * (weight if msg["is_observed"] else weight * self.beta)


@dataclass(frozen=True)
class Sums:
    """What one step adds to the terms: the two and those of each site in `apart`, over so many `rows`.

    There are no `tensors` where `exact` is False.
    """

    tensors: tuple[Tensor, ...] = ()
    rows: float = 0.0
    exact: bool = True
    apart: tuple[str, ...] = ()


class Terms:
    """Sums over rows of the ELBO's two terms, at β = 1 whatever the objective, from the traces an ELBO makes.

    `reconstruction` sums log p of observed sites, `kl` sums log q − log p of latent ones; a site outside the row plate
    counts in the share of the batch. `exact` is False where sites were enumerated and their sums mean something else.
    """

    def __init__(self, plates: PlateStructure, num_rows: int) -> None:
        self.plates, self.num_rows = plates, num_rows
        self.reset()

    def reset(self, apart: bool = False) -> None:
        """Begin anew; with `apart` the KL of each latent site, and of each dimension where there is one, is kept
        too."""
        self.reconstruction: Tensor | float = 0.0
        self.kl: Tensor | float = 0.0
        self.rows, self.exact = 0.0, True
        self.apart: dict[str, Any] | None = {} if apart else None

    def add_sums(self, step: Sums, tensors: Sequence[Any]) -> None:
        """Add what a step gave without passing by here: its two sums, laid out as an earlier one's."""
        self.exact = self.exact and step.exact
        if tensors:
            self.reconstruction, self.kl = self.reconstruction + _wide(tensors[0]), self.kl + _wide(tensors[1])
            self.rows += step.rows
        for name, total in zip(step.apart, tensors[2:], strict=True):
            assert self.apart is not None
            self.apart[name] = self.apart.get(name, 0.0) + total

    def apart_from(self, step: Callable[[], Any]) -> tuple[Any, Sums]:
        """What a step returns, and what it would have added here."""
        before = dict(vars(self))
        self.reset(apart=self.apart is not None)
        try:
            made = step()
            if not self.exact:
                return made, Sums(rows=self.rows, exact=False)
            apart = self.apart or {}
            sums = (torch.as_tensor(self.reconstruction), torch.as_tensor(self.kl), *apart.values())
            return made, Sums(sums, self.rows, apart=tuple(apart))
        finally:
            vars(self).update(before)

    def watch(self, loss: ELBO) -> ELBO:
        """The same ELBO, its traces passing by here on their way."""
        watched, get_trace = copy.copy(loss), getattr(loss, "_get_trace", None)
        known = isinstance(loss, OWN) or (isinstance(loss, LINEAR) and not isinstance(loss, TraceTailAdaptive_ELBO))
        if not known or get_trace is None or type(loss).__name__.startswith("Jit"):
            raise InputError(
                f"{type(loss).__name__} cannot be the loss: a weight of 1/B on each site would change what it is; take "
                "Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, ImportanceWeighted_ELBO, "
                "FreeBits_ELBO, ReweightedWakeSleep or a subclass, not compiled"
            )

        def passing(*args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
            pair = get_trace(*args, **kwargs)
            self.add(pair[0], pair[1], draws=loss.num_particles)
            return pair

        watched._get_trace = passing  # type: ignore[method-assign]
        return watched

    @torch.no_grad()
    def add(self, model_trace: Trace, guide_trace: Trace, draws: int = 1) -> None:
        """Add one pair of traces; `draws` pairs, or one pair of as many draws side by side, make up a batch."""
        model, guide = sample_sites(model_trace), sample_sites(guide_trace)
        sites = [*model.values(), *guide.values()]
        if any(site["infer"].get("_enumerate_dim") is not None for site in sites):
            self.exact = False
            return
        batch = next((frame.size for site in sites if (frame := self.plates.row_plate_frame(site))), self.num_rows)
        vectorized = any(frame.name == PARTICLES for site in sites for frame in site["cond_indep_stack"])
        self.rows += batch if vectorized else batch / draws
        for site in model.values():
            if site["is_observed"]:
                self.reconstruction = self.reconstruction + self._sum(site, batch) / draws
            else:
                self.kl = self.kl - self._sum(site, batch) / draws
        for name, site in guide.items():
            self.kl = self.kl + self._sum(site, batch) / draws
            if self.apart is not None and name in model:
                self.apart[name] = self.apart.get(name, 0.0) + self._apart(model[name], site, batch) / draws

    def _sum(self, site: Any, batch: int) -> Tensor:
        total = _wide(scale_and_mask(site["unscaled_log_prob"], mask=site["mask"]).sum())
        return total * (batch / self.num_rows) if self.plates.row_plate_frame(site) is None else total

    def _apart(self, model: Any, guide: Any, batch: int) -> Tensor:
        """log q − log p of one site summed over rows and draws, for each dimension (K,) where both factorize."""
        p, q, value = model["fn"], guide["fn"], guide["value"]
        if not factorizes(p, q) or guide["mask"] is not None or model["mask"] is not None:
            return self._sum(guide, batch) - self._sum(model, batch)
        each = (q.base_dist.log_prob(value) - p.base_dist.log_prob(value)).reshape(-1, value.shape[-1]).sum(0)
        return each * (batch / self.num_rows) if self.plates.row_plate_frame(guide) is None else each

    def apart_means(self) -> dict[str, float | list[float]] | None:
        """The KL of each latent site in nats per row, as one number or one for each of its dimensions."""
        if not self.exact or self.apart is None:
            return None
        return {name: (total / self.rows).tolist() for name, total in self.apart.items()}

    def means(self) -> tuple[float, float, float] | None:
        """(ELBO, reconstruction, KL) in nats per row; None where sites were enumerated."""
        if not self.exact:
            return None
        reconstruction, kl = float(self.reconstruction) / self.rows, float(self.kl) / self.rows
        return reconstruction - kl, reconstruction, kl


def _wide(total: Tensor) -> Tensor:
    """In double precision, where there is one: sums over millions of rows are kept in it."""
    return total if total.device.type == "mps" else total.double()
