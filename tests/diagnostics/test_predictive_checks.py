"""Statistics of rows beside replicates: each against numpy or pandas, uniform p-values, faults that are found."""

import math

import numpy as np
import pandas
import pytest
import torch
from linear_programs import COV, LOC, drawn_rows, linear_vae, ppca
from scipy import ndimage
from scipy.stats import kstest

import pyro_vae as pv
from pyro_vae.data.columns import Column
from pyro_vae.diagnostics.checks.picture_statistics import PictureStatistics, count_strokes
from pyro_vae.diagnostics.checks.predictive_checks import (
    ReplicateTest,
    compare_statistics,
    format_number,
    refit_inflation,
)
from pyro_vae.diagnostics.checks.replicates import draw_replicates
from pyro_vae.diagnostics.checks.row_statistics import (
    ColumnStatistics,
    PairStatistics,
    RowColumns,
    Statistic,
    describe_columns,
    normal_scores,
)


def columns_of(values, levels=()):
    knots = np.nanquantile(values, np.linspace(0, 1, 101), axis=0)
    names = tuple("abcd"[: values.shape[1]])
    return RowColumns(names, dict(levels), np.nanstd(values, 0), knots)


def some_sets(num=3, n=40, seed=0):
    g = np.random.default_rng(seed)
    sets = np.stack([g.normal(size=(num, n)), g.integers(0, 3, (num, n)), g.poisson(1.0, (num, n))], -1).astype(float)
    sets[g.random(sets.shape) < 0.2] = math.nan
    return sets


def test_statistics_of_columns_are_those_of_numpy_whatever_is_missing():
    sets = some_sets()
    kind = ColumnStatistics(columns_of(sets[0], {1: ("low", "mid", "high")}), sets.shape[1])
    names, found = [each.name for each in kind.statistics], kind(sets)
    for number, rows in enumerate(sets):
        known = [column[~np.isnan(column)] for column in rows.T]
        expected = {
            "mean of a": known[0].mean(),
            "standard deviation of a": known[0].std(),
            "share of zeros in c": (known[2] == 0).mean(),
            "5% quantile of a": np.quantile(known[0], 0.05),
            "median of c": np.median(known[2]),
            "95% quantile of c": np.quantile(known[2], 0.95),
            "minimum of a": known[0].min(),
            "maximum of c": known[2].max(),
            "share of b = high": (known[1] == 2).mean(),
        }
        for name, value in expected.items():
            assert found[number, names.index(name)] == pytest.approx(value, abs=1e-12), name


def test_correlations_are_those_of_pandas_for_pairs_of_every_kind():
    sets = some_sets(num=2, n=200)
    columns = columns_of(sets[0], {1: ("low", "mid", "high")})
    kind = PairStatistics(columns, 200)
    names, found = [each.name for each in kind.statistics], kind(sets)
    assert len(names) == 7  # numbers with each other and with three levels, which have no pair among themselves
    for number, rows in enumerate(sets):
        scores = normal_scores(rows, columns)
        frame = pandas.DataFrame({"a": scores[:, 0], "c": scores[:, 1]})
        for level, name in enumerate(("low", "mid", "high")):
            frame[f"b = {name}"] = np.where(np.isnan(rows[:, 1]), np.nan, rows[:, 1] == level)
        for i, name in enumerate(names):
            first, second = name.removeprefix("correlation of ").split(" and ")
            assert found[number, i] == pytest.approx(frame[first].corr(frame[second]), abs=0.03), name
    whole = np.random.default_rng(0).normal(size=(1, 300, 2))
    scores = normal_scores(whole[0], columns_of(whole[0]))
    assert PairStatistics(columns_of(whole[0]), 300)(whole)[0, 0] == pytest.approx(
        np.corrcoef(scores.T)[0, 1], abs=1e-12
    )


def test_normal_scores_rise_everywhere_and_go_on_beyond_the_training_rows():
    values = np.random.default_rng(0).lognormal(size=(500, 1))
    grid = np.linspace(-100, 1000, 4000)[:, None]
    scores = normal_scores(grid, columns_of(values))[:, 0]
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > normal_scores(values, columns_of(values)).max()


