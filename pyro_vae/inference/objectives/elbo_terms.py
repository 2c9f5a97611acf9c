"""The ELBO per row: the scale of each site in the objective, and the sums of its two terms over rows."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceTailAdaptive_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.distributed import ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.free_bits import independent_dimensions
from pyro_vae.inference.objectives.importance_weighted import PARTICLES
from pyro_vae.inference.objectives.row_weights import ROW_WEIGHTS, row_weights_of
from pyro_vae.programs.latent_support import latents_outside
from pyro_vae.programs.plates import PlateStructure, sized
from pyro_vae.programs.support import zero_outside_support
from pyro_vae.programs.traces import Site, sample_sites

LINEAR_ELBOS = (Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO)  # scaling every site by c scales the loss by c


T = TypeVar("T")


class RowWeighted(Messenger):
    r"""Scales every site so that the ELBO of a batch is the ELBO per row, with β on the latent sites.

    Sites inside the row plate are scaled by 1/B, sites outside it (global latents) by 1/N: for a batch of B of the N
    rows the sum is $\frac1B\sum_i [\log p(x_i|z_i) + \beta(\log p(z_i) - \log q(z_i|x_i))] + \frac1N \beta [\log p(w)
    - \log q(w)]$. A plate that subsamples has scaled its sites by N/B already, so they are scaled by 1/N.

    Where the rows have weights $w_i$ with the mean 1, row i's term of the sum is multiplied by its own, and the term of
    global latents is not.

    Args:
        plates: the program's plates.
        num_rows: the number N of training rows.
    """

    def __init__(self, plates: PlateStructure, num_rows: int) -> None:
        super().__init__()
        self.plates, self.num_rows = plates, num_rows
        self.beta: float | Tensor = 1.0
        self.weights: Tensor | None = None  # of the rows at hand, in a shape that broadcasts inside their plate
        self.is_in_scale = True  # whether sites are scaled by weights; else the objective multiplies by them

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        """A function of rows and their inputs as one that an objective calls with the rows' weights, if they have any.

        Args:
            function: a model or guide of (x, row inputs).

        Returns:
            The function of (x, row inputs, weights) inside this handler.
        """

        def call(x: Tensor, row_inputs: object, weights: Tensor | None = None) -> object:
            self.weights = None if weights is None else self._in_plate(weights)
            with self:
                return function(x, row_inputs)

        return call

    def _in_plate(self, weights: Tensor) -> Tensor:
        assert self.plates.row_dim is not None
        return weights.reshape(-1, *(1,) * (-self.plates.row_dim - 1))

    def _pyro_sample(self, msg: Site) -> None:
        weight = 1.0 / (self.plates.plate_size(msg) or self.num_rows)
        msg["scale"] = msg["scale"] * (weight if msg["is_observed"] else weight * self.beta)
        if self.weights is not None and (frame := self.plates.row_plate_frame(msg)) is not None:
            self._weigh(msg, sized(frame, msg), self.weights)

    def _weigh(self, msg: Site, num_rows: int, weights: Tensor) -> None:
        """Multiply a site inside the row plate by its rows' weights, and keep them with it."""
        if num_rows != len(weights):
            raise InputError(f"{msg['name']} has {num_rows} rows in the plate, and {len(weights)} rows have weights")
        msg["infer"] = {**(msg["infer"] or {}), ROW_WEIGHTS: weights}
        if self.is_in_scale:
            msg["scale"] = msg["scale"] * weights


@dataclass(frozen=True)
class TermSums:
    """The sums that one step adds to `Terms`: reconstruction, KL and the KL of each of `sites`, over `rows` rows.

    `tensors` is empty where `exact` is False.
    """

    tensors: tuple[Tensor, ...] = ()
    rows: float = 0.0
    exact: bool = True
    sites: tuple[str, ...] = ()


