"""Whether drawn rows are copies of training rows: distances to the nearest one, beside those of rows held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.columns import Column
from pyro_vae.data.ondisk.rows_on_disk import Array

if TYPE_CHECKING:
    import pandas

QUANTILES = 21  # by which numbers are made comparable


@dataclass(frozen=True)
class NearestRows:
    """The Gower distance of drawn rows, and of rows held out, to the nearest training row.

    Attributes:
        samples: of each drawn row (S,), from 0 to 1.
        rows: of each row held out (N,).
        nearer_share: the probability that the nearest real row of a drawn row is a training row, were there as many
            rows held out: $(a / M) / (a / M + b / N)$ for a drawn rows that are nearest to one of the M training rows
            and b to one of the N rows held out. About 0.5 where draws do not depend on which rows were training rows,
            however good or bad they are, and 1 for copies of training rows.
    """

    samples: Array
    rows: Array
    nearer_share: float

    @cached_property
    def table(self) -> "pandas.DataFrame":
        """The 5 % quantile and the median of the distances, and the share of rows that are equal to a training row."""
        import pandas

        parts = {"samples": self.samples, "rows": self.rows}
        quantiles = [(*np.quantile(each, [0.05, 0.5]), float((each == 0).mean())) for each in parts.values()]
        return pandas.DataFrame(quantiles, index=list(parts), columns=["5 %", "median", "equal"])


def nearest_rows(samples: Array, rows: Array, training: Array, columns: Sequence[Column]) -> NearestRows:
    """Distances of drawn rows, and of rows held out, to the nearest training row.

    The distance is Gower's (1971), the mean over columns: 0 or 1 for levels, for numbers, dates and ordered levels the
    difference of their quantiles among all real rows (linear between 21 of them), so that no outlier sets the scale. A
    missing number is put at the median; a missing level is a level of its own.

    Args:
        samples: the drawn rows (S, D), as `Schema.encode` gives them.
        rows: the rows held out (N, D).
        training: the training rows (M, D).
        columns: the columns (D).

    Returns:
        The distances, and the share.
    """
    real = np.concatenate([training, rows])
    drawn, held_out, fitted = (_coordinates(each, real, columns) for each in (samples, rows, training))
    to_training, to_rows = _to_nearest(drawn, fitted), _to_nearest(drawn, held_out)
    num_nearer = (to_training < to_rows).sum() + (to_training == to_rows).sum() / 2
    shares = num_nearer / len(training), (len(samples) - num_nearer) / len(rows)
    return NearestRows(to_training, _to_nearest(held_out, fitted), float(shares[0] / sum(shares)))


def _coordinates(values: Array, real: Array, columns: Sequence[Column]) -> Array:
    """Numbers whose sum of absolute differences is Gower's distance."""
    from sklearn.preprocessing import QuantileTransformer

    parts = []
    for column, each, known in zip(columns, values.T, real.T, strict=True):
        if column.kind in ("binary", "categorical"):
            num_levels = len(column.levels)  # the number itself is that of an unknown level
            codes = np.nan_to_num(each, nan=num_levels + 1)
            parts.append((codes[:, None] == np.arange(num_levels + 2)) / 2)
            continue
        quantiles = QuantileTransformer(n_quantiles=min(QUANTILES, len(known)), random_state=0).fit(known[:, None])
        parts.append(np.nan_to_num(quantiles.transform(each[:, None]), nan=0.5))
    return np.concatenate(parts, axis=1) / len(columns)


def _to_nearest(values: Array, others: Array) -> Array:
    """The distance of each row to the nearest of others, rounded so that equal ones are equal."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=1, metric="manhattan").fit(others).kneighbors(values)
    return np.asarray(np.round(distances[:, 0], 12))
