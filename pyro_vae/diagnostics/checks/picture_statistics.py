"""Statistics of sets of pictures: brightness, contrast and connected strokes."""

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.row_statistics import RowColumns, Statistic

MAX_PICTURES = 200  # whose strokes are counted
MATTERS_BRIGHTNESS = 0.02  # of the range of a pixel


class PictureStatistics:
    """The brightness of pictures, and the number of their connected strokes, over the pictures of a set.

    A stroke is a set of pixels above half of the range that touch each other, corners included; those of colours are
    counted in their mean.

    Args:
        columns: the columns, of pictures.
        span: the smallest and the largest value of a pixel.
    """

    def __init__(self, columns: RowColumns, span: tuple[float, float]) -> None:
        shape = columns.image_shape
        assert shape is not None
        self.shape, (self.low, self.high) = shape, span
        self.statistics = [
            Statistic("mean brightness", MATTERS_BRIGHTNESS, "of the range"),
            Statistic("standard deviation of brightness over pictures", MATTERS_BRIGHTNESS, "of the range"),
            Statistic("5% quantile of brightness", MATTERS_BRIGHTNESS, "of the range"),
            Statistic("95% quantile of brightness", MATTERS_BRIGHTNESS, "of the range"),
            Statistic("mean contrast between neighbouring pixels", MATTERS_BRIGHTNESS, "of the range"),
            Statistic("mean number of connected strokes", 0.5, "strokes"),
            Statistic("standard deviation of the number of connected strokes", 0.5, "strokes"),
        ]

    def __call__(self, rows: Array) -> Array:
        """The statistics of each set.

        Args:
            rows: sets of pictures (R, n, D).

        Returns:
            The values (R, S).
        """
        pictures = ((rows - self.low) / (self.high - self.low)).reshape(*rows.shape[:2], *self.shape)
        pictures = np.nan_to_num(pictures)
        if len(self.shape) == 3:
            pictures = pictures.mean(2)
        brightness = pictures.mean((2, 3))
        sides = [np.abs(np.diff(pictures, axis=axis)).mean((1, 2, 3)) for axis in (2, 3)]
        strokes = np.stack([count_strokes(each[:MAX_PICTURES] > 0.5) for each in pictures])
        low, high = np.quantile(brightness, [0.05, 0.95], axis=1)
        return np.stack(
            [brightness.mean(1), brightness.std(1), low, high, sum(sides) / 2, strokes.mean(1), strokes.std(1)], 1
        )


def count_strokes(pictures: Array) -> Array:
    """The number of connected sets of pixels of each picture, corners connected.

    Args:
        pictures: booleans (n, height, width).

    Returns:
        The numbers (n,).

    >>> count_strokes(np.asarray([[[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[1, 0, 1], [1, 0, 1], [0, 0, 0]]], dtype=bool))
    array([1, 2])
    """
    from scipy.ndimage import label

    within = np.zeros((3, 3, 3), dtype=int)
    within[1] = 1  # no connection from one picture to the next
    labels, number = label(pictures, structure=within)
    places = np.flatnonzero(labels)
    _, first = np.unique(labels.ravel()[places], return_index=True)
    of_picture = places[first] // (pictures.shape[1] * pictures.shape[2])
    assert len(first) == number
    return np.bincount(of_picture, minlength=len(pictures))
