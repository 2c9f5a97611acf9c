"""The choice of a reference measure from the training values."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.image_shapes import is_colour
from pyro_vae.data.reference_measure import Measure
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError

ROUNDING = 16 * torch.finfo(torch.float64).eps
MAX_COUNT = 1000  # years, codes and time stamps are whole numbers too


def measure_of_table(
    table: Table[Values],
    levels: int | None,
    binarize: str | None,
    dequantize: bool,
    standardize: bool | None,
    others: Sequence[Table[Values]] = (),
) -> tuple[Measure, Schema]:
    """The measure of the training table, and its schema, with shifts and scales where columns have kinds.

    Raises `InputError` for options that the values, their kinds or the other options rule out.

    Args:
        table: the training rows as read.
        levels: the largest value of a pixel, or None for a table.
        binarize: how pixels become 0 or 1; None: chosen by the values.
        dequantize: whether uniform noise is added to integers.
        standardize: whether columns are standardized; None: chosen by the values.
        others: the validation and test rows: where they are no counts, the training rows are not taken for counts.

    Returns:
        The measure, and the schema.
    """
    values, schema = table.values, table.schema
    if schema.coding == "columns" and isinstance(values, Tensor):
        if dequantize or standardize is not None or binarize not in (None, "none"):
            raise InputError(
                "columns with kinds are prepared by their kinds: leave binarize, dequantize and standardize out, or "
                "choose coding='one-hot' (--coding one-hot)"
            )
        return measure_of_columns(schema, values, [each.values for each in others if isinstance(each.values, Tensor)])
    standardize = False if table.holds_counts and standardize is None else standardize
    if standardize is None and levels is None and binarize in (None, "none") and not dequantize and are_counts(values):
        standardize = None if all(are_whole_from_zero(other.values) for other in others) else True
    kinds = schema.is_coded, is_colour(table.image_shape)
    return infer_measure(values, levels, binarize, dequantize, standardize, *kinds), schema


def infer_measure(
    values: Values,
    levels: int | None,
    binarize: str | None,
    dequantize: bool,
    standardize: bool | None,
    coded: bool = False,
    in_colour: bool = False,
) -> Measure:
    """The measure of training values (N, D); options that are None are chosen by the values.

    By default grey images are binarized, images in colour and counts left unchanged, tables of real numbers
    standardized. Raises `InputError` for options that the values or the other options rule out.

    Args:
        values: the training values (N, D), as stored.
        levels: the largest value of a pixel, or None for a table.
        binarize: how pixels become 0 or 1, or None.
        dequantize: whether uniform noise is added to integers.
        standardize: whether columns are standardized, or None.
        coded: whether some columns are codes of categories or dates; then columns are standardized by default.
        in_colour: whether rows are images in colour.

    Returns:
        The measure.
    """
    if coded and (dequantize or binarize not in (None, "none")):
        raise InputError("some columns are codes of categories or dates: they can be neither binarized nor dequantized")
    binarize = "none" if coded else binarize
    standardize = True if coded and standardize is None else standardize
    observed = observed_values(values)
    if binarize is None:
        is_binary = bool(((observed == 0) | (observed == 1)).all())
        is_kept = levels is None or dequantize or standardize or (in_colour and not is_binary)
        binarize = "none" if is_kept else "fixed" if is_binary else "stochastic"
    if binarize != "none" and levels is None:
        levels = 255 if values.dtype == torch.uint8 else _unit_levels(observed, binarize)
    if dequantize and not bool((observed == observed.round()).all()):
        raise InputError("dequantize adds noise to integers, but the values are not whole numbers; leave it out")
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    if standardize or (standardize is None and binarize == "none" and levels is None and not are_counts(values)):
        mean, deviation, largest = _column_moments(values, levels)
        if len(wrong := (~(mean.isfinite() & deviation.isfinite())).nonzero()[:, 0]):
            raise InputError(
                f"column {int(wrong[0])} (counting from 0) has values too large to standardize, up to "
                f"{float(largest[wrong[0]]):g}; correct them, leave them empty where they mark missing ones, or rescale"
            )
        shift = tuple(mean.tolist())
        varies = deviation > ROUNDING * largest  # rounding gives a constant column a deviation above 0
        scale = tuple(torch.where(varies, deviation, torch.ones_like(deviation)).tolist())
    return Measure(levels, binarize, dequantize, shift, scale, coded=coded).check()


def measure_of_columns(schema: Schema, values: Tensor, others: Sequence[Tensor] = ()) -> tuple[Measure, Schema]:
    """The measure of columns with kinds, from their training values, and the schema with their shifts and scales.

    Real numbers and dates are standardized, positive ones divided by their geometric mean, shares brought to (0, 1),
    whole numbers standardized in steps; counts and levels stay as they are.

    Args:
        schema: the columns.
        values: the training values (N, D), NaN where one is missing.
        others: those of validation and test rows: whether shares reach their ends.

    Returns:
        The measure, and the schema.
    """
    found = {
        column.name: _with_scale(column, values[:, i], [other[:, i] for other in others])
        for i, column in enumerate(schema.modelled)
    }
    schema = replace(schema, columns=tuple(found.get(column.name, column) for column in schema.columns))
    return product_measure(schema), schema


def product_measure(schema: Schema) -> Measure:
    """The measure of columns with kinds by the shifts and scales that they have.

    Args:
        schema: the columns.

    Returns:
        The measure.
    """
    columns = schema.modelled
    scaled = [(0.0, 1.0) if column.has_zeros else (column.shift, column.scale) for column in columns]
    shift, scale = zip(*scaled, strict=True)
    counted = tuple(column.is_counted for column in columns)
    num_with_zeros = sum(column.has_zeros for column in columns)
    return Measure(shift=shift, scale=scale, counted=counted, num_with_zeros=num_with_zeros)


def _with_scale(column: Column, values: Tensor, others: Sequence[Tensor]) -> Column:
    """A column with the shift and scale of its training values (N,); `others` are those of validation and test rows."""
    known = values[~values.isnan()]
    if column.kind in ("real", "datetime", "integer"):
        mean, deviation, largest = (each.item() for each in _column_moments(known[:, None], None))
        scale = deviation if deviation > ROUNDING * largest else 1.0
        return replace(column, shift=round(mean) if column.kind == "integer" else mean, scale=scale)
    if column.kind == "positive":
        return replace(column, scale=float(known[known > 0].log().mean().exp()))
    if column.kind == "bounded":
        low, high = min(0.0, float(known.min())), max(1.0, float(known.max()))
        last = high - torch.finfo(torch.float32).eps * (high - low)  # beyond it float32 knows the end only
        reaches_end = any(bool(((each <= low) | (each >= last)).any()) for each in (known, *others))
        margin = (high - low) / (2 * len(known)) if reaches_end else 0.0
        return replace(column, shift=low - margin, scale=high - low + 2 * margin)
    return column


def _unit_levels(observed: Tensor, binarize: str) -> int:
    """1, the largest value that is binarized; `InputError` unless all values are in [0, 1]."""
    low, high = observed.min().item(), observed.max().item()
    if low < 0 or high > 1:
        raise InputError(
            f"binarize={binarize!r} needs values in [0, 1], found {low:.3g} to {high:.3g}; leave it out, or rescale "
            "the columns"
        )
    return 1


def infer_levels(table: Table[Values]) -> int | None:
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


def observed_values(values: Values) -> Tensor:
    """The values that are not missing, flat where some are; of rows on disk or sparse their `representative_values`."""
    if not isinstance(values, Tensor):
        return values.representative_values
    missing = values.isnan() if values.is_floating_point() else None
    return values if missing is None or not missing.any() else values[~missing]


def are_counts(values: Values) -> bool:
    """Whether all values are whole numbers from 0 to at most 1000, and not all of them 0 or 1."""
    values = observed_values(values)
    return are_whole_from_zero(values) and 1 < float(values.max()) <= MAX_COUNT


def are_whole_from_zero(values: Values) -> bool:
    """Whether all values are whole numbers from 0."""
    values = observed_values(values)
    return bool((values >= 0).all() and (values == values.round()).all())


def _column_moments(values: Values, levels: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and largest magnitude of each column's observed values, (D,), in units of `levels`."""
    if not isinstance(values, Tensor):
        mean, deviation, largest = values.column_moments()
        return mean / (levels or 1), deviation / (levels or 1), largest / (levels or 1)
    x = values.double()
    if levels:
        x = x / levels
    mean, largest = x.nanmean(0), x.abs().nan_to_num(nan=0.0).amax(0)
    deviation = (x - mean).square().nanmean(0).sqrt()
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    in_units = ((x / unit) - (mean / unit)).square().nanmean(0).sqrt() * unit
    is_lost = (deviation == 0) | ~deviation.isfinite()  # squares of 1e-200 are 0, and of 1e200 infinite
    return mean, torch.where(is_lost, in_units, deviation), largest
