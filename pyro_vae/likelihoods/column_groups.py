"""Columns of one family: what the network says of each, its distribution, and where a fit begins."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.data.columns import Column
from pyro_vae.distributions import stable_densities
from pyro_vae.distributions.counted_columns import Levels, LogisticSteps, ZeroInflatedNegativeBinomial
from pyro_vae.distributions.real_columns import Beta, Gamma, LogitNormal, LogNormal, ZeroOrLogNormal
from pyro_vae.distributions.scaled_normal import ScaledMultivariateNormal
from pyro_vae.distributions.transformed_normal import TransformedNormal
from pyro_vae.likelihoods.residual_covariance import ResidualCovariance, bounded_scale
from pyro_vae.nets import positive

LARGEST_LOG_RATE = 30.0
TOTAL_COUNTS = (-7.0, 9.0)  # logarithms, of negative binomials
UNSEEN = 1e-4  # the probability of a level that no training row had
MIN_SPREAD = 0.05  # of a column's training values, in its units


class ColumnGroup(nn.Module):
    """Columns of one family.

    Args:
        columns: the columns (n).
        floor: the least scale, in units of a column's standard deviation.
    """

    outputs: ClassVar[int] = 2  # of the network, for each column
    log_mean: ClassVar[int | None] = None  # which of them is the logarithm of a mean, of counts

    def __init__(self, columns: Sequence[Column], floor: float) -> None:
        super().__init__()
        self.num_columns, self.floor = len(columns), floor
        self._add_parameters(columns)

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        """Parameters and buffers that do not depend on z."""

    @classmethod
    def width(cls, column: Column) -> int:
        """The number of outputs of the network that a column needs; those of one group have the same."""
        return cls.outputs

    def forward(self, out: Tensor) -> Distribution:
        """The columns' distribution, from what the network gives for them (..., outputs, n)."""
        raise NotImplementedError

    def add_exposure(self, out: Tensor, log_exposure: Tensor) -> Tensor:
        """Outputs that multiply the mean of each column by an exposure.

        Args:
            out: what the network gives (..., outputs, n).
            log_exposure: the logarithm of each column's exposure (..., n); 0 for a column that has none.

        Returns:
            The outputs (..., outputs, n).
        """
        zeros = torch.zeros_like(log_exposure)
        offset = [log_exposure if place == self.log_mean else zeros for place in range(self.outputs)]
        return out + torch.stack(offset, -2)

    def init_from_values(self, x: Tensor) -> Tensor:
        """Set the group's own parameters, and say what the network gives at first, for the distribution of some values.

        Args:
            x: training values (rows, n).

        Returns:
            The outputs (outputs, n).
        """
        raise NotImplementedError

    def _loc_and_scale(self, values: Tensor) -> Tensor:
        """A location and the raw scale (2, n) of values (rows, n), NaN where there is none."""
        loc = values.nanmean(0).nan_to_num()
        spread = (values - loc).square().nanmean(0).sqrt().nan_to_num(nan=1.0)
        return torch.stack([loc, (spread - self.floor).clamp(min=MIN_SPREAD).expm1().log()])


