"""Drawn rows beside real ones: each number against its definition, and a copy of the training rows is found."""

import itertools
import math

import numpy as np
import pandas
import polars
import pytest
from scipy.stats import f_oneway, rankdata, spearmanr
from scipy.stats.contingency import association, crosstab

import pyro_vae as pv
from pyro_vae.data.columns import Column, Schema
from pyro_vae.diagnostics.samples.column_association import correlation_ratio, cramers_v, rank_correlation
from pyro_vae.diagnostics.samples.compare_samples import kolmogorov_smirnov, total_variation
from pyro_vae.diagnostics.samples.nearest_rows import nearest_rows
from pyro_vae.errors import InputError

COLUMNS = (Column("a", "real"), Column("b", "categorical", levels=("x", "y", "z")), Column("c", "count"))
NAN = math.nan


def draw(n, seed):
    g = np.random.default_rng(seed)
    z = g.normal(size=n)
    return np.stack([z + g.normal(size=n), np.clip(np.rint(z + 1), 0, 2), g.poisson(np.exp(z))], 1)


def frame(n, seed):
    values = draw(n, seed)
    dates = np.datetime64("2024-01-01") + np.arange(n) % 97
    levels = np.array(["x", "y", "z"])[values[:, 1].astype(int)]
    return pandas.DataFrame({"a": values[:, 0], "b": levels, "c": values[:, 2].astype(int), "day": dates})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 1, 1], [0, 1, 1, 1], 0.25),
        ([0, 1], [2, 3], 1.0),
        ([0, 1, 2], [0, 1, 2, 0, 1, 2], 0.0),
        ([0, 0, 0, 1], [2, 0], 0.5),
        ([], [1.0], NAN),
    ],
)
def test_total_variation(first, second, expected):
    found = total_variation(np.array(first, float), np.array(second, float))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2, 3, 4], [3, 4, 5, 6], 0.5), ([1, 1, 2], [1, 2, 2], 1 / 3), ([1.0], [2.0], 1.0), ([1.0], [], NAN)],
)
def test_kolmogorov_smirnov(first, second, expected):
    found = kolmogorov_smirnov(np.array(first, float), np.array(second, float))
    assert found == pytest.approx(expected, nan_ok=True)


def test_associations_are_their_definitions():
    a, b, c = draw(200, 0).T
    assert rank_correlation(a, c) == pytest.approx(spearmanr(a, c).statistic)
    phi_squared = association(crosstab(b, c > 1).count, correction=False) ** 2  # of 3 × 2 cells V² is φ²
    corrected = (phi_squared - 2 / 199) / (2 - 1 / 199 - 1)
    assert cramers_v(b, (c > 1).astype(float)) == pytest.approx(math.sqrt(corrected))
    ranks = rankdata(a)
    F = f_oneway(*(ranks[b == level] for level in range(3))).statistic
    assert correlation_ratio(b, a) == pytest.approx(math.sqrt((F - 1) * 2 / (F * 2 + 197)))


def test_associations_are_one_for_a_function_and_near_zero_without_relation():
    g = np.random.default_rng(1)
    levels, others = g.integers(0, 20, 300).astype(float), g.integers(0, 4, 300).astype(float)
    assert cramers_v(levels, 19 - levels) == pytest.approx(1)
    assert correlation_ratio(levels, levels) == pytest.approx(1)
    assert rank_correlation(levels, -levels) == pytest.approx(-1)
    assert cramers_v(levels, others) < 0.12 < association(crosstab(levels, others).count)  # uncorrected: biased
    assert correlation_ratio(levels, g.normal(size=300)) < 0.2


@pytest.mark.parametrize("measure", [rank_correlation, cramers_v, correlation_ratio])
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0]])
def test_a_column_that_does_not_vary_has_no_association(measure, values):
    assert math.isnan(measure(np.array(values), np.arange(len(values), dtype=float)))


def gower(first, second, quantiles):
    each = [abs(quantiles[0](first[0]) - quantiles[0](second[0])), float(first[1] != second[1])]
    return (sum(each) + abs(quantiles[2](first[2]) - quantiles[2](second[2]))) / 3


