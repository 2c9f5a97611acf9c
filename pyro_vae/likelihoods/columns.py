"""A likelihood of a table whose columns have kinds: for each the distribution that its values have."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.constructor_args import part
from pyro_vae.data.columns import Column, Schema
from pyro_vae.distributions import stable_densities
from pyro_vae.distributions.column_vector import (
    ColumnRange,
    ColumnSupport,
    ColumnVector,
    Levels,
    LogisticSteps,
    LogitNormal,
    LogNormal,
    ZeroOrLogNormal,
)
from pyro_vae.errors import InputError
from pyro_vae.nets import init_output_bias, positive
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Latents

SCALE_FLOOR = 0.01
INITIAL_RAW_SCALE = math.log(math.expm1(1.0 - SCALE_FLOOR))  # inverse of softplus
LARGEST_LOG_RATE = 30.0
UNSEEN = 1e-4  # the probability of a level that no training row had


@dataclass(frozen=True)
class Group:
    """Some columns of one family, whose parameters stand next to each other among the outputs of the network.

    Attributes:
        family: the family's name.
        columns: the numbers of the columns.
        outputs: the number of outputs for each column.
        num_levels: the number of levels of each column; empty for numbers.
    """

    family: str
    columns: tuple[int, ...]
    outputs: int
    num_levels: tuple[int, ...] = ()


def family_of(column: Column) -> str:
    """The name of the family of a column's distribution."""
    if column.kind == "positive" and column.has_zeros:
        return "zero or log-normal"
    return {
        "real": "normal",
        "datetime": "normal",
        "positive": "log-normal",
        "bounded": "logit-normal",
        "count": "negative binomial",
        "integer": "logistic",
        "binary": "levels",
        "categorical": "levels",
        "ordinal": "ordinal",
    }[column.kind]


OUTPUTS = {
    "normal": 2,
    "log-normal": 2,
    "logit-normal": 2,
    "logistic": 2,
    "zero or log-normal": 3,
    "negative binomial": 1,
    "ordinal": 1,
}


