"""Rows and labels as they are read: a table, and how one is made of an array or a data frame, and split."""

import datetime
import decimal
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import Array, RowsOnDisk
from pyro_vae.errors import InputError

NO_LABEL = -1  # of a row whose label is missing, or none that is known
LABEL_COLUMNS = ("label", "labels", "target", "class")
NO_NUMBERS: tuple[tuple[type | tuple[type, ...], str, str], ...] = (  # what is no number: its name, and how to write it
    (str, "text", ""),
    (decimal.Decimal, "decimals", "decimals as float64"),
    (datetime.date, "dates", "dates as days or seconds since one of them"),
    (datetime.time, "times of day", "times of day as seconds"),
    (datetime.timedelta, "time spans", "time spans as seconds"),
    (complex, "complex numbers", "complex numbers as two columns"),
    (bytes, "bytes", ""),
    (dict, "records", "each field of a record as a column"),
    ((list, tuple, np.ndarray), "lists", "each element of a list as a column"),
)
Values_co = TypeVar("Values_co", bound=Tensor | RowsOnDisk, covariant=True)


@runtime_checkable
class DataFrame(Protocol):
    """What is asked of a data frame: that of pandas has it."""

    @property
    def columns(self) -> Iterable[Any]: ...

    def __getitem__(self, name: Any, /) -> Any: ...

    def drop(self, *, columns: Any) -> Any: ...

    def to_numpy(self, dtype: Any = ...) -> Any: ...


@dataclass(frozen=True, eq=False)
class Table(Generic[Values_co]):
    """Rows and labels as read.

    Attributes:
        values: the values (N, D), as a tensor or as `RowsOnDisk`.
        labels: the labels (N,), or None.
        image_shape: height and width where the rows are images.
        columns: the columns' names; empty where they have none.
        label_name: the name of the column of labels.
        index: the row numbers in the source (N,); None where all rows are in their order.
        label_levels: the text of labels 0, 1, …; empty where labels are whole numbers, kept as they are.
        notes: what was decided in reading that is not plain to see.
    """

    values: Values_co
    labels: Tensor | None = None
    image_shape: tuple[int, int] | None = None
    columns: tuple[str, ...] = ()
    label_name: str | None = None
    index: Tensor | None = None
    label_levels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def take(self, rows: Tensor) -> "Table[Tensor]":
        """Some rows, by their index (n,), in memory."""
        index = rows if self.index is None else self.index[rows]
        labels = None if self.labels is None else self.labels[rows]
        of_source = self.image_shape, self.columns, self.label_name
        return Table(self.values[rows], labels, *of_source, index, self.label_levels, self.notes)


def train_valid_test_split(
    table: Table[Tensor | RowsOnDisk], seed: int, num_valid: int, num_test: int
) -> list[Table[Tensor]]:
    """The rows of a table in random order, as three tables in memory.

    Args:
        table: the rows.
        seed: the seed of the order.
        num_valid: the number of validation rows.
        num_test: the number of test rows.

    Returns:
        The training, validation and test tables.
    """
    order = torch.randperm(len(table.values), generator=torch.Generator().manual_seed(seed))
    end = len(order) - num_valid - num_test
    return [table.take(rows) for rows in (order[:end], order[end : end + num_valid], order[end + num_valid :])]


def table_from_memory(data: object, missing: bool = False) -> Table[Tensor]:
    """The table of rows in memory.

    Args:
        data: an array or tensor, (N, D) or (N, height, width), or a data frame.
        missing: whether NaN, a missing value, is kept; an error without.

    Returns:
        Its table.
    """
    if isinstance(data, DataFrame):
        source = Path("the data frame")
        table = table_from_frame(data, source)
    else:
        source = Path("the array")
        table = table_from_array(_without_mask(data, source), source)
    return table if missing else require_complete(table, source)


def _without_mask(data: object, source: Path) -> Array:
    """An array, with NaN in place of the values that a masked one leaves out."""
    if not isinstance(data, np.ma.MaskedArray) or not np.ma.is_masked(data):
        return np.asarray(data)
    if data.dtype.kind not in "fiub":
        raise InputError(f"{source}: holds {data.dtype} values; expected numbers")
    return np.where(np.ma.getmaskarray(data), np.nan, np.ma.getdata(data).astype(np.float64))


def require_complete(table: Table[Tensor], path: Path) -> Table[Tensor]:
    """The table; `InputError` where values are missing.

    Args:
        table: the table.
        path: the source, for the message.

    Returns:
        The same table.
    """
    if table.values.is_floating_point() and bool((missing := table.values.isnan()).any()):
        row, column = (int(i) for i in missing.nonzero()[0])
        name = f"column {table.columns[column] if table.columns else column}"
        raise InputError(
            f"{path}: {int(missing.sum())} values are missing (NaN), the first in row {row} (counting from 0), {name}; "
            "fit with --missing mask (missing='mask') to model the observed values, or remove or fill those rows"
        )
    return table


