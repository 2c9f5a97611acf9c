"""Rows that stay in their file and are read when they are indexed, so that memory does not grow with N."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_vae.data.stored_rows import Moments, moments_of_blocks
from pyro_vae.errors import InputError

Array = NDArray[Any]  # of any numbers: a file says of which
UNREADABLE = (  # what numpy raises for files that are none of its own
    ValueError, TypeError, OSError, EOFError, KeyError, OverflowError, SyntaxError, RecursionError, MemoryError,
    NotImplementedError, RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
BLOCK_BYTES = 2**20  # of one read
WINDOW_BYTES = 2**26  # of the blocks in memory
MAX_BLOCK_ROWS = 2**14  # bounds the memory of the row numbers, which exceeds that of narrow rows


@dataclass(frozen=True, eq=False)
class RowsOnDisk:
    r"""The rows (N, D) of an array in a file, without those `excluded`; `rows[a:b]` and `rows[index]` are tensors.

    As in memory, uint8 stays uint8 and every other type becomes float64 (with `as_floats`, uint8 too). `excluded` (L,)
    are sorted row numbers of the file, `columns` the columns to read, all by default. `representative_values` and
    `digest` are computed by `column_statistics.validate_rows`.

    `shuffled_batches` is a block shuffle: blocks of 1 MiB are permuted, 64 of them at a time are read into a window of
    64 MiB, and the rows of a window are permuted. A batch then mixes rows from up to 64 blocks of the file, each row
    comes once, and every read is long enough to be fast.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.npy"
    >>> np.save(path, np.arange(12, dtype=np.uint8).reshape(6, 2))
    >>> rows = rows_from_npy(path).without(torch.tensor([1]))
    >>> rows[torch.tensor([0, 1])]
    tensor([[0, 1],
            [4, 5]], dtype=torch.uint8)
    >>> sorted(torch.cat(list(rows.shuffled_batches(2, torch.Generator()))).tolist())
    [0, 1, 2, 3, 4]
    """

    path: Path
    dtype_in_file: np.dtype[Any]
    offset: int
    num_in_file: int
    width: int
    as_floats: bool = False
    excluded: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    columns: tuple[int, ...] | None = None
    representative_values: Tensor = field(default_factory=lambda: torch.empty(0))
    digest: str = ""

    def __len__(self) -> int:
        return self.num_in_file - len(self.excluded)

    def __repr__(self) -> str:
        return f"RowsOnDisk({self.path}: {len(self)} rows of {self.shape[1]})"

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.width if self.columns is None else len(self.columns)))

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.dtype_in_file == np.uint8 and not self.as_floats else torch.float64

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            start, end, step = rows.indices(len(self))
            if step == 1:
                return self._to_tensor(self._read_slice(start, max(start, end)))
        return self._to_tensor(self._read_index(as_index(rows, len(self))))

    def head(self, num_rows: int) -> "RowsOnDisk":
        end = int(self.source_index(torch.tensor([min(num_rows, len(self)) - 1]))) + 1 if num_rows else 0
        return replace(self, num_in_file=end, excluded=self.excluded[self.excluded < end])

    def without(self, source_rows: Tensor) -> "RowsOnDisk":
        """These rows except some, given by their row numbers in the file."""
        return replace(self, excluded=torch.cat([self.excluded, source_rows]).unique())

    def take(self, rows: Tensor) -> Tensor:
        return self[rows]

    def take_columns(self, columns: list[int]) -> "RowsOnDisk":
        return replace(self, columns=tuple(columns))

    def column_moments(self) -> Moments:
        return moments_of_blocks(self.blocks(), self.shape[1])

    def source_index(self, rows: Tensor) -> Tensor:
        """The row numbers in the file, counted from 0, of rows (n,)."""
        kept_before = self.excluded - torch.arange(len(self.excluded))  # how many rows come before each excluded one
        return rows + torch.searchsorted(kept_before, rows, right=True)

    def blocks(self) -> Iterator[Tensor]:
        """All rows in the order of the file, a block at a time."""
        for start in range(0, len(self), self.block_rows):
            yield self[start : start + self.block_rows]

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype_in_file.itemsize

    @property
    def block_rows(self) -> int:
        return min(max(1, BLOCK_BYTES // self.row_bytes), MAX_BLOCK_ROWS)

    def shuffled_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, in a block shuffle.

        Args:
            batch_size: the number of rows of each batch; the last may have fewer.
            generator: of the shuffle.

        Yields:
            Tensor: the batches' indices (n,).
        """
        shuffle_rng = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        size, num_blocks = self.block_rows, math.ceil(len(self) / self.block_rows)
        remainder = torch.empty(0, dtype=torch.long)
        order, num_windows = (
            torch.randperm(num_blocks, generator=shuffle_rng),
            math.ceil(num_blocks / self.window.slots),
        )
        for blocks in order.tensor_split(num_windows):
            self.window.load(blocks.tolist())
            rows = torch.cat([torch.arange(b * size, min(len(self), (b + 1) * size)) for b in blocks.tolist()])
            rows = torch.cat([remainder, rows[torch.randperm(len(rows), generator=shuffle_rng)]])
            end = len(rows) // batch_size * batch_size
            for start in range(0, end, batch_size):
                yield rows[start : start + batch_size]
            remainder = rows[end:]
        if len(remainder):
            yield remainder

    @cached_property
    def window(self) -> "Window":
        return Window(self)

    def read_from_window(self, rows: Tensor) -> Tensor:
        """The same as `self[rows]`, from the window for the rows that it holds."""
        return self._to_tensor(self.window.take(rows))

    def _read(self, start: int, end: int) -> Array:
        """Rows of the file from `start` to before `end`, (n, width)."""
        count = (end - start) * self.width
        try:
            values = np.fromfile(self.path, self.dtype_in_file, count, offset=self.offset + start * self.row_bytes)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read any more ({error})") from error
        if len(values) < count:
            raise InputError(f"{self.path}: has become shorter since it was opened; bring the old file back")
        return values.reshape(-1, self.width)

    def _read_slice(self, start: int, end: int) -> Array:
        """Consecutive rows, by one read; excluded rows between them are read and dropped."""
        if start >= end:
            return np.empty((0, self.width), self.dtype_in_file)
        first, last = self.source_index(torch.tensor([start, end - 1])).tolist()
        values = self._read(first, last + 1)
        if len(values) == end - start:
            return values
        kept: Array = values[self.source_index(torch.arange(start, end)).numpy() - first]
        return kept

    def _read_index(self, rows: Tensor) -> Array:
        """Rows in any order, by one read for each run of consecutive row numbers."""
        source_rows, inverse = self.source_index(rows).unique(return_inverse=True)
        ends = (source_rows.diff() != 1).nonzero()[:, 0] + 1
        runs = [run for run in source_rows.tensor_split(ends) if len(run)]
        values = [self._read(int(run[0]), int(run[-1]) + 1) for run in runs]
        return np.concatenate(values)[inverse.numpy()] if values else np.empty((0, self.width), self.dtype_in_file)

    def _to_tensor(self, array: Array) -> Tensor:
        if self.columns is not None:
            array = array[:, list(self.columns)]
        return torch.from_numpy(np.ascontiguousarray(array, np.uint8 if self.dtype == torch.uint8 else np.float64))


