"""Which of the numbers of a row belong to columns that are asked for by name or number."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.data.columns import Schema
from pyro_vae.errors import InputError


def number_names(schema: Schema, num_features: int) -> tuple[str, ...]:
    """The names of the numbers of a row, x1, x2, … where they have none.

    Args:
        schema: the columns.
        num_features: the number D of the numbers of a row.

    Returns:
        D names.
    """
    names = schema.coded_names
    return names if len(names) == num_features else tuple(f"x{i + 1}" for i in range(num_features))


def column_slices(schema: Schema, num_features: int) -> dict[str, slice]:
    """The numbers of a row that each column has: one, or in a one-hot table one for each level of a category.

    Args:
        schema: the columns.
        num_features: the number D of the numbers of a row.

    Returns:
        Slices by name, in the order of the columns.
    """
    names = number_names(schema, num_features)
    if len(schema.coded_names) != num_features:
        return {name: slice(i, i + 1) for i, name in enumerate(names)}
    found, start = {}, 0
    for column, width in zip(schema.modelled, schema.widths, strict=True):
        found[column.name] = slice(start, start + width)
        start += width
    return found


def choose_columns(columns: Sequence[str | int], schema: Schema, num_features: int) -> Tensor:
    """Which numbers of a row belong to some columns.

    Args:
        columns: their names, or numbers of a row from 0.
        schema: the columns.
        num_features: the number D of the numbers of a row.

    Returns:
        Booleans (D,); `InputError` for what is none of the columns.
    """
    chosen, known = torch.zeros(num_features, dtype=torch.bool), column_slices(schema, num_features)
    if isinstance(columns, str):
        raise InputError(f"columns are a list of names or numbers, got the text {columns!r}; try [{columns!r}]")
    for column in columns:
        if isinstance(column, str) and column in known:
            chosen[known[column]] = True
        elif not isinstance(column, str) and 0 <= column < num_features:
            chosen[column] = True
        else:
            names = ", ".join([*list(known)[:8], *(["…"] if len(known) > 8 else [])])
            raise InputError(f"no column {column!r}; there are {names}, or numbers from 0 to {num_features - 1}")
    return chosen
