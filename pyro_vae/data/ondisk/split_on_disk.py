"""A split of a data set whose rows stay in their file."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk, as_index
from pyro_vae.data.split import DRAW_SEED, Split
from pyro_vae.data.stored_split import StoredSplit

ROWS_PER_SEED = 16  # consecutive rows of the file that share the seed of their draw


@dataclass(frozen=True, eq=False, repr=False)
class SplitOnDisk(StoredSplit):
    """A split whose `stored` rows stay in their file and are read when they are indexed.

    Training batches come in a block shuffle (`RowsOnDisk.shuffled_batches`). The fixed draw of x has a seed for every
    16 rows of the file, so that a row's x does not depend on the order in which rows are read.
    """

    stored: RowsOnDisk

    def head(self, num_rows: int) -> Split:
        return self._with_rows(slice(num_rows), self.stored.head(num_rows))

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        stored = self.stored.read_from_window(rows)
        if not self.measure.is_random:
            return self._fixed_x(stored, rows)
        return self.measure.draw_again(stored.to(generator.device), generator)

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, in a block shuffle: rows of a block come close together.

        Args:
            batch_size: the number of rows of each batch; the last may have fewer.
            generator: of the shuffle.

        Returns:
            The batches' indices (n,), for `batch`.
        """
        return self.stored.shuffled_batches(batch_size, generator)

    def source_index(self, rows: slice | Tensor) -> Tensor:
        return self.stored.source_index(as_index(rows, len(self)))

    def _chunk(self, rows: slice | Tensor) -> Split:
        stored = self.stored[rows]
        split = self._with_rows(rows, stored, Split, index=self.source_index(rows))
        split.__dict__["_fixed_draw"] = self._fixed_x(stored, as_index(rows, len(self)))
        return split

    def keep(self, rows: Tensor) -> Split:
        others = torch.ones(len(self), dtype=torch.bool)
        others[rows] = False
        return self._with_rows(rows, self.stored.without(self.source_index(others)))

    def _fixed_x(self, stored: Tensor, rows: Tensor) -> Tensor:
        generator = torch.Generator()
        if not self.measure.is_random and not (self.measure.binarize == "fixed" and self._has_grey_levels):
            return self.measure.draw(stored, generator)
        source_rows, x = self.stored.source_index(rows), torch.empty(stored.shape)
        _, counts = (source_rows // ROWS_PER_SEED).unique_consecutive(return_counts=True)
        start = 0
        for end in counts.cumsum(0).tolist():
            within = source_rows[start:end] % ROWS_PER_SEED
            block = stored.new_zeros(ROWS_PER_SEED, stored.shape[1])
            block[within] = stored[start:end]
            generator.manual_seed((DRAW_SEED + 2654435761 * int(source_rows[start] // ROWS_PER_SEED)) % 2**32)
            x[start:end] = self.measure.draw(block, generator)[within]
            start = end
        return x

    @property
    def _has_grey_levels(self) -> bool:
        """Whether there are values strictly between 0 and the highest level, so that binarizing them is random."""
        values = self.stored.representative_values
        return self.measure.levels != 1 or bool((values != values.round()).any())

    @cached_property
    def mean(self) -> Tensor:
        if self.counted is not None:
            return self.without_uncounted().mean
        total, levels = torch.zeros(self.shape[1], dtype=torch.float64), self.measure.levels or 1
        is_binarized, weights = self.measure.binarize in ("stochastic", "fixed"), self.relative_weights
        for start in range(0, len(self), size := self.stored.block_rows):
            rows = slice(start, start + size)
            if weights is not None:
                x = self.stored[rows].double() / levels if is_binarized else self[rows].double()
                total += weights[rows] @ x
                continue
            total += (
                self.stored[rows].sum(0, dtype=torch.float64) / levels if is_binarized else self[rows].double().sum(0)
            )
        return (total / len(self)).to(torch.float32)

    def fingerprint_bytes(self) -> bytes:
        rows = f"{self.stored.digest} {tuple(self.shape)} {self.stored.excluded.tolist()}".encode()
        return rows + self._other_bytes
