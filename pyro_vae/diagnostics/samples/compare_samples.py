"""Rows that were drawn beside rows of a table, column by column and pair by pair."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.columns import WITH_LEVELS, Column, Schema
from pyro_vae.data.columns.column_options import ColumnOptions
from pyro_vae.data.columns.infer_columns import infer_schema
from pyro_vae.data.frames import DataFrame, read_frame
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.samples.column_association import correlation_ratio, cramers_v, rank_correlation
from pyro_vae.diagnostics.samples.nearest_rows import NearestRows, nearest_rows
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SampleComparison:
    """Rows that were drawn beside rows of a table.

    Attributes:
        columns: one row for each column: `column`, `kind`, `statistic`, its value for `samples` and for the `training`
            rows (NaN without them), and `outside`, the share of samples outside the range or the levels of the rows.
        pairs: one row for each pair of columns: `first`, `second`, `measure`, and its value in `rows`, `samples` and
            `training`.
        nearest: distances to the nearest training row; None without training rows.
    """

    columns: "pandas.DataFrame"
    pairs: "pandas.DataFrame"
    nearest: NearestRows | None = None

    def column_distance(self, part: str = "samples") -> float:
        """The mean over columns of the distance from the rows, 0 to 1.

        Args:
            part: samples or training.

        Returns:
            The mean, over columns that have one.
        """
        return float(self.columns[part].mean())

    def pair_difference(self, part: str = "samples") -> float:
        """The mean over pairs of the difference of the measure from that of the rows.

        Args:
            part: samples or training.

        Returns:
            The mean, over pairs that have one.
        """
        return float((self.pairs[part] - self.pairs["rows"]).abs().mean())

    def __repr__(self) -> str:
        words = [f"columns {self.column_distance():.3f}", f"pairs {self.pair_difference():.3f}"]
        if self.nearest is not None:
            words = [
                f"columns {self.column_distance():.3f} (training rows {self.column_distance('training'):.3f})",
                f"pairs {self.pair_difference():.3f} ({self.pair_difference('training'):.3f})",
                f"nearer to a training row {self.nearest.nearer_share:.1%}",
            ]
        return f"SampleComparison({len(self.columns)} columns: {'; '.join(words)})"


def compare_samples(
    rows: DataFrame,
    samples: DataFrame,
    training: DataFrame | None = None,
    *,
    schema: Schema | None = None,
) -> SampleComparison:
    """Drawn rows beside real ones: the distribution of each column, each pair of columns, and copies of training rows.

    Levels are compared by the total variation distance ½ Σ |p − q|, numbers and dates by the Kolmogorov–Smirnov
    statistic sup |F − G|; both are 0 to 1. Pairs have Spearman's correlation (two columns of numbers), Cramér's V (two
    with levels) or the correlation ratio (one of each), the last two corrected for few rows. Missing values are left
    out, of pairs with their row.

    Give rows that the model was not fitted to, and the training rows apart: their own distance from the rows says what
    the number of rows allows, and copies of them reach no less, while `nearest` finds them.

    Distances take time in proportion to S (M + N): of very many rows give some.

    Raises `InputError` for a frame without one of the columns, or without rows.

    Args:
        rows: real rows (N), a frame of any library.
        samples: drawn rows (S).
        training: the rows (M) that the model was fitted to.
        schema: the columns and their kinds, as `run.schema` or `data.schema`; by default suggested by the training
            rows, or without them by the rows. Columns that are not modelled are not compared.

    Returns:
        The tables.

    >>> import pyro_vae as pv
    >>> from pyro_vae.data.customers import customers
    >>> table = customers(None, 0).values.drop(columns="churned")
    >>> copies = table[:500].sample(1000, replace=True, random_state=0)
    >>> pv.diagnostics.compare_samples(table[500:], copies, table[:500])
    SampleComparison(6 columns: ...nearer to a training row 100.0%)
    """
    given = {"rows": rows, "samples": samples} | ({} if training is None else {"training": training})
    frames = {name: read_frame(frame, Path(name)) for name, frame in given.items()}
    if schema is None:
        schema = infer_schema(frames.get("training", frames["rows"]), ColumnOptions())
    schema = schema.coded("columns")
    if not schema.modelled:
        raise InputError("the table has no column that is modelled")
    values = {name: _encode(frame.values, schema, name) for name, frame in frames.items()}
    nearest = None
    if training is not None:
        nearest = nearest_rows(values["samples"], values["rows"], values["training"], schema.modelled)
    return SampleComparison(_compare_columns(values, schema), _compare_pairs(values, schema), nearest)


def _encode(frame: "pandas.DataFrame", schema: Schema, name: str) -> Array:
    if lacking := [column.name for column in schema.modelled if column.name not in frame.columns]:
        raise InputError(
            f"{name}: no column {lacking[0]!r}; give both the same columns, or a schema in which it is not modelled "
            "(schema=run.schema)"
        )
    if not len(frame):
        raise InputError(f"{name}: no rows to compare")
    return schema.encode(frame, name)


def _compare_columns(values: Mapping[str, Array], schema: Schema) -> "pandas.DataFrame":
    import pandas

    records = []
    for number, column in enumerate(schema.modelled):
        known = {name: each[~np.isnan(each[:, number]), number] for name, each in values.items()}
        has_levels = column.kind in WITH_LEVELS
        distance = total_variation if has_levels else kolmogorov_smirnov
        records.append(
            {
                "column": column.name,
                "kind": column.kind,
                "statistic": "total variation" if has_levels else "Kolmogorov–Smirnov",
                "samples": distance(known["rows"], known["samples"]),
                "training": distance(known["rows"], known["training"]) if "training" in known else math.nan,
                "outside": _outside(known["rows"], known["samples"], has_levels),
            }
        )
    return pandas.DataFrame(records)


def total_variation(first: Array, second: Array) -> float:
    """½ Σ |p − q| over the levels that either has.

    Args:
        first: codes (N,).
        second: codes (S,).

    Returns:
        The distance, from 0 to 1; NaN without values.
    """
    if not (len(first) and len(second)):
        return math.nan
    _, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    p, q = (np.bincount(each, minlength=codes.max() + 1) / len(each) for each in np.split(codes, [len(first)]))
    return float(np.abs(p - q).sum() / 2)


def kolmogorov_smirnov(first: Array, second: Array) -> float:
    """The largest difference of two empirical distribution functions.

    Args:
        first: numbers (N,).
        second: numbers (S,).

    Returns:
        The statistic, from 0 to 1; NaN without values.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second).statistic) if len(first) and len(second) else math.nan


