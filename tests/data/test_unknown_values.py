"""New rows with levels that no training row had, and with values that their column cannot have, through every command.

A value outside a column's support has density zero under any such program: its row's log p(x) is −∞, and not an error
that keeps a million other rows from having a number.
"""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data.columns import Column
from pyro_vae.data.columns.column_range import column_range
from pyro_vae.errors import InputError, UnknownValueWarning
from pyro_vae.likelihoods.columns import column_support

IMPOSSIBLE = {  # of a column: a value, and how the message puts what it takes
    "price": [(-3.0, "positive numbers"), (0.0, "positive numbers")],
    "zeros": [(-0.5, "numbers from 0 on")],
    "visits": [(-2, "whole numbers from 0 on"), (2.5, "whole numbers from 0 on")],
    "share": [(1.5, "numbers between 0 and 1"), (-0.1, "numbers between 0 and 1")],
    "change": [(0.5, "whole numbers")],
}
LEVELS = {"city": "Rome", "member": "maybe", "size": "huge"}
ROW = 3


@pytest.fixture(scope="module")
def frame():
    rng, n = np.random.default_rng(0), 300
    return pandas.DataFrame(
        {
            "price": np.exp(rng.normal(size=n)),
            "zeros": np.where(rng.random(n) < 0.3, 0.0, np.exp(rng.normal(size=n))),
            "visits": rng.poisson(4, size=n),
            "share": rng.uniform(0.01, 0.99, size=n),
            "change": rng.integers(-40, 40, size=n),
            "city": rng.choice(["Ulm", "Bonn", "Kiel"], n),
            "member": rng.choice(["yes", "no"], n),
            "size": rng.choice(["small", "large"], n),
            "t": rng.normal(20, 5, size=n),
        }
    )


