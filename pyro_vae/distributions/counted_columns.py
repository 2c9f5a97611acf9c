"""Distributions of the values of one column of a table that have probabilities: whole numbers, counts and levels."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.parametrized import Parametrized
from pyro_vae.distributions.stable_densities import NegativeBinomial


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
        first = self.logits.movedim(-1, 0)  # over few levels five times as quick as along the last axis
        log_probs = first.log_softmax(0).movedim(0, -1)
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
