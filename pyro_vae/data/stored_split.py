"""A split of a data set whose rows are no tensor: x is made where it is asked for."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import as_index
from pyro_vae.data.split import Split
from pyro_vae.data.stored_rows import StoredRows
from pyro_vae.errors import InputError

MAX_BYTES_PER_READ = 2**30  # of x in one index operation
CHUNK_BYTES = 2**28


@dataclass(frozen=True, eq=False, repr=False)
class StoredSplit(Split):
    """A split whose `stored` rows are in a file, or sparse, and become x where they are indexed.

    Raises `InputError` where more than 1 GiB of x would have to be in memory.
    """

    stored: StoredRows  # type: ignore[assignment]  # has what the methods of `Split` that are not replaced ask of a tensor

    @abstractmethod
    def _fixed_x(self, stored: Tensor, rows: Tensor) -> Tensor:
        """The fixed draw of x of some rows, from their stored values."""

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        index = as_index(rows, len(self))
        if len(index) * self.shape[1] * 4 > MAX_BYTES_PER_READ:
            raise InputError(
                f"{len(index)} rows stay on disk, or sparse, because they are too many for memory; take some "
                "(split[:10_000]), or iterate over chunks (split.chunks(10_000))"
            )
        return self._fixed_x(self.stored[rows], index)

    def __iter__(self) -> Iterator[Tensor]:
        return (row for chunk in self.chunks(chunk_rows(self.shape[1], 10_000)) for row in chunk.x)

    @cached_property
    def mask(self) -> Tensor | None:
        """None: no value is missing."""
        return None

    @property
    def memory_bytes(self) -> int:
        return 0

    def to_device(self, device: torch.device) -> Split:
        return self  # batches are moved as they are read


def chunk_rows(num_features: int, most: int, num_bytes: int | None = None) -> int:
    """How many rows of x are worked on at a time: at most so many, and 256 MiB of them.

    Args:
        num_features: D.
        most: the largest number.
        num_bytes: the bytes of x, in place of 256 MiB.

    Returns:
        The number of rows.
    """
    return max(1, min(most, (num_bytes or CHUNK_BYTES) // (4 * num_features)))


def readable_rows(num_features: int, most: int) -> int:
    """How many rows of x can be read in one operation: at most so many, and 1 GiB of them.

    Args:
        num_features: D.
        most: the largest number.

    Returns:
        The number of rows.
    """
    return chunk_rows(num_features, most, MAX_BYTES_PER_READ)