@pytest.fixture(scope="module")
def run(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unknown")
    frame.to_csv(folder / "rows.csv", index=False)
    frame = frame.copy()
    frame.loc[7, "t"] = math.nan  # so that gaps are taken
    kinds = ["share=bounded", "size=ordinal:small<large", "change=integer", "visits=count"]
    pv_run = folder / "run"
    words = ["fit", "--data", str(folder / "rows.csv"), "--out", str(pv_run), "--epochs", "2", "--hidden", "8"]
    words += [word for kind in kinds for word in ("--column", kind)]
    done = subprocess.run([sys.executable, "-m", "pyro_vae", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pv.open_run(pv_run)


def with_cell(frame, column, value):
    rows = frame.head(12).copy()
    rows[column] = rows[column].astype(object)
    rows.loc[ROW, column] = value
    return rows


@pytest.fixture(scope="module")
def scored(run, frame):
    """The scores of rows that have one strange cell each, with what was said, and of these rows without it."""
    cells = [(column, value) for column, found in IMPOSSIBLE.items() for value, _ in found] + list(LEVELS.items())
    usual = frame.head(len(cells))
    rows = usual.astype(object)
    for row, (column, value) in enumerate(cells):
        rows.loc[row, column] = value
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = run.score(rows, explain=True)
    return cells, [str(each.message) for each in said if each.category is UnknownValueWarning], found, run.score(usual)


@pytest.mark.parametrize(
    ("column", "value", "takes"), [(c, *each) for c, cells in IMPOSSIBLE.items() for each in cells]
)
def test_a_value_that_a_column_cannot_have_is_named_and_has_density_zero(scored, column, value, takes):
    cells, said, found, _ = scored
    row, number = cells.index((column, value)), sum(name == column for name, _ in cells)
    assert found.log_px[row] == -math.inf
    assert found.anomaly[row] == 1
    assert (found.column_1[row], found.nats_1[row]) == (column, -math.inf)
    start = f"the data frame: {column}: a value that it cannot have ({takes}) in {number} of {len(cells)} rows, first "
    first = cells[min(i for i, (name, _) in enumerate(cells) if name == column)]
    place = cells.index(first)
    more = "more columns hold values that they cannot have"
    assert f"{start}{first[1]} in row {place}" in said or any(more in each for each in said)


@pytest.mark.parametrize("column", LEVELS)
def test_a_level_that_no_training_row_had_has_a_small_probability(scored, column):
    cells, _, found, usual = scored
    row = cells.index((column, LEVELS[column]))
    assert -20 < found.log_px[row] - usual.log_px[row] < -3  # probability 1e-4, of a half or a third


def test_five_columns_are_named_and_the_others_counted(scored):
    assert len(scored[1]) == 6
    assert scored[1][-1] == "the data frame: 3 more columns hold values that they cannot have"


@pytest.mark.parametrize("column", LEVELS)
def test_a_level_that_no_training_row_had_is_named(run, frame, column):
    with pytest.warns(UnknownValueWarning) as said:
        run.prepare(with_cell(frame, column, LEVELS[column]))
    words = f"{column}: a level that no training row had in 1 of 12 rows, first {LEVELS[column]} in row {ROW}"
    assert [str(each.message) for each in said] == [f"the data frame: {words}"]


def test_values_that_columns_can_have_are_not_mentioned(run, frame):
    rows = frame.head(12).copy()
    rows.loc[ROW, "zeros"], rows.loc[ROW, "visits"], rows.loc[ROW, "t"] = 0.0, 400, -1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownValueWarning)
        assert np.isfinite(run.score(rows).log_px).all()


def test_each_verb_says_it(run, frame):
    rows = with_cell(with_cell(frame, "price", -3.0), "city", "Rome")
    rows.loc[ROW, "price"] = -3.0
    for verb in (run.encode, run.reconstruct):
        with pytest.warns(UnknownValueWarning):
            assert np.isfinite(verb(rows).select_dtypes("number")).all(axis=None)


def test_values_are_not_filled_beside_an_impossible_one(run, frame):
    rows = with_cell(frame, "price", -3.0)
    rows.loc[ROW, "t"] = math.nan
    with pytest.warns(UnknownValueWarning), pytest.raises(InputError, match=rf"rows {ROW}\b.*price \(positive"):
        run.impute(rows)


def test_the_command_says_it_in_a_line(run, frame, tmp_path):
    with_cell(frame, "price", -3.0).to_csv(tmp_path / "new.csv", index=False)
    words = ["score", str(run.folder), str(tmp_path / "new.csv"), "--out", str(tmp_path / "out.csv"), "--json"]
    done = subprocess.run([sys.executable, "-m", "pyro_vae", *words, "--explain"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == (
        f"note: {tmp_path / 'new.csv'}: price: a value that it cannot have (positive numbers) in 1 of 12 rows, first "
        f"-3.0 in row {ROW}"
    )
    found = json.loads(done.stdout)
    assert (found["num_zero"], found["log_px"]) == (1, None)
    assert found["reason"] == f"row {ROW}: a value lies outside the support of column price (positive numbers)"
    column = found["explanations"][0]["columns"][0]
    assert (column["column"], column["nats"], column["not_finite"]) == ("price", None, {"nats": "-inf"})
    assert column["value"] == pytest.approx(-3.0, abs=1e-5)


def test_rows_that_all_have_one_are_refused(run, frame):
    rows = frame.head(12).copy()
    rows["price"] = -rows["price"]
    with pytest.warns(UnknownValueWarning), pytest.raises(InputError, match=r"12 of 12 rows have density zero.*price"):
        run.score(rows)


@pytest.mark.parametrize("given", [["city"], []])
def test_conditions_and_labels_too(frame, given):
    data = pv.load_data(frame, label="member", given=given)
    rows = with_cell(frame, "member", "maybe")
    rows.loc[0, "city"] = "Rome"
    with pytest.warns(UnknownValueWarning) as said:
        data.prepare(rows)
    assert [str(each.message).split(": ", 1)[1] for each in said] == [
        "city: a level that no training row had in 1 of 12 rows, first Rome in row 0",
        f"member: a level that no training row had in 1 of 12 rows, first maybe in row {ROW}",
    ]


@pytest.mark.parametrize("constant", [1, 0.5, "same", True])
@pytest.mark.parametrize("coding", ["columns", "one-hot"])
def test_a_column_that_did_not_vary_and_now_does(frame, constant, coding):
    table = frame[["t", "price", "city"]].assign(fixed=constant)
    data = pv.load_data(table, coding=coding)
    rows = table.head(12).astype({"fixed": object})
    rows.loc[[ROW, 7], "fixed"] = 7
    rows.loc[8, "fixed"] = None
    with pytest.warns(UnknownValueWarning) as said:
        data.prepare(rows)
    assert str(said[0].message).endswith(
        f"fixed: a value other than {constant}, which all training rows had, so that it is not modelled, in 2 of 12 "
        f"rows, first 7 in row {ROW}"
    )


def test_a_column_that_varies_in_other_rows_alone_is_said(frame):
    split = ["train"] * 280 + ["valid"] * 10 + ["test"] * 10
    table = frame[["t", "price", "city"]].assign(fixed=0, split=split)
    assert pv.load_data(table, split="split").schema["fixed"].note == "left out: it does not vary"
    table.loc[285, "fixed"] = 1
    found = pv.load_data(table, split="split").schema["fixed"].note
    assert found == "left out: it does not vary in the training rows"


def test_one_hot_codes_know_their_levels(frame):
    data = pv.load_data(frame[["t", "price", "city"]], coding="one-hot")
    with pytest.warns(UnknownValueWarning, match="city: a level that no training row had in 1 of 12 rows, first Rome"):
        data.prepare(with_cell(frame, "city", "Rome")[["t", "price", "city"]])


COLUMNS = [
    Column("a", "positive", scale=2.0),
    Column("a", "positive", has_zeros=True),
    Column("a", "bounded"),
    Column("a", "count"),
    Column("a", "integer", scale=3.0),
    Column("a", "categorical", levels=("x", "y")),
    Column("a", "real"),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.kind} {column.has_zeros}")
def test_ranges_of_columns_are_the_supports_of_their_likelihoods(column):
    x = np.array(
        [-math.inf, -2.0, -1.0, -1 / 3, -1e-30, 0.0, 1e-30, 0.2, 1 / 3, 0.5, 1.0, 2.0, 2.5, 3.0, 1e9, math.inf]
    )
    in_support = column_support([column]).check(torch.tensor(x)[:, None])[:, 0]
    assert column_range(column).contains(x).tolist() == in_support.tolist()
    assert column_range(column).contains(np.array([math.nan])).all()