def group_columns(columns: Sequence[Column]) -> tuple[Group, ...]:
    """The columns in groups of one family; those with levels by the next power of two, so that few outputs are unused.

    Args:
        columns: the modelled columns (D), in their order.

    Returns:
        The groups.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for number, column in enumerate(columns):
        family = family_of(column)
        width = OUTPUTS.get(family) or 2 ** math.ceil(math.log2(max(2, len(column.levels))))
        found.setdefault((family, width), []).append(number)
    return tuple(
        Group(
            family,
            tuple(numbers),
            width,
            tuple(len(columns[i].levels) for i in numbers) if family in ("levels", "ordinal") else (),
        )
        for (family, width), numbers in found.items()
    )


@part
class Columns(LikelihoodModule):
    r"""The columns of a table, independent given z, each with the distribution of its kind.

    Real numbers and dates are normal, positive ones log-normal (with a probability of 0 where the data has zeros),
    shares logit-normal, counts negative binomial, other whole numbers discretized logistic, binary and categorical ones
    categorical, ordinal ones cumulative logits, $P(x \le k) = \sigma(c_k - f(z))$. log p(x) is that of a product of
    Lebesgue measures (real columns, in their original units) and counting measures (the others). A level that no
    training row had has probability 1e-4.

    Args:
        net: a network from (..., K) to (..., `Columns.num_outputs(schema)`).
        schema: the columns (`data.schema`).
        floor: the least scale of a column, in units of its standard deviation.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("customers", label="churned")
    >>> net = pv.nets.mlp(2, 16, Columns.num_outputs(data.schema))
    >>> Columns(net, data.schema)(torch.zeros(5, 2)).log_prob(data.test.x[:5].nan_to_num()).shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, schema: Schema, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        if not floor > 0:
            raise InputError(f"floor must be positive, got {floor}: without one the likelihood is unbounded")
        columns = schema.modelled
        self.net, self.floor = net, floor
        self.groups = group_columns(columns)
        flat = [number for group in self.groups for number in group.columns]
        self.register_buffer("order", torch.tensor(flat).argsort(), persistent=False)
        for i, group in enumerate(self.groups):
            self.register_buffer(f"columns_{i}", torch.tensor(group.columns), persistent=False)
            if group.num_levels:
                self.register_buffer(f"num_levels_{i}", torch.tensor(group.num_levels), persistent=False)
        self.support = column_support(columns)
        self._add_parameters(columns)

    def _add_parameters(self, columns: Sequence[Column]) -> None:
        """What does not depend on z: counts' dispersions, cut points, and the units of steps and of logarithms."""
        for group in self.groups:
            scales = torch.tensor([columns[number].scale for number in group.columns])
            if group.family == "negative binomial":
                self.log_total_count = nn.Parameter(torch.ones(len(group.columns)))
            if group.family == "zero or log-normal":
                self.register_buffer("log_unit", scales.log(), persistent=False)
            if group.family == "logistic":
                self.register_buffer("step", 1 / scales, persistent=False)
            if group.family == "ordinal":
                widest = max(group.num_levels)
                cuts = torch.linspace(-1.5, 1.5, widest - 1).repeat(len(group.columns), 1)
                self.raw_cuts = nn.Parameter(torch.cat([cuts[:, :1], cuts.diff().expm1().log()], 1))
                beyond = torch.arange(widest - 1) >= torch.tensor(group.num_levels)[:, None] - 1
                self.register_buffer("beyond", beyond, persistent=False)

    @classmethod
    def num_outputs(cls, schema: Schema) -> int:
        """The number of outputs that the network needs for the columns of a schema."""
        return sum(group.outputs * len(group.columns) for group in group_columns(schema.modelled))

    def forward(self, z: Latents) -> ColumnVector:
        out: Tensor = self.net(z)
        sizes = [group.outputs * len(group.columns) for group in self.groups]
        if out.shape[-1] != sum(sizes):
            raise InputError(f"these columns need a network with {sum(sizes)} outputs, got {out.shape[-1]}")
        families = [
            FAMILIES[group.family](self, values.unflatten(-1, (group.outputs, len(group.columns))), i)
            for i, (group, values) in enumerate(zip(self.groups, out.split(sizes, -1), strict=True))
        ]
        return ColumnVector(families, [self.columns_of(i) for i in range(len(sizes))], self.order, self.support)

    order: Tensor
    step: Tensor
    log_unit: Tensor
    beyond: Tensor

    def columns_of(self, group: int) -> Tensor:
        """The numbers of a group's columns (n,)."""
        return self.get_buffer(f"columns_{group}")

    def cut_points(self) -> Tensor:
        """The rising cut points of ordinal columns (n, L − 1), ∞ beyond the levels of a column."""
        steps = torch.cat([self.raw_cuts[:, :1], nn.functional.softplus(self.raw_cuts[:, 1:])], 1)
        return steps.cumsum(1).masked_fill(self.beyond, math.inf)

    def init_from_data(self, mean: Tensor) -> None:
        """Counts begin at their means, scales at one standard deviation, all else at 0.

        Args:
            mean: the mean (D,) of the training rows.
        """
        biases = [_initial(group, mean[list(group.columns)]) for group in self.groups]
        init_output_bias(self.net, torch.cat(biases))


def _initial(group: Group, mean: Tensor) -> Tensor:
    outputs = torch.zeros(group.outputs, len(group.columns), dtype=mean.dtype, device=mean.device)
    if group.family == "negative binomial":
        outputs[0] = mean.clamp(min=1e-3).log()
    if group.family in ("normal", "log-normal", "logit-normal", "logistic", "zero or log-normal"):
        outputs[-1] = INITIAL_RAW_SCALE
    return outputs.flatten()


