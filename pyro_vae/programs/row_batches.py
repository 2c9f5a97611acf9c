"""Rows to be scored by a program: checked batches on its device, and the measure of their density."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.distributions import GreyLevels
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype
from pyro_vae.programs.plates import PlateStructure, find_plates, require_density
from pyro_vae.programs.row_inputs import Batch, require_mask
from pyro_vae.programs.traces import base_constraint
from pyro_vae.typing import Program

Result = TypeVar("Result")
MAX_SHARED_BATCH_SIZE = 128  # of the batches that several processes share


class ScoredRows:
    """Rows to be scored by a program: checked batches, with their inputs, on the program's device.

    To be created and used within `use_param_store(program)` and `evaluating(program)`.

    Args:
        program: any program that has a density.
        split: the rows, with labels and mask where they have them.
        rows: their indices in the training set (N,); None for rows held out.
        group: the processes that share the rows.
        seed: a seed of the random numbers of the batches that several processes share.
    """

    def __init__(
        self,
        program: Program,
        split: Split,
        rows: Tensor | None,
        group: ProcessGroup = SINGLE_PROCESS,
        seed: int | None = None,
    ) -> None:
        require_density(program)
        self.split, self.rows, self.group, self.seed = split, rows, group, seed or 0
        self.device, self.dtype = device_and_dtype(program, like=split[:1])
        require_mask(program, split.mask)
        self.first = self.batch(0, 8)
        self.plates: PlateStructure = find_plates(program, self.first)

    def batch(self, start: int, end: int) -> Batch:
        """Some of the rows, with their inputs.

        Args:
            start: the index of the first row.
            end: the index after the last row.

        Returns:
            The batch, on the program's device.
        """
        end = min(end, len(self.split))
        given = self.split.row_inputs(slice(start, end)) | ({} if self.rows is None else {"rows": self.rows[start:end]})
        rows, labels, mask = (
            None if given.get(name) is None else given[name].to(self.device) for name in ("rows", "labels", "mask")
        )
        return Batch(self.split[start:end].to(self.device, self.dtype), rows, labels, mask, len(self.split))

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self.split), size):
            batch = self.batch(start, start + size)
            self.plates.check(batch.x)
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
        starts = range(0, len(self.split), min(size, MAX_SHARED_BATCH_SIZE))
        own: dict[int, Result] = {}
        for start in starts[self.group.rank :: self.group.size]:
            batch = self.batch(start, start + starts.step)
            self.plates.check(batch.x)
            pyro.set_rng_seed((self.seed * 1_000_003 + start) % 2**32)
            own[start] = of_batch(batch)
        results = {start: result for part in self.group.all_gather(own) for start, result in part.items()}
        return [results[start] for start in starts]

    def map_blocks(self, size: int, of_block: Callable[[Batch, int], Result]) -> list[Result]:
        """A function's results for blocks of fixed size, in order; several processes share the blocks.

        Args:
            size: the number of rows of a block.
            of_block: the function, of a batch and the number of its first row; it seeds its own random numbers.

        Returns:
            A list with a result for each block.
        """
        starts = range(0, len(self.split), size)
        own = {
            start: of_block(self.batch(start, start + size), start)
            for start in starts[self.group.rank :: self.group.size]
        }
        parts = [own] if self.group.is_single else self.group.all_gather(own)
        results = {start: result for part in parts for start, result in part.items()}
        return [results[start] for start in starts]

    @property
    def measure(self) -> str:
        return describe_measure(self.split, self.plates)


def rows_to_score(
    data: Dataset | Split | Tensor, rows: Tensor | None, labels: Tensor | None
) -> tuple[Split, Tensor | None]:
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
        split = replace(split, labels=labels)
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
        return f"Lebesgue measure on R^{split.shape[1]} at values that are only 0 and 1: no probability of pictures"
    if split.measure.binarize == "none" and not split.measure.given and plates.support is not None:
        values = _integer_values(base_constraint(plates.support))
        suffix = "" if split.mask is None else ", observed values only"
        return f"counting measure on {{{values}}}^{split.shape[1]}{suffix}" if values else split.measure_name
    return split.measure_name


def _integer_values(support: Constraint) -> str:
    """The values of a discrete support in words, empty for a continuous one."""
    if isinstance(support, GreyLevels):
        return f"0, …, {support.levels}"
    if support is constraints.nonnegative_integer:
        return "0, 1, 2, …"
    if isinstance(support, constraints.integer_interval):
        return f"{support.lower_bound}, …, {support.upper_bound}"
    return ""
