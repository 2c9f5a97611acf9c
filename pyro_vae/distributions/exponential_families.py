r"""log p(x | θ) of independent values as $T(x)·η(θ) - A(θ) + \log h(x)$: N rows of x against S values of θ by products.

>>> import pyro.distributions as dist
>>> x, rates = torch.ones(3, 5).double(), torch.rand(4, 5) + 0.5
>>> form = exponential_form(dist.Poisson(rates), Elements(x, lambda parameter: parameter.double()))
>>> form.log_prob().shape  # of three rows at four points
torch.Size([3, 4])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.distributions as td
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pyro_vae.distributions.discrete_values import BernoulliVector
from pyro_vae.distributions.stable_densities import LogRatePoisson, continuous_bernoulli_log_normalizer

LARGE = 1e100  # in place of an infinite η, whose product with x = 0 would be NaN


@dataclass(frozen=True)
class Elements:
    """Values x and a layout for parameters, both in float64 with E elements in a row.

    Attributes:
        x: the values (N, E), or one-hot vectors (N, E, C).
        parameter: a function that lays out a distribution's parameter as (S, E), or (S, E, C).
        mask: booleans (N, E), true for the values that count, the others may be anything finite; None where all count.
    """

    x: Tensor
    parameter: Callable[[Tensor], Tensor]
    mask: Tensor | None = None

    def column_means(self) -> Tensor:
        """The mean of each element over the rows in which it counts, (E,)."""
        if self.mask is None:
            return self.x.mean(0)
        return torch.where(self.mask, self.x, 0.0).sum(0) / self.mask.sum(0).clamp(min=1)


@dataclass(frozen=True)
class ExponentialForm:
    r"""$\log p(x_n | θ_s) = \sum_e [T(x_{ne})·η(θ_{se}) - A(θ_{se}) + \log h(x_{ne})]$, in float64.

    Attributes:
        statistics: the parts of T, (N, E) or (N, E, C) each, finite.
        parameters: the parts of η, (S, E) or (S, E, C) each.
        log_normalizer: A, (S, E).
        log_base: log h, (N, E); −∞ where x lies outside the support.
        mask: booleans (N, E), true for the values that count; None where all count.
    """

    statistics: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    log_normalizer: Tensor
    log_base: Tensor
    mask: Tensor | None = None

    def log_prob(self) -> Float[Tensor, "N S"]:
        """The log densities of all rows at all points, summed over the values that count, (N, S) nats."""
        if self.mask is None:
            total = self.log_base.sum(-1, keepdim=True) - self.log_normalizer.sum(-1)
        else:
            log_base = torch.where(self.mask, self.log_base, 0.0).sum(-1, keepdim=True)
            total = log_base - self.mask.double() @ self.log_normalizer.T
        for statistic, parameter in zip(self.statistics, self.parameters, strict=True):
            if (parameter == parameter[:1]).all():  # the same at all points, as one scale for all
                parameter = parameter[:1]
            total = total + self._masked(statistic).flatten(1) @ parameter.clamp(-LARGE, LARGE).flatten(1).T
        return total

    def _masked(self, statistic: Tensor) -> Tensor:
        if self.mask is None:
            return statistic
        return torch.where(self.mask[..., None] if statistic.dim() > 2 else self.mask, statistic, 0.0)


@singledispatch
def exponential_form(fn: object, elements: Elements) -> ExponentialForm | None:
    """The form of a distribution; None for one that is no exponential family in x.

    A total count has to be the same at all points.

    Args:
        fn: the distribution of single values or of one-hot vectors, with its parameters for S points.
        elements: the values of N rows, and the layout of parameters.

    Returns:
        The form.
    """
    return None


def _log_base(inside: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.where(inside, value, -math.inf)


def _positive(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where x is positive, and log x there, else 0."""
    inside = x > 0
    return inside, torch.where(inside, x, 1.0).log()


def _is_count(x: Tensor) -> Tensor:
    return (x >= 0) & (x == x.round())


@exponential_form.register(td.Bernoulli)
def _(fn: td.Bernoulli, elements: Elements) -> ExponentialForm:
    x, logits = elements.x, elements.parameter(fn.logits)
    normalizer = elements.parameter(F.softplus(fn.logits))  # in the program's own dtype, twice as fast as in float64
    return ExponentialForm((x,), (logits,), normalizer, _log_base((x == 0) | (x == 1)).double(), elements.mask)


@exponential_form.register(BernoulliVector)
def _(fn: BernoulliVector, elements: Elements) -> ExponentialForm:
    x, logits = elements.x, elements.parameter(fn.logits)
    inside = (x >= 0) & (x <= 1) if fn.relaxed else (x == 0) | (x == 1)
    normalizer = elements.parameter(F.softplus(fn.logits))
    return ExponentialForm((x,), (logits,), normalizer, _log_base(inside).double(), elements.mask)


@exponential_form.register(td.ContinuousBernoulli)
def _(fn: td.ContinuousBernoulli, elements: Elements) -> ExponentialForm:
    x, logits = elements.x, elements.parameter(fn.logits)
    normalizer = continuous_bernoulli_log_normalizer(logits)
    return ExponentialForm((x,), (logits,), normalizer, _log_base((x >= 0) & (x <= 1)).double(), elements.mask)


@exponential_form.register(td.Normal)
def _(fn: td.Normal, elements: Elements) -> ExponentialForm:
    return _normal(fn.loc, fn.scale, elements, torch.zeros_like(elements.x))


