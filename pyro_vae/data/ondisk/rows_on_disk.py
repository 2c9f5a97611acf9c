"""Rows that stay in their file: read where they are asked for, so that memory does not grow with N."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

BLOCK_BYTES = 2**20  # read at once
WINDOW_BYTES = 2**26  # of shuffled blocks in memory
MAX_BLOCK_ROWS = 2**14  # of narrow rows, whose places in the order take more than they do


@dataclass(frozen=True, eq=False)
class RowsOnDisk:
    r"""The rows (N, D) of an array in a file, but for those `left_out`; `rows[a:b]` and `rows[index]` are tensors.

    As for rows in memory, uint8 stays uint8 and every other number becomes float64 (`as_floats`: uint8 too). `left_out`
    (L,) are sorted places in the file, `columns` those to take, all by default. `witness` and `digest` are what
    `survey.validate_rows` finds.

    `order` is a block shuffle: blocks of 1 MiB are permuted, 64 of them at a time are read into a window of 64 MiB, and
    the rows of a window are permuted. A batch then mixes rows of up to 64 places of the file, each row is met once, and
    the file is read in pieces that are long enough to be fast.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.npy"
    >>> np.save(path, np.arange(12, dtype=np.uint8).reshape(6, 2))
    >>> rows = rows_of_npy(path).without(torch.tensor([1]))
    >>> rows[torch.tensor([0, 1])]
    tensor([[0, 1],
            [4, 5]], dtype=torch.uint8)
    >>> sorted(torch.cat(list(rows.order(2, torch.Generator()))).tolist())
    [0, 1, 2, 3, 4]
    """

    path: Path
    dtype_in_file: np.dtype
    offset: int
    num_in_file: int
    width: int
    as_floats: bool = False
    left_out: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    columns: tuple[int, ...] | None = None
    witness: Tensor = field(default_factory=lambda: torch.empty(0))
    digest: str = ""

    def __len__(self) -> int:
        return self.num_in_file - len(self.left_out)

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
                return self._as_stored(self._span(start, max(start, end)))
        return self._as_stored(self._scattered(index_of(rows, len(self))))

    def head(self, num_rows: int) -> "RowsOnDisk":
        end = int(self.places(torch.tensor([min(num_rows, len(self)) - 1]))) + 1 if num_rows else 0
        return replace(self, num_in_file=end, left_out=self.left_out[self.left_out < end])

    def without(self, places: Tensor) -> "RowsOnDisk":
        """The rows but for some, by their places in the file."""
        return replace(self, left_out=torch.cat([self.left_out, places]).unique())

    def take_columns(self, columns: list[int]) -> "RowsOnDisk":
        return replace(self, columns=tuple(columns))

    def places(self, rows: Tensor) -> Tensor:
        """Where rows (n,) stand in the file, counted from 0."""
        before = self.left_out - torch.arange(len(self.left_out))  # rows kept before each one left out
        return rows + torch.searchsorted(before, rows, right=True)

    def blocks(self) -> Iterator[Tensor]:
        """All rows in the order of the file, a few at a time."""
        for start in range(0, len(self), self.block_rows):
            yield self[start : start + self.block_rows]

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype_in_file.itemsize

    @property
    def block_rows(self) -> int:
        return min(max(1, BLOCK_BYTES // self.row_bytes), MAX_BLOCK_ROWS)

    def order(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, in batches of places among these rows, in a block shuffle."""
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        size, num_blocks = self.block_rows, math.ceil(len(self) / self.block_rows)
        kept = torch.empty(0, dtype=torch.long)
        for blocks in torch.randperm(num_blocks, generator=own).tensor_split(math.ceil(num_blocks / self.window.slots)):
            self.window.load(blocks.tolist())
            rows = torch.cat([torch.arange(b * size, min(len(self), (b + 1) * size)) for b in blocks.tolist()])
            rows = torch.cat([kept, rows[torch.randperm(len(rows), generator=own)]])
            whole = len(rows) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                yield rows[start : start + batch_size]
            kept = rows[whole:]
        if len(kept):
            yield kept

    @cached_property
    def window(self) -> "Window":
        return Window(self)

    def near(self, rows: Tensor) -> Tensor:
        """The same as `rows[index]`, from the window where it holds them."""
        return self._as_stored(self.window.take(rows))

    def _read(self, start: int, end: int) -> np.ndarray:
        """Rows of the file from `start` to before `end`, (n, width)."""
        count = (end - start) * self.width
        try:
            found = np.fromfile(self.path, self.dtype_in_file, count, offset=self.offset + start * self.row_bytes)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read any more ({error})") from error
        if len(found) < count:
            raise InputError(f"{self.path}: has become shorter since it was opened; bring the old file back")
        return found.reshape(-1, self.width)

    def _span(self, start: int, end: int) -> np.ndarray:
        """Consecutive rows by one read, which passes over the few that are left out."""
        if start >= end:
            return np.empty((0, self.width), self.dtype_in_file)
        first, last = self.places(torch.tensor([start, end - 1])).tolist()
        found = self._read(first, last + 1)
        return found if len(found) == end - start else found[self.places(torch.arange(start, end)).numpy() - first]

    def _scattered(self, rows: Tensor) -> np.ndarray:
        """Rows from anywhere, by one read for each run of neighbours."""
        places, back = self.places(rows).unique(return_inverse=True)
        ends = (places.diff() != 1).nonzero()[:, 0] + 1
        runs = [run for run in places.tensor_split(ends) if len(run)]
        found = [self._read(int(run[0]), int(run[-1]) + 1) for run in runs]
        return np.concatenate(found)[back.numpy()] if found else np.empty((0, self.width), self.dtype_in_file)

    def _as_stored(self, array: np.ndarray) -> Tensor:
        if self.columns is not None:
            array = array[:, list(self.columns)]
        return torch.from_numpy(np.ascontiguousarray(array, np.uint8 if self.dtype == torch.uint8 else np.float64))


