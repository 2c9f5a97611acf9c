"""Which rows train, validate and test: at random, by a column that says so, or with groups kept together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.columns.column_values import is_missing
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

SPLITS = ("train", "valid", "test")
SPELLINGS = {
    "train": ("train", "training", "fit"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "testing", "holdout", "held-out", "heldout"),
}
Parts = tuple[Tensor, Tensor, Tensor]  # the row numbers of the training, validation and test rows


def random_parts(num_rows: int, seed: int, num_valid: int, num_test: int) -> Parts:
    """The rows in random order, in three parts.

    Args:
        num_rows: the number of rows.
        seed: the seed of the order.
        num_valid: the number of validation rows.
        num_test: the number of test rows.

    Returns:
        The row numbers of the training, validation and test rows.
    """
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    end = num_rows - num_valid - num_test
    return order[:end], order[end : end + num_valid], order[end + num_valid :]


def train_valid_test_split(table: Table[Tensor], seed: int, num_valid: int, num_test: int) -> list[Table[Tensor]]:
    """The rows of a table in random order, as three tables in memory.

    Args:
        table: the rows.
        seed: the seed of the order.
        num_valid: the number of validation rows.
        num_test: the number of test rows.

    Returns:
        The training, validation and test tables.
    """
    return [table.take(rows) for rows in random_parts(len(table.values), seed, num_valid, num_test)]


def parts_of_column(values: "pandas.Series[Any]", seed: int, source: str) -> tuple[Parts, tuple[str, ...]]:
    """The parts that a column names; validation or test rows that it does not name are taken from the training rows.

    Args:
        values: `train`, `valid` or `test` (or a usual spelling) for each row.
        seed: of the rows that are taken.
        source: where they come from, for messages.

    Returns:
        The row numbers of each part, and what was decided; `InputError` for another value, or without training rows.
    """
    names = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
    cells = ["" if is_missing(cell) else str(cell).strip().lower() for cell in values]
    if wrong := [i for i, cell in enumerate(cells) if cell not in names]:
        row = wrong[0]
        raise InputError(
            f"{source}: {values.name} is {values.iloc[row]!r} in row {row} (counting from 0); a column of splits holds "
            f"{', '.join(SPLITS)}"
        )
    found = np.array([names[cell] for cell in cells], dtype=object)
    return complete_parts([torch.from_numpy(np.flatnonzero(found == name)) for name in SPLITS], seed, source)


def complete_parts(parts: Sequence[Tensor], seed: int, source: str) -> tuple[Parts, tuple[str, ...]]:
    """Three parts, those without rows taken at random from the training rows, a tenth each.

    Args:
        parts: the row numbers of the training, validation and test rows.
        seed: of the rows that are taken.
        source: where they come from, for messages.

    Returns:
        The parts, and what was decided.
    """
    train, *others = parts
    if not len(train):
        raise InputError(f"{source}: no training rows; name some of them train")
    generator, notes, tenth = torch.Generator().manual_seed(seed), [], max(1, len(train) // 10)
    for i, name in enumerate(SPLITS[1:]):
        if not len(others[i]):
            order = torch.randperm(len(train), generator=generator)
            others[i], train = train[order[:tenth]], train[order[tenth:]].sort().values
            notes.append(f"no rows for {name}: {tenth} of the training rows taken")
    return (train, others[0], others[1]), tuple(notes)


def parts_of_groups(values: "pandas.Series[Any]", seed: int, source: str) -> Parts:
    """Random parts in which the rows of a group stay together; the rows of no group are groups of their own.

    Args:
        values: the group of each row.
        seed: of the order of groups.
        source: where they come from, for messages.

    Returns:
        The row numbers of the parts: validation and test have a tenth of the rows each, or the next whole group.
    """
    import pandas

    codes, _ = pandas.factorize(values)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
    sizes = np.bincount(codes)
    if len(sizes) < len(SPLITS):
        raise InputError(
            f"{source}: {values.name} has {len(sizes)} groups; three or more are needed to split by groups"
        )
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).numpy()
    quota, part_of = max(1, len(codes) // 10), np.zeros(len(sizes), dtype=int)
    before = np.concatenate([[0], sizes[order].cumsum()])  # the rows of the groups that come earlier
    num_test = int((before[:-1] < quota).sum())
    num_valid = int((before[num_test:-1] - before[num_test] < quota).sum())
    part_of[order[:num_test]], part_of[order[num_test : num_test + num_valid]] = 2, 1
    rows = part_of[codes]
    if not (rows == 0).any():
        raise InputError(f"{source}: the groups of {values.name} are too large to leave rows for training")
    train, valid, test = (torch.from_numpy(np.flatnonzero(rows == part)) for part in range(3))
    return train, valid, test
