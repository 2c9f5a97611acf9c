"""A likelihood of a table whose columns have kinds: for each the distribution that its values have."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_range import column_range, range_in_words
from pyro_vae.distributions.column_vector import ColumnSupport, ColumnVector
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import column_groups
from pyro_vae.likelihoods.column_groups import ColumnGroup
from pyro_vae.likelihoods.residual_covariance import shrink_last_layer
from pyro_vae.nets import init_output_bias
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Latents

SCALE_FLOOR = 0.01
MAX_CORRELATED = 200  # columns whose residuals may be correlated: L has the square of their number
CORRELATED = ("normal", "log-normal", "logit-normal")
GROUPS: dict[str, type[ColumnGroup]] = {
    "correlated": column_groups.CorrelatedGroup,
    "normal": column_groups.NormalGroup,
    "student-t": column_groups.StudentTGroup,
    "log-normal": column_groups.LogNormalGroup,
    "gamma": column_groups.GammaGroup,
    "zero or log-normal": column_groups.ZeroOrLogNormalGroup,
    "logit-normal": column_groups.LogitNormalGroup,
    "beta": column_groups.BetaGroup,
    "negative-binomial": column_groups.NegativeBinomialGroup,
    "zero-inflated": column_groups.ZeroInflatedGroup,
    "logistic": column_groups.LogisticGroup,
    "levels": column_groups.LevelsGroup,
    "ordinal": column_groups.OrdinalGroup,
}


@dataclass(frozen=True)
class Group:
    """Some columns of one family, whose parameters stand next to each other among the outputs of the network.

    Attributes:
        family: the family's name, a key of `GROUPS`.
        columns: the numbers of the columns.
        outputs: the number of outputs for each column.
    """

    family: str
    columns: tuple[int, ...]
    outputs: int


def group_columns(columns: Sequence[Column], correlated: bool = True) -> tuple[Group, ...]:
    """The columns in groups of one family, and of one number of outputs each.

    Args:
        columns: the modelled columns (D), in their order.
        correlated: whether the residuals of real columns are correlated.

    Returns:
        The groups.
    """
    families = [column.distribution for column in columns]
    num_real = sum(family in CORRELATED for family in families)
    if correlated and 2 <= num_real <= MAX_CORRELATED:
        families = ["correlated" if family in CORRELATED else family for family in families]
    found: dict[tuple[str, int], list[int]] = {}
    for number, (family, column) in enumerate(zip(families, columns, strict=True)):
        found.setdefault((family, GROUPS[family].width(column)), []).append(number)
    return tuple(Group(family, tuple(numbers), width) for (family, width), numbers in found.items())


@part
class Columns(LikelihoodModule):
    r"""The columns of a table, each with the distribution of its kind.

    Real numbers and dates are normal, positive ones log-normal (with a probability of 0 where the data has zeros),
    shares logit-normal, counts negative binomial, other whole numbers discretized logistic, binary and categorical ones
    categorical, ordinal ones cumulative logits, $P(x \le k) = \sigma(c_k - f(z))$; `Column.family` names another:
    Student-t, Gamma, Beta, a zero-inflated negative binomial. Given z the columns are independent but for those that
    are normal, if need be after a logarithm or logit: their residuals have one correlation, the same for all z, up to
    200 columns.

    log p(x) is that of a product of Lebesgue measures (real columns, in their original units) and counting measures
    (the others). A level that no training row had has probability 1e-4. A fit begins at the columns' own distributions
    and at the correlation of the training rows.

    Where the schema has exposures, the last inputs are their logarithms, one for each: the mean of a count that has
    one is $e\, e^{f(z)}$, and the network f does not get it.

    Args:
        net: a network from (..., K) to (..., `Columns.num_outputs(schema)`).
        schema: the columns (`data.schema`).
        floor: the least scale of a column, in units of its standard deviation.
        correlated: whether the residuals of real columns are correlated.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("customers", label="churned")
    >>> net = pv.nets.mlp(2, 16, Columns.num_outputs(data.schema))
    >>> Columns(net, data.schema)(torch.zeros(5, 2)).log_prob(data.test.x[:5].nan_to_num()).shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, schema: Schema, floor: float = SCALE_FLOOR, *, correlated: bool = True) -> None:
        super().__init__()
        if not floor > 0:
            raise InputError(f"floor must be positive, got {floor}: without one the likelihood is unbounded")
        columns = schema.modelled
        self.net = net
        self.grouping = group_columns(columns, correlated)
        self.groups = nn.ModuleList(
            GROUPS[group.family]([columns[i] for i in group.columns], floor) for group in self.grouping
        )
        flat = [number for group in self.grouping for number in group.columns]
        self.register_buffer("order", torch.tensor(flat).argsort(), persistent=False)
        for i, group in enumerate(self.grouping):
            self.register_buffer(f"columns_{i}", torch.tensor(group.columns), persistent=False)
        self.num_exposures, self.has_exposure = len(schema.exposures), list[bool]()
        for i, group in enumerate(self.grouping):
            names = [columns[number].exposure for number in group.columns]
            places = [schema.exposures.index(name) if name else self.num_exposures for name in names]
            self.register_buffer(f"exposures_{i}", torch.tensor(places), persistent=False)
            self.has_exposure.append(any(names))
        self.support = column_support(columns)

    order: Tensor

    @classmethod
    def num_outputs(cls, schema: Schema) -> int:
        """The number of outputs that the network needs for the columns of a schema."""
        return sum(group.outputs * len(group.columns) for group in group_columns(schema.modelled))

    def forward(self, z: Latents) -> ColumnVector:
        log_exposure = F.pad(z[..., z.shape[-1] - self.num_exposures :], (0, 1))  # 0 for columns without
        out: Tensor = self.net(z[..., : z.shape[-1] - self.num_exposures])
        sizes = [group.outputs * len(group.columns) for group in self.grouping]
        if out.shape[-1] != sum(sizes):
            raise InputError(f"these columns need a network with {sum(sizes)} outputs, got {out.shape[-1]}")
        families = []
        for i, (about, group, values) in enumerate(zip(self.grouping, self.groups, out.split(sizes, -1), strict=True)):
            assert isinstance(group, ColumnGroup)
            values = values.unflatten(-1, (about.outputs, len(about.columns)))
            if self.has_exposure[i]:
                values = group.add_exposure(values, log_exposure[..., self.get_buffer(f"exposures_{i}")])
            families.append(group(values))
        return ColumnVector(families, [self.columns_of(i) for i in range(len(sizes))], self.order, self.support)

    def columns_of(self, group: int) -> Tensor:
        """The numbers of a group's columns (n,)."""
        return self.get_buffer(f"columns_{group}")

    @torch.no_grad()
    def init_from_rows(self, rows: Tensor) -> None:
        """Each column begins at its own distribution, real ones with their correlation, and the network at a constant.

        Args:
            rows: some training rows (n, D).
        """
        found = []
        for i, group in enumerate(self.groups):
            assert isinstance(group, ColumnGroup)
            found.append(group.init_from_values(rows[:, self.columns_of(i)]).flatten())
        init_output_bias(self.net, torch.cat(found).to(rows))
        shrink_last_layer(self.net)


def column_support(columns: Sequence[Column]) -> ColumnSupport:
    """The support of a row.

    Args:
        columns: the modelled columns (D).

    Returns:
        The constraint of its values.
    """
    placeholders = [_placeholder(column) for column in columns]
    values = [f"{column.name} ({range_in_words(column)})" for column in columns]
    return ColumnSupport([column_range(column) for column in columns], placeholders, values)


def _placeholder(column: Column) -> float:
    """A value inside the column's range, in units of x."""
    return {"positive": 0.0 if column.has_zeros else 1.0, "bounded": 0.5}.get(column.kind, 0.0)
