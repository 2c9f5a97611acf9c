"""Binary values, grey levels, and values of which some are missing: distributions of x that Pyro lacks."""

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from torch import Tensor
from torch.distributions import Independent, biject_to, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError


class BernoulliVector(TorchDistribution):
    r"""D independent Bernoulli values as one event, $\log p(x) = \sum_d x_d l_d - \log(1 + e^{l_d})$ for logits $l$.

    Equal to `dist.Bernoulli(logits=l).to_event(1)`, in one pass over x instead of three. Without gradients the terms
    are added value by value, $-|l|$ times the distance of x from its end minus $\log(1 + e^{-|l|})$: the two sums of
    large logits nearly cancel, which leaves gradients as they are and costs the value digits.

    Args:
        logits: l, (..., D).
        relaxed: whether values between 0 and 1 are accepted; it is then no density: its values do not integrate to one
            over [0, 1]^D.
        validate_args: whether arguments and values are checked, as in torch.

    >>> import pyro.distributions as dist
    >>> l, x = torch.randn(3, 5), torch.ones(3, 5)
    >>> torch.allclose(BernoulliVector(l).log_prob(x), dist.Bernoulli(logits=l).to_event(1).log_prob(x))
    True
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(self, logits: Tensor, relaxed: bool = False, validate_args: bool | None = None) -> None:
        self.logits, self.relaxed = logits, relaxed
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.unit_interval if self.relaxed else constraints.boolean, 1)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "BernoulliVector":
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return BernoulliVector(logits, self.relaxed, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if not torch.is_grad_enabled():
            return self.each_log_prob(value).sum(-1)
        if value.shape == self.logits.shape:
            dot = (value * self.logits).sum(-1)
        else:  # several draws of each row: einsum allocates no product (S, N, D)
            dot = torch.einsum("...d,...d->...", value, self.logits)
        return dot - F.softplus(self.logits).sum(-1)

    def each_log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of each of the D values, without cancellation."""
        if self.relaxed:
            wrong = torch.where(self.logits > 0, 1 - value, value)
            return -self.logits.abs() * wrong - F.softplus(-self.logits.abs())
        return -F.softplus(torch.where(value > 0.5, -self.logits, self.logits))


@runtime_checkable
class Relaxed(Protocol):
    """A distribution that may be no density: where `relaxed`, its values do not integrate to one."""

    @property
    def relaxed(self) -> bool: ...


def is_relaxed(fn: object) -> bool:
    """Whether a distribution is marked as no density, by its `relaxed`."""
    return isinstance(fn, Relaxed) and fn.relaxed


@runtime_checkable
class EachValue(Protocol):
    """A distribution of a vector that has a log-probability or log-density of each of its values."""

    def each_log_prob(self, value: Tensor) -> Tensor: ...


@runtime_checkable
class DependentValues(Protocol):
    """A distribution of a vector whose values depend on each other, that knows its marginals and conditionals."""

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """The log density of the observed values alone.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            The log densities (...), 0 where nothing was observed.
        """
        ...

    def condition(self, value: Tensor, observed: Tensor) -> TorchDistribution:
        """The distribution of all values given those that were observed.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            A distribution of all D values.
        """
        ...

    def given_others(self, value: Tensor, observed: Tensor) -> TorchDistribution:
        """The distribution of each observed value given all other observed ones.

        Args:
            value: the values (..., D).
            observed: booleans (N, D).

        Returns:
            A distribution of D values that are independent.
        """
        ...


@runtime_checkable
class WithPlaceholders(Protocol):
    """A support that knows a value inside for each of the values of a vector."""

    @property
    def placeholders(self) -> tuple[float, ...]: ...