def test_strokes_are_those_of_scipy_counted_picture_by_picture():
    pictures = np.random.default_rng(0).random((20, 9, 7)) < 0.3
    expected = [ndimage.label(picture, np.ones((3, 3)))[1] for picture in pictures]
    assert count_strokes(pictures).tolist() == expected


def test_statistics_of_pictures():
    pictures = np.zeros((1, 4, 2, 2))
    pictures[0, 0] = [[10, 10], [0, 0]]
    columns = RowColumns(tuple("abcd"), {}, np.ones(4), np.zeros((0, 4)), image_shape=(2, 2))
    kind = PictureStatistics(columns, (0.0, 10.0))
    found = dict(zip([each.name for each in kind.statistics], kind(pictures.reshape(1, 4, 4))[0], strict=True))
    assert found["mean brightness"] == pytest.approx(0.5 / 4)
    assert found["mean number of connected strokes"] == pytest.approx(0.25)
    assert found["mean contrast between neighbouring pixels"] == pytest.approx((2 / 8 + 0) / 2)


def replicate_test(rows, replicates, inflation=1.0):
    return ReplicateTest([Statistic("s", 1.0), Statistic("t", 1.0)], rows, replicates, inflation)


def test_what_rounding_leaves_of_zero_is_zero():
    replicates = np.random.default_rng(0).normal(size=(400, 2))
    found = replicate_test(np.asarray([-8.1e-9, 2.5e-5]), replicates).findings()
    assert {each.name: each.rows for each in found} == {"s": 0.0, "t": 2.5e-5}


def test_z_is_the_difference_in_standard_errors_and_the_correction_divides_it():
    g = np.random.default_rng(0)
    replicates = g.normal([5.0, 1.0], [2.0, 0.1], size=(4000, 2))
    found = replicate_test(np.asarray([11.0, 1.0]), replicates).findings()[0]
    assert (found.name, found.is_significant, found.relative) == ("s", True, pytest.approx(6.0, abs=0.1))
    assert found.z == pytest.approx(3.0, rel=0.05)
    assert replicate_test(np.asarray([11.0, 1.0]), replicates, 4.0).findings()[0].z == pytest.approx(1.5, rel=0.05)


def test_the_p_value_is_uniform_for_statistics_of_any_shape():
    found = []
    for seed in range(200):
        g = np.random.default_rng(seed)
        drawn = np.stack([g.lognormal(0, 2, 61), g.poisson(0.3, 61)], 1).astype(float)
        found.append(replicate_test(drawn[0], drawn[1:]).p_value)
    assert kstest(found, "uniform").pvalue > 0.005
    assert np.mean(np.asarray(found) <= 0.05) < 0.1


def test_replicates_are_draws_of_the_model_in_original_units_with_the_gaps_of_the_rows():
    program = linear_vae()
    rows = pv.data.as_split(drawn_rows(50), "check")
    drawn = np.concatenate(list(draw_replicates(program, rows, 200, 0))).reshape(-1, 4)
    assert drawn.mean(0) == pytest.approx(LOC.numpy(), abs=0.05)
    assert np.cov(drawn.T) == pytest.approx(COV.numpy(), abs=0.06)


