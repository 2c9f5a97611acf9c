"""Rows of a data set that stay in their file."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk, index_of
from pyro_vae.data.split import DRAW_SEED, Split
from pyro_vae.errors import InputError

ROWS_IN_A_DRAW = 16  # on disk: rows that share a seed
MAX_AT_ONCE = 2**30  # bytes of x that rows on disk may be asked for


@dataclass(frozen=True, eq=False, repr=False)
class SplitOnDisk(Split):
    """Rows that stay in their file: a split whose `stored` is read where it is asked for.

    Rows of a training step come in a block shuffle (`RowsOnDisk.order`). The one draw of x has a seed for every 16 rows
    of the file, so that a row's x is the same in whatever order rows are asked for. Raises `InputError` where all of x
    would have to be in memory and is larger than 1 GiB.
    """

    stored: RowsOnDisk  # type: ignore[assignment]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        index = index_of(rows, len(self))
        if len(index) * self.shape[1] * 4 > MAX_AT_ONCE:
            raise InputError(
                f"{len(index)} rows stay on disk, being too many to hold; take some of them (split[:10_000]), or go "
                "through them (split.parts(10_000))"
            )
        return self._x(self.stored[rows], index)

    def __iter__(self) -> Iterator[Tensor]:
        return (row for part in self.parts(10_000) for row in part.x)

    def head(self, num_rows: int) -> Split:
        labels, index = (None if value is None else value[:num_rows] for value in (self.labels, self.index))
        return replace(self, stored=self.stored.head(num_rows), labels=labels, index=index)

    @property
    def mask(self) -> None:  # type: ignore[override]
        """None: values are never missing here."""

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        stored = self.stored.near(rows)
        if not self.measure.random:
            return self._x(stored, rows)
        return self.measure.draw(stored.to(generator.device), generator)

    @property
    def in_memory(self) -> int:
        return 0

    def copied_to(self, device: torch.device) -> Split:
        return self  # what it reads goes there

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, as indices (n,) for `batch`, in a block shuffle: those of a block are met close together."""
        return self.stored.order(batch_size, generator)

    def places(self, rows: slice | Tensor) -> Tensor:
        return self.stored.places(index_of(rows, len(self)))

    def _part(self, rows: slice) -> Split:
        stored, labels = self.stored[rows], None if self.labels is None else self.labels[rows]
        split = Split(self.name, stored, self.measure, labels, self.image_shape, self.places(rows))
        split.__dict__["_drawn"] = self._x(stored, index_of(rows, len(self)))
        return split

    def _x(self, stored: Tensor, rows: Tensor) -> Tensor:
        """The one draw of some rows."""
        generator = torch.Generator()
        if not self.measure.random and not (self.measure.binarize == "fixed" and self._greys):
            return self.measure.draw(stored, generator)
        places, drawn = self.stored.places(rows), torch.empty(stored.shape)
        _, counts = (places // ROWS_IN_A_DRAW).unique_consecutive(return_counts=True)
        start = 0
        for end in counts.cumsum(0).tolist():
            within = places[start:end] % ROWS_IN_A_DRAW
            block = stored.new_zeros(ROWS_IN_A_DRAW, stored.shape[1])
            block[within] = stored[start:end]
            generator.manual_seed((DRAW_SEED + 2654435761 * int(places[start] // ROWS_IN_A_DRAW)) % 2**32)
            drawn[start:end] = self.measure.draw(block, generator)[within]
            start = end
        return drawn

    @property
    def _greys(self) -> bool:
        """Whether there are values between 0 and the highest level, of which a draw may make either."""
        return self.measure.levels != 1 or bool((self.stored.witness != self.stored.witness.round()).any())

    @cached_property
    def mean(self) -> Tensor:
        total, levels = torch.zeros(self.shape[1], dtype=torch.float64), self.measure.levels or 1
        binary = self.measure.binarize in ("stochastic", "fixed")
        for start in range(0, len(self), size := self.stored.block_rows):
            rows = slice(start, start + size)
            total += self.stored[rows].sum(0, dtype=torch.float64) / levels if binary else self[rows].double().sum(0)
        return (total / len(self)).to(torch.float32)

    def _tell(self, digest: Any) -> None:
        digest.update(f"{self.stored.digest} {tuple(self.shape)} {self.stored.left_out.tolist()}".encode())
