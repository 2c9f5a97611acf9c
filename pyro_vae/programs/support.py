"""Where the density of a site is zero: outside the support of its distribution, whatever its formula gives there."""

import copy
import math
from collections.abc import Mapping

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import Delta, Empirical, MaskedDistribution
from pyro.distributions import TransformedDistribution as PyroTransformed
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    constraints,
)
from torch.distributions.constraints import Constraint

from pyro_vae.data import Measure
from pyro_vae.distributions import BernoulliVector, GreyLevels, Observed
from pyro_vae.distributions.column_vector import ColumnSupport
from pyro_vae.errors import InputError

Inside = tuple[Tensor, Tensor]  # booleans: in the support, and in its closure
PLAIN_TRANSFORMED = (TransformedDistribution, PyroTransformed)  # a subclass knows its own support
SIMPLEX_TOLERANCE = 1e-6
CODES = (
    "x holds codes of columns with kinds (levels, dates, counts), and a density of real numbers is none of them: "
    "take likelihoods.Columns (--likelihood columns), or codes for such densities, load_data(…, coding='one-hot') "
    "(--coding one-hot)"
)


def zero_outside_support(fn: object, value: Tensor, log_prob: Tensor) -> Tensor:
    """log p of a value with −∞ outside the support, where torch evaluates the formula of the inside.

    On the boundary of an open support the formula stands unless it is NaN: rounding puts values there (exp underflows
    to 0). A value that is NaN keeps its NaN, and masked elements do not count.

    Args:
        fn: a site's distribution.
        value: its value.
        log_prob: what the distribution gives for it, nats.

    Returns:
        The same numbers, −∞ where the density is zero.

    >>> import pyro.distributions as dist
    >>> prior, value = dist.Exponential(1.0, validate_args=False), torch.tensor([-3.0, 0.0, 2.0])
    >>> prior.log_prob(value), zero_outside_support(prior, value, prior.log_prob(value))
    (tensor([ 3., 0., -2.]), tensor([-inf, 0., -2.]))
    """
    if isinstance(fn, Independent) and isinstance(fn.base_dist, MixtureSameFamily):
        base = fn.base_dist
        each = zero_outside_support(base, value, base.log_prob(value))
        return each.flatten(-fn.reinterpreted_batch_ndims).sum(-1) if fn.reinterpreted_batch_ndims else each
    if _rounds_above_zero(fn):
        log_prob = log_prob.clamp(max=0.0)
    inside = inside_support(fn, value)
    if inside is None:
        return log_prob
    if isinstance(fn, MixtureSameFamily) and not is_static(support_of(fn)):
        log_prob = _mixture_log_prob(fn, value)
    strictly, closed = inside
    has_nan = value.isnan()
    if isinstance(fn, Distribution) and len(fn.event_shape):
        has_nan = has_nan.flatten(-len(fn.event_shape)).any(-1)
    return torch.where(strictly | (closed & ~log_prob.isnan()) | has_nan, log_prob, -math.inf)