def column_support(columns: Sequence[Column]) -> ColumnSupport:
    """The support of a row.

    Args:
        columns: the modelled columns (D).

    Returns:
        The constraint of its values.
    """
    return ColumnSupport(*zip(*(_range_and_placeholder(column) for column in columns), strict=True))


def _range_and_placeholder(column: Column) -> tuple[ColumnRange, float]:
    family = family_of(column)
    if family == "log-normal":
        return ColumnRange(0.0, is_open=True), 1.0
    if family == "zero or log-normal":
        return ColumnRange(0.0), 0.0
    if family == "logit-normal":
        return ColumnRange(0.0, 1.0, is_open=True), 0.5
    if family == "negative binomial":
        return ColumnRange(0.0, step=1.0), 0.0
    if family == "logistic":
        return ColumnRange(step=1 / column.scale), 0.0
    if family == "normal":
        return ColumnRange(), 0.0
    return ColumnRange(0.0, float(len(column.levels)), step=1.0), 0.0


def _normal(columns: Columns, out: Tensor, group: int) -> Distribution:
    return stable_densities.Normal(out[..., 0, :], positive(out[..., 1, :], columns.floor))


def _log_normal(columns: Columns, out: Tensor, group: int) -> Distribution:
    return LogNormal(out[..., 0, :], positive(out[..., 1, :], columns.floor))


def _zero_or_log_normal(columns: Columns, out: Tensor, group: int) -> Distribution:
    loc = out[..., 1, :] + columns.log_unit
    return ZeroOrLogNormal(out[..., 0, :], loc, positive(out[..., 2, :], columns.floor))


def _logit_normal(columns: Columns, out: Tensor, group: int) -> Distribution:
    return LogitNormal(out[..., 0, :], positive(out[..., 1, :], columns.floor))


def _negative_binomial(columns: Columns, out: Tensor, group: int) -> Distribution:
    total_count = columns.log_total_count.clamp(-7.0, 9.0).exp()
    logits = out[..., 0, :].clamp(max=LARGEST_LOG_RATE) - total_count.log()
    return stable_densities.NegativeBinomial(total_count, logits)


def _logistic(columns: Columns, out: Tensor, group: int) -> Distribution:
    return LogisticSteps(out[..., 0, :], positive(out[..., 1, :], columns.floor), columns.step)


def _levels(columns: Columns, out: Tensor, group: int) -> Distribution:
    num_levels = columns.get_buffer(f"num_levels_{group}")
    logits = out.transpose(-1, -2)
    is_beyond = torch.arange(logits.shape[-1], device=out.device) >= num_levels[:, None]
    return Levels(logits.masked_fill(is_beyond, -math.inf), num_levels, UNSEEN)


def _ordinal(columns: Columns, out: Tensor, group: int) -> Distribution:
    num_levels = columns.get_buffer(f"num_levels_{group}")
    at = columns.cut_points() - out.transpose(-1, -2)
    above = nn.functional.pad(at, (0, 1), value=math.inf)
    below = nn.functional.pad(at, (1, 0), value=-math.inf)
    width = nn.functional.pad(columns.cut_points().diff(), (1, 1), value=math.inf)
    inside = nn.functional.logsigmoid(above) + nn.functional.logsigmoid(-below)
    is_beyond = torch.arange(at.shape[-1] + 1, device=out.device) >= num_levels[:, None]
    log_width = torch.log(-torch.expm1(-width.masked_fill(is_beyond, 1.0)))
    return Levels((inside + log_width).masked_fill(is_beyond, -math.inf), num_levels, UNSEEN)


FAMILIES: dict[str, Callable[[Columns, Tensor, int], Distribution]] = {
    "normal": _normal,
    "log-normal": _log_normal,
    "zero or log-normal": _zero_or_log_normal,
    "logit-normal": _logit_normal,
    "negative binomial": _negative_binomial,
    "logistic": _logistic,
    "levels": _levels,
    "ordinal": _ordinal,
}
