"""Sparse rows: their entries other than zero in memory, made dense where they are indexed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import Array, as_index
from pyro_vae.data.stored_rows import Moments

ValueFunction = Callable[[Array, Array], Array]  # of the columns and the values of entries
BLOCK_ENTRIES = 2**20  # of one pass over the entries
BLOCK_BYTES = 2**24  # of rows that are made dense at a time


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries other than zero of n rows: each one's row (from 0 to n − 1), column and value, (k,) each."""

    num_rows: int
    row: Array
    column: Array
    value: Array


@dataclass(frozen=True, eq=False)
class SparseRows:
    """The rows (N, D) of a matrix of M rows in compressed-row form; `rows[a:b]` and `rows[index]` are dense tensors.

    As in a dense array, uint8 stays uint8 and every other type becomes float64. The arrays are shared by the rows that
    are taken of these rows; they may lie in a file (`numpy.memmap`).

    Attributes:
        indptr: where the entries of each row of the matrix begin and end, (M + 1,).
        indices: the entries' columns, ascending within a row, none of them twice.
        values: the entries, none of them zero.
        width: the number of columns of the matrix.
        index: the rows of the matrix, (N,); None for all.
        columns: the columns of the matrix, in order; None for all.

    >>> rows = SparseRows(np.array([0, 2, 2, 3]), np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0]), width=3)
    >>> rows[:]
    tensor([[1., 0., 2.],
            [0., 0., 0.],
            [0., 3., 0.]], dtype=torch.float64)
    >>> rows.take(torch.tensor([2, 0])).shape, rows.representative_values
    (torch.Size([2, 3]), tensor([0., 3.], dtype=torch.float64))
    """

    indptr: Array
    indices: Array
    values: Array
    width: int
    index: Tensor | None = None
    columns: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1 if self.index is None else len(self.index)

    def __repr__(self) -> str:
        return f"SparseRows({len(self)} rows of {self.shape[1]}, {self.num_entries} entries other than zero)"

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.width if self.columns is None else len(self.columns)))

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.values.dtype == np.uint8 else torch.float64

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    @cached_property
    def num_entries(self) -> int:
        """How many entries are other than zero."""
        return sum(len(entries.value) for entries in self.entry_blocks())

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        entries = self._entries(as_index(rows, len(self)))
        dense = np.zeros((entries.num_rows, self.shape[1]), np.uint8 if self.dtype == torch.uint8 else np.float64)
        dense[entries.row, entries.column] = entries.value
        return torch.from_numpy(dense)

    def head(self, num_rows: int) -> "SparseRows":
        return self.take(torch.arange(min(num_rows, len(self))))

    def take(self, rows: Tensor) -> "SparseRows":
        index = as_index(rows, len(self))
        return replace(self, index=index if self.index is None else self.index[index])

    def take_columns(self, columns: list[int]) -> "SparseRows":
        return replace(self, columns=tuple(columns if self.columns is None else [self.columns[i] for i in columns]))

    @property
    def block_rows(self) -> int:
        return max(1, BLOCK_BYTES // (8 * max(1, self.shape[1])))

    def blocks(self) -> Iterator[Tensor]:
        for start in range(0, len(self), self.block_rows):
            yield self[start : start + self.block_rows]

    def entry_blocks(self) -> Iterator[Entries]:
        """All entries in the order of the rows, about a million at a time."""
        per_row = max(1, len(self.values) // max(1, len(self.indptr) - 1))
        size = max(1, BLOCK_ENTRIES // per_row)
        for start in range(0, len(self), size):
            yield self._entries(torch.arange(start, min(len(self), start + size)))

    @cached_property
    def representative_values(self) -> Tensor:
        low, high, num_entries, fractional = np.inf, -np.inf, 0, np.empty(0)
        for entries in self.entry_blocks():
            if num := len(entries.value):
                low, high = min(low, entries.value.min()), max(high, entries.value.max())
                fractional = fractional if len(fractional) else _fractions(entries.value)[:1]
                num_entries += num
        if num_entries < len(self) * self.shape[1]:
            low, high = min(low, 0), max(high, 0)
        return torch.tensor([low, high, *fractional], dtype=self.dtype)

    @cached_property
    def digest(self) -> str:
        start, parts = 0, [hashlib.sha256() for _ in range(3)]
        for entries in self.entry_blocks():
            for part, values in zip(parts, (start + entries.row, entries.column, entries.value), strict=True):
                part.update(values.astype(np.float64).tobytes())
            start += entries.num_rows
        about = f"{tuple(self.shape)} {self.dtype} {[part.hexdigest() for part in parts]}"
        return hashlib.sha256(about.encode()).hexdigest()

    def first_not_finite(self) -> tuple[int, int, float] | None:
        """Row, column and value of the first entry that is missing (NaN) or infinite; None where all are finite."""
        start = 0
        for entries in self.entry_blocks():
            if len(wrong := np.flatnonzero(~np.isfinite(entries.value))):
                first = wrong[0]
                return start + int(entries.row[first]), int(entries.column[first]), float(entries.value[first])
            start += entries.num_rows
        return None

    def column_sums(self, values: ValueFunction) -> Tensor:
        """The sum over rows of a function of the values that is 0 at 0, (D,) float64.

        Args:
            values: the function of the entries' columns and values, (k,) each.

        Returns:
            The sums.
        """
        total = np.zeros(self.shape[1])
        for entries in self.entry_blocks():
            weights = values(entries.column, entries.value.astype(np.float64))
            total += np.bincount(entries.column, weights, minlength=len(total))
        return torch.from_numpy(total)

    def column_maxima(self, values: ValueFunction) -> Tensor:
        """The largest over rows of a function of the values that is 0 at 0 and nowhere negative, (D,) float64.

        Args:
            values: the function of the entries' columns and values, (k,) each.

        Returns:
            The maxima.
        """
        largest = np.zeros(self.shape[1])
        for entries in self.entry_blocks():
            np.maximum.at(largest, entries.column, values(entries.column, entries.value.astype(np.float64)))
        return torch.from_numpy(largest)

    @cached_property
    def _moments(self) -> Moments:
        largest = self.column_maxima(lambda column, value: np.abs(value))
        # in units of a power of two: exact, and squares of 1e-200 are not 0
        unit = np.exp2(np.maximum(np.frexp(largest.numpy())[1], -1000))
        num_rows, filled = len(self), self.column_sums(lambda column, value: np.ones_like(value))
        mean = self.column_sums(lambda column, value: value / unit[column]) / num_rows
        centre = mean.numpy()
        squares = self.column_sums(lambda column, value: np.square(value / unit[column] - centre[column]))
        deviation = ((squares + (num_rows - filled) * mean.square()) / num_rows).sqrt()
        units = torch.from_numpy(unit)
        return mean * units, deviation * units, largest

    def column_moments(self) -> Moments:
        return self._moments

    @cached_property
    def _places(self) -> Array | None:
        """The place of each column of the matrix among these rows' columns, −1 for none."""
        if self.columns is None:
            return None
        places = np.full(self.width, -1)
        places[list(self.columns)] = np.arange(len(self.columns))
        return places

    def _entries(self, rows: Tensor) -> Entries:
        of_matrix = (rows if self.index is None else self.index[rows]).numpy()
        starts, ends = self.indptr[of_matrix], self.indptr[of_matrix + 1]
        lengths = ends - starts
        row = np.repeat(np.arange(len(of_matrix)), lengths)
        if len(of_matrix) and bool((starts[1:] == ends[:-1]).all()):
            where: slice | Array = slice(int(starts[0]), int(ends[-1]))
        else:
            where = np.arange(len(row)) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)
        column, value = np.asarray(self.indices[where]), np.asarray(self.values[where])
        if self._places is not None:
            column = self._places[column]
            row, column, value = (each[column >= 0] for each in (row, column, value))
        return Entries(len(of_matrix), row, column, value)


def _fractions(values: Array) -> Array:
    """The values that are not whole numbers."""
    found: Array = values[values != np.rint(values)] if values.dtype.kind == "f" else values[:0]
    return found
