"""A row of a table as one event: columns of several families, independent given the latents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions.stable_densities import Normal

MEAN_POINTS = 32  # of the Gauss–Hermite rule for the mean of a logit-normal
WHOLE_TOLERANCE = 1e-2  # of a number of steps, which float32 rounds


class LogNormal(dist.TorchDistribution):
    r"""A log-normal value, $\log p(x) = \log N(\log x; \mu, \sigma^2) - \log x$; −∞ at 0 and below.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 - as torch's own
    support = constraints.positive

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LogNormal":
        return LogNormal(self.loc.expand(torch.Size(batch_shape)), self.scale.expand(torch.Size(batch_shape)))

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


class ZeroOrLogNormal(TorchDistribution):
    r"""A value that is 0 with probability σ(l), else log-normal: a probability at 0, a density above.

    Args:
        zero_logits: l, (...).
        loc: of the log-normal's logarithm.
        scale: likewise.
    """

    arg_constraints = {"zero_logits": constraints.real}  # noqa: RUF012 - as torch's own
    support = constraints.nonnegative

    def __init__(self, zero_logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.zero_logits = zero_logits
        self.positive = LogNormal(loc, scale)
        super().__init__(zero_logits.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ZeroOrLogNormal":
        shape = torch.Size(batch_shape)
        return ZeroOrLogNormal(
            self.zero_logits.expand(shape), self.positive.loc.expand(shape), self.positive.scale.expand(shape)
        )

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


class LogitNormal(TorchDistribution):
    r"""A value between 0 and 1 whose logit is normal.

    $\log p(x) = \log N(\mathrm{logit}\, x; \mu, \sigma^2) - \log x - \log(1 - x)$.

    Args:
        loc: μ, (...).
        scale: σ, broadcast with it.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 - as torch's own
    support = constraints.unit_interval

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LogitNormal":
        return LogitNormal(self.loc.expand(torch.Size(batch_shape)), self.scale.expand(torch.Size(batch_shape)))

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
        import numpy as np

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


class LogisticSteps(TorchDistribution):
    r"""Whole numbers in steps of h: a logistic density, integrated over the width of each step.

    $P(x) = \sigma((x + h/2 - \mu)/s) - \sigma((x - h/2 - \mu)/s)$ for x = …, −h, 0, h, ….

    Args:
        loc: μ, (...).
        scale: s, broadcast with it.
        step: h, broadcast with it.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 - as torch's own
    support = constraints.real

    loc: Tensor
    scale: Tensor
    step: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, step: Tensor) -> None:
        self.loc, self.scale, self.step = torch.broadcast_tensors(loc, scale, step)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LogisticSteps":
        shape = torch.Size(batch_shape)
        return LogisticSteps(self.loc.expand(shape), self.scale.expand(shape), self.step.expand(shape))

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


@dataclass(frozen=True)
class ColumnRange:
    """The values that a column can have.

    Attributes:
        low: the smallest.
        high: the largest.
        is_open: whether the ends are left out.
        step: between its values; 0 for real numbers.
    """

    low: float = -math.inf
    high: float = math.inf
    is_open: bool = False
    step: float = 0.0


class ColumnSupport(constraints.Constraint):
    """The support of each column of a row.

    Args:
        ranges: of the columns (D).
        placeholders: a value inside each range.
    """

    event_dim = 0

    def __init__(self, ranges: Sequence[ColumnRange], placeholders: Sequence[float]) -> None:
        self.ranges, self.placeholders = tuple(ranges), tuple(placeholders)
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]  # of torch a class attribute
        return all(each.step for each in self.ranges)

    @property
    def num_counted(self) -> int:
        """How many columns have probabilities, and no densities."""
        return sum(each.step > 0 for each in self.ranges)

    def __repr__(self) -> str:
        return f"{len(self.ranges)} columns, each of its kind"

    def check(self, value: Tensor) -> Tensor:
        low, high, step = (
            value.new_tensor([getattr(r, name) for r in self.ranges]) for name in ("low", "high", "step")
        )
        is_open = torch.tensor([each.is_open for each in self.ranges], device=value.device)
        inside = torch.where(is_open, (value > low) & (value < high), (value >= low) & (value <= high))
        steps = value / torch.where(step > 0, step, 1.0)
        is_whole = (steps - steps.round()).abs() <= WHOLE_TOLERANCE + 1e-6 * steps.abs()
        return inside & ((step == 0) | is_whole)


class ColumnVector(TorchDistribution):
    """D columns as one event, independent, in groups of one family.

    Args:
        families: for each group a distribution with batch shape (..., n), of its n columns.
        columns: for each group the numbers of its columns (n,).
        order: the place of each column among the columns of all groups, (D,).
        support: that of each column.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(
        self, families: Sequence[Distribution], columns: Sequence[Tensor], order: Tensor, support: ColumnSupport
    ) -> None:
        self.families, self.columns, self.order = tuple(families), tuple(columns), order
        self._support = support
        super().__init__(families[0].batch_shape[:-1], order.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self._support, 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ColumnVector":
        families = [each.expand([*batch_shape, each.batch_shape[-1]]) for each in self.families]
        return ColumnVector(families, self.columns, self.order, self._support)

    def log_prob(self, value: Tensor) -> Tensor:
        parts = [each.log_prob(value[..., at]).sum(-1) for each, at in zip(self.families, self.columns, strict=True)]
        total: Tensor = sum(parts[1:], parts[0])
        return total

    def each_log_prob(self, value: Tensor) -> Tensor:
        """The log-probability or log-density of each of the D columns."""
        parts = [each.log_prob(value[..., at]) for each, at in zip(self.families, self.columns, strict=True)]
        return torch.cat(parts, -1)[..., self.order]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.cat([each.sample(torch.Size(sample_shape)) for each in self.families], -1)[..., self.order]

    @property
    def mean(self) -> Tensor:
        return torch.cat([each.mean for each in self.families], -1)[..., self.order]

    @property
    def variance(self) -> Tensor:
        return torch.cat([each.variance for each in self.families], -1)[..., self.order]
