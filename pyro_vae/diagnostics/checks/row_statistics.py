"""Statistics of rows in their original units, for many sets of rows at once: of columns, of pairs, of one's own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.columns import Column
from pyro_vae.data.columns.column import WITH_LEVELS
from pyro_vae.data.image_shapes import ImageShape
from pyro_vae.data.ondisk.rows_on_disk import Array

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_WIDTH = 200  # columns; of wider rows the means and standard deviations are compared, and no pairs
MAX_PAIRED = 150  # numbers and levels whose correlations are compared
KNOTS = 101  # of the transform to normal scores
MATTERS_SD = 0.2  # of means and quantiles, in standard deviations of the column (Cohen's "small" effect)
MATTERS_RATIO = 0.2  # of a standard deviation, relative
MATTERS_SHARE = 0.05
MATTERS_PIXEL = 0.1  # of the range of a pixel
MATTERS_CORRELATION = 0.1
MATTERS_EXTREME = 1.0  # standard deviations


@dataclass(frozen=True)
class Statistic:
    """A number that a set of rows has: its name in words, its unit, and how large a difference matters, in it."""

    name: str
    matters: float
    unit: str = ""
    resolution: float = 0.0  # the smallest difference that two sets can have


@runtime_checkable
class RowStatistics(Protocol):
    """S statistics of each set of rows, (R, n, D) in original units with NaN where a value is missing: (R, S)."""

    @property
    def statistics(self) -> Sequence[Statistic]: ...

    def __call__(self, rows: Array) -> Array: ...


@dataclass(frozen=True)
class RowColumns:
    """What is known of the columns of rows: their names, which have levels, and the scale of each number.

    Attributes:
        names: of the columns (D).
        levels: the text of the levels by column number, of those that have some.
        scale: standard deviations of the training rows (D), original units; 1 where a column does not vary.
        knots: quantiles of the training rows (KNOTS, D), for the transform to normal scores.
        span: the range of all values of the training rows.
        image_shape: the shape of the pictures, where rows are pictures.
        decimals: the number of decimals of all training values by column number, where there is one.
    """

    names: tuple[str, ...]
    levels: Mapping[int, tuple[str, ...]]
    scale: Array
    knots: Array
    span: float = 1.0
    image_shape: ImageShape | None = None
    decimals: Mapping[int, int] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        """The columns of numbers."""
        return [number for number in range(len(self.names)) if number not in self.levels]


def original_values(split: Split, x: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> Array:
    """Rows in their original units, (n, D) float64, NaN where a value is missing.

    Args:
        split: rows whose measure counts.
        x: the rows, as a program sees them; by default the split's own.
        mask: which of their values count; by default the split's own.

    Returns:
        The values; columns with levels as codes.
    """
    mask = split.mask if x is None else mask
    values = split.measure.to_original_units(split.x if x is None else x.cpu()).double().numpy()
    return values if mask is None else np.where(mask.cpu().numpy(), values, np.nan)


def describe_columns(training: Split, columns: Sequence[Column], names: Sequence[str] = ()) -> RowColumns:
    """The columns of a data set, with scales and quantiles of its training rows.

    Args:
        training: the training rows, or the first so many.
        columns: those that are modelled, with their kinds; empty for rows without.
        names: the names of the values of a row, where they have some.

    Returns:
        The columns.
    """
    values = original_values(training)
    width = values.shape[1]
    kinds = columns if len(columns) == width and not training.measure.coded else ()
    if len(names) != width:
        names = [column.name for column in kinds] or _numbered(width, training.image_shape)
    levels = {i: tuple(map(str, each.levels)) for i, each in enumerate(kinds) if each.kind in WITH_LEVELS}
    with np.errstate(all="ignore"):
        scale = np.nanstd(values, axis=0)
        knots = np.nanquantile(values, np.linspace(0, 1, KNOTS), axis=0) if width <= MAX_WIDTH else np.zeros((0, width))
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    span = float(np.nanmax(values) - np.nanmin(values))
    span = span if math.isfinite(span) and span > 0 else 1.0
    decimals = {i: each.decimals for i, each in enumerate(kinds) if each.decimals is not None and i not in levels}
    return RowColumns(tuple(names), levels, scale, knots, span, training.image_shape, decimals)


def _numbered(width: int, shape: ImageShape | None) -> tuple[str, ...]:
    """Names of columns without any: x1, x2, …, or of a pixel its place from the upper left corner."""
    if shape is None:
        return tuple(f"x{i + 1}" for i in range(width))
    places = np.stack(np.unravel_index(np.arange(width), shape), 1).tolist()
    return tuple(f"pixel ({', '.join(map(str, place))})" for place in places)


class ColumnStatistics:
    """Mean, standard deviation, share of zeros, quantiles and extremes of each column; shares of levels.

    Of pictures, the mean of each pixel; of rows wider than 200, mean and standard deviation of each column.

    Args:
        columns: the columns.
        num_rows: the number n of rows of a set.
    """

    def __init__(self, columns: RowColumns, num_rows: int) -> None:
        self.columns, self.statistics = columns, list[Statistic]()
        self.numbers, share = columns.numbers, 1 / num_rows
        self.is_picture = columns.image_shape is not None
        self.is_wide = len(columns.names) > MAX_WIDTH
        span = columns.span if self.is_picture else 0.0
        for i in self.numbers:
            name, scale = columns.names[i], float(columns.scale[i])
            if self.is_picture:  # a pixel that is on in one more picture is one standard error off at least
                self._add(f"mean of {name}", MATTERS_PIXEL * span, span * share)
                continue
            self._add(f"mean of {name}", MATTERS_SD * scale, 1e-6 * scale)
            self._add(f"standard deviation of {name}", MATTERS_RATIO * scale, 1e-6 * scale)
            if self.is_wide:
                continue
            self._add(f"share of zeros in {name}", MATTERS_SHARE, share)
            for q in QUANTILES:
                words = "median" if q == 0.5 else f"{q:.0%} quantile"
                self._add(f"{words} of {name}", MATTERS_SD * scale, 1e-6 * scale)
            self._add(f"minimum of {name}", MATTERS_EXTREME * scale, 1e-6 * scale)
            self._add(f"maximum of {name}", MATTERS_EXTREME * scale, 1e-6 * scale)
        for i, levels in columns.levels.items():
            for level in levels:
                self._add(f"share of {columns.names[i]} = {level}", MATTERS_SHARE, share)

    def _add(self, name: str, matters: float, resolution: float) -> None:
        self.statistics.append(Statistic(name, matters, resolution=resolution))

    def __call__(self, rows: Array) -> Array:
        """The statistics of each set.

        Args:
            rows: sets of rows (R, n, D).

        Returns:
            The values (R, S).
        """
        numbers = rows[..., self.numbers]
        count = np.maximum((~np.isnan(numbers)).sum(1), 1)  # (R, d)
        mean = np.nansum(numbers, 1) / count
        parts = [mean]
        if not self.is_picture:
            centred = numbers - mean[:, None]
            parts.append(np.sqrt(np.nansum(centred**2, 1) / count))
        if not (self.is_picture or self.is_wide):
            parts += [(numbers == 0).sum(1) / count, *_quantiles(numbers, count)]
        found = np.stack(parts, -1).reshape(len(rows), -1)  # column by column, as the names are
        shares = [self._shares(rows[..., i], len(levels)) for i, levels in self.columns.levels.items()]
        return np.concatenate([found, *shares], 1)

    @staticmethod
    def _shares(codes: Array, num_levels: int) -> Array:
        known = np.maximum((~np.isnan(codes)).sum(1), 1)
        return np.stack([(codes == level).sum(1) / known for level in range(num_levels)], 1)


def _quantiles(numbers: Array, count: Array) -> list[Array]:
    """The quantiles, the minimum and the maximum of each column, (R, d) each; NaN are left out."""
    ordered = np.sort(numbers, axis=1)  # NaN last
    found = []
    for q in (*QUANTILES, 0.0, 1.0):
        place = q * (count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        first, second = (np.take_along_axis(ordered, each[:, None], 1)[:, 0] for each in (low, high))
        found.append(np.nan_to_num(first + (place - low) * (second - first)))
    return found


class PairStatistics:
    """Correlations of each pair of columns: of normal scores of numbers, and of the indicators of levels.

    Numbers become normal scores by the quantiles of the training rows, so that neither units nor tails count.

    Args:
        columns: the columns.
        num_rows: the number n of rows of a set; half of 1 / √n is taken for the smallest standard error, or
            levels that replicates hardly have would hide the other pairs.
    """

    def __init__(self, columns: RowColumns, num_rows: int) -> None:
        self.columns = columns
        resolution = 0.5 / math.sqrt(num_rows)
        names, self.owner = [], list[int]()
        for i in columns.numbers:
            names.append(columns.names[i])
            self.owner.append(i)
        for i, levels in columns.levels.items():
            for level in levels[1:] if len(levels) == 2 else levels:  # one of two says all
                names.append(f"{columns.names[i]} = {level}")
                self.owner.append(i)
        first, second = np.triu_indices(len(names), 1)
        is_pair = np.asarray(self.owner)[first] != np.asarray(self.owner)[second]
        self.first, self.second = first[is_pair], second[is_pair]
        self.statistics = [
            Statistic(f"correlation of {names[i]} and {names[j]}", MATTERS_CORRELATION, resolution=resolution)
            for i, j in zip(self.first, self.second, strict=True)
        ]

    def __call__(self, rows: Array) -> Array:
        """The correlations of each set; missing values are left out, of pairs with their row.

        Args:
            rows: sets of rows (R, n, D).

        Returns:
            The correlations (R, S); 0 where a column does not vary.
        """
        scores = np.concatenate([normal_scores(rows, self.columns), self._indicators(rows)], -1)
        is_known = ~np.isnan(scores)
        count = np.maximum(is_known.sum(1, keepdims=True), 1)
        centred = np.where(is_known, scores - np.nansum(scores, 1, keepdims=True) / count, 0.0)
        known = is_known.astype(float)
        products = np.matmul(centred.transpose(0, 2, 1), centred)
        squares = np.matmul((centred**2).transpose(0, 2, 1), known)  # of the first, where both are known
        norm = np.sqrt(squares * squares.transpose(0, 2, 1))
        correlations = np.divide(products, norm, out=np.zeros_like(products), where=norm > 1e-12)
        return np.asarray(correlations[:, self.first, self.second])

    def _indicators(self, rows: Array) -> Array:
        parts = []
        for i, levels in self.columns.levels.items():
            codes = rows[..., i]
            for level in range(1 if len(levels) == 2 else 0, len(levels)):
                parts.append(np.where(np.isnan(codes), np.nan, codes == level))
        return np.stack(parts, -1) if parts else np.zeros((*rows.shape[:2], 0))


def normal_scores(rows: Array, columns: RowColumns) -> Array:
    """The columns of numbers as normal scores by the quantiles of the training rows, (…, d), NaN where missing.

    Beyond the training rows' extremes the scores grow with the logarithm of the distance, so that nothing is cut off.

    Args:
        rows: rows (…, D) in original units.
        columns: the columns.

    Returns:
        The scores.
    """
    from scipy.special import ndtri

    grid = ndtri((np.arange(KNOTS) + 0.5) / KNOTS)
    parts = []
    for i in columns.numbers:
        knots, scale = columns.knots[:, i], columns.scale[i]
        places, index = np.unique(knots, return_index=True)
        heights = np.asarray([grid[knots == place].mean() for place in places]) if len(index) < KNOTS else grid
        values = rows[..., i]
        scores = np.interp(values, places, heights)
        scores += np.log1p(np.maximum(values - places[-1], 0) / scale)
        scores -= np.log1p(np.maximum(places[0] - values, 0) / scale)
        parts.append(scores)
    return np.stack(parts, -1) if parts else np.zeros((*rows.shape[:-1], 0))
