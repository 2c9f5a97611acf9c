"""Rows and labels as they are read: a table, and how one is made of an array or a data frame."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_values import Level, is_missing, to_numbers
from pyro_vae.data.frames import Frame
from pyro_vae.data.image_shapes import ImageShape, shape_of_array
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.stored_rows import Values
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

NO_LABEL = -1  # of a row whose label is missing, or none that is known
Values_co = TypeVar("Values_co", bound=Values, covariant=True)
OfRows = TypeVar("OfRows", bound=Values)


@dataclass(frozen=True, eq=False)
class Table(Generic[Values_co]):
    """Rows and labels as read.

    Attributes:
        values: the values (N, D), as a tensor, or as rows that stay on disk or sparse.
        labels: the labels (N,), or None.
        image_shape: (height, width) where the rows are grey images, (channels, height, width) where they have colours.
        schema: the columns with their kinds; without columns where they have no names, as in arrays and pictures.
        index: the row numbers in the source (N,); None where all rows are in their order.
        ids: what names each row, by column, (N,) each.
        weights: the rows' weights (N,), or None.
        notes: what was decided in reading that is not plain to see.
        holds_counts: whether the source says that its whole numbers are counts, of any size.
        given: the codes of the conditions (N, C), NaN where one is missing; None where nothing is given.
    """

    values: Values_co
    labels: Tensor | None = None
    image_shape: ImageShape | None = None
    schema: Schema = field(default_factory=Schema)
    index: Tensor | None = None
    ids: Mapping[str, Array] = field(default_factory=dict)
    weights: Tensor | None = None
    notes: tuple[str, ...] = ()
    holds_counts: bool = False
    given: Tensor | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values of a row; empty where they have none."""
        return self.schema.coded_names

    @property
    def label_levels(self) -> tuple[str, ...]:
        """The text of labels 0, 1, …; empty where labels are whole numbers, kept as they are."""
        return self.schema.label_levels

    def take(self, rows: Tensor) -> "Table[Tensor]":
        """Some rows, by their index (n,), in memory and dense."""
        return self.of_rows(self.values[rows], rows)

    def of_rows(self, values: OfRows, rows: Tensor) -> "Table[OfRows]":
        """Some rows, with their labels and row numbers.

        Args:
            values: their values (n, D).
            rows: their index (n,).

        Returns:
            Their table.
        """
        single = (self.labels, self.weights, self.given)
        labels, weights, given = (None if value is None else value[rows] for value in single)
        index = rows if self.index is None else self.index[rows]
        ids = {name: value[rows.numpy()] for name, value in self.ids.items()}
        of_source = self.notes, self.holds_counts
        return Table(values, labels, self.image_shape, self.schema, index, ids, weights, *of_source, given)


def label_schema(name: str, levels: Sequence[str] = ()) -> Schema:
    """The schema of rows whose columns have no names, and their labels one.

    Args:
        name: the labels' name.
        levels: the text of labels 0, 1, …; empty for whole numbers.

    Returns:
        The schema.
    """
    return Schema((Column(name, "label", "text" if levels else "int64", tuple(levels)),), has_names=False)


def without_mask(data: object, source: Path) -> Array:
    """An array, with NaN in place of the values that a masked one leaves out.

    Args:
        data: an array, a tensor or a masked array.
        source: what it is, for messages.

    Returns:
        The array.
    """
    if not isinstance(data, np.ma.MaskedArray) or not np.ma.is_masked(data):
        try:
            return np.asarray(data)
        except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths, tensors with gradients
            raise InputError(f"{source}: is no array of rows ({error})") from error
    if data.dtype.kind not in "fiub":
        raise InputError(f"{source}: holds {data.dtype} values; expected numbers")
    return np.where(np.ma.getmaskarray(data), np.nan, np.ma.getdata(data).astype(np.float64))


def require_complete(table: Table[Tensor] | Table[Values], path: Path) -> None:
    """`InputError` where values of a tensor, or conditions, are missing; other rows have none missing.

    Args:
        table: the table.
        path: the source, for the message.
    """
    given = [column.name for column in table.schema.conditions]
    for values, names in ((table.values, table.columns), (table.given, given)):
        if not isinstance(values, Tensor) or not values.is_floating_point() or not bool((gaps := values.isnan()).any()):
            continue
        row, column = (int(i) for i in gaps.nonzero()[0])
        raise InputError(
            f"{path}: {int(gaps.sum())} values are missing (NaN), the first in row {row} (counting from 0), column "
            f"{names[column] if names else column}; fit with --missing mask (missing='mask') to model the observed "
            "values, or remove or fill those rows"
        )


