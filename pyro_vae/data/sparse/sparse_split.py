"""A split of a data set whose rows are sparse."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import as_index
from pyro_vae.data.sparse.sparse_rows import SparseRows
from pyro_vae.data.split import MAX_ROUNDING, Split
from pyro_vae.data.stored_split import StoredSplit


@dataclass(frozen=True, eq=False, repr=False)
class SparseSplit(StoredSplit):
    """A split whose `stored` rows are sparse: x is made of a batch at a time, the same as of dense rows.

    Its measure draws nothing at random: `keep_or_make_dense` has seen to it. Chunks, heads and rows that are taken are
    sparse too, and share their entries with these.
    """

    stored: SparseRows

    def head(self, num_rows: int) -> Split:
        return self._with_dtype_of_all(self._with_rows(slice(num_rows), self.stored.head(num_rows)))

    def _chunk(self, rows: slice | Tensor) -> Split:
        stored = self.stored.take(as_index(rows, len(self)))
        return self._with_dtype_of_all(self._with_rows(rows, stored, index=self.source_index(rows)))

    def _with_dtype_of_all(self, split: Split) -> Split:
        split.__dict__["_dtype"] = self._dtype
        return split

    def _fixed_x(self, stored: Tensor, rows: Tensor) -> Tensor:
        return self.measure.draw(stored, torch.Generator(), self._dtype)

    @cached_property
    def _dtype(self) -> torch.dtype:
        """The type of x: float64 where float32 would round a column's values by a thousandth of their deviation."""
        measure, rows = self.measure, self.stored
        if rows.dtype != torch.float64 or measure.binarize != "none" or measure.levels or measure.scale:
            return torch.float32
        lost = rows.column_maxima(lambda column, value: np.abs(value - value.astype(np.float32)))
        deviation = rows.column_moments()[1] if bool(lost.any()) else lost
        return torch.float64 if bool(((lost > MAX_ROUNDING * deviation) & (deviation > 0)).any()) else torch.float32

    @cached_property
    def mean(self) -> Tensor:
        if self.counted is not None:
            return self.without_uncounted().mean
        if (weights := self.relative_weights) is not None:
            return self._weighted_mean(weights)
        measure, levels = self.measure, self.measure.levels or 1
        if measure.binarize == "threshold":
            above = self.stored.column_sums(lambda column, value: (value > levels / 2).astype(np.float64))
            return (above / len(self)).to(torch.float32)
        mean = self.stored.column_moments()[0] / levels
        if measure.scale:
            mean = (mean - mean.new_tensor(measure.shift)) / mean.new_tensor(measure.scale)
        return mean.to(self._dtype)

    def _weighted_mean(self, weights: Tensor) -> Tensor:
        total, size = torch.zeros(self.shape[1], dtype=torch.float64), self.stored.block_rows
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            total += weights[rows] @ self[rows].double()
        return (total / len(self)).to(torch.float32)

    def fingerprint_bytes(self) -> bytes:
        return self.stored.digest.encode() + self._other_bytes
