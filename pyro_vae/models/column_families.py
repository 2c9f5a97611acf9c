"""Families of columns of a `ColumnsMixture`, density, statistics and M-step: what they share, and real numbers."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.data.columns import Column
from pyro_vae.distributions.real_columns import LogitNormal, LogNormal, ZeroOrLogNormal
from pyro_vae.distributions.stable_densities import Normal
from pyro_vae.models.exact_density import Statistics, column_scales

SMALLEST_SCALE = 1e-4  # in standard deviations of a column


class ColumnFamily(nn.Module):
    """Columns of one family under each of C components, independent.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__()
        self.shape = num_components, len(columns)
        self.prior_rows = prior_rows

    @property
    def num_free(self) -> int:
        """The number of free parameters of one component."""
        return 2 * self.shape[1]

    def forward(self, c: Tensor) -> Distribution:
        """The distributions (..., n) of the columns given labels c (...,)."""
        raise NotImplementedError

    def log_probs(self, x: Tensor) -> Tensor:
        """log p of what was observed, by component.

        Args:
            x: the columns (rows, n), NaN where a value is missing.

        Returns:
            Sums over columns (C, rows), nats.
        """
        is_missing = x.isnan()
        each = self(torch.arange(self.shape[0], device=x.device)[:, None])
        if not is_missing.any():
            return each.log_prob(x).sum(-1)
        log_prob: Tensor = each.log_prob(torch.where(is_missing, self.placeholder(x), x))
        return log_prob.masked_fill(is_missing, 0.0).sum(-1)

    def placeholder(self, x: Tensor) -> Tensor:
        """A value inside the support, (), for what is missing."""
        return x.new_zeros(())

    def features(self, x: Tensor) -> Tensor:
        """Numbers (rows, m) whose distances tell rows apart, NaN where a value is missing."""
        return x

    def describe(self, x: Tensor, spread: float) -> None:
        """Set the priors by the data.

        Args:
            x: training values (rows, n), NaN where one is missing.
            spread: of a component's prior, in standard deviations of a column.
        """
        raise NotImplementedError

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        """Sums over what was observed, weighted by the responsibilities.

        Args:
            x: the columns (rows, n), NaN where a value is missing.
            shares: the responsibilities (C, rows).

        Returns:
            The sums by name, (C, n, …).
        """
        raise NotImplementedError

    def maximize(self, statistics: Statistics) -> None:
        """The M-step: parameters that raise the expected log p plus log prior, to its maximum where that is closed."""
        raise NotImplementedError

    def log_prior(self) -> Tensor:
        """The log prior without constants, (), nats."""
        raise NotImplementedError

    def move(self, components: Tensor, x: Tensor) -> None:
        """Set components to one row each, with the prior's scales.

        Args:
            components: their numbers (m,).
            x: the rows' values (m, n); NaN stands for the data's mean.
        """
        raise NotImplementedError

    def clamp(self) -> None:
        """Move parameters into their range."""


