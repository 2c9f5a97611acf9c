"""Rows to be scored by a program: checked batches on its device, and the measure of their density."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from pyro_vae.context_managers import set_rng_seed
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.data.prepare_rows import require_same_preparation
from pyro_vae.data.split import OBSERVED_ONLY
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.distributions.column_vector import ColumnSupport
from pyro_vae.errors import InputError, ZeroDensityWarning
from pyro_vae.programs.find_plates import find_plates_on_few, find_row_by_row
from pyro_vae.programs.observed_support import outside_reason, rows_outside_support
from pyro_vae.programs.parameters import device_and_dtype
from pyro_vae.programs.plates import PlateStructure, require_density
from pyro_vae.programs.program_defaults import check_labels, fitted_measure_of
from pyro_vae.programs.row_inputs import Batch, require_mask, require_taken
from pyro_vae.programs.support import column_support_of, require_density_of_columns
from pyro_vae.typing import Program

Result = TypeVar("Result")
MAX_SHARED_BATCH_SIZE = 128  # of the batches that several processes share
SUPPORT_BATCH_SIZE = 1000  # rows whose observed values are compared with their supports in one call
NAMED_ROWS = 5  # in a message
FIRST_ROWS = 8  # that a program is looked at with


class ScoredRows:
    """Rows to be scored by a program: checked batches, with their inputs, on the program's device.

    To be created and used within `use_param_store(program)` and `evaluating(program)`. Rows with an observed value
    outside the support of its site are refused; with `allow_zero` they are left out of `split`, a warning names them,
    and `restore` puts −∞ in their place.

    Args:
        program: any program that has a density.
        split: the rows, with labels and mask where they have them.
        rows: their indices in the training set (N,); None for rows held out.
        group: the processes that share the rows.
        seed: a seed of the random numbers of the batches that several processes share.
        allow_zero: whether rows of density zero are left out instead of refused.
        needs_guide: whether a guide is asked for that gives each row its own q; else its prior takes the place of one
            that does not, in `program`.
    """

    def __init__(
        self,
        program: Program,
        split: Split,
        rows: Tensor | None,
        group: ProcessGroup = SINGLE_PROCESS,
        seed: int | None = None,
        *,
        allow_zero: bool = False,
        needs_guide: bool = True,
    ) -> None:
        require_density(program)
        self.num_rows, self.reasons, self.kept = len(split), dict[int, str](), torch.arange(len(split))
        self.split, self.rows, self.group, self.seed = split, rows, group, seed or 0
        self.device, self.dtype = device_and_dtype(program, like=split[:1])
        require_same_preparation(fitted_measure_of(program), split.measure)
        require_mask(program, split.mask)
        require_taken(program, split.inputs)
        if split.labels is not None:
            check_labels(program, split.labels)
        self.program, self.first, self.plates = self._find_plates(program, needs_guide)
        require_density_of_columns(self.plates.support, split.measure)
        self._set_reasons(program)
        if self.reasons:
            self._leave_out(allow_zero)

    def _find_plates(self, program: Program, needs_guide: bool) -> tuple[Program, Batch, PlateStructure]:
        """The program to use, some rows that it runs for, and its plates."""
        few = self.batch(0, FIRST_ROWS)
        if not needs_guide:
            try:
                return self._row_by_row(program, few)
            except Exception:  # a model of as many rows as there are runs for all of them
                if len(few.x) == self.num_rows:
                    raise
            return self._row_by_row(program, self.batch(0, self.num_rows))
        return program, *find_plates_on_few(program, few, lambda: self.batch(0, self.num_rows))

    @staticmethod
    def _row_by_row(program: Program, rows: Batch) -> tuple[Program, Batch, PlateStructure]:
        program, plates = find_row_by_row(program, rows)
        return program, rows, plates

    def _set_reasons(self, program: Program) -> None:
        """Why each row of density zero has it; `InputError` where all rows have."""
        if (columns := column_support_of(self.plates.support)) is not None:
            self._set_reasons_of_columns(columns)
        counts: dict[str, int] = {}
        for start in range(0, len(self.split), SUPPORT_BATCH_SIZE if self.plates.constrained else len(self.split) + 1):
            batch = self.batch(start, start + SUPPORT_BATCH_SIZE)
            for name, outside in rows_outside_support(program, self.plates, batch).items():
                reason = outside_reason(name, self.plates.constrained[name])
                self.reasons |= {start + int(row): reason for row in outside.nonzero()}
                counts[name] = counts.get(name, 0) + int(outside.sum())
        if whole := [name for name, count in counts.items() if count == self.num_rows]:
            raise InputError(
                f"{outside_reason(whole[0], self.plates.constrained[whole[0]])} in all {self.num_rows} rows: give the "
                "site a distribution with that support, or check the column"
            )

    def _set_reasons_of_columns(self, support: ColumnSupport) -> None:
        """Why rows have density zero in which a column has a value that it cannot have."""
        for start in range(0, len(self.split), SUPPORT_BATCH_SIZE):
            batch = self.batch(start, start + SUPPORT_BATCH_SIZE)
            outside = ~support.check(batch.x)
            if batch.mask is not None:
                outside &= batch.mask
            for row, column in outside.nonzero().flip(0).tolist():  # the first column is kept
                self.reasons[start + row] = f"a value lies outside the support of column {support.values[column]}"

    def _leave_out(self, allow_zero: bool) -> None:
        rows = sorted(self.reasons)
        places = self.split.source_index(torch.tensor(rows[:NAMED_ROWS])).tolist()  # of a chunk's rows, in the file
        named = ", ".join(map(str, places)) + (", …" if len(rows) > NAMED_ROWS else "")
        message = f"{len(rows)} of {self.num_rows} rows have density zero (rows {named}): {self.reasons[rows[0]]}"
        if not allow_zero or len(rows) == self.num_rows:
            raise InputError(f"{message}; remove these rows")
        warnings.warn(f"{message}; their log p(x) is −∞", ZeroDensityWarning, stacklevel=4)
        is_kept = torch.ones(self.num_rows, dtype=torch.bool)
        is_kept[rows] = False
        self.kept = is_kept.nonzero()[:, 0]
        self.split = self.split.take(self.kept)
        self.rows = None if self.rows is None else self.rows[self.kept]
        if self.plates.num_rows is not None:
            raise InputError(f"{message}; remove these rows: this program runs for {self.plates.num_rows} rows only")
        self.first = self.batch(0, FIRST_ROWS)

    def restore(self, values: Tensor, zero: float = -math.inf) -> Tensor:
        """A number for each of the N rows, from those of the rows that were scored.

        Args:
            values: their numbers (n,).
            zero: the number of rows of density zero.

        Returns:
            The numbers (N,).
        """
        if not self.reasons:
            return values
        whole = torch.full((self.num_rows,), zero, dtype=values.dtype)
        whole[self.kept] = values
        return whole

    def batch(self, start: int, end: int) -> Batch:
        """Some of the rows, with their inputs.

        Args:
            start: the index of the first row.
            end: the index after the last row.

        Returns:
            The batch, on the program's device.
        """
        end = min(end, len(self.split))
        rows = None if self.rows is None else self.rows[start:end]
        x = self.split[start:end].to(self.device, self.dtype)
        return Batch.of(x, {"rows": rows, "num_rows": self.num_rows, **self.split.row_inputs(slice(start, end))})

    def batches(self, size: int) -> Iterator[Batch]:
        size = self.plates.num_rows or size
        for start in range(0, len(self.split), size):
            batch = self.batch(start, start + size)
            self.plates.check(batch.x, batch.mask)
            yield batch

    def map_batches(self, size: int, of_batch: Callable[[Batch], Result]) -> list[Result]:
        """A function's results for all batches, in order; several processes share the batches, and all get all results.

        The seed of a shared batch depends on the batch alone, so draws do not depend on the number of processes.

        Args:
            size: the number of rows of a batch.
            of_batch: the function.

        Returns:
            A list with a result for each batch.
        """
        if self.group.is_single:
            return [of_batch(batch) for batch in self.batches(size)]
        starts = range(0, len(self.split), self.plates.num_rows or min(size, MAX_SHARED_BATCH_SIZE))
        own: dict[int, Result] = {}
        for start in starts[self.group.rank :: self.group.size]:
            batch = self.batch(start, start + starts.step)
            self.plates.check(batch.x, batch.mask)
            set_rng_seed((self.seed * 1_000_003 + start) % 2**32)
            own[start] = of_batch(batch)
        results = {start: result for part in self.group.all_gather(own) for start, result in part.items()}
        return [results[start] for start in starts]

    def map_blocks(self, size: int, of_block: Callable[[int, Batch, Tensor], Result]) -> list[Result]:
        """A function's results for blocks of fixed size, in order; several processes share the blocks.

        A row is always at the same place of the same block, by its number among all N rows.

        Args:
            size: the number of rows of a block.
            of_block: the function, of the number of the block's first row, the rows that are to be scored, and their
                places in the block (n,); it seeds its own random numbers.

        Returns:
            A list with a result for each block.
        """
        starts = [start for start in range(0, self.num_rows, size) if len(self._in_block(start, size))]
        own = {}
        for start in starts[self.group.rank :: self.group.size]:
            index = self._in_block(start, size)
            batch = self.batch(int(index[0]), int(index[-1]) + 1)
            self.plates.check(batch.x, batch.mask)
            own[start] = of_block(start, batch, self.kept[index] - start)
        parts = [own] if self.group.is_single else self.group.all_gather(own)
        results = {start: result for part in parts for start, result in part.items()}
        return [results[start] for start in starts]

    def _in_block(self, start: int, size: int) -> Tensor:
        """The indices in `split` of the rows of a block."""
        return ((self.kept >= start) & (self.kept < start + size)).nonzero()[:, 0]

    @property
    def measure(self) -> str:
        return describe_measure(self.split, self.plates)


def rows_to_score(data: RowsGiven, rows: Tensor | None, labels: Tensor | None) -> tuple[Split, Tensor | None]:
    """The data as a split, and its rows' indices in the training set.

    Args:
        data: a data set, whose test rows are taken, a split, or rows (N, D).
        rows: indices in the training set (N,); by default those of a training split.
        labels: labels (N,) in place of the split's own.

    Returns:
        The split, and the indices; None for rows held out.
    """
    split = as_split(data, "test")
    if labels is not None:
        split = split.with_fields(labels=labels)
    if rows is None and split.name == "train":
        rows = torch.arange(len(split))
    for name, value in {"labels": split.labels, "rows": rows}.items():
        if value is not None and len(value) != len(split):
            raise InputError(f"expected one for each of the {len(split)} rows of x, got {len(value)} {name}")
    return split, rows


def describe_measure(split: Split, plates: PlateStructure) -> str:
    """The measure in words, from the data and the likelihood's support.

    Args:
        split: the rows.
        plates: the plates of the program that scores them.

    Returns:
        A phrase.
    """
    if plates.relaxed:
        return "relaxed Bernoulli on grey levels: not a density"
    if split.measure.binarize != "none" and plates.support is not None and not plates.support.is_discrete:
        only = "at values that are only 0 and 1: no probability of pictures"
        return f"Lebesgue measure on R^{split.shape[1]} {only}{split.measure.given_words}"
    if split.measure.binarize != "none" or split.measure.scale:
        return split.measure_name
    suffix = split.measure.given_words + ("" if split.mask is None else OBSERVED_ONLY)
    counted = [(words, size) for words, size in plates.values if words and size]
    num_continuous = sum(size for words, size in plates.values if not words)
    if not counted:
        return split.measure_name
    sizes: dict[str, int] = {}
    for words, size in counted:
        sizes[words] = sizes.get(words, 0) + size
    named = " × ".join(f"{{{words}}}^{size}" for words, size in sizes.items())
    real = f" and Lebesgue measure on R^{num_continuous}" if num_continuous else ""
    return f"{'product of ' if real else ''}counting measure on {named}{real}{suffix}"