class NormalGroup(ColumnGroup):
    """Real numbers and dates, normal."""

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        return stable_densities.Normal(loc, positive(raw_scale, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        return self._loc_and_scale(x)


class StudentTGroup(NormalGroup):
    """Real numbers with heavy tails, Student-t with degrees of freedom above 2 for each column."""

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        self.raw_df = nn.Parameter(torch.full((len(columns),), 2.0))

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        return stable_densities.StudentT(positive(self.raw_df, 2.01), loc, positive(raw_scale, self.floor))


class LogNormalGroup(NormalGroup):
    """Positive numbers, whose logarithms are normal."""

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        return LogNormal(loc, positive(raw_scale, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        return self._loc_and_scale(_log(x))


class LogitNormalGroup(NormalGroup):
    """Shares, whose logits are normal."""

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        return LogitNormal(loc, positive(raw_scale, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        return self._loc_and_scale(_logit(x))


class CorrelatedGroup(ColumnGroup):
    """Real numbers, dates, positive numbers and shares with one correlation of their residuals, after a transform.

    The floor is that of the diagonal of the covariance's factor.
    """

    is_log: Tensor
    is_logit: Tensor

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        self.residual = ResidualCovariance(len(columns), self.floor)
        kinds = [column.kind for column in columns]
        self.register_buffer("is_log", torch.tensor([kind == "positive" for kind in kinds]), persistent=False)
        self.register_buffer("is_logit", torch.tensor([kind == "bounded" for kind in kinds]), persistent=False)

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        normal = ScaledMultivariateNormal(loc, bounded_scale(raw_scale), self.residual())
        return TransformedNormal(normal, self.is_log, self.is_logit)

    def init_from_values(self, x: Tensor) -> Tensor:
        values = torch.where(self.is_log, _log(x), torch.where(self.is_logit, _logit(x), x))
        loc = values.nanmean(0).nan_to_num()
        self.residual.init_from_rows(torch.where(values.isnan(), loc, values))
        return torch.stack([loc, torch.zeros_like(loc)])


class ZeroOrLogNormalGroup(ColumnGroup):
    """Positive numbers with zeros: a probability of 0, above logarithms are normal."""

    outputs = 3
    log_unit: Tensor

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        scales = torch.tensor([column.scale for column in columns])
        self.register_buffer("log_unit", scales.log(), persistent=False)

    def forward(self, out: Tensor) -> Distribution:
        zero_logits, loc, raw_scale = out.unbind(-2)
        return ZeroOrLogNormal(zero_logits, loc + self.log_unit, positive(raw_scale, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        return torch.cat([_share(x == 0).logit()[None], self._loc_and_scale(_log(x) - self.log_unit)])


class GammaGroup(ColumnGroup):
    """Positive numbers, Gamma with a mean and a concentration from the network."""

    def forward(self, out: Tensor) -> Distribution:
        log_mean, raw_concentration = out.unbind(-2)
        return Gamma(log_mean.clamp(max=LARGEST_LOG_RATE), positive(raw_concentration, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        values = torch.where(x > 0, x, math.nan)
        log_mean = values.nanmean(0).log().nan_to_num()
        gap = (log_mean - values.log().nanmean(0)).nan_to_num(nan=1.0).clamp(1e-3, 1e3)  # Minka, 2002
        concentration = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
        return torch.stack([log_mean, _inverse_softplus(concentration)])


class BetaGroup(ColumnGroup):
    """Shares, Beta with a mean and a concentration from the network."""

    def forward(self, out: Tensor) -> Distribution:
        logits, raw_concentration = out.unbind(-2)
        return Beta(logits, positive(raw_concentration, self.floor))

    def init_from_values(self, x: Tensor) -> Tensor:
        values = torch.where((x > 0) & (x < 1), x, math.nan)
        mean = values.nanmean(0).nan_to_num(nan=0.5).clamp(1e-3, 1 - 1e-3)
        variance = (values - mean).square().nanmean(0).nan_to_num(nan=0.08).clamp(min=1e-6)
        return torch.stack([mean.logit(), _inverse_softplus((mean * (1 - mean) / variance - 1).clamp(min=0.1))])


class NegativeBinomialGroup(ColumnGroup):
    """Counts with a mean from the network, and a total count (how little they are overdispersed) for each column."""

    outputs, log_mean = 1, 0

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        self.log_total_count = nn.Parameter(torch.ones(len(columns)))

    def forward(self, out: Tensor) -> Distribution:
        total_count = self.log_total_count.clamp(*TOTAL_COUNTS).exp()
        return stable_densities.NegativeBinomial(total_count, self._logits(out.squeeze(-2), total_count))

    @staticmethod
    def _logits(log_mean: Tensor, total_count: Tensor) -> Tensor:
        return log_mean.clamp(max=LARGEST_LOG_RATE) - total_count.log()

    def init_from_values(self, x: Tensor) -> Tensor:
        return x.mean(0).clamp(min=1e-3).log()[None]


class ZeroInflatedGroup(NegativeBinomialGroup):
    """Counts with more zeros than a negative binomial has: a probability of those from the network too."""

    outputs, log_mean = 2, 1

    def forward(self, out: Tensor) -> Distribution:
        total_count = self.log_total_count.clamp(*TOTAL_COUNTS).exp()
        zero_logits, log_mean = out.unbind(-2)
        return ZeroInflatedNegativeBinomial(zero_logits, total_count, self._logits(log_mean, total_count))

    def init_from_values(self, x: Tensor) -> Tensor:
        share = (_share(x == 0) / 2).clamp(max=0.9)
        mean = x.mean(0) / (1 - share)
        return torch.stack([share.logit(), mean.clamp(min=1e-3).log()])


class LogisticGroup(NormalGroup):
    """Whole numbers, discretized logistic."""

    step: Tensor

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        steps = torch.tensor([1 / column.scale for column in columns])
        self.register_buffer("step", steps, persistent=False)

    def forward(self, out: Tensor) -> Distribution:
        loc, raw_scale = out.unbind(-2)
        return LogisticSteps(loc, positive(raw_scale, self.floor), self.step)

    def init_from_values(self, x: Tensor) -> Tensor:
        return self._loc_and_scale(x * math.sqrt(3) / math.pi) * x.new_tensor([[math.pi / math.sqrt(3)], [1.0]])


class LevelsGroup(ColumnGroup):
    """Binary and categorical columns, by logits."""

    num_levels: Tensor

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        sizes = [len(column.levels) for column in columns]
        self.register_buffer("num_levels", torch.tensor(sizes), persistent=False)
        self.widest, self.has_equal_sizes = max(sizes), min(sizes) == max(sizes)

    @classmethod
    def width(cls, column: Column) -> int:
        """The next power of two, so that few outputs are unused."""
        return _next_power_of_two(len(column.levels))

    def forward(self, out: Tensor) -> Distribution:
        logits = out[..., : self.widest, :].transpose(-1, -2)
        if not self.has_equal_sizes:
            is_beyond = torch.arange(self.widest, device=out.device) >= self.num_levels[:, None]
            logits = logits.masked_fill(is_beyond, -math.inf)
        return Levels(logits, self.num_levels, UNSEEN)

    def init_from_values(self, x: Tensor) -> Tensor:
        width = _next_power_of_two(int(self.num_levels.max()))
        share = torch.stack([_share(x == code) for code in range(width)])
        return (share.log() - share.log().mean(0)).to(x)


class OrdinalGroup(ColumnGroup):
    """Ordinal columns, cumulative logits around cut points of the column."""

    outputs = 1
    num_levels: Tensor
    beyond: Tensor

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        num_levels = torch.tensor([len(column.levels) for column in columns])
        widest = int(num_levels.max())
        cuts = torch.linspace(-1.5, 1.5, widest - 1).repeat(len(columns), 1)
        self.raw_cuts = nn.Parameter(torch.cat([cuts[:, :1], cuts.diff().expm1().log()], 1))
        beyond = torch.arange(widest - 1) >= num_levels[:, None] - 1
        self.register_buffer("num_levels", num_levels, persistent=False)
        self.register_buffer("beyond", beyond, persistent=False)

    def cut_points(self) -> Tensor:
        """The rising cut points (n, L − 1), ∞ beyond the levels of a column."""
        steps = torch.cat([self.raw_cuts[:, :1], F.softplus(self.raw_cuts[:, 1:])], 1)
        return steps.cumsum(1).masked_fill(self.beyond, math.inf)

    def forward(self, out: Tensor) -> Distribution:
        at = self.cut_points() - out.transpose(-1, -2)
        above, below = F.pad(at, (0, 1), value=math.inf), F.pad(at, (1, 0), value=-math.inf)
        width = F.pad(self.cut_points().diff(), (1, 1), value=math.inf)
        inside = F.logsigmoid(above) + F.logsigmoid(-below)
        is_beyond = torch.arange(at.shape[-1] + 1, device=out.device) >= self.num_levels[:, None]
        log_width = torch.log(-torch.expm1(-width.masked_fill(is_beyond, 1.0)))
        return Levels((inside + log_width).masked_fill(is_beyond, -math.inf), self.num_levels, UNSEEN)

    def init_from_values(self, x: Tensor) -> Tensor:
        share = torch.stack([_share(x <= code) for code in range(self.beyond.shape[1])], 1).clamp(0.01, 0.99)
        cuts = share.logit().to(self.raw_cuts)
        with torch.no_grad():
            self.raw_cuts.copy_(torch.cat([cuts[:, :1], cuts.diff().clamp(min=0.1).expm1().log()], 1))
        return x.new_zeros(1, self.num_columns)


def _log(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, math.nan).log()


def _logit(x: Tensor) -> Tensor:
    return torch.where((x > 0) & (x < 1), x, math.nan).logit()


def _share(is_so: Tensor) -> Tensor:
    """The share of rows (n,), a half row more for each side."""
    return (is_so.sum(0) + 0.5) / (len(is_so) + 1)


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value.clamp(min=1e-3)))


def _next_power_of_two(num_levels: int) -> int:
    return 1 << max(1, (num_levels - 1).bit_length())