FAULTS = {
    "zeros": (
        lambda x, g: torch.where(torch.rand(len(x), 1, generator=g) < 0.1, x * torch.tensor([0, 1, 1, 1]), x),
        "columns",
    ),
    "scale": (lambda x, g: x * torch.tensor([1.3, 1, 1, 1]), "columns"),
    "permuted": (lambda x, g: torch.cat([x[torch.randperm(len(x), generator=g), :1], x[:, 1:]], 1), "pairs"),
    "swapped": (lambda x, g: x[:, [1, 0, 2, 3]], "columns"),
    "right": (lambda x, g: x, ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_the_check_that_looks_for_it(name):
    fault, family = FAULTS[name]
    rows = fault(drawn_rows(400, seed=5), torch.Generator().manual_seed(0))
    size = pv.diagnostics.CheckSize(num_replicates=200)
    found = pv.diagnostics.check(
        ppca(), rows, training=drawn_rows(400, seed=6), families=["columns", "pairs"], size=size, num_training=0
    )
    levels = {verdict.name: verdict.level for verdict in found.verdicts}
    assert levels[family] == "matters" if family else set(levels.values()) == {"none"}


def test_own_statistics_are_small_unless_it_is_said_how_much_matters():
    def largest_share(rows):
        return float((np.argmax(rows, 1) == 0).mean())

    rows = drawn_rows(300, seed=1) + torch.tensor([1.0, 0, 0, 0])
    given = {"training": drawn_rows(300), "families": ["statistics"], "statistics": {"first is largest": largest_share}}
    plain = pv.diagnostics.check(ppca(), rows, **given)["statistics"]
    assert (plain.level, plain.findings[0].name) == ("small", "first is largest")
    assert plain.findings[0].rows == pytest.approx(largest_share(rows.numpy()))
    limit = pv.diagnostics.check(ppca(), rows, matters={"first is largest": 0.05}, **given)["statistics"]
    assert limit.level == "matters"


def test_columns_with_kinds_have_their_names_levels_and_units():
    frame = pandas.DataFrame({"income": np.linspace(1e4, 1e5, 100), "segment": ["a", "b"] * 50})
    data = pv.load_data(frame)
    found = describe_columns(data.train, data.schema.modelled)
    assert (found.names, found.levels) == (("income", "segment"), {1: ("a", "b")})
    assert found.scale[0] == pytest.approx(data.train.stored[:, 0].double().std(unbiased=False).item(), rel=1e-3)
    plain = describe_columns(data.train, [Column("other", "real")])  # of another width: not these rows' columns
    assert plain.names == ("x1", "x2")


def test_numbers_in_words():
    assert [format_number(value) for value in (0.0, 1234.5, -0.001234, 99.96)] == ["0", "1234", "-0.00123", "100"]


def test_the_correction_by_refits_is_that_of_known_variances():
    """Statistics with variances 1/n of which parameters add 1/N, a third of it, and nothing; and a constant one."""
    g, n, N, R, B = np.random.default_rng(0), 15, 70, 4000, 2000
    replicates = np.concatenate([g.normal(0, n**-0.5, (R, 3)), np.ones((R, 1))], 1)
    moved = g.normal(0, np.sqrt([1 / N, 1 / (3 * N), 0.0]), (B, 3))
    refitted = [np.concatenate([m + g.normal(0, n**-0.5, (75, 3)), np.ones((75, 1))], 1) for m in moved]
    found = refit_inflation(replicates, refitted)
    exact = np.asarray([1 + n / N, 1 + n / (3 * N), 1.0, 1.0])
    error = 4 * (exact - 1 + 1 / 75) * np.sqrt(2 / B + 2 / R)  # of variances, four standard errors
    assert (np.abs(found - exact) <= error + 1e-9).all(), (found, exact)


def test_refits_of_a_normal_add_what_its_closed_form_says():
    """A normal's mean and covariance, and what it does not estimate: rows whose second column is always the same."""
    x = drawn_rows(85)
    train, rows = x[:70], x[70:]
    g = torch.Generator().manual_seed(0)
    programs = []
    for chosen in [torch.arange(70)] + [torch.randint(70, (70,), generator=g) for _ in range(150)]:
        model = pv.GaussianMixture(1, 4, regularization="reg_covar")
        pv.fit_em(model, train[chosen])
        programs.append(model)
    kinds = {"columns": ColumnStatistics(columns_of(train.numpy()), len(rows))}
    split = pv.data.as_split(rows, "check")
    found = compare_statistics(programs[0], split, kinds, 2000, 70, 0, refits=programs[1:])["columns"]
    names = [each.name for each in found.statistics]
    inflation = found.inflation[[names.index(f"mean of {column}") for column in "abcd"]]
    assert inflation == pytest.approx(np.full(4, 1 + 15 / 70), abs=4 * 15 / 70 * math.sqrt(2 / 150) + 0.01)
    bound = compare_statistics(programs[0], split, kinds, 2000, 70, 0)["columns"]
    assert bound.inflation == 1 + 15 / 70
    assert (found.replicates == bound.replicates).all()
