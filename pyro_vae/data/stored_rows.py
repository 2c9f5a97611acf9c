"""Rows that are no tensor: what splits, statistics and the choice of a measure ask of them."""

from collections.abc import Iterator
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor, Tensor]


@runtime_checkable
class StoredRows(Protocol):
    """Rows (N, D) that become a tensor where they are indexed: in a file (`RowsOnDisk`), or sparse (`SparseRows`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def block_rows(self) -> int:
        """The number of rows that are read at a time."""

    @property
    def representative_values(self) -> Tensor:
        """The lowest value, the highest, and one that is not a whole number if there is any."""

    @property
    def digest(self) -> str:
        """SHA-256 of all values."""

    def is_floating_point(self) -> bool: ...

    def head(self, num_rows: int) -> Self: ...

    def take(self, rows: Tensor) -> "Tensor | StoredRows":
        """Some rows, by their index (n,), in memory."""

    def take_columns(self, columns: list[int]) -> Self: ...

    def blocks(self) -> Iterator[Tensor]:
        """All rows in their order, a block at a time."""

    def column_moments(self) -> Moments:
        """Mean, standard deviation (1/N) and largest magnitude of each column, (D,) float64 each."""


Values = Tensor | StoredRows


def moments_of_blocks(blocks: Iterator[Tensor], num_columns: int) -> Moments:
    r"""Mean, standard deviation ($1/N$) and largest magnitude of each column, (D,) float64 each, in one pass.

    Blocks are merged by $M_2 \leftarrow M_2 + M_2' + \delta^2 n n' / (n + n')$ (Chan, Golub & LeVeque 1979).

    Args:
        blocks: the rows, (n, D) at a time.
        num_columns: D.

    Returns:
        The means, the deviations and the magnitudes.
    """
    count, (mean, squares, largest) = 0, torch.zeros(3, num_columns, dtype=torch.float64)
    for block in blocks:
        x = block.double()
        block_count, block_mean = len(x), x.mean(0)
        delta = block_mean - mean
        between = delta.square() * (count * block_count / (count + block_count))
        squares = squares + (x - block_mean).square().sum(0) + between
        count, mean = count + block_count, mean + delta * (block_count / (count + block_count))
        largest = torch.maximum(largest, x.abs().amax(0))
    return mean, (squares / count).sqrt(), largest