def table_from_array(array: Array, path: Path) -> Table[Tensor]:
    """The table of an array.

    Args:
        array: the rows, (N, D) or (N, height, width).
        path: the source, for the message.

    Returns:
        Its table: bytes as they are, other numbers as float64; `InputError` for no numbers, or infinite ones.
    """
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    if array.ndim < 2:
        raise InputError(
            f"{path}: has shape {array.shape}; expected one row for each observation, (N, D) or (N, height, width)"
        )
    image_shape = (int(array.shape[1]), int(array.shape[2])) if array.ndim == 3 else None
    if array.ndim > 3:
        raise InputError(f"{path}: has shape {array.shape}; expected (N, D) or grey images (N, height, width)")
    flat = array.reshape(len(array), -1)
    if flat.dtype != np.uint8:
        flat = flat.astype(np.float64)  # for standardizing: in float32 all time stamps would be equal
        _check_finite(flat, path, [f"column {i}" for i in range(flat.shape[1])])
    return Table(torch.from_numpy(np.ascontiguousarray(flat)), None, image_shape)


def _check_finite(values: Array, path: Path, columns: list[str]) -> None:
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, column = infinite[0]
        raise InputError(
            f"{path}: {len(infinite)} values are infinite, the first in row {row} (counting from 0), "
            f"{columns[column]}; remove or fill those rows"
        )


def encode_labels(values: object, path: Path, num_rows: int) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as integers: whole numbers unchanged, text by its place among the sorted distinct ones, −1 for none.

    Args:
        values: the labels (N,), of any type.
        path: the source, for the message.
        num_rows: N; another number of labels is an `InputError`.

    Returns:
        The labels (N,), int64, and the text of 0, 1, …, empty for whole numbers.
    """
    array = np.asarray(values).reshape(-1)
    if len(array) != num_rows:
        raise InputError(f"{path}: {len(array)} labels for {num_rows} rows")
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64)), ()
    missing = np.array([_is_missing(each) for each in array], dtype=bool)
    known = array[~missing]
    numbers = _whole_numbers(known)
    labels = np.full(len(array), NO_LABEL, dtype=np.int64)
    if numbers is not None:
        labels[~missing] = numbers
        return torch.from_numpy(labels), ()
    text = np.array([str(each) for each in known], dtype=object)
    names = tuple(sorted(set(text), key=_in_order))
    places = {name: place for place, name in enumerate(names)}
    labels[~missing] = [places.get(each, NO_LABEL) for each in text]
    return torch.from_numpy(labels), names


def _is_missing(value: object) -> bool:
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and bool(value != value))
    )


def _whole_numbers(values: Array) -> Array | None:
    """Numbers as int64, where they are whole; None for text and for fractions."""
    if not all(isinstance(each, int | float | np.integer | np.floating | np.bool_) for each in values.tolist()):
        return None
    numbers = values.astype(np.float64)
    return numbers.astype(np.int64) if bool((numbers == np.round(numbers)).all()) else None


def _in_order(text: str) -> tuple[float, str]:
    """Numbers by their size, other text after them, by the alphabet."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def table_from_frame(frame: DataFrame, path: Path) -> Table[Tensor]:
    """The table of a data frame: a column called label, target or class holds the labels, the others numbers.

    Args:
        frame: the data frame.
        path: the source, for the message.

    Returns:
        Its table; `InputError` names the columns that hold no numbers, and what they hold.
    """
    label_columns = [name for name in frame.columns if str(name).lower() in LABEL_COLUMNS]
    row_numbers = [name for name in list(frame.columns)[:1] if _are_row_numbers(name, frame)]
    notes = ("the first column, without a name, left out: a data frame's row numbers",) if row_numbers else ()
    values = frame.drop(columns=[*label_columns, *row_numbers])
    _require_numbers(values, path, [str(name) for name in frame.columns])
    array = values.to_numpy(dtype=np.float64)
    _check_finite(array, path, [f"column {name}" for name in values.columns])
    is_unnamed = all(isinstance(name, int) for name in values.columns)
    columns = () if is_unnamed else tuple(str(name) for name in values.columns)
    table = Table(torch.from_numpy(np.array(array)), columns=columns, notes=notes)
    if not label_columns:
        return table
    labels, levels = encode_labels(frame[label_columns[0]].to_numpy(), path, len(array))
    return replace(table, labels=labels, label_name=str(label_columns[0]), label_levels=levels)


def _are_row_numbers(name: object, frame: DataFrame) -> bool:
    """Whether a column is a frame's index, written without a name: whole numbers, each once, in any order."""
    if not re.fullmatch(r"|Unnamed: \d+", str(name)) or isinstance(name, int):
        return False
    values = frame[name].to_numpy()
    return values.dtype.kind in "iu" and len(np.unique(values)) == len(values)


def _require_numbers(values: DataFrame, path: Path, names: list[str]) -> None:
    """`InputError` for two columns of one name of all `names`, and for columns that hold no numbers."""
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; give each a name of its own")
    found: dict[tuple[str, str], list[str]] = {}
    for name in values.columns:
        if values[name].dtype.kind not in "fiub":
            cells = values[name].dropna().tolist()
            words = [words for kind, *words in NO_NUMBERS if any(isinstance(cell, kind) for cell in cells)]
            what, remedy = words[0] if words else ("no numbers" if cells else "no values", "")
            found.setdefault((what, remedy), []).append(str(name))
    if not found:
        return
    shown = ", ".join(
        f"{what} in {', '.join(columns[:3])}{' …' if len(columns) > 3 else ''}" for (what, _), columns in found.items()
    )
    remedies = "; ".join(remedy for _, remedy in found if remedy)
    raise InputError(
        f"{path}: {shown}; keep columns of numbers{f' ({remedies})' if remedies else ''}, or name one of them 'label' "
        f"to colour figures by it (columns: {', '.join(names[:8])})"
    )
