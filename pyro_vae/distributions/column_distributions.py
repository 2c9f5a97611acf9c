"""Distributions of the values of one column of a table, each for a kind of column."""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.stable_densities import NegativeBinomial, Normal, in_float64

MEAN_POINTS = 32  # of the Gauss–Hermite rule for the mean of a logit-normal


class Parametrized(TorchDistribution):
    """A distribution of single values whose parameters have its batch shape.

    Args:
        *parameters: the parameters, in the order of the constructor, broadcast with each other.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(self, *parameters: Tensor) -> None:
        self._parameters = torch.broadcast_tensors(*parameters)
        super().__init__(self._parameters[0].shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Self:
        return type(self)(*(each.expand(torch.Size(batch_shape)) for each in self._parameters))


class LogNormal(Parametrized):
    r"""A log-normal value, $\log p(x) = \log N(\log x; \mu, \sigma^2) - \log x$; −∞ at 0 and below.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    support = constraints.positive

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.loc, self.scale = self._parameters

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


class LogitNormal(Parametrized):
    r"""A value between 0 and 1 whose logit is normal.

    $\log p(x) = \log N(\mathrm{logit}\, x; \mu, \sigma^2) - \log x - \log(1 - x)$.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    support = constraints.unit_interval

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.loc, self.scale = self._parameters

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


class ZeroInflatedNegativeBinomial(Parametrized):
    r"""A count that is 0 with probability σ(l), else negative binomial (which may be 0 too).

    Args:
        zero_logits: l, (...).
        total_count: of the negative binomial.
        logits: likewise.
    """

    support = constraints.nonnegative_integer

    def __init__(self, zero_logits: Tensor, total_count: Tensor, logits: Tensor) -> None:
        super().__init__(zero_logits, total_count, logits)
        self.zero_logits = self._parameters[0]
        self.counts = NegativeBinomial(total_count, logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        counted = F.logsigmoid(-self.zero_logits) + self.counts.log_prob(value)
        zero = torch.where(value == 0, F.logsigmoid(self.zero_logits), -math.inf)
        return torch.logaddexp(counted, zero)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            value: Tensor = self.counts.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(value) < torch.sigmoid(self.zero_logits), 0.0, value)

    @property
    def mean(self) -> Tensor:
        mean: Tensor = torch.sigmoid(-self.zero_logits) * self.counts.mean
        return mean

    @property
    def variance(self) -> Tensor:
        share, mean = torch.sigmoid(-self.zero_logits), self.counts.mean
        variance: Tensor = share * (self.counts.variance + mean.square()) - (share * mean).square()
        return variance


class LogisticSteps(Parametrized):
    r"""Whole numbers in steps of h: a logistic density, integrated over the width of each step.

    $P(x) = \sigma((x + h/2 - \mu)/s) - \sigma((x - h/2 - \mu)/s)$ for x = …, −h, 0, h, ….

    Args:
        loc: μ, (...).
        scale: s, broadcast with it.
        step: h, broadcast with it.
    """

    support = constraints.real

    loc: Tensor
    scale: Tensor
    step: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, step: Tensor) -> None:
        super().__init__(loc, scale, step)
        self.loc, self.scale, self.step = self._parameters

    def log_prob(self, value: Tensor) -> Tensor:
        width = self.step / self.scale
        above, below = (value - self.loc) / self.scale + width / 2, (value - self.loc) / self.scale - width / 2
        # log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^{b − a}), exact in both tails
        inside: Tensor = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-width))
        return inside

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            x: Tensor = self.loc + self.scale * torch.logit(uniform.clamp(1e-6, 1 - 1e-6))
            whole: Tensor = (x / self.step).round()
            return whole * self.step

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (math.pi * self.scale).square() / 3 + self.step.square() / 12


class Levels(TorchDistribution):
    r"""One of a column's levels, 0 … L − 1, or L, a level that no training row had, with probability ε.

    $P(k) = (1 - \varepsilon)\, \mathrm{softmax}(l)_k$. Draws and the most probable level are never L.

    Args:
        logits: l, (..., C), −∞ beyond the levels of a column with fewer than C.
        num_levels: L, (...).
        unseen: ε, the probability of a level that was never seen.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute
    support = constraints.nonnegative_integer

    def __init__(self, logits: Tensor, num_levels: Tensor, unseen: float) -> None:
        self.logits, self.num_levels, self.unseen = logits, num_levels, unseen
        super().__init__(logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Levels":
        shape = torch.Size(batch_shape)
        return Levels(self.logits.expand(*shape, -1), self.num_levels, self.unseen)

    def log_prob(self, value: Tensor) -> Tensor:
        log_probs = torch.log_softmax(self.logits, -1)
        is_unseen = value >= self.num_levels
        code = torch.where(is_unseen, 0.0, value).long().unsqueeze(-1)
        code, log_probs = torch.broadcast_tensors(code, log_probs[..., :1])[0], log_probs
        log_probs = log_probs.expand(*code.shape[:-1], log_probs.shape[-1])
        known = log_probs.gather(-1, code).squeeze(-1) + math.log1p(-self.unseen)
        return torch.where(is_unseen, math.log(self.unseen), known)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            logits = self.logits.expand(*shape, self.logits.shape[-1])
            code: Tensor = dist.Categorical(logits=logits).sample()
            return code.to(logits.dtype)

    @property
    def mean(self) -> Tensor:
        """The most probable level: levels have no mean."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        probs = torch.softmax(self.logits, -1)
        places = torch.arange(probs.shape[-1], dtype=probs.dtype, device=probs.device)
        mean = (probs * places).sum(-1)
        second: Tensor = (probs * places.square()).sum(-1)
        return second - mean.square()