def table_from_array(array: Array, path: Path) -> Table[Tensor]:
    """The table of an array.

    Args:
        array: the rows (N, D), or images (N, height, width), with one or three channels before or after the two.
        path: the source, for the message.

    Returns:
        Its table: bytes as they are, other numbers as float64; `InputError` for no numbers, or infinite ones.
    """
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    shape = shape_of_array(array.shape, path)
    if 0 in array.shape:
        raise InputError(f"{path}: no rows in it, or no columns: its shape is {array.shape}")
    array = np.moveaxis(array, -1, 1) if shape.channels_last else array
    flat = array.reshape(len(array), -1)
    if flat.dtype != np.uint8:
        flat = flat.astype(np.float64)  # for standardizing: in float32 all time stamps would be equal
        _check_finite(flat, path, [f"column {i}" for i in range(flat.shape[1])])
    return Table(torch.from_numpy(np.ascontiguousarray(flat)), None, shape.image_shape, notes=shape.notes)


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
    missing = np.array([is_missing(each) for each in array], dtype=bool)
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


def table_from_frame(frame: Frame, schema: Schema) -> Table[Tensor]:
    """The table of a data frame.

    Args:
        frame: the frame, with the columns of the schema by name; labels, ids and weights may be absent.
        schema: the columns with their kinds.

    Returns:
        Its table; `InputError` for values that a column cannot have.
    """
    values, source = frame.values, str(frame.source)
    rows = torch.from_numpy(np.ascontiguousarray(schema.encode(values, source)))
    weights = schema.role("weights")
    ids = {column.name: values[column.name].to_numpy() for column in schema.ids if column.name in values}
    labels = None
    if (label := schema.label) is not None and label.name in values:
        codes, levels = encode_labels(values[label.name].to_numpy(), frame.source, len(values))
        labels = relabelled(codes, levels, label.levels)
    return Table(
        rows,
        labels,
        schema=schema,
        ids=ids,
        weights=torch.tensor(to_numbers(values[weights.name], source)) if weights and weights.name in values else None,
        notes=frame.notes,
        given=condition_codes(schema, labels, values, source),
    )


def relabelled(labels: Tensor, levels: Sequence[str], known: Sequence[Level]) -> Tensor:
    """Labels by the levels that are known; −1 for one that is missing or not among them.

    Args:
        labels: the labels (N,).
        levels: their text; empty for whole numbers.
        known: the levels that are known; empty where labels are whole numbers, kept as they are.

    Returns:
        The labels (N,), int64.
    """
    places = {str(level): place for place, level in enumerate(known)}
    if tuple(levels) == tuple(places):
        return labels
    if not levels:
        return torch.tensor([places.get(str(label), NO_LABEL) for label in labels.tolist()])
    own = torch.tensor([places.get(level, NO_LABEL) for level in levels] + [NO_LABEL])
    return own[labels]  # −1 takes the last


def known_labels(labels: Tensor) -> tuple[int, ...]:
    """The whole numbers among labels (N,), in their order, without that of no label."""
    return tuple(labels[labels != NO_LABEL].unique().tolist())


def _require_exposure(column: Column, values: Tensor, source: str) -> None:
    """`InputError` for an exposure that is no positive number: a count's mean is proportional to it."""
    if column.exposure and bool((wrong := ~(values > 0)).any()):
        row = int(wrong.nonzero()[0])
        found = "missing" if bool(values[row].isnan()) else f"{values[row].item():g}"
        raise InputError(
            f"{source}: {column.name} is {found} in row {row} (counting from 0); the means of counts are "
            "proportional to it: give each row a positive number, or leave the row out"
        )


def condition_codes(
    schema: Schema, labels: Tensor | None, values: "pandas.DataFrame | None", source: str
) -> Tensor | None:
    """The codes of the conditions of a table: those of labels are the labels, the others those of their columns.

    Args:
        schema: the columns.
        labels: the labels (N,), by the levels of their column.
        values: the other columns by name; None where there are none.
        source: where they come from, for messages.

    Returns:
        The codes (N, C) float64, NaN where one is missing, and the number of levels for a level that is not known; None
        where nothing is given. `InputError` where the column of a condition is absent.
    """
    codes = []
    for column in schema.conditions:
        if schema[column.name].kind == "label" and labels is not None:
            known = labels.double()
            codes.append(known.masked_fill(labels == NO_LABEL, math.nan))
        elif values is not None and column.name in values:
            codes.append(torch.tensor(column.encode(values[column.name], source)))
            _require_exposure(column, codes[-1], source)
        else:
            names = ", ".join(each.name for each in schema.conditions)
            raise InputError(f"{source}: no column {column.name}, and rows are modelled given {names}; add it")
    return torch.stack(codes, 1) if codes else None