class Terms:
    """Sums over rows of the ELBO's two terms, at β = 1 whatever the objective, from the traces that an ELBO makes.

    `reconstruction` sums log p of observed sites, `kl` sums log q − log p of latent ones; a site outside the row plate
    counts by the batch's share of the rows. A latent that the guide enumerates counts by its expectation under q. What
    the guide observes, a term of the objective and of no density, counts nowhere. `exact` is False where the model
    alone enumerates sites, whose log-probabilities are not those of draws.

    Args:
        plates: the program's plates.
        num_rows: the number N of training rows.
        uncertain: latents whose draws may lie outside the support of their prior: the KL is then infinite.
    """

    def __init__(self, plates: PlateStructure, num_rows: int, uncertain: Iterable[str] = ()) -> None:
        self.plates, self.num_rows, self.uncertain = plates, num_rows, tuple(uncertain)
        self.reset()

    def reset(self, by_site: bool = False) -> None:
        """Set all sums to zero; with `by_site` sum the KL of each latent site too, by dimension where possible."""
        self.reconstruction: Tensor | float = 0.0
        self.kl: Tensor | float = 0.0
        self.rows, self.exact = 0.0, True
        self.site_kl: dict[str, Tensor] | None = {} if by_site else None

    def add_sums(self, step: TermSums, tensors: Iterable[Tensor | None]) -> None:
        """Add the sums of a step that made no traces.

        Args:
            step: the sums of an earlier one.
            tensors: the sums, in the order of those.
        """
        self.exact = self.exact and step.exact
        sums = [total for total in tensors if total is not None]
        if sums:
            self.reconstruction, self.kl = self.reconstruction + _wide(sums[0]), self.kl + _wide(sums[1])
            self.rows += step.rows
        for name, total in zip(step.sites, sums[2:], strict=True):
            assert self.site_kl is not None
            self.site_kl[name] = self.site_kl.get(name, 0.0) + total

    def capture_sums(self, step: Callable[[], T]) -> tuple[T, TermSums]:
        """Call a step; return its result, and what it would have added to these sums, which stay as they are."""
        before = dict(vars(self))
        self.reset(by_site=self.site_kl is not None)
        try:
            result = step()
            if not self.exact:
                return result, TermSums(rows=self.rows, exact=False)
            site_kl = self.site_kl or {}
            sums = (torch.as_tensor(self.reconstruction), torch.as_tensor(self.kl), *site_kl.values())
            return result, TermSums(sums, self.rows, sites=tuple(site_kl))
        finally:
            vars(self).update(before)

    def attach(self, loss: ELBO) -> ELBO:
        """A copy of an ELBO that adds each pair of its traces to these sums; `InputError` for unsupported ELBOs."""
        is_supported = isinstance(loss, LINEAR_ELBOS) and not isinstance(loss, TraceTailAdaptive_ELBO)
        if not is_supported or type(loss).__name__.startswith("Jit"):
            raise InputError(
                f"{type(loss).__name__} cannot be the loss: a weight of 1/B on each site would change what it is; take "
                "Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, ImportanceWeighted_ELBO, "
                "FreeBits_ELBO, ReweightedWakeSleep or a subclass, not compiled"
            )

        def get_trace_and_add(*args: object, **kwargs: object) -> tuple[Trace, Trace]:
            pair: tuple[Trace, Trace] = get_trace(*args, **kwargs)
            self.add(*pair, draws=loss.num_particles)
            return pair

        attached, get_trace = copy.copy(loss), loss._get_trace
        vars(attached)["_get_trace"] = get_trace_and_add
        return attached

    @torch.no_grad()
    def add(self, model_trace: Trace, guide_trace: Trace, draws: int = 1) -> None:
        """Add one pair of traces.

        Args:
            model_trace: the model's trace.
            guide_trace: the guide's.
            draws: how many such pairs a batch has; or how many vectorized draws its one pair has.
        """
        model, guide = sample_sites(model_trace), sample_sites(guide_trace)
        sites = [*model.values(), *guide.values()]
        enumerated = {site["name"] for site in sites if site["infer"].get("_enumerate_dim") is not None}
        probs = self._probs([guide[name] for name in enumerated if name in guide])
        if enumerated - guide.keys() or (enumerated and probs is None):
            self.exact = False
            if latents_outside(model, self.uncertain):
                self.kl = math.inf
            return
        framed = ((frame, site) for site in sites if (frame := self.plates.row_plate_frame(site)))
        batch = next((sized(frame, site) for frame, site in framed), self.num_rows)
        vectorized = any(frame.name == PARTICLES for site in sites for frame in site["cond_indep_stack"])
        self.rows += batch if vectorized else batch / draws
        for site in model.values():
            if site["is_observed"]:
                self.reconstruction = self.reconstruction + self._sum(site, batch, probs) / draws
            else:
                self.kl = self.kl - self._sum(site, batch, probs) / draws
        for name, site in guide.items():
            if site["is_observed"]:
                continue
            self.kl = self.kl + self._sum(site, batch, probs) / draws
            if self.site_kl is not None and name in model:
                own = self._site_kl(model[name], site, batch, probs)
                self.site_kl[name] = self.site_kl.get(name, 0.0) + own / draws

    def _probs(self, enumerated: list[Site]) -> Tensor | None:
        """q of the values of the latents that the guide enumerates, in the rows; None where there are none such."""
        if not enumerated or any(self.plates.row_plate_frame(site) is None for site in enumerated):
            return None
        return torch.stack(torch.broadcast_tensors(*(site["unscaled_log_prob"] for site in enumerated))).sum(0).exp()

    def all_reduce(self, group: ProcessGroup) -> None:
        """Overwrite the sums with those over the rows of all processes."""
        if group.is_single:
            return
        sums = {"reconstruction": float(self.reconstruction), "kl": float(self.kl), "rows": self.rows}
        site_kl = None if self.site_kl is None else {name: value.cpu() for name, value in self.site_kl.items()}
        gathered = group.all_gather((sums, self.exact, site_kl))
        self.reconstruction, self.kl, self.rows = (sum(part[name] for part, _, _ in gathered) for name in sums)
        self.exact = all(exact for _, exact, _ in gathered)
        if site_kl is not None:
            parts = [part for _, _, part in gathered if part is not None]
            names, zero = dict.fromkeys(name for part in parts for name in part), torch.zeros(())
            self.site_kl = {name: sum((part[name] for part in parts if name in part), zero) for name in names}

    def site_kl_means(self) -> dict[str, float | list[float]] | None:
        """The KL of each latent site in nats per row, as one number or one for each of its dimensions."""
        if not self.exact or self.site_kl is None:
            return None
        return {name: (total / self.rows).tolist() for name, total in self.site_kl.items()}

    def means(self) -> tuple[float, float, float] | None:
        """(ELBO, reconstruction, KL) in nats per row; None where sites were enumerated."""
        if not self.exact:
            return None
        reconstruction, kl = float(self.reconstruction) / self.rows, float(self.kl) / self.rows
        return reconstruction - kl, reconstruction, kl

    def _sum(self, site: Site, batch: int, probs: Tensor | None = None) -> Tensor:
        log_prob = site["unscaled_log_prob"]
        if site["name"] in self.uncertain:
            log_prob = zero_outside_support(site["fn"], site["value"], log_prob)
        log_prob, weights = scale_and_mask(log_prob, mask=site["mask"]), row_weights_of(site)
        is_inside = self.plates.row_plate_frame(site) is not None
        if probs is not None and is_inside:
            log_prob = torch.where(probs > 0, probs * log_prob, 0)
        total = _wide((log_prob if weights is None else log_prob * weights).sum())
        return total if is_inside else total * (batch / self.num_rows)

    def _site_kl(self, model: Site, guide: Site, batch: int, probs: Tensor | None) -> Tensor:
        """log q − log p of one site summed over rows and draws, for each dimension (K,) where both factorize."""
        bases, value = independent_dimensions(model["fn"], guide["fn"]), guide["value"]
        if bases is None or guide["mask"] is not None or model["mask"] is not None:
            return self._sum(guide, batch, probs) - self._sum(model, batch, probs)
        p, q = bases
        each, weights = q.log_prob(value) - p.log_prob(value), row_weights_of(guide)
        if probs is not None and self.plates.row_plate_frame(guide) is not None:
            each = torch.where(probs[..., None] > 0, probs[..., None] * each, 0)
        each = (each if weights is None else each * weights[..., None]).reshape(-1, value.shape[-1]).sum(0)
        return each * (batch / self.num_rows) if self.plates.row_plate_frame(guide) is None else each


def _wide(total: Tensor) -> Tensor:
    """A sum in double precision, which sums over millions of rows need; MPS has none."""
    return total if total.device.type == "mps" else total.double()
