"""The measure that suits a data set's values, where options leave it open."""

import torch
from torch import Tensor

from pyro_vae.data.ondisk.column_statistics import column_moments
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.data.read_files import Table
from pyro_vae.data.reference_measure import Measure
from pyro_vae.errors import InputError

MAX_COUNT = 1000  # years, codes and time stamps are whole numbers too


def infer_measure(
    values: Tensor | RowsOnDisk, levels: int | None, binarize: str | None, dequantize: bool, standardize: bool | None
) -> Measure:
    """The measure of training values (N, D); options that are None are chosen by the values.

    By default images are binarized, tables of real numbers standardized, counts left unchanged. Raises `InputError`
    for options that the values or the other options rule out.
    """
    observed = observed_values(values)
    if binarize is None:
        is_binary = bool(((observed == 0) | (observed == 1)).all())
        binarize = "none" if levels is None or dequantize or standardize else "fixed" if is_binary else "stochastic"
    if binarize != "none" and levels is None:
        levels = 255 if values.dtype == torch.uint8 else _unit_levels(observed, binarize)
    if dequantize and not bool((observed == observed.round()).all()):
        raise InputError("dequantize adds noise to integers, but the values are not whole numbers; leave it out")
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    if standardize or (standardize is None and binarize == "none" and levels is None and not are_counts(values)):
        mean, deviation, largest = _column_moments(values, levels)
        shift = tuple(mean.tolist())
        varies = deviation > 1e-12 * largest  # rounding gives a constant column a deviation above 0
        scale = tuple(torch.where(varies, deviation, torch.ones_like(deviation)).tolist())
    return Measure(levels, binarize, dequantize, shift, scale).check()  # type: ignore[arg-type]


def _unit_levels(observed: Tensor, binarize: str) -> int:
    """1, the largest value that is binarized; `InputError` unless all values are in [0, 1]."""
    low, high = observed.min().item(), observed.max().item()
    if low < 0 or high > 1:
        raise InputError(
            f"binarize={binarize!r} needs values in [0, 1], found {low:.3g} to {high:.3g}; leave it out, or rescale "
            "the columns"
        )
    return 1


def infer_levels(table: Table) -> int | None:
    """The largest value that a pixel can have: 255 for 8-bit images, 1 for float images and for values all 0 or 1.

    None where the rows are a table.
    """
    values = observed_values(table.values)
    if not len(values):
        return None
    if bool(((values == 0) | (values == 1)).all()):
        return 1
    if values.dtype == torch.uint8 and table.image_shape:
        return 255
    if table.image_shape and bool(((values >= 0) & (values <= 255) & (values == values.round())).all()):
        return 255
    in_unit_interval = bool((values.min() >= 0) & (values.max() <= 1))
    return 1 if table.image_shape and in_unit_interval else None


def observed_values(values: Tensor | RowsOnDisk) -> Tensor:
    """The values that are not missing, flat where some are; of rows on disk their `representative_values`."""
    if isinstance(values, RowsOnDisk):
        return values.representative_values
    missing = values.isnan() if values.is_floating_point() else None
    return values if missing is None or not missing.any() else values[~missing]


def are_counts(values: Tensor | RowsOnDisk) -> bool:
    """Whether all values are whole numbers from 0 to at most 1000, and not all of them 0 or 1."""
    values = observed_values(values)
    return bool((values >= 0).all() and 1 < values.max() <= MAX_COUNT and (values == values.round()).all())


def _column_moments(values: Tensor | RowsOnDisk, levels: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and largest magnitude of each column's observed values, (D,), in units of `levels`."""
    if isinstance(values, RowsOnDisk):
        mean, deviation, largest = column_moments(values)
        return mean / (levels or 1), deviation / (levels or 1), largest / (levels or 1)
    x = values.double()
    if levels:
        x = x / levels
    mean = x.nanmean(0)
    return mean, (x - mean).square().nanmean(0).sqrt(), x.abs().nan_to_num(nan=0.0).amax(0)