@exponential_form.register(td.LogNormal)
def _(fn: td.LogNormal, elements: Elements) -> ExponentialForm:
    inside, log_x = _positive(elements.x)
    return _normal(fn.loc, fn.scale, Elements(log_x, elements.parameter, elements.mask), _log_base(inside, -log_x))


def _normal(loc: Tensor, scale: Tensor, elements: Elements, log_base: Tensor) -> ExponentialForm:
    """Around each column's mean, so that columns far from zero lose no digits."""
    center = elements.column_means()
    x, loc, scale = elements.x - center, elements.parameter(loc) - center, elements.parameter(scale)
    precision = scale.square().reciprocal()
    normalizer = loc.square() * precision / 2 + scale.log() + math.log(2 * math.pi) / 2
    return ExponentialForm((x, x.square()), (loc * precision, -precision / 2), normalizer, log_base, elements.mask)


@exponential_form.register(td.Poisson)
def _(fn: td.Poisson, elements: Elements) -> ExponentialForm:
    rate = elements.parameter(fn.rate)
    return _poisson(rate.log(), rate, elements)


@exponential_form.register(LogRatePoisson)
def _(fn: LogRatePoisson, elements: Elements) -> ExponentialForm:
    log_rate = elements.parameter(fn.log_rate)
    return _poisson(log_rate, log_rate.exp(), elements)


def _poisson(log_rate: Tensor, rate: Tensor, elements: Elements) -> ExponentialForm:
    log_base = _log_base(_is_count(elements.x), -torch.lgamma(elements.x.clamp(min=0) + 1))
    return ExponentialForm((elements.x,), (log_rate,), rate, log_base, elements.mask)


@exponential_form.register(td.Geometric)
def _(fn: td.Geometric, elements: Elements) -> ExponentialForm:
    x, probs = elements.x, elements.parameter(fn.probs)
    return ExponentialForm((x,), (torch.log1p(-probs),), -probs.log(), _log_base(_is_count(x)).double(), elements.mask)


@exponential_form.register(td.Binomial)
def _(fn: td.Binomial, elements: Elements) -> ExponentialForm | None:
    x, logits, count = elements.x, elements.parameter(fn.logits), elements.parameter(fn.total_count)
    if not (count == count[:1]).all():
        return None
    inside = _is_count(x) & (x <= count[:1])
    kept = torch.where(inside, x, 0.0)
    log_choices = torch.lgamma(count[:1] + 1) - torch.lgamma(kept + 1) - torch.lgamma(count[:1] - kept + 1)
    return ExponentialForm((x,), (logits,), count * F.softplus(logits), _log_base(inside, log_choices), elements.mask)


@exponential_form.register(td.NegativeBinomial)
def _(fn: td.NegativeBinomial, elements: Elements) -> ExponentialForm | None:
    x, logits, count = elements.x, elements.parameter(fn.logits), elements.parameter(fn.total_count)
    if not (count == count[:1]).all():
        return None
    kept = x.clamp(min=0)
    log_choices = torch.lgamma(count[:1] + kept) - torch.lgamma(kept + 1) - torch.lgamma(count[:1])
    log_base = _log_base(_is_count(x), log_choices)
    return ExponentialForm((x,), (F.logsigmoid(logits),), count * F.softplus(logits), log_base, elements.mask)


@exponential_form.register(td.Exponential)
def _(fn: td.Exponential, elements: Elements) -> ExponentialForm:
    x, rate = elements.x, elements.parameter(fn.rate)
    return ExponentialForm((x,), (-rate,), -rate.log(), _log_base(x >= 0).double(), elements.mask)


@exponential_form.register(td.Gamma)
def _(fn: td.Gamma, elements: Elements) -> ExponentialForm:
    concentration, rate = elements.parameter(fn.concentration), elements.parameter(fn.rate)
    inside, log_x = _positive(elements.x)
    normalizer = torch.lgamma(concentration) - concentration * rate.log()
    return ExponentialForm(
        (log_x, elements.x), (concentration, -rate), normalizer, _log_base(inside, -log_x), elements.mask
    )


@exponential_form.register(td.Beta)
def _(fn: td.Beta, elements: Elements) -> ExponentialForm:
    one, zero = elements.parameter(fn.concentration1), elements.parameter(fn.concentration0)
    (positive, log_x), (below_one, log_rest) = _positive(elements.x), _positive(1 - elements.x)
    normalizer = torch.lgamma(one) + torch.lgamma(zero) - torch.lgamma(one + zero)
    log_base = _log_base(positive & below_one, -log_x - log_rest)
    return ExponentialForm((log_x, log_rest), (one, zero), normalizer, log_base, elements.mask)


@exponential_form.register(td.Categorical)
def _(fn: td.Categorical, elements: Elements) -> ExponentialForm:
    x, log_probs = elements.x, elements.parameter(fn.logits)
    inside = _is_count(x) & (x < log_probs.shape[-1])
    one_hot = F.one_hot(torch.where(inside, x, 0.0).long(), log_probs.shape[-1]).double()
    return _categories(one_hot, log_probs, inside, elements.mask)


@exponential_form.register(td.OneHotCategorical)
def _(fn: td.OneHotCategorical, elements: Elements) -> ExponentialForm:
    x, log_probs = elements.x, elements.parameter(fn.logits)
    return _categories(x, log_probs, ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1), elements.mask)


def _categories(one_hot: Tensor, log_probs: Tensor, inside: Tensor, mask: Tensor | None) -> ExponentialForm:
    normalizer = log_probs.new_zeros(log_probs.shape[:-1])
    return ExponentialForm((one_hot,), (log_probs,), normalizer, _log_base(inside).double(), mask)
