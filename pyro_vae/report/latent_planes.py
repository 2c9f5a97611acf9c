"""Planes through a latent space: which are shown, the points they go through, and the latents on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.data.label_text import label_text
from pyro_vae.typing import RowLatents

MARGIN = 1.08  # around the rows


@dataclass(frozen=True)
class Plane:
    """Two directions of the latent space, or one: where z (N, K) lies is `(z - origin) @ directions`, (N, 1 or 2).

    `low` and `high` bound what is shown; `names` are the axes'. A unit is as long across as up.
    """

    name: str
    names: tuple[str, ...]
    origin: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor

    def at(self, z: RowLatents) -> Tensor:
        return (z - self.origin) @ self.directions

    def grid(self, base: Tensor, size: int, shift: float = 0.0) -> Tensor:
        """Latents on the plane, left to right, then top to bottom.

        Args:
            base: the point (K,) that the plane goes through.
            size: the points along each side.
            shift: the share of a cell by which all points are moved.

        Returns:
            The latents (size^n, K).
        """
        steps = torch.linspace(0, 1, size, dtype=base.dtype) + shift / (size - 1)
        sides = [low + (high - low) * steps for low, high in zip(self.low, self.high, strict=True)]
        if len(sides) == 1:
            points = sides[0][:, None]
        else:
            up, across = torch.meshgrid(sides[1].flip(0), sides[0], indexing="ij")
            points = torch.stack([across, up], -1).reshape(-1, 2)
        return base + (points - self.at(base[None])) @ self.directions.T


@dataclass(frozen=True)
class BasePoint:
    """A point that a plane goes through: a row's posterior mean, or (`row` None) the mean of all; `z` (K,)."""

    name: str
    row: int | None
    z: Tensor


def latent_planes(means: RowLatents) -> list[Plane]:
    """The whole space of one or two latents; above, planes of principal directions and of the most varying latents."""
    K = means.shape[1]
    axes, names = torch.eye(K, dtype=means.dtype), [f"z{_subscript(k + 1)}" for k in range(K)]
    if K <= 2:
        return [_plane(means, torch.zeros_like(axes[0]), axes, tuple(names), "all of the latent space")]
    centre = means.mean(0)
    directions = _principal(means)
    order = means.var(0).argsort(descending=True).tolist()
    planes = []
    for a, b in ((0, 1), (2, 3) if K > 3 else (0, 2)):
        named = (f"direction {a + 1}", f"direction {b + 1}")
        planes.append(_plane(means, centre, directions[:, [a, b]], named, f"principal directions {a + 1} and {b + 1}"))
    for a, b in ((0, 1), (2, 3) if K > 3 else (0, 2)):
        a, b = sorted((order[a], order[b]))
        named = (names[a], names[b])
        planes.append(
            _plane(means, torch.zeros_like(centre), axes[:, [a, b]], named, f"dimensions {named[0]} and {named[1]}")
        )
    return planes


def _plane(means: RowLatents, origin: Tensor, directions: Tensor, names: tuple[str, ...], name: str) -> Plane:
    points = (means - origin) @ directions
    low, high = points.min(0).values, points.max(0).values
    share = points.var(0).sum() / means.var(0).sum().clamp(min=1e-12)
    name += "" if means.shape[1] <= 2 else f", {share:.0%} of the variance"
    half = ((high - low).max() / 2 * MARGIN).clamp(min=1e-3)
    return Plane(name, names, origin, directions, (low + high) / 2 - half, (low + high) / 2 + half)


def _principal(means: RowLatents) -> Tensor:
    """Directions (K, K) as columns, that of the largest variance first."""
    away = means - means.mean(0)
    return torch.linalg.eigh(away.T @ away)[1].flip(1)


def _subscript(number: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(number))


def base_points(means: RowLatents, labels: Tensor | None, label_levels: Sequence[str] = ()) -> list[BasePoint]:
    """The points that planes go through above two dimensions: the mean, and one row of each label or five rows.

    Args:
        means: posterior means (N, K).
        labels: the rows' labels (N,).
        label_levels: the text of labels 0, 1, …; empty for labels that are numbers.

    Returns:
        The points.
    """
    mean = means.mean(0)
    everything = BasePoint("the mean of all rows", None, mean)
    if means.shape[1] <= 2:
        return [everything]
    kinds = [] if labels is None else labels.unique().tolist()
    if 1 < len(kinds) <= 10 and labels is not None:
        rows = {f"label {label_text(kind, label_levels)}": _most_central(means, labels == kind) for kind in kinds}
    else:
        along = (means - mean) @ _principal(means)[:, 0]
        order, last = along.argsort().tolist(), len(means) - 1
        rows = {f"row {order[round(last * q)]}": order[round(last * q)] for q in (0.1, 0.3, 0.5, 0.7, 0.9)}
    return [everything, *(BasePoint(name, row, means[row]) for name, row in rows.items())]


def _most_central(means: RowLatents, chosen: Tensor) -> int:
    away = (means - means[chosen].mean(0)).square().sum(1)
    return int(torch.where(chosen, away, torch.inf).argmin())