class NormalColumns(ColumnFamily):
    r"""Normal values, with variances $(\sum_i r_i (x_i - \mu)^2 + n V) / (\sum_i r_i + n)$, n `prior_rows`.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    center: Tensor
    prior_variance: Tensor
    smallest: Tensor

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__(columns, num_components, prior_rows)
        self.loc = nn.Parameter(torch.randn(self.shape, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(self.shape, dtype=torch.float64))
        for name, value in (("center", 0.0), ("prior_variance", 1.0), ("smallest", SMALLEST_SCALE)):
            self.register_buffer(name, torch.full(self.shape[1:], value, dtype=torch.float64))

    def transform(self, x: Tensor) -> Tensor:
        """What is normal, NaN where it is not known."""
        return x

    def forward(self, c: Tensor) -> Distribution:
        return Normal(self.loc[c], self.log_scale[c].exp(), validate_args=False)

    def features(self, x: Tensor) -> Tensor:
        return self.transform(x)

    @torch.no_grad()
    def describe(self, x: Tensor, spread: float) -> None:
        values = self.transform(x)
        self.center.copy_(values.nanmean(0).nan_to_num())
        deviation = column_scales(values)
        self.prior_variance.copy_((spread * deviation).square())
        self.smallest.copy_(SMALLEST_SCALE * deviation)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        from_center = self.transform(x) - self.center
        is_known = ~from_center.isnan()
        from_center = from_center.nan_to_num(nan=0.0)
        known = shares @ is_known.to(shares)
        return {"known": known, "first": shares @ from_center, "second": shares @ from_center.square()}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        known, n = statistics["known"], self.prior_rows
        mean = statistics["first"] / known.clamp(min=torch.finfo(known.dtype).tiny)
        self.loc.copy_(torch.where(known > 0, self.center + mean, self.loc))
        scatter = (statistics["second"] - known * mean.square()).clamp(min=0) + n * self.prior_variance
        variance = scatter / (known + n).clamp(min=torch.finfo(known.dtype).tiny)
        log_scale = torch.maximum(variance.sqrt(), self.smallest).log()
        self.log_scale.copy_(torch.where(known + n > 0, log_scale, self.log_scale))

    def log_prior(self) -> Tensor:
        ratio = self.prior_variance * (-2 * self.log_scale).exp()
        return -self.prior_rows * (self.log_scale + ratio / 2).sum()

    @torch.no_grad()
    def move(self, components: Tensor, x: Tensor) -> None:
        values = self.transform(x)
        self.loc[components] = torch.where(values.isnan(), self.center, values)
        self.log_scale[components] = self.prior_variance.log() / 2

    @torch.no_grad()
    def clamp(self) -> None:
        self.log_scale.copy_(torch.maximum(self.log_scale, self.smallest.log()))


class LogNormalColumns(NormalColumns):
    """Positive values, whose logarithms are normal."""

    def transform(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, math.nan).log()

    def forward(self, c: Tensor) -> Distribution:
        return LogNormal(self.loc[c], self.log_scale[c].exp())

    def placeholder(self, x: Tensor) -> Tensor:
        return x.new_ones(())


class LogitNormalColumns(NormalColumns):
    """Values between 0 and 1, whose logits are normal."""

    def transform(self, x: Tensor) -> Tensor:
        return torch.where((x > 0) & (x < 1), x, math.nan).logit()

    def forward(self, c: Tensor) -> Distribution:
        return LogitNormal(self.loc[c], self.log_scale[c].exp())

    def placeholder(self, x: Tensor) -> Tensor:
        return x.new_full((), 0.5)


class ZeroOrLogNormalColumns(LogNormalColumns):
    """Zeros with a probability, as if `prior_rows` more rows had the data's share; above, logarithms are normal.

    Args:
        columns: the columns (n).
        num_components: C.
        prior_rows: the weight of the prior, in rows.
    """

    prior_zeros: Tensor

    def __init__(self, columns: Sequence[Column], num_components: int, prior_rows: float) -> None:
        super().__init__(columns, num_components, prior_rows)
        self.zero_logits = nn.Parameter(torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("prior_zeros", torch.full(self.shape[1:], 0.5, dtype=torch.float64))

    @property
    def num_free(self) -> int:
        return 3 * self.shape[1]

    def forward(self, c: Tensor) -> Distribution:
        return ZeroOrLogNormal(self.zero_logits[c], self.loc[c], self.log_scale[c].exp())

    def features(self, x: Tensor) -> Tensor:
        is_zero = torch.where(x.isnan(), math.nan, (x == 0).to(x))
        return torch.cat([self.transform(x), is_zero], 1)

    @torch.no_grad()
    def describe(self, x: Tensor, spread: float) -> None:
        super().describe(x, spread)
        self.prior_zeros.copy_(((x == 0).sum(0) + 0.5) / ((~x.isnan()).sum(0) + 1))

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        return super().statistics(x, shares) | {"zeros": shares @ (x == 0).to(shares)}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        super().maximize(statistics)
        n, smallest = self.prior_rows, torch.finfo(torch.float64).tiny
        zeros = statistics["zeros"] + n * self.prior_zeros
        others = statistics["known"] + n * (1 - self.prior_zeros)
        self.zero_logits.copy_(zeros.clamp(min=smallest).log() - others.clamp(min=smallest).log())

    def log_prior(self) -> Tensor:
        zero, other = F.logsigmoid(self.zero_logits), F.logsigmoid(-self.zero_logits)
        shares = (self.prior_zeros * zero + (1 - self.prior_zeros) * other).sum()
        return super().log_prior() + self.prior_rows * shares

    @torch.no_grad()
    def move(self, components: Tensor, x: Tensor) -> None:
        super().move(components, x)
        share = torch.where(x.isnan(), self.prior_zeros, ((x == 0) + self.prior_zeros) / 2)
        self.zero_logits[components] = share.logit()
