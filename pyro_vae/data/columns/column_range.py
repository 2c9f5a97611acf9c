"""The values that a column can have, and the cells of new rows that lie outside, in words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.columns.column import Column
from pyro_vae.data.columns.column_values import factorize_levels
from pyro_vae.data.columns.schema import Schema
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

WHOLE_TOLERANCE = 1e-2  # of a number of steps, which float32 rounds
MAX_NOTES = 5  # columns that are named


@dataclass(frozen=True)
class ColumnRange:
    """The values that a column can have, in units of x.

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

    def contains(self, values: Array) -> Array:
        """Which values (N,) the column can have, booleans (N,); a missing one is no other value."""
        inside = (values > self.low) & (values < self.high) if self.is_open else values >= self.low
        inside = inside & (values <= self.high)
        if self.step:
            steps = values / self.step
            with np.errstate(invalid="ignore"):  # infinity is no whole number
                inside &= np.abs(steps - np.rint(steps)) <= WHOLE_TOLERANCE + 1e-6 * np.abs(steps)
        return inside | np.isnan(values)


def column_range(column: Column) -> ColumnRange:
    """The values that a column can have, in units of x.

    Args:
        column: a modelled column.

    Returns:
        Their range; of a column with levels one more than there are, for a level that no training row had.
    """
    if column.kind == "positive":
        return ColumnRange(0.0, is_open=not column.has_zeros)
    if column.kind == "bounded":
        return ColumnRange(0.0, 1.0, is_open=True)
    if column.kind == "count":
        return ColumnRange(0.0, step=1.0)
    if column.kind == "integer":
        return ColumnRange(step=1 / column.scale)
    if column.levels:
        return ColumnRange(0.0, float(len(column.levels)), step=1.0)
    return ColumnRange()


def range_in_words(column: Column) -> str:
    """The values that a column can have, in its own units.

    Args:
        column: a modelled column.

    Returns:
        A plural, as in "whole numbers from 0 on".
    """
    if column.kind == "positive":
        return "numbers from 0 on" if column.has_zeros else "positive numbers"
    if column.kind == "bounded":
        return f"numbers between {column.shift:g} and {column.shift + column.scale:g}"
    if column.levels:
        return f"its {len(column.levels)} levels"
    return {"count": "whole numbers from 0 on", "integer": "whole numbers"}.get(column.kind, "numbers")


def wide_enough(column: Column, values: Array) -> Column:
    """A column of numbers with a kind that validation and test rows can have too, with a note if it is another.

    A value that the kind of the training rows cannot have would have density zero.

    Args:
        column: the column, its kind inferred from the training rows.
        values: the numbers of all rows.

    Returns:
        The column.
    """
    known = values[~np.isnan(values)]
    low, high, is_whole = known.min(), known.max(), bool((known == np.rint(known)).all())
    if column.kind == "positive" and low >= 0:
        return replace(column, has_zeros=column.has_zeros or bool(low == 0))
    is_inside = {"count": is_whole and low >= 0, "integer": is_whole, "bounded": low >= 0 and high <= 1}
    if is_inside.get(column.kind, False):
        return column
    kind = "integer" if column.kind == "count" and is_whole else "real"
    note = f"{column.kind} in the training rows, but not in validation and test rows: {low:g} to {high:g}"
    return replace(
        column, kind=kind, note=note if is_whole or column.kind in ("positive", "bounded") else f"{note}, not all whole"
    )


def require_range(column: Column, known: Array, values: Array, source: str) -> None:
    """`InputError` for values that a kind that was asked for cannot have.

    Args:
        column: the column.
        known: its training values (n,), whose ends those of shares may not leave.
        values: the values of all rows (N,), none missing.
        source: where they come from, for the message.
    """
    is_whole = bool((values == np.rint(values)).all())
    low, high = min(0.0, float(known.min())), max(1.0, float(known.max()))
    wrong = {
        "positive": not (values >= 0).all() and "numbers from 0",
        "count": not (is_whole and (values >= 0).all()) and "whole numbers from 0",
        "integer": not is_whole and "whole numbers",
        "bounded": not ((values >= low) & (values <= high)).all()
        and f"those of its training rows, {low:g} to {high:g}",
    }.get(column.kind)
    if wrong:
        raise InputError(
            f"{source}: column {column.name} has values from {values.min():g} to {values.max():g}; {column.kind} takes "
            f"{wrong}"
        )


def unknown_values(frame: "pandas.DataFrame", codes: Array, x: Array, schema: Schema) -> Iterator[str]:
    """What the cells of new rows hold that their column cannot have: levels of no training row, and other numbers.

    Args:
        frame: the rows (N), with the modelled columns under their names.
        codes: the rows as numbers (N, D), as `Schema.encode` gives them.
        x: the rows in units of x (N, D).
        schema: the columns, a row of which is written as codes.

    Returns:
        A sentence for each column that has such cells, and one for those beyond the fifth.
    """
    found = 0
    for column, is_known in _known_cells(frame, codes, x, schema):
        if is_known.all():
            continue
        found += 1
        if found <= MAX_NOTES:
            row, number = int(np.argmin(is_known)), f"{int((~is_known).sum())} of {len(codes)} rows"
            cell = frame[column.name].iloc[row]
            yield f"{column.name}: {_strange_in_words(column)} in {number}, first {cell} in row {row}"
    if found > MAX_NOTES:
        yield f"{found - MAX_NOTES} more columns hold values that they cannot have"


def _strange_in_words(column: Column) -> str:
    if column.constant is not None:
        return f"a value other than {column.constant}, which all training rows had, so that it is not modelled,"
    return (
        "a level that no training row had"
        if column.levels
        else f"a value that it cannot have ({range_in_words(column)})"
    )


def _known_cells(frame: "pandas.DataFrame", codes: Array, x: Array, schema: Schema) -> Iterator[tuple[Column, Array]]:
    """Each column with booleans (N,), whether its cells are missing, or values that it can have."""
    starts = np.cumsum([0, *schema.widths])
    for column, start, end in zip(schema.modelled, starts, starts[1:], strict=False):
        own = codes[:, start:end]
        if column.levels:
            yield column, own.any(1) | np.isnan(own[:, 0]) if end - start > 1 else own[:, 0] != len(column.levels)
        elif schema.coding == "columns":
            yield column, column_range(column).contains(x[:, start])
    for column in schema:
        if column.constant is not None and column.name in frame:
            places, levels = factorize_levels(frame[column.name], (column.constant,))
            yield column, np.array([*(level == column.constant for level in levels), True])[places]  # −1: missing
        if (column.given or column.kind == "label") and column.levels and column.name in frame:
            yield column, column.encode(frame[column.name], column.name) != len(column.levels)