class Observed(TorchDistribution):
    """D values, of which only those that a mask (..., D) marks as observed count in `log_prob`.

    All D values are sampled, so that the missing ones can be imputed.

    Args:
        values: the distribution of all D values, independent or with marginals (`DependentValues`).
        mask: booleans (..., D), true where a value was observed.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(self, values: TorchDistributionMixin, mask: Tensor) -> None:
        self.values = cast(TorchDistribution, values)  # Pyro's mixin leaves out what torch's distributions have
        self.observed, self.relaxed = mask, is_relaxed(values)
        super().__init__(values.batch_shape, values.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint | None:
        return self.values.support

    @property
    def mean(self) -> Tensor:
        return self.values.mean

    @property
    def variance(self) -> Tensor:
        return self.values.variance

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Observed":
        return Observed(self.values.expand(torch.Size(batch_shape)), self.observed)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.values.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        values = self.values
        if isinstance(values, DependentValues):
            marginal: Tensor = values.observed_log_prob(value, self.observed)
            return marginal
        value = _fill_inside(value, self.observed, values.support)
        if isinstance(values, EachValue):
            log_probs = values.each_log_prob(value)
        elif isinstance(values, Independent):
            log_probs = values.base_dist.log_prob(value)
        else:
            raise InputError(
                f"a {type(values).__name__} has no density of some of its values alone: give the likelihood a method "
                "masked(z, mask), or fill the missing values first"
            )
        return torch.where(self.observed, log_probs, 0.0).sum(-1)


def _fill_inside(value: Tensor, observed: Tensor, support: Constraint | None) -> Tensor:
    """The values with a number inside the support where none was observed, so that no density there is NaN or −∞.

    An infinite density that is left out makes gradients NaN all the same.

    Args:
        value: the values (..., D).
        observed: booleans (..., D), true where a value was observed.
        support: the support of the values.

    Returns:
        The values (..., D); those that were observed are unchanged.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is None or support is constraints.real:
        return value
    if isinstance(support, WithPlaceholders):
        return torch.where(observed, value, value.new_tensor(support.placeholders))
    if support.is_discrete:
        lowest = vars(support).get("lower_bound", 0)
        return torch.where(observed, value, torch.as_tensor(lowest, dtype=value.dtype, device=value.device))
    try:
        return torch.where(observed, value, biject_to(support)(torch.zeros_like(value)))
    except NotImplementedError:  # no map to this support is known, so the placeholder stays, and may have density 0
        return value


class LogisticBins(TorchDistribution):
    r"""Grey levels x = v/L, v = 0 … L: a logistic density, integrated over the width of each level.

    $P(v) = \sigma((x + h - \mu)/s) - \sigma((x - h - \mu)/s)$ with $h = 1/(2L)$ and the outermost levels open to
    infinity.

    Args:
        loc: μ, (...).
        scale: s, the logistic's scale, broadcast with it.
        levels: L.

    >>> bins = LogisticBins(torch.tensor(0.3), torch.tensor(0.05), levels=255)
    >>> bins.log_prob(torch.arange(256) / 255).exp().sum()
    tensor(1.0000)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 - as torch's own

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return GreyLevels(self.levels)

    def _moment(self, power: int) -> Tensor:
        r"""$E[x^p] = L^{-p} \sum_{v=1}^L (v^p - (v-1)^p) P(V \geq v)$."""
        total = torch.zeros_like(self.loc)
        for v in torch.arange(1, self.levels + 1, dtype=self.loc.dtype, device=self.loc.device).split(16):
            edges = ((v - 0.5) / self.levels).reshape(-1, *(1,) * self.loc.dim())
            above: Tensor = torch.sigmoid((self.loc - edges) / self.scale)  # P(V ≥ v)
            total = total + torch.tensordot(v**power - (v - 1) ** power, above, 1)
        return total / float(self.levels) ** power

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self._moment(1) ** 2

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LogisticBins":
        shape = torch.Size(batch_shape)
        return LogisticBins(self.loc.expand(shape), self.scale.expand(shape), self.levels)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            uniform = torch.rand(
                self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
            )
            x = self.loc + self.scale * torch.logit(uniform.clamp(1e-6, 1 - 1e-6))
            levels: Tensor = (x * self.levels).round().clamp(0, self.levels)
            return levels / self.levels

    def log_prob(self, value: Tensor) -> Tensor:
        half = 0.5 / self.levels
        above, below = (value - self.loc + half) / self.scale, (value - self.loc - half) / self.scale
        # log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^{b − a}), exact in both tails; b − a does not depend on x
        log_width = torch.log(-torch.expm1(-2 * half / self.scale))
        inside: Tensor = F.logsigmoid(above) + F.logsigmoid(-below) + log_width
        lowest, highest = value < half, value > 1 - half
        return torch.where(lowest, F.logsigmoid(above), torch.where(highest, F.logsigmoid(-below), inside))


class GreyLevels(constraints.Constraint):
    """The support of L + 1 grey levels: 0, 1/L, …, 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def __repr__(self) -> str:
        return f"0, 1/{self.levels}, …, 1: grey levels as they were stored, neither binarized nor dequantized"

    def check(self, value: Tensor) -> Tensor:
        steps = value * self.levels
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < 1e-3)
