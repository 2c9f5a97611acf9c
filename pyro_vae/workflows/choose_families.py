"""The family of distributions of each column of a table, where its kind leaves a choice."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import FAMILIES, Column, Schema
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.likelihoods.columns import GROUPS, SCALE_FLOOR
from pyro_vae.models.exact_density import rows_with_nan
from pyro_vae.torch_optimizers import without_compiler

MAX_COLUMNS = 50  # of which a family is chosen
MAX_ROWS = 5_000  # by which it is
MIN_VALUES = 50  # of a column, by which it is
ITERATIONS, TOLERANCE = 30, 1e-6  # of a fit to one column
MIN_GAIN, MIN_ERRORS = 0.02, 2.0  # nats per row, and paired standard errors, that another family has to gain
CHOSEN = ("positive", "bounded", "count")  # kinds; heavy tails of real numbers are mostly what latents explain


@dataclass(frozen=True)
class FamilyChoice:
    """Another family than the first of a column's kind, and what it gains on validation rows.

    Attributes:
        column: the column's name.
        family: the family's name.
        gain: nats per row.
        gain_se: its standard error, paired by row.
    """

    column: str
    family: str
    gain: float
    gain_se: float

    def __str__(self) -> str:
        gain = f"{self.gain:.2f} ± {self.gain_se:.2f} nats"
        return f"{self.column}: {self.family}, on validation rows {gain} better by itself"


def choose_families(data: Dataset) -> tuple[Schema, list[FamilyChoice]]:
    """For each positive column, share or count the family whose best fit alone is better on validation rows.

    Each family is fitted to the training values of the column alone, by maximum likelihood; another than the first is
    taken where it gains more than 0.02 nats and two paired standard errors. A family that the schema names stays.

    Args:
        data: a table coded by the kinds of its columns.

    Returns:
        The schema with the families, and what was chosen.
    """
    sizes = [torch.linspace(0, len(split) - 1, min(len(split), MAX_ROWS)).long() for split in (data.train, data.valid)]
    train, valid = (rows_with_nan(split, at) for split, at in zip((data.train, data.valid), sizes, strict=True))
    names = [column.name for column in data.schema.modelled]
    families, chosen = dict[str, str](), list[FamilyChoice]()
    for number, column in enumerate(data.schema.modelled):
        if column.kind in CHOSEN and not (column.family or column.has_zeros) and len(names) <= MAX_COLUMNS:
            found = _better_family(
                column,
                _known(train[:, number], _log_exposure(column, data.schema, data.train, sizes[0])),
                _known(valid[:, number], _log_exposure(column, data.schema, data.valid, sizes[1])),
            )
            if found is not None:
                chosen.append(found)
                families[column.name] = found.family
    columns = [replace(column, family=families.get(column.name, column.family)) for column in data.schema]
    return replace(data.schema, columns=tuple(columns)), chosen


class _Values(NamedTuple):
    """The values of one column that are known (n, 1), and the logarithms of their exposures (n, 1); 0 without."""

    x: Tensor
    log_exposure: Tensor


def _known(values: Tensor, log_exposure: Tensor) -> _Values:
    is_known = ~values.isnan()
    return _Values(values[is_known].double()[:, None], log_exposure[is_known][:, None])


def _log_exposure(column: Column, schema: Schema, split: Split, rows: Tensor) -> Tensor:
    """The logarithm of a column's exposure (n,), in units of its geometric mean; 0 where it has none."""
    if not column.exposure:
        return torch.zeros(len(rows), dtype=torch.float64)
    names = [each.name for each in schema.conditions]
    return split.inputs[GIVEN][rows, names.index(column.exposure)].double().log()


def _better_family(column: Column, train: _Values, valid: _Values) -> FamilyChoice | None:
    """Another family than the first of the column's kind that fits its values better, if there is one."""
    first, *others = FAMILIES[column.kind]
    if min(len(train.x), len(valid.x)) < MIN_VALUES:
        return None
    usual, best = _held_out(column, first, train, valid), None
    for family in others:
        gain = _held_out(column, family, train, valid) - usual
        found = FamilyChoice(column.name, family, gain.mean().item(), (gain.std() / math.sqrt(len(gain))).item())
        if found.gain > max(MIN_GAIN, MIN_ERRORS * found.gain_se) and (best is None or found.gain > best.gain):
            best = found
    return best


def _held_out(column: Column, family: str, train: _Values, valid: _Values) -> Tensor:
    """log p of validation values (n,) under a family's best fit to training values, nats."""
    group = GROUPS[family]([column], SCALE_FLOOR).double()
    out = group.init_from_values(train.x).requires_grad_()
    optimizer = without_compiler(torch.optim.LBFGS)(
        [out, *group.parameters()], max_iter=ITERATIONS, tolerance_change=TOLERANCE, line_search_fn="strong_wolfe"
    )

    def log_prob(values: _Values) -> Tensor:
        outputs = group.add_exposure(out, values.log_exposure) if column.exposure else out
        found: Tensor = group(outputs).log_prob(values.x)
        return found

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = -log_prob(train).mean()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return log_prob(valid).squeeze(-1)
