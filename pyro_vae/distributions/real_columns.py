"""Distributions of the real values of one column of a table: positive numbers, with zeros or without, and shares."""

import math
from collections.abc import Sequence

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.parametrized import LocScale, Parametrized
from pyro_vae.distributions.stable_densities import Normal, in_float64

MEAN_POINTS = 32  # of the Gauss–Hermite rule for the mean of a logit-normal


class LogNormal(LocScale):
    r"""A log-normal value, $\log p(x) = \log N(\log x; \mu, \sigma^2) - \log x$; −∞ at 0 and below.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    support = constraints.positive

    def log_prob(self, value: Tensor) -> Tensor:
        is_inside = value > 0
        log = torch.where(is_inside, value, 1.0).log()
        return torch.where(is_inside, Normal(self.loc, self.scale).log_prob(log) - log, -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            return torch.normal(self.loc.expand(shape), self.scale.expand(shape)).exp()

    @property
    def mean(self) -> Tensor:
        return (self.loc + self.scale.square() / 2).exp()

    @property
    def variance(self) -> Tensor:
        return self.mean.square() * torch.expm1(self.scale.square())


class ZeroOrLogNormal(Parametrized):
    r"""A value that is 0 with probability σ(l), else log-normal: a probability at 0, a density above.

    Args:
        zero_logits: l, (...).
        loc: of the log-normal's logarithm.
        scale: likewise.
    """

    support = constraints.nonnegative

    def __init__(self, zero_logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__(zero_logits, loc, scale)
        self.zero_logits, loc, scale = self._parameters
        self.positive = LogNormal(loc, scale)

    def log_prob(self, value: Tensor) -> Tensor:
        is_zero = value == 0
        above = self.positive.log_prob(torch.where(is_zero, 1.0, value))
        return torch.where(is_zero, F.logsigmoid(self.zero_logits), F.logsigmoid(-self.zero_logits) + above)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            value = self.positive.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(value) < torch.sigmoid(self.zero_logits), 0.0, value)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.zero_logits) * self.positive.mean

    @property
    def variance(self) -> Tensor:
        above = torch.sigmoid(-self.zero_logits)
        return above * (self.positive.variance + self.positive.mean.square()) - self.mean.square()


class LogitNormal(LocScale):
    r"""A value between 0 and 1 whose logit is normal.

    $\log p(x) = \log N(\mathrm{logit}\, x; \mu, \sigma^2) - \log x - \log(1 - x)$.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        is_inside = (value > 0) & (value < 1)
        x = torch.where(is_inside, value, 0.5)
        log_x, log_rest = x.log(), torch.log1p(-x)
        inside = Normal(self.loc, self.scale).log_prob(log_x - log_rest) - log_x - log_rest
        return torch.where(is_inside, inside, -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            return torch.sigmoid(torch.normal(self.loc.expand(shape), self.scale.expand(shape)))

    def _moment(self, power: int) -> Tensor:
        points, weights = np.polynomial.hermite_e.hermegauss(MEAN_POINTS)
        at, share = self.loc.new_tensor(points), self.loc.new_tensor(weights / weights.sum())
        moment: Tensor = (torch.sigmoid(self.loc[..., None] + self.scale[..., None] * at) ** power * share).sum(-1)
        return moment

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self._moment(1).square()


class Gamma(Parametrized):
    r"""A Gamma value by its mean m and concentration a, $\log p(x) = a (\log t - t + 1) + c(a) - \log x$, $t = x/m$.

    $c(a) = a \log a - a - \log \Gamma(a)$ in float64. −∞ at 0 and below.

    Args:
        log_mean: log m, (...).
        concentration: a, broadcast with it.
    """

    support = constraints.positive

    log_mean: Tensor
    concentration: Tensor

    def __init__(self, log_mean: Tensor, concentration: Tensor) -> None:
        super().__init__(log_mean, concentration)
        self.log_mean, self.concentration = self._parameters

    def log_prob(self, value: Tensor) -> Tensor:
        is_inside = value > 0
        log = in_float64(torch.where(is_inside, value, 1.0)).log()
        log_ratio, a = log - in_float64(self.log_mean), in_float64(self.concentration)
        constant = a * a.log() - a - torch.lgamma(a)
        density = a * (log_ratio - torch.expm1(log_ratio)) + constant - log
        return torch.where(is_inside, density.to(self.log_mean.dtype), -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            concentration = self.concentration.expand(shape)
            return torch._standard_gamma(concentration) / concentration * self.mean

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean.square() / self.concentration


class Beta(Parametrized):
    r"""A Beta value by the logit of its mean m and its concentration φ, $\mathrm{Beta}(m \varphi, (1 - m) \varphi)$.

    The density is taken in float64.

    Args:
        logits: of the mean, (...).
        concentration: φ, broadcast with it.
    """

    support = constraints.unit_interval

    logits: Tensor
    concentration: Tensor

    def __init__(self, logits: Tensor, concentration: Tensor) -> None:
        super().__init__(logits, concentration)
        self.logits, self.concentration = self._parameters

    def log_prob(self, value: Tensor) -> Tensor:
        is_inside = (value > 0) & (value < 1)
        x = in_float64(torch.where(is_inside, value, 0.5))
        logits, concentration = in_float64(self.logits), in_float64(self.concentration)
        density = torch.lgamma(concentration) + 2 * concentration.log()
        for logit, log_x in ((logits, x.log()), (-logits, torch.log1p(-x))):
            shape = torch.sigmoid(logit) * concentration
            # Γ(a) = Γ(a + 1) / a, and log a is known where a itself underflows
            density = density + (shape - 1) * log_x + F.logsigmoid(logit) - torch.lgamma(shape + 1)
        return torch.where(is_inside, density.to(self.logits.dtype), -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            limits = torch.finfo(self.logits.dtype)
            a, b = (
                (torch.sigmoid(logit) * self.concentration).clamp(min=limits.tiny)
                for logit in (self.logits, -self.logits)
            )
            value: Tensor = dist.Beta(a, b, validate_args=False).sample(torch.Size(sample_shape))
            return value.clamp(limits.tiny, 1 - limits.eps)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.mean * torch.sigmoid(-self.logits) / (self.concentration + 1)
