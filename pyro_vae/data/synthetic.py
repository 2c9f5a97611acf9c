"""Synthetic data of any size, seeded: points in the plane and in space, and a mixture of normals."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.split_rows import train_valid_test_split
from pyro_vae.data.table import Table

NUM_ROWS = 5000  # of a data set with a name
SEVEN_WEIGHTS = (0.10, 0.18, 0.14, 0.20, 0.12, 0.16, 0.10)
SEVEN_MEANS = (-9.0, -6.0, -3.2, 0.0, 2.6, 5.5, 9.0)
SEVEN_SCALES = (0.7, 0.9, 0.5, 0.8, 0.5, 1.0, 0.6)


def swiss_roll(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """The Swiss roll, (N, 3); the label is the quarter of the sheet, along the roll, that a point lies in.

    Args:
        num_rows: N.
        seed: the seed of the draws.

    Returns:
        The points and their labels (N,).
    """
    from sklearn.datasets import make_swiss_roll

    x, position = make_swiss_roll(num_rows, noise=0.3, random_state=seed)
    rank = np.argsort(np.argsort(position))
    return torch.from_numpy(x).float(), torch.from_numpy(rank * 4 // num_rows)


def two_moons(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles, (N, 2); the label is the moon.

    Args:
        num_rows: N.
        seed: the seed of the draws.

    Returns:
        The points and their labels (N,).
    """
    from sklearn.datasets import make_moons

    x, moon = make_moons(num_rows, noise=0.1, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(moon)


def pinwheel(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Five bent arms around the origin, (N, 2), after Johnson et al. (arXiv:1603.06277); the label is the arm.

    Args:
        num_rows: N.
        seed: the seed of the draws.

    Returns:
        The points and their labels (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    arm = torch.randint(0, 5, (num_rows,), generator=generator)
    radius = 1.0 + 0.3 * torch.randn(num_rows, generator=generator)
    offset = 0.05 * torch.randn(num_rows, generator=generator)
    angle = 2 * math.pi * arm / 5 + 0.25 * torch.exp(radius)
    radial, tangential = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1)
    return 2 * (radius[:, None] * radial + offset[:, None] * tangential), arm


def seven_normals(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """A one-dimensional mixture of seven normals, (N, 1); the label is the component.

    Args:
        num_rows: N.
        seed: the seed of the draws.

    Returns:
        The points and their labels (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    component = torch.multinomial(torch.tensor(SEVEN_WEIGHTS), num_rows, replacement=True, generator=generator)
    noise = torch.randn(num_rows, generator=generator)
    return (torch.tensor(SEVEN_MEANS)[component] + torch.tensor(SEVEN_SCALES)[component] * noise)[:, None], component


GENERATORS: dict[str, Callable[[int, int], tuple[Tensor, Tensor]]] = {
    "swiss-roll": swiss_roll,
    "two-moons": two_moons,
    "pinwheel": pinwheel,
    "seven-normals": seven_normals,
}


def synthetic_dataset(root: str | Path | None, seed: int, name: str) -> list[Table[Tensor]]:
    """A synthetic data set of 4,000 training, 500 validation and 500 test rows.

    Args:
        root: not used.
        seed: the seed of the draws and of the order of rows.
        name: its name, a key of `GENERATORS`.

    Returns:
        The training, validation and test tables.
    """
    num_held_out = NUM_ROWS // 10
    return train_valid_test_split(Table(*GENERATORS[name](NUM_ROWS, seed)), seed, num_held_out, num_held_out)
