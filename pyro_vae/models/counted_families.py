"""Families of columns of a `ColumnsMixture` whose single values have probabilities: counts, whole numbers, levels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.data.columns import Column
from pyro_vae.distributions.counted_columns import Levels, LogisticSteps
from pyro_vae.distributions.stable_densities import NegativeBinomial
from pyro_vae.likelihoods.column_groups import UNSEEN
from pyro_vae.models.column_families import SMALLEST_SCALE, ColumnFamily
from pyro_vae.models.column_m_steps import inverse_scale, logistic_bound, raise_total_count
from pyro_vae.models.exact_density import Statistics, column_scales

LOG_TOTAL_COUNTS = (-7.0, 9.0)  # the range of `likelihoods.Columns`; at the upper end counts are nearly Poisson
SMALLEST_MEAN = 1e-10  # of counts


class NegativeBinomialColumns(ColumnFamily):
    """Counts with a mean and a total count of their own, as if `prior_rows` more rows had the data's mean.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    prior_mean: Tensor
    prior_total_count: Tensor

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__(columns, num_components, prior_rows)
        self.log_mean = nn.Parameter(0.1 * torch.randn(self.shape, dtype=torch.float64))
        self.log_total_count = nn.Parameter(torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("prior_mean", torch.ones(self.shape[1:], dtype=torch.float64))
        self.register_buffer("prior_total_count", torch.ones(self.shape[1:], dtype=torch.float64))

    def forward(self, c: Tensor) -> Distribution:
        log_count = self.log_total_count[c]
        return NegativeBinomial(log_count.exp(), self.log_mean[c] - log_count, validate_args=False)

    def features(self, x: Tensor) -> Tensor:
        return x.log1p()

    @torch.no_grad()
    def describe(self, x: Tensor, spread: float) -> None:
        mean, variance = x.nanmean(0).clamp(min=SMALLEST_MEAN), column_scales(x).square()
        self.prior_mean.copy_(mean)
        more = (variance - mean).clamp(min=1e-3 * mean)
        low, high = (math.exp(end) for end in LOG_TOTAL_COUNTS)
        self.prior_total_count.copy_((mean.square() / more).clamp(low, high))

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        """What a lower bound of the expected log p in the total counts r needs: sums of ψ(r + x) and ψ'(r + x).

        Args:
            x: the columns (rows, n), NaN where a value is missing.
            shares: the responsibilities (C, rows).

        Returns:
            The sums, (C, n) each.
        """
        is_known = ~x.isnan()
        log_count, weights = self.log_total_count.detach(), shares[..., None] * is_known
        at = log_count.exp()[:, None] + x.nan_to_num()
        sums = {"slope": torch.digamma(at), "curvature": torch.polygamma(1, at)}
        found = {name: (weights * value).sum(1) for name, value in sums.items()}
        known = weights.sum(1)
        return found | {"known": known, "sum": shares @ x.nan_to_num(), "at": known * log_count}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        n, prior, own = self.prior_rows, self.prior_mean, statistics["known"]
        known, total = own + n, statistics["sum"] + n * prior
        count = torch.where(own > 0, statistics["at"] / torch.where(own > 0, own, 1.0), self.log_total_count).exp()
        is_known = known > 0
        known = torch.where(is_known, known, 1.0)
        mean = (total / known).clamp(min=SMALLEST_MEAN)
        slope = (statistics["slope"] + n * torch.digamma(count + prior)) / known
        curvature = (statistics["curvature"] + n * torch.polygamma(1, count + prior)) / known
        raised = raise_total_count(self.log_total_count, count, mean, slope, curvature, LOG_TOTAL_COUNTS)
        self.log_mean.copy_(torch.where(is_known, mean.log(), self.log_mean))
        self.log_total_count.copy_(torch.where(is_known, raised, self.log_total_count))

    def log_prior(self) -> Tensor:
        every = torch.arange(self.shape[0], device=self.log_mean.device)
        log_prob: Tensor = self(every).log_prob(self.prior_mean)
        return self.prior_rows * log_prob.sum()

    @torch.no_grad()
    def move(self, components: Tensor, x: Tensor) -> None:
        values = torch.where(x.isnan(), self.prior_mean, (x + self.prior_mean) / 2)
        self.log_mean[components] = values.log()
        self.log_total_count[components] = self.prior_total_count.log()

    @torch.no_grad()
    def clamp(self) -> None:
        self.log_mean.clamp_(min=math.log(SMALLEST_MEAN))
        self.log_total_count.clamp_(*LOG_TOTAL_COUNTS)


class LogisticColumns(ColumnFamily):
    """Whole numbers in steps of h, as if `prior_rows` more rows lay a deviation of the prior from the mean.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    center: Tensor
    distance: Tensor
    smallest: Tensor
    step: Tensor

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__(columns, num_components, prior_rows)
        self.loc = nn.Parameter(torch.randn(self.shape, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(self.shape, dtype=torch.float64))
        for name, value in (("center", 0.0), ("distance", 1.0), ("smallest", SMALLEST_SCALE)):
            self.register_buffer(name, torch.full(self.shape[1:], value, dtype=torch.float64))
        steps = torch.tensor([1 / column.scale for column in columns], dtype=torch.float64)
        self.register_buffer("step", steps, persistent=False)

    def forward(self, c: Tensor) -> Distribution:
        return LogisticSteps(self.loc[c], self.log_scale[c].exp(), self.step)

    @torch.no_grad()
    def describe(self, x: Tensor, spread: float) -> None:
        self.center.copy_(x.nanmean(0))
        deviation = column_scales(x)
        self.distance.copy_(spread * deviation)
        self.smallest.copy_(SMALLEST_SCALE * deviation)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        """What a quadratic lower bound of the expected log p needs (Jaakkola & Jordan 2000).

        Args:
            x: the columns (rows, n), NaN where a value is missing.
            shares: the responsibilities (C, rows).

        Returns:
            Sums of λ at both ends of each value's step, times 1, the end and its square about the centre, (C, n) each.
        """
        is_known, loc = ~x.isnan(), (self.loc.detach() - self.center)[:, None]
        from_center, scale = (x - self.center).nan_to_num(), self.log_scale.detach().exp()[:, None]
        weights = shares[..., None] * is_known
        ends = torch.stack([from_center + self.step / 2, from_center - self.step / 2])[:, None]
        each = weights * logistic_bound((ends - loc) / scale)  # (2, C, rows, n)
        sums = {"bound": each, "first": each * ends, "second": each * ends.square()}
        return {"known": weights.sum(1)} | {name: value.sum((0, 2)) for name, value in sums.items()}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        bound, tiny = statistics["bound"], torch.finfo(torch.float64).tiny
        mean = statistics["first"] / bound.clamp(min=tiny)
        scatter = (statistics["second"] - bound * mean.square()).clamp(min=0) + self._prior_scatter()
        known = statistics["known"] + self.prior_rows
        scale = 1 / inverse_scale(known, scatter, self.step)
        log_scale = torch.maximum(scale, self.smallest).log()
        self.loc.copy_(torch.where(bound > 0, self.center + mean, self.loc))
        self.log_scale.copy_(torch.where(known > 0, log_scale, self.log_scale))

    def _prior_scatter(self) -> Tensor:
        ends = self.distance + self.step / 2, self.distance - self.step / 2
        return self.prior_rows * sum(
            (logistic_bound(end / self.log_scale.exp()) * end.square() for end in ends),
            torch.zeros_like(self.log_scale),
        )

    def log_prior(self) -> Tensor:
        centred = LogisticSteps(torch.zeros_like(self.loc), self.log_scale.exp(), self.step)
        return self.prior_rows * centred.log_prob(self.distance).sum()

    @torch.no_grad()
    def move(self, components: Tensor, x: Tensor) -> None:
        self.loc[components] = torch.where(x.isnan(), self.center, x)
        self.log_scale[components] = (self.distance * math.sqrt(3) / math.pi).log()

    @torch.no_grad()
    def clamp(self) -> None:
        self.log_scale.copy_(torch.maximum(self.log_scale, self.smallest.log()))


class LevelColumns(ColumnFamily):
    """Levels with probabilities, as if `prior_rows` more rows had the data's shares.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    prior: Tensor
    num_levels: Tensor

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__(columns, num_components, prior_rows)
        self.register_buffer("num_levels", torch.tensor([len(each.levels) for each in columns]), persistent=False)
        most = int(self.num_levels.max())
        self.logits = nn.Parameter(0.1 * torch.randn(*self.shape, most, dtype=torch.float64))
        uniform = self.is_level / self.num_levels[:, None].double()
        self.register_buffer("prior", uniform)

    @property
    def is_level(self) -> Tensor:
        """Which of the places of the widest column each column has, (n, L)."""
        most = self.logits.shape[-1] if "logits" in self._parameters else int(self.num_levels.max())
        return torch.arange(most, device=self.num_levels.device) < self.num_levels[:, None]

    @property
    def num_free(self) -> int:
        return int((self.num_levels - 1).sum())

    def forward(self, c: Tensor) -> Distribution:
        return Levels(self.logits.masked_fill(~self.is_level, -math.inf)[c], self.num_levels, UNSEEN)

    def features(self, x: Tensor) -> Tensor:
        places = torch.arange(self.logits.shape[-1], device=x.device)
        of_each = torch.where(x.isnan()[..., None], math.nan, (x[..., None] == places).to(x))
        return of_each[:, self.is_level]

    @torch.no_grad()
    def describe(self, x: Tensor, spread: float) -> None:
        counts = self.statistics(x, x.new_ones(1, len(x)))["levels"][0]
        shares = (counts + self.is_level / self.num_levels[:, None]) / (counts.sum(-1, keepdim=True) + 1)
        self.prior.copy_(shares)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        known = ~x.isnan() & (x < self.num_levels)  # others are new levels, with a probability of their own
        place = torch.where(known, x, 0.0).long().T.expand(len(shares), -1, -1)
        weights = shares[:, None] * known.T
        counts = weights.new_zeros(len(shares), x.shape[1], self.logits.shape[-1])
        return {"levels": counts.scatter_add_(2, place, weights)}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        counts = statistics["levels"] + self.prior_rows * self.prior
        log_counts = counts.clamp(min=torch.finfo(counts.dtype).tiny).log()
        total = log_counts.masked_fill(~self.is_level, -math.inf).logsumexp(-1, keepdim=True)
        self.logits.copy_((log_counts - total).masked_fill(~self.is_level, 0.0))

    def log_prior(self) -> Tensor:
        log_probs = self.logits.masked_fill(~self.is_level, -math.inf).log_softmax(-1)
        return self.prior_rows * (self.prior * log_probs.masked_fill(~self.is_level, 0.0)).sum()

    @torch.no_grad()
    def move(self, components: Tensor, x: Tensor) -> None:
        is_one = (x[..., None] == torch.arange(self.logits.shape[-1], device=x.device)).to(self.prior)
        probs = torch.where(is_one.any(-1, keepdim=True), (is_one + self.prior) / 2, self.prior)
        self.logits[components] = torch.where(self.is_level, probs, 1.0).log()