def _outside(rows: Array, samples: Array, has_levels: bool) -> float:
    if not (len(rows) and len(samples)):
        return math.nan
    is_inside = np.isin(samples, rows) if has_levels else (samples >= rows.min()) & (samples <= rows.max())
    return float(1 - is_inside.mean())


def _compare_pairs(values: Mapping[str, Array], schema: Schema) -> "pandas.DataFrame":
    import pandas

    records = []
    for (i, first), (j, second) in itertools.combinations(enumerate(schema.modelled), 2):
        found = {name: _associate(each[:, i], each[:, j], first, second) for name, each in values.items()}
        records.append({"first": first.name, "second": second.name, "measure": _measure(first, second), **found})
    return pandas.DataFrame(records, columns=["first", "second", "measure", "rows", "samples", "training"])


def _measure(first: Column, second: Column) -> str:
    num_with_levels = sum(column.kind in WITH_LEVELS for column in (first, second))
    return ("Spearman's correlation", "correlation ratio", "Cramér's V")[num_with_levels]


def _associate(first: Array, second: Array, *columns: Column) -> float:
    is_known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[is_known], second[is_known]
    if len(first) < 2:
        return math.nan
    match [column.kind in WITH_LEVELS for column in columns]:
        case [False, False]:
            return rank_correlation(first, second)
        case [True, True]:
            return cramers_v(first, second)
        case [True, False]:
            return correlation_ratio(first, second)
    return correlation_ratio(second, first)