def test_distances_are_gowers():
    training, rows, samples = draw(30, 0), draw(20, 1), draw(10, 2)
    real = np.concatenate([training, rows])
    at, shares = np.quantile(real, np.linspace(0, 1, 21), axis=0), np.linspace(0, 1, 21)

    def quantile(i):  # of repeated values the middle, of the least and the largest 0 and 1
        def place(x):
            middle = (np.interp(x, at[:, i], shares) - np.interp(-x, -at[::-1, i], -shares[::-1])) / 2
            return 0.0 if x <= at[0, i] else 1.0 if x >= at[-1, i] else middle

        return place

    quantiles = [quantile(i) for i in range(3)]
    found = nearest_rows(samples, rows, training, COLUMNS)
    for part, distances in ((samples, found.samples), (rows, found.rows)):
        expected = [min(gower(row, other, quantiles) for other in training) for row in part]
        np.testing.assert_allclose(distances, expected, atol=1e-9)
    assert found.table.loc["samples", "median"] == np.median(found.samples)


@pytest.mark.parametrize(
    ("samples", "low", "high"),
    [
        (lambda training: training, 1.0, 1.0),
        (lambda training: training + np.array([0.002, 0, 0]), 0.9, 1.0),  # copies with a little noise
        (lambda training: draw(3000, 5), 0.46, 0.54),  # the rows' own distribution
        (lambda training: draw(3000, 5) * np.array([3, 0, 1]) + 1, 0.42, 0.58),  # a bad model, and no copies
    ],
)
def test_share_of_draws_nearer_to_training_rows(samples, low, high):
    training, rows = draw(300, 3), draw(200, 4)
    found = nearest_rows(samples(training), rows, training, COLUMNS)
    assert low <= found.nearer_share <= high


def test_gaps_and_unknown_levels_have_distances():
    training, rows = draw(40, 0), draw(40, 1)
    odd = np.array([[NAN, 1, 0], [0, NAN, 1], [0, 3, 1]])
    found = nearest_rows(odd, rows, training, COLUMNS)
    assert np.isfinite(found.samples).all()
    assert (found.samples[1:] >= 1 / 3).all()  # the level is another than any row's


def test_tables_of_frames_of_every_library():
    rows, samples, training = frame(150, 0), frame(400, 1), frame(200, 2)
    found = pv.diagnostics.compare_samples(rows, samples, training)
    assert found.columns["column"].tolist() == list(rows)
    assert found.columns["statistic"].tolist() == [
        "Kolmogorov–Smirnov",
        "total variation",
        "Kolmogorov–Smirnov",
        "Kolmogorov–Smirnov",
    ]
    names = [tuple(pair) for pair in found.pairs[["first", "second"]].to_numpy()]
    assert names == list(itertools.combinations(rows, 2))
    assert found.pairs["measure"].tolist()[:2] == ["correlation ratio", "Spearman's correlation"]
    assert (found.columns[["samples", "training"]] < 0.2).all(axis=None)
    others = pv.diagnostics.compare_samples(*(polars.from_pandas(each) for each in (rows, samples, training)))
    pandas.testing.assert_frame_equal(others.columns, found.columns)
    pandas.testing.assert_frame_equal(others.pairs, found.pairs)
    alone = pv.diagnostics.compare_samples(rows, samples)
    assert alone.nearest is None
    assert alone.columns["training"].isna().all()
    assert "training" not in repr(alone)


def test_what_is_outside_the_rows_and_what_differs_is_seen():
    rows, samples = frame(300, 0), frame(300, 1)
    far = samples.assign(a=samples["a"] + 100, b="w", c=np.random.default_rng(0).permutation(samples["c"]))
    found = pv.diagnostics.compare_samples(rows, far)
    by_name = found.columns.set_index("column")
    assert by_name.loc[["a", "b"], "samples"].tolist() == [1, 1]
    assert by_name.loc[["a", "b", "day"], "outside"].tolist() == [1, 1, 0]
    assert by_name.loc["c", "samples"] < 0.1
    pair = found.pairs.set_index(["first", "second"]).loc[("a", "c")]
    assert pair["rows"] > 0.4 > 0.2 > abs(pair["samples"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop(columns="b"), "samples: no column 'b'"),
        (lambda rows: rows.head(0), "samples: no rows"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(change, words):
    rows = frame(50, 0)
    with pytest.raises(InputError, match=words):
        pv.diagnostics.compare_samples(rows, change(rows))
    with pytest.raises(InputError, match="no column that is modelled"):
        pv.diagnostics.compare_samples(rows, rows, schema=Schema((Column("a", "ignored"),)))