class Window:
    """The blocks of rows that are in memory."""

    def __init__(self, rows: RowsOnDisk) -> None:
        self.rows, self.size = rows, rows.block_rows
        num_blocks = math.ceil(len(rows) / self.size)
        self.slots = max(1, min(num_blocks, WINDOW_BYTES // (self.size * rows.row_bytes)))
        self.held = np.empty((self.slots * self.size, rows.width), rows.dtype_in_file)
        self.slot_of = np.full(num_blocks, -1)
        self.blocks: list[int] = []

    def load(self, blocks: list[int]) -> None:
        self.slot_of[self.blocks] = -1
        self.blocks = blocks
        for slot, block in enumerate(blocks):
            found = self.rows._span(block * self.size, min(len(self.rows), (block + 1) * self.size))
            self.held[slot * self.size : slot * self.size + len(found)] = found
            self.slot_of[block] = slot

    def take(self, rows: Tensor) -> np.ndarray:
        """Rows by their places, those of other blocks from the file."""
        block, within = np.divmod(rows.numpy(), self.size)
        slots = self.slot_of[block]
        found = self.held[slots * self.size + within]
        if (outside := slots < 0).any():
            found[outside] = self.rows._scattered(rows[torch.from_numpy(outside)])
        return found


def index_of(rows: slice | Tensor, num_rows: int) -> Tensor:
    """A slice, an index or a mask of rows as an index, as a tensor's rows would be; `IndexError` outside."""
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


def rows_of_npy(path: Path, as_floats: bool = False) -> RowsOnDisk:
    """The rows of a `.npy` file, (N, D) or (N, height, width); `InputError` where they cannot be read row by row."""
    array = open_npy(path)
    if array.ndim < 2 or not array.flags.c_contiguous:
        raise InputError(
            f"{path}: holds an array of shape {array.shape} whose rows do not lie one after another (Fortran order); "
            "save np.ascontiguousarray(rows)"
        )
    return RowsOnDisk(path, array.dtype, array.offset, len(array), math.prod(array.shape[1:]), as_floats)


def open_npy(path: Path) -> np.memmap:
    """The array in a `.npy` file, none of it read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error