def inside_support(fn: object, value: Tensor) -> Inside | None:
    """Whether a value lies in the support of a distribution.

    Args:
        fn: a site's distribution.
        value: its value.

    Returns:
        Two booleans for each element of the batch, the second of the support's closure; None where there is nothing to
        check, as every value lies in it, or it is not known.
    """
    if isinstance(fn, ExpandedDistribution):
        return inside_support(fn.base_dist, value)
    if isinstance(fn, Independent):
        return _all_over(inside_support(fn.base_dist, value), fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return None if fn._mask is False else _or(inside_support(fn.base_dist, value), fn._mask)
    if isinstance(fn, Observed):
        values = fn.values
        each = inside_support(values.base_dist, value) if isinstance(values, Independent) else _by_element(fn, value)
        return _all_over(_or(each, fn.observed), 1)
    if isinstance(fn, MixtureSameFamily):
        component = fn.component_distribution
        each = inside_support(component, value.unsqueeze(-1 - len(component.event_shape)))
        return None if each is None else (each[0].any(-1), each[1].any(-1))
    support = support_of(fn)
    own = None if support is None or is_everywhere(support) else _check(support, value)
    if isinstance(fn, TransformedDistribution) and type(fn) in PLAIN_TRANSFORMED and is_constrained(fn.base_dist):
        return _and(own, _base_inside(fn, value))
    return own


def support_of(fn: object) -> Constraint | None:
    """The support of a distribution; None where it does not say or cannot be checked."""
    if isinstance(fn, ZukoToPyro):
        return _support_of_zuko(fn.dist)
    try:
        support = fn.support if isinstance(fn, Distribution) else None
    except (NotImplementedError, ValueError, AttributeError):
        return None
    return None if not isinstance(support, Constraint) or constraints.is_dependent(support) else support


def _support_of_zuko(fn: object) -> Constraint | None:
    """The support of a distribution of zuko's, which do not say: what a flow maps from, or that of components."""
    attributes = vars(fn)
    if isinstance(transform := attributes.get("transform"), Transform):
        domain = transform.domain
        return domain if isinstance(domain, Constraint) else None
    return support_of(attributes["base"]) if "base" in attributes else support_of(fn)


def innermost(support: Constraint) -> Constraint:
    """The constraint of one element that those of vectors and of mixtures wrap."""
    while isinstance(support, constraints.independent | constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support


def column_support_of(support: Constraint | None) -> ColumnSupport | None:
    """The support of each column, where it is one of a row of columns."""
    columns = None if support is None else innermost(support)
    return columns if isinstance(columns, ColumnSupport) else None


def is_everywhere(support: Constraint) -> bool:
    """Whether a constraint allows every real number."""
    return isinstance(innermost(support), type(constraints.real))


def is_constrained(fn: object) -> bool:
    """Whether a distribution has values of density zero, as far as it says."""
    if isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        return is_constrained(fn.base_dist)
    if isinstance(fn, TransformedDistribution) and type(fn) in PLAIN_TRANSFORMED and is_constrained(fn.base_dist):
        return True
    support = support_of(fn)
    return support is not None and not is_everywhere(support)


def require_density_of_columns(support: Constraint | None, measure: Measure) -> None:
    """`InputError` where columns with kinds are observed by a density of real numbers: it would be one of their codes.

    Args:
        support: the support of x, if the model observes it at one site.
        measure: the measure of the rows.
    """
    if not measure.counted or support is None or support.is_discrete or column_support_of(support) is not None:
        return
    raise InputError(CODES)


def is_static(support: Constraint | None) -> bool:
    """Whether a constraint is the same for every row and draw: no tensor is one of its bounds."""
    return support is not None and not _has_tensor(vars(innermost(support)))


def with_scalar_bounds(support: Constraint | None) -> Constraint | None:
    """A constraint whose bounds are tensors of one value, as a count broadcast over rows, with numbers instead.

    Of a multinomial without its total: that may be of the rows at hand, and the density does not depend on it.

    Args:
        support: the support of a distribution.

    Returns:
        A constraint that holds for any number of rows; the given one where bounds differ, or there are none.
    """
    if isinstance(support, type(constraints.multinomial(0))):
        return constraints.independent(constraints.nonnegative_integer, 1)
    if isinstance(support, constraints.independent):
        base = with_scalar_bounds(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if support is None or not _has_tensor(vars(support)):
        return support
    single = copy.copy(support)
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor) and bound.numel() and bool((bound == bound.flatten()[0]).all()):
            vars(single)[name] = bound.flatten()[0].item()
    return single


def _has_tensor(values: Mapping[str, object]) -> bool:
    inner = [part for value in values.values() for part in (value if isinstance(value, list) else [value])]
    return any(
        isinstance(part, Tensor) or (isinstance(part, Constraint) and _has_tensor(vars(innermost(part))))
        for part in inner
    )


def never_leaves(outer: object, inner: object) -> bool:
    """Whether no draw of one distribution can lie outside the support of another, by what both declare.

    Args:
        outer: the distribution that the draws are scored by, a prior.
        inner: the one that draws them, a guide's.

    Returns:
        False also where it cannot be told.

    >>> import pyro.distributions as dist
    >>> gamma, normal = dist.Gamma(2.0, 1.0), dist.Normal(0.0, 1.0)
    >>> never_leaves(gamma, dist.LogNormal(0.0, 1.0)), never_leaves(normal, gamma), never_leaves(gamma, normal)
    (True, True, False)
    """
    if not is_constrained(outer):
        return True
    p, q = support_of(outer), support_of(inner)
    if p is None or q is None or not is_static(p) or not is_static(q) or _has_constrained_base(outer):
        return False
    p, q = innermost(p), innermost(q)
    if p.is_discrete and not q.is_discrete:
        return False
    (low, high), (inner_low, inner_high) = _bounds(p), _bounds(q)
    if math.isnan(low) or math.isnan(inner_low):
        return type(p) is type(q) and vars(p) == vars(q)
    return low <= inner_low and inner_high <= high


def values_in_words(support: Constraint | None, num_values: int) -> list[tuple[str, int]]:
    """The values of a support in words, empty for a continuous one, and of how many of a row's values they are.

    Args:
        support: the support of an observed site.
        num_values: how many values of a row it has.

    Returns:
        A pair for each kind of values.
    """
    if (columns := column_support_of(support)) is not None:
        counted = columns.num_counted
        return [(words, size) for words, size in (("values of columns", counted), ("", num_values - counted)) if size]
    return [(discrete_values(support), num_values)]


def discrete_values(support: Constraint | None) -> str:
    """The values of a discrete support in words, empty for a continuous one."""
    if support is None or not support.is_discrete:
        return ""
    support = innermost(support)
    if isinstance(support, GreyLevels):
        return f"0, …, {support.levels}"
    if isinstance(support, type(constraints.boolean)):
        return "0, 1"
    if isinstance(support, type(constraints.nonnegative_integer)) and not isinstance(support.lower_bound, Tensor):
        first = int(support.lower_bound)
        return f"{first}, {first + 1}, {first + 2}, …"
    if isinstance(support, constraints.integer_interval) and not _has_tensor(vars(support)):
        return f"{support.lower_bound}, …, {support.upper_bound}"
    return "discrete values"


def is_point_mass(fn: object) -> bool:
    """Whether a distribution has its mass at single points: `Delta` or `Empirical`, also inside others."""
    if isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution | TransformedDistribution):
        return is_point_mass(fn.base_dist)
    if isinstance(fn, MixtureSameFamily):
        return is_point_mass(fn.component_distribution)
    return isinstance(fn, Delta | Empirical)


def _has_constrained_base(fn: object) -> bool:
    if isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        return _has_constrained_base(fn.base_dist)
    return isinstance(fn, TransformedDistribution) and type(fn) in PLAIN_TRANSFORMED and is_constrained(fn.base_dist)


def _rounds_above_zero(fn: object) -> bool:
    """Whether log p is a difference of large sums, which rounding may bring above 0, where p is a probability."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, BernoulliVector) and not fn.relaxed


def _bounds(support: Constraint) -> tuple[float, float]:
    """The ends of an interval; NaN for a constraint that is none."""
    if isinstance(support, type(constraints.real)):
        return -math.inf, math.inf
    if isinstance(support, type(constraints.boolean)):
        return 0.0, 1.0
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return float(support.lower_bound), math.inf
    if isinstance(support, type(constraints.nonnegative_integer)):
        return float(support.lower_bound), math.inf
    if isinstance(support, constraints.less_than):
        return -math.inf, float(support.upper_bound)
    if isinstance(support, constraints.interval | constraints.half_open_interval | constraints.integer_interval):
        return float(support.lower_bound), float(support.upper_bound)
    return math.nan, math.nan


def _check(support: Constraint, value: Tensor) -> Inside | None:
    """A constraint's own check, and that of its closure, with room for the rounding of a simplex."""
    if isinstance(support, constraints.independent):
        return _all_over(_check(support.base_constraint, value), support.reinterpreted_batch_ndims)
    if isinstance(support, type(constraints.simplex)):
        tolerance = SIMPLEX_TOLERANCE + value.shape[-1] * torch.finfo(value.dtype).eps
        inside = (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < tolerance)
        return inside, inside
    if isinstance(support, constraints.greater_than):
        return support.check(value), value >= support.lower_bound
    if isinstance(support, constraints.less_than):
        return support.check(value), value <= support.upper_bound
    if isinstance(support, constraints.half_open_interval):
        return support.check(value), (value >= support.lower_bound) & (value <= support.upper_bound)
    try:
        inside = support.check(value)
    except (NotImplementedError, ValueError):
        return None
    return inside, inside


def _by_element(fn: Observed, value: Tensor) -> Inside | None:
    support = support_of(fn.values)
    return None if support is None or is_everywhere(support) else _check(innermost(support), value)


def _base_inside(fn: TransformedDistribution, value: Tensor) -> Inside | None:
    """Whether the value comes from the support of the distribution that is transformed."""
    try:
        for transform in reversed(fn.transforms):
            value = transform.inv(value)
    except NotImplementedError:  # a map without an inverse
        return None
    extra = len(fn.event_shape) - len(fn.base_dist.event_shape)
    return _all_over(inside_support(fn.base_dist, value), max(extra, 0))


def _mixture_log_prob(fn: MixtureSameFamily, value: Tensor) -> Tensor:
    """The density of a mixture whose components have supports of their own."""
    component = fn.component_distribution
    wide = value.unsqueeze(-1 - len(component.event_shape))
    each = zero_outside_support(component, wide, component.log_prob(wide))
    return torch.logsumexp(each + torch.log_softmax(fn.mixture_distribution.logits, -1), -1)


def _all_over(inside: Inside | None, dims: int) -> Inside | None:
    if inside is None or not dims:
        return inside
    return inside[0].flatten(-dims).all(-1), inside[1].flatten(-dims).all(-1)


def _or(inside: Inside | None, counts: Tensor | bool) -> Inside | None:
    """Elements that a mask leaves out lie inside."""
    if inside is None or isinstance(counts, bool):
        return inside
    return inside[0] | ~counts.bool(), inside[1] | ~counts.bool()


def _and(first: Inside | None, second: Inside | None) -> Inside | None:
    if first is None or second is None:
        return second if first is None else first
    return first[0] & second[0], first[1] & second[1]