class Window:
    """A buffer in memory that holds some blocks of the rows."""

    def __init__(self, rows: RowsOnDisk) -> None:
        self.rows, self.size = rows, rows.block_rows
        num_blocks = math.ceil(len(rows) / self.size)
        self.slots = max(1, min(num_blocks, WINDOW_BYTES // (self.size * rows.row_bytes)))
        self.buffer = np.empty((self.slots * self.size, rows.width), rows.dtype_in_file)
        self.slot_of = np.full(num_blocks, -1)
        self.blocks: list[int] = []

    def load(self, blocks: list[int]) -> None:
        self.slot_of[self.blocks] = -1
        self.blocks = blocks
        for slot, block in enumerate(blocks):
            values = self.rows._read_slice(block * self.size, min(len(self.rows), (block + 1) * self.size))
            self.buffer[slot * self.size : slot * self.size + len(values)] = values
            self.slot_of[block] = slot

    def take(self, rows: Tensor) -> Array:
        """Rows by their indices; those of blocks that are not in the buffer come from the file."""
        block, within = np.divmod(rows.numpy(), self.size)
        slots = self.slot_of[block]
        values: Array = self.buffer[slots * self.size + within]
        if (outside := slots < 0).any():
            values[outside] = self.rows._read_index(rows[torch.from_numpy(outside)])
        return values


def as_index(rows: slice | Tensor, num_rows: int) -> Tensor:
    """Rows as a tensor's index would take them; `IndexError` outside.

    Args:
        rows: a slice, an index (n,), negative from the end, or a mask (N,).
        num_rows: N.

    Returns:
        Their non-negative index (n,).
    """
    if isinstance(rows, slice):
        return torch.arange(*rows.indices(num_rows))
    index = rows.cpu()
    if index.dtype == torch.bool:
        if len(index) != num_rows:
            raise IndexError(f"a mask of {len(index)} rows for {num_rows}")
        return index.nonzero().squeeze(1)
    if len(index) and not -num_rows <= int(index.min()) <= int(index.max()) < num_rows:
        raise IndexError(f"rows {int(index.min())} to {int(index.max())} of {num_rows}")
    return torch.where(index < 0, index + num_rows, index)


def rows_from_npy(path: Path, as_floats: bool = False) -> RowsOnDisk:
    """The rows of a `.npy` file; `InputError` where they cannot be read row by row.

    Args:
        path: the file, of an array (N, D) or (N, height, width).
        as_floats: whether uint8 becomes float64, as every other type does.

    Returns:
        The rows (N, D).
    """
    array = open_npy(path)
    if array.ndim < 2 or not array.flags.c_contiguous:
        raise InputError(
            f"{path}: holds an array of shape {array.shape} in Fortran order, whose rows are not contiguous; "
            "save np.ascontiguousarray(rows)"
        )
    return RowsOnDisk(path, array.dtype, array.offset, len(array), math.prod(array.shape[1:]), as_floats)


def open_npy(path: Path) -> np.memmap[Any, Any]:
    """The array in a `.npy` file, memory-mapped: none of it is read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error
