"""Conditions of training rows, kept in a run: at which new rows are drawn where none are given."""

from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.atomic_write import read_tensors, write_tensors
from pyro_vae.data import Split
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.run_folder import CONDITIONS

MAX_ROWS = 10_000


def write_conditions(folder: Path, train: Split) -> None:
    """Keep the conditions of some training rows, at most 10,000, if there are any.

    Args:
        folder: the run's folder.
        train: the training rows.
    """
    if GIVEN in train.inputs:
        write_tensors(folder / CONDITIONS, {GIVEN: some_conditions(train)})


def read_conditions(folder: Path) -> Tensor | None:
    """The conditions that a run has kept, (M, C); None where it has none."""
    return read_tensors(folder / CONDITIONS)[0][GIVEN] if (folder / CONDITIONS).exists() else None


def some_conditions(train: Split, seed: int = 0) -> Tensor:
    """The conditions of some training rows (M, C): by their weights where they have some, else each row once.

    Args:
        train: the training rows.
        seed: of the choice.

    Returns:
        The row input `given` of these rows.
    """
    generator = torch.Generator().manual_seed(seed)
    if train.weights is None:
        rows = torch.randperm(len(train), generator=generator)[:MAX_ROWS]
    else:
        rows = torch.multinomial(train.weights.double(), MAX_ROWS, replacement=True, generator=generator)
    return train.inputs[GIVEN][rows]
