"""Improbable rows with the columns that make them so, and their values as the data has them."""

import datetime
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.diagnostics.strange_columns import Explanations, StrangeColumn
from pyro_vae.json_records import Record

UNKNOWN_LEVEL = "a level that no training row had"
NUM_COLUMNS = 3  # of a row that are named
LARGE = 1e6  # a number from which no decimals are written


@dataclass(frozen=True)
class ExplainedColumn(Record):
    """A column that makes a row improbable.

    `value` is in the data's own units, text for levels and dates; `nats` is log p of it given the row's other values,
    less what is expected there.
    """

    column: str
    value: str | float | None
    nats: float

    def __str__(self) -> str:
        return f"{self.column} = {value_in_words(self.value)} ({minus(self.nats)})"


@dataclass(frozen=True)
class ExplainedRow(Record):
    """An improbable row: its id or number, its log p(x) in nats, and at most three columns, the strangest first."""

    row: str
    log_px: float
    columns: list[ExplainedColumn]

    def __str__(self) -> str:
        return ", ".join(map(str, self.columns)) or "no single column is strange given the others"


def explained_rows(found: Explanations, rows: Split, preparation: Preparation, log_px: Tensor) -> list[ExplainedRow]:
    """Rows with the columns that make them improbable.

    Args:
        found: what is strange about the rows (N).
        rows: the rows.
        preparation: how they were prepared.
        log_px: log p(x) of them, (N,) nats.

    Returns:
        N rows.
    """
    x, names, schema = rows.x, row_names(rows), preparation.schema
    values, exact = (preparation.to_frame(x, rounded) for rounded in (True, False))

    def value(row: int, each: StrangeColumn) -> str | float | None:
        levels = schema.modelled[each.number].levels if schema.coding == "columns" else ()
        if levels and x[row, each.number] >= len(levels):
            return UNKNOWN_LEVEL
        frame = exact if each.nats == -math.inf else values  # 2.5 is no count, and would be rounded to one
        return plain_value(frame[each.name].iloc[row])

    result = []
    for row, (name, number) in enumerate(zip(names, log_px.tolist(), strict=True)):
        columns = [
            ExplainedColumn(each.name, value(row, each), each.nats) for each in found.strangest(row, NUM_COLUMNS)
        ]
        result.append(ExplainedRow(name, number, columns))
    return result


def row_names(rows: Split) -> list[str]:
    """What each row is called: its first id, else its number in the source."""
    names = next(iter(rows.ids.values()), rows.source_index(slice(None)).numpy())
    return [str(name) for name in names]


def plain_value(value: Any) -> str | float | None:
    """A cell of a frame as JSON can hold it: a number, text, an ISO date, or None where it is missing."""
    import pandas

    if pandas.isna(value):
        return None
    if isinstance(value, datetime.date | np.datetime64):
        return str(value).removesuffix(" 00:00:00")
    if isinstance(value, bool | np.bool_):
        return str(value)
    if isinstance(value, int | float | np.number):
        return value.item() if isinstance(value, np.number) else value
    return str(value)


def value_in_words(value: str | float | None) -> str:
    """A cell for a reader: 119,897 or 0.0312, text as it is.

    >>> value_in_words(119897.0), value_in_words(0.031234567), value_in_words("Retail"), value_in_words(None)
    ('119,897', '0.0312346', 'Retail', 'missing')
    """
    if value is None:
        return "missing"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= LARGE else f"{value:,.6g}"


def minus(nats: float) -> str:
    """Nats with one decimal and a true minus sign."""
    return f"{nats:.1f}".replace("-", "−").replace("inf", "∞")
