"""A row of a table as one event: columns of several families."""

from collections.abc import Callable, Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.data.columns.column_range import WHOLE_TOLERANCE, ColumnRange
from pyro_vae.distributions.discrete_values import DependentValues, EachValue


class ColumnSupport(constraints.Constraint):
    """The support of each column of a row.

    Args:
        ranges: of the columns (D).
        placeholders: a value inside each range.
        values: the values of each in words, with its name.
    """

    event_dim = 0

    def __init__(self, ranges: Sequence[ColumnRange], placeholders: Sequence[float], values: Sequence[str]) -> None:
        self.ranges, self.placeholders, self.values = tuple(ranges), tuple(placeholders), tuple(values)
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
    """D columns as one event, in groups of one family; the columns of a group may depend on each other.

    Args:
        families: for each group of n columns a distribution, with batch shape (..., n) of independent columns, else
            with event shape (n,) and `DependentValues`.
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
        super().__init__(_batch_shape(families[0]), order.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self._support, 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ColumnVector":
        shape = torch.Size(batch_shape)
        families = [each.expand(shape if each.event_shape else shape + each.batch_shape[-1:]) for each in self.families]
        return ColumnVector(families, self.columns, self.order, self._support)

    def log_prob(self, value: Tensor) -> Tensor:
        total = value.new_zeros(())
        for family, x in self._groups(value):
            total = total + (family.log_prob(x) if family.event_shape else family.log_prob(x).sum(-1))
        return total

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """The log density of the observed values alone.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            The log densities (...), 0 where nothing was observed.
        """
        value = torch.where(observed, value, value.new_tensor(self._support.placeholders))
        total = value.new_zeros(())
        for (family, x), at in zip(self._groups(value), self.columns, strict=True):
            if isinstance(family, DependentValues):
                total = total + family.observed_log_prob(x, observed[..., at])
            else:
                total = total + torch.where(observed[..., at], family.log_prob(x), 0.0).sum(-1)
        return total

    def each_log_prob(self, value: Tensor) -> Tensor:
        """The log-probability or log-density of each of the D columns alone, (..., D)."""
        parts = [
            family.each_log_prob(x) if isinstance(family, EachValue) else family.log_prob(x)
            for family, x in self._groups(value)
        ]
        return torch.cat(parts, -1)[..., self.order]

    def condition(self, value: Tensor, observed: Tensor) -> "ColumnVector":
        """The distribution of all columns given the values that were observed.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            A distribution of all D columns; those that do not depend on others are as they were, observed or not.
        """
        return self._map_dependent(lambda family, x, at: family.condition(x, observed[..., at]), value)

    def given_others(self, value: Tensor, observed: Tensor) -> "ColumnVector":
        """The distribution of each observed column given all other observed ones.

        Args:
            value: the values (..., D).
            observed: booleans (N, D).

        Returns:
            A distribution of D columns that are independent.
        """
        return self._map_dependent(lambda family, x, at: family.given_others(x, observed[..., at]), value)

    def _map_dependent(
        self, function: Callable[[DependentValues, Tensor, Tensor], Distribution], value: Tensor
    ) -> "ColumnVector":
        """The vector with what a function makes of families whose columns depend on each other."""
        families = [
            function(family, x, at) if isinstance(family, DependentValues) else family
            for (family, x), at in zip(self._groups(value), self.columns, strict=True)
        ]
        return ColumnVector(families, self.columns, self.order, self._support)

    def _groups(self, value: Tensor) -> list[tuple[Distribution, Tensor]]:
        return [(family, value.index_select(-1, at)) for family, at in zip(self.families, self.columns, strict=True)]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.cat([each.sample(torch.Size(sample_shape)) for each in self.families], -1)[..., self.order]

    @property
    def mean(self) -> Tensor:
        return torch.cat([each.mean for each in self.families], -1)[..., self.order]

    @property
    def variance(self) -> Tensor:
        return torch.cat([each.variance for each in self.families], -1)[..., self.order]


def _batch_shape(family: Distribution) -> torch.Size:
    return family.batch_shape if family.event_shape else family.batch_shape[:-1]
