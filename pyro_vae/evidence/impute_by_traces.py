"""Missing values where the guide draws discrete latents, or very many: points of the guide and the prior."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.errors import InputError
from pyro_vae.evidence.impute_blocks import (
    DRAWING,
    Wanted,
    WeightedMean,
    choose_points,
    effective_draws,
    khat_of,
    normalized,
)
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.evidence.proposal_mixture import log_mixture
from pyro_vae.evidence.row_blocks import key
from pyro_vae.programs.log_densities import log_weight_terms
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.observed_values import ObservedValues
from pyro_vae.programs.plates import require_any_number_of_rows, require_guide_density, require_row_plate
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import Site, SubstituteLatents, sample_sites, trace_program, unchanged
from pyro_vae.typing import LogWeights, PerRow, Program

PRIOR_SHARE = 0.25  # of the points
MAX_ROWS = 64  # of a block
POINTS = 300  # a stream of random numbers
MIN_ESS = 25.0  # of weights that are the same at many points, whose tail no Pareto distribution describes


@dataclass(frozen=True)
class _Points:
    """Points of n rows' latents, and what is known there.

    Attributes:
        values: the latents by site, in the shape of S·n rows, points first.
        sites: those of the model.
        batch: the S·n rows.
        likelihood: log p(x | z), (S, n) nats.
        ratio: log p(z) − log q(z | x), (S, n) nats.
    """

    values: dict[str, Tensor]
    sites: dict[str, Site]
    batch: Batch
    likelihood: LogWeights
    ratio: LogWeights


class TraceImputer:
    """Missing values of rows by traces: latents from the guide and the prior, resampled by their weights.

    Args:
        program: any program whose guide has a density for each row.
        scored: the rows, each with a missing value.
        wanted: what is asked for.
    """

    def __init__(self, program: Program, scored: ScoredRows, wanted: Wanted) -> None:
        self.program, self.scored, self.wanted, self.plates = program, scored, wanted, scored.plates
        require_any_number_of_rows(self.plates)
        require_guide_density(self.plates)
        self.row_dim = require_row_plate(self.plates)
        sampler = LogWeightSampler(program, self.plates, scored.first)
        points = int(wanted.memory_mib * 2**20 // sampler.bytes_per_weight(scored.first))
        self.num_rows = max(1, min(MAX_ROWS, points // wanted.num_samples))
        self.from_prior = int(PRIOR_SHARE * wanted.num_samples)

    def score(self) -> list[dict[str, Tensor]]:
        """The numbers of all rows, a dictionary of tensors (n, …) for each block."""

        def of_block(first: int, batch: Batch, places: Tensor) -> dict[str, Tensor]:
            with seeded(key(self.scored.seed, POINTS, first)):
                parts = [self._from_guide(batch), self._from_prior(batch)]
            likelihood, ratio = (torch.cat([getattr(part, name) for part in parts]) for name in ("likelihood", "ratio"))
            log_weights = (likelihood - log_mixture(self.from_prior / len(ratio), ratio)).cpu().double()
            khat = khat_of(log_weights)
            values = (
                self._draws(batch, parts, log_weights, first) if self._is_drawn else self._means(parts, log_weights)
            )
            return {
                "values": values,
                "khat": khat,
                "ess": effective_draws(log_weights),
                "stage": torch.zeros(len(khat), dtype=torch.long),
                "is_bad": _is_bad(log_weights, khat),
            }

        return self.scored.map_blocks(self.num_rows, of_block)

    @property
    def _is_drawn(self) -> bool:
        return self.wanted.method == "draws"

    def _repeated(self, batch: Batch, times: int) -> Batch:
        return batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(times))

    def _from_guide(self, batch: Batch) -> _Points:
        rows = self._repeated(batch, self.wanted.num_samples - self.from_prior)
        return self._points(rows, len(batch.x), {})

    def _from_prior(self, batch: Batch) -> _Points:
        rows = self._repeated(batch, self.from_prior)
        with pyro.validation_enabled(False):
            model = bind_supported_kwargs(self.program.model)
            sites = sample_sites(poutine.trace(model).get_trace(rows.x, rows.row_inputs))
        values = {name: site["value"] for name, site in sites.items() if not site["is_observed"]}
        return self._points(rows, len(batch.x), values)

    def _points(self, rows: Batch, num: int, values: dict[str, Tensor]) -> _Points:
        around = (lambda function: SubstituteLatents(values)(function)) if values else unchanged
        model, guide = trace_program(self.program, rows, around)
        drawn, sites = sample_sites(guide), sample_sites(model)
        if auxiliary := drawn.keys() - sites.keys():
            raise InputError(
                f"the guide's auxiliary {', '.join(sorted(auxiliary))} leave it without a density of z alone, so "
                "missing values cannot be drawn by their weights"
            )
        likelihood, ratio = log_weight_terms(model, guide, {self.row_dim})
        known = {name: site["value"] for name, site in sites.items() if not site["is_observed"]}
        return _Points(known, sites, rows, likelihood.reshape(-1, num), ratio.reshape(-1, num))

    def _draws(self, batch: Batch, parts: Sequence[_Points], log_weights: LogWeights, first: int) -> Tensor:
        """Draws of x, (n, M, D)."""
        num, n = self.wanted.num_imputations, len(batch.x)
        chosen = choose_points(log_weights, num, self.scored.seed, first + torch.arange(n))
        flat = (chosen * n + torch.arange(n)).flatten().to(batch.x.device)
        values = {
            name: torch.cat([part.values[name] for part in parts], axis).index_select(axis, flat)
            for name, axis in ((name, self.row_dim - parts[0].sites[name]["fn"].event_dim) for name in parts[0].values)
        }
        rows = self._repeated(batch, num)
        model = SubstituteLatents(values)(bind_supported_kwargs(self.program.model))
        with seeded(key(self.scored.seed, DRAWING, first)):
            sites = sample_sites(poutine.trace(model).get_trace(rows.x, rows.row_inputs))
            drawn = ObservedValues(self.plates, sites.values(), rows).draw()
        return drawn.reshape(num, n, -1).movedim(1, 0)

    def _means(self, parts: Sequence[_Points], log_weights: LogWeights) -> Tensor:
        """The mean or the mode of x, (n, 1, D)."""
        found = WeightedMean()
        weights = normalized(log_weights).split([len(part.ratio) for part in parts])
        for part, share in zip(parts, weights, strict=True):
            found.add(
                ObservedValues(self.plates, part.sites.values(), part.batch).expected(), share.to(part.batch.x.device)
            )
        return found.values(self.wanted.method)[:, None]


def _is_bad(log_weights: LogWeights, khat: PerRow) -> Tensor:
    """Where the weights (S, n) are bad: by k-hat (n,), or of few discrete latents by the effective number of points."""
    num = len(log_weights)
    ordered = log_weights.nan_to_num(neginf=-torch.finfo(torch.float64).max).sort(0).values
    num_distinct = 1 + (ordered.diff(dim=0) > 1e-6).sum(0)
    return torch.where(num_distinct < num / 2, ~(effective_draws(log_weights) >= MIN_ESS), ~(khat <= khat_limit(num)))
