"""Rows as figures show them: tables in their original units, images as pixels, columns by name."""

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.image_shapes import is_colour
from pyro_vae.data.infer_measure import observed_values
from pyro_vae.plots import style


def column_names(data: Dataset) -> list[str]:
    return list(data.columns) or [f"column {i + 1}" for i in range(data.num_features)]


def escaped_column_names(data: Dataset) -> list[str]:
    """The columns' names, escaped for matplotlib."""
    return [style.escape_mathtext(name) for name in column_names(data)]


def observed(split: Split, rows: Tensor) -> np.ndarray:
    """Rows of a table in its own units.

    Args:
        split: the table.
        rows: the rows' indices (n,).

    Returns:
        The values (n, D), NaN where one is missing.
    """
    values = split.measure.to_original_units(split[rows]).double()
    return (values if split.mask is None else torch.where(split.mask[rows], values, torch.nan)).numpy()


def spread(rows: Tensor) -> Tensor:
    """The standard deviation of each column's known values, (n, D) → (D,), exactly 0 where they are all the same."""
    seen = ~rows.isnan()
    varies = torch.where(seen, rows, -torch.inf).amax(0) > torch.where(seen, rows, torch.inf).amin(0)
    return torch.where(varies, (rows - rows.nanmean(0)).square().nanmean(0).sqrt(), 0.0)


def to_pixels(split: Split, x: Tensor, seen: Tensor | None = None) -> Tensor:
    """Images scaled over the split's range: grey ones from white to black, those in colour from dark to light.

    Args:
        split: the images' split.
        x: images as the model sees them (n, D).
        seen: which values were observed (n, D); the others are white.

    Returns:
        The images (n, D) from 0, white, to 1, black; in colour from 0, dark, to 1, light.
    """
    return _scale_to_unit(split, split.measure.to_original_units(x.cpu()), seen)


def stored_to_pixels(split: Split, rows: Tensor | slice = slice(None)) -> Tensor:
    """The split's rows as they were read, as pixels.

    Args:
        split: the images' split.
        rows: the rows' indices (n,); all of them by default.

    Returns:
        The images (n, D), as by `to_pixels`.
    """
    stored = split.stored[rows].double() / (split.measure.levels or 1)
    return _scale_to_unit(split, stored, ~stored.isnan())


def _scale_to_unit(split: Split, values: Tensor, seen: Tensor | None) -> Tensor:
    low, high = _range(split)
    found = ((values.double() - low) / (high - low)).clamp(0, 1)
    return found if seen is None else torch.where(seen, found, 1.0 if is_colour(split.image_shape) else 0.0)


def _range(split: Split) -> tuple[float, float]:
    """The ends of the scale: 0 and 1 for stored levels and values in [0, 1], else the lowest and the highest value."""
    if split.measure.levels or split.measure.binarize != "none":
        return 0.0, 1.0
    known = observed_values(split.stored)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return (0.0, 1.0) if 0 <= low <= high <= 1 or low == high else (low, high)
