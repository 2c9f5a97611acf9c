"""Columns that are given: what they become, where they may be said, and what cannot be one."""

import datetime

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data.columns.conditions import original_codes, parse_conditions
from pyro_vae.data.split import density_name
from pyro_vae.errors import UnknownValueWarning

N = 80
G = np.random.default_rng(1)
FRAME = pandas.DataFrame(
    {
        "segment": G.choice(["Retail", "Public", "Partner"], N),
        "x": G.normal(size=N),
        "age": G.integers(18, 80, N),
        "a=b": G.choice([True, False], N),
        "since": pandas.date_range("2024-01-01", periods=N).strftime("%Y-%m-%d"),
        "amount": np.exp(G.normal(size=N)).round(3) * (G.random(N) > 0.2),
        "size": pandas.Categorical(G.choice(["S", "M", "L"], N), ["S", "M", "L"], ordered=True),
        "y": G.normal(size=N),
        "label": G.integers(3, 6, N),
    }
)
GIVEN = ["segment", "age", "a=b", "since", "amount", "size", "label"]


@pytest.fixture(scope="module")
def data():
    frame = FRAME.copy()
    frame.loc[::10, ["age", "segment"]] = None
    return pv.load_data(frame, given=GIVEN)


def test_conditions_keep_their_kinds_and_come_back_as_they_were(data):
    kinds = {column.name: column.kind for column in data.schema}
    assert kinds["age"] == "integer"
    assert kinds["since"] == "datetime"
    assert kinds["label"] == "label"
    assert [column.name for column in data.schema.modelled] == ["x", "y"]
    assert [column.name for column in data.schema.conditions if column.has_missing] == ["segment", "age"]
    split = data.prepare(FRAME)
    given = split.inputs["given"]
    assert given.shape == (N, len(GIVEN))
    assert data.measure == f"Lebesgue measure on R^2 (original units), given {', '.join(GIVEN)}"
    back = data.preparation.to_frame(split.x, given=given)
    assert list(back.columns) == list(FRAME.columns)
    for name in GIVEN:
        assert back[name].tolist() == FRAME[name].tolist(), name
        assert str(back[name].dtype) == str(FRAME[name].dtype) or name == "age", name  # of a column with gaps


def test_an_unknown_level_is_no_level_and_a_gap_is_one_where_the_fit_had_gaps(data):
    frame = FRAME.head(4).assign(segment=["Retail", "Nobody", None, "Public"])
    with pytest.warns(UnknownValueWarning, match="segment: a level that no training row had in 1 of 4 rows"):
        given = data.prepare(frame).inputs["given"]
    assert given[:, 0].tolist()[:2] == [2.0, 3.0]
    assert bool(given[2, 0].isnan())
    assert np.isnan(original_codes(data.schema, given)[1:3, 0]).all()
    with pytest.raises(pv.InputError, match=r"amount is missing in row 1 .* that no row of the fit lacked"):
        data.prepare(FRAME.head(4).assign(amount=[1.0, None, 2.0, 3.0]))
    with pytest.raises(pv.InputError, match="no column age; this run was fitted to"):
        data.prepare(frame.drop(columns="age"))


def test_a_schema_file_says_what_is_given(data, tmp_path):
    data.schema.to_toml(tmp_path / "schema.toml")
    frame = FRAME.copy()
    frame.loc[::10, ["age", "segment"]] = None
    again = pv.load_data(frame, schema=tmp_path / "schema.toml")
    assert again.schema == data.schema
    assert again.fingerprint == data.fingerprint != pv.load_data(frame).fingerprint


def test_labels_of_an_array_and_columns_by_place_can_be_given(tmp_path):
    x, y = G.normal(size=(60, 3)), np.array(["b", "a", "c"])[np.arange(60) % 3]
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    data = pv.load_data(tmp_path / "rows.npz", given="y")
    assert data.preparation.given({"y": "c"}, 2).tolist() == [[2.0], [2.0]]
    assert torch.equal(data.train.inputs["given"][:, 0], data.train.labels.double())
    assert data.prepare(tmp_path / "rows.npz").inputs["given"].shape == (60, 1)
    with pytest.raises(pv.InputError, match="no column y, and rows are modelled given y"):
        data.prepare(x)
    np.savetxt(tmp_path / "plain.csv", x, delimiter=",")
    by_place = pv.load_data(tmp_path / "plain.csv", given="1")
    assert by_place.num_features == 2
    assert by_place.prepare(tmp_path / "plain.csv").inputs["given"].shape == (60, 1)


VALUES = [  # a value and what it is the code of
    ("segment", "Public", 1),
    ("segment", None, np.nan),
    ("age", 40, 40),
    ("age", "40", 40),
    ("age", "", np.nan),
    ("a=b", True, 1),
    ("a=b", "False", 0),
    ("since", "2024-03-01", 19_783),
    ("since", datetime.date(2024, 3, 1), 19_783),
    ("amount", 0, 0),
    ("size", "M", 1),
    ("label", 5, 2),
    ("label", "5", 2),
]
USUAL = {"segment": "Retail", "age": 30, "a=b": True, "since": "2024-01-05", "amount": 1.5, "size": "S", "label": 4}


@pytest.mark.parametrize(("name", "value", "code"), VALUES)
def test_a_value_is_read_as_in_a_file(data, name, value, code):
    given = data.preparation.given(USUAL | {name: value}, 2)
    found = original_codes(data.schema, given)[:, GIVEN.index(name)]
    np.testing.assert_allclose(found, code, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"segment": "Foo"}, r"segment cannot be 'Foo'; give one of Partner, Public, Retail"),
        ({"age": "old"}, r"age cannot be 'old'; give a whole number \(in the fit \d+ to \d+\)"),
        ({"age": 40.5}, r"age cannot be '40\.5'"),
        ({"age": float("inf")}, "age cannot be 'inf'"),
        ({"amount": -1}, "amount cannot be '-1'"),
        ({"amount": None}, "amount has no value, and no row of the fit lacked it"),
        ({"a=b": "perhaps"}, "a=b cannot be 'perhaps'; give one of False, True"),
        ({"since": "yesterday"}, "since cannot be 'yesterday'; give a date"),
        ({"label": 9}, "label cannot be '9'; give one of 3, 4, 5"),
        ({"x": 1}, "x is modelled, and not a condition; the conditions of this run are segment, age"),
        ({"nobody": 1}, "no condition 'nobody'; the conditions of this run are segment, age"),
    ],
)
def test_a_value_that_cannot_be_is_refused(data, values, message):
    with pytest.raises(pv.InputError, match=message):
        data.preparation.given(USUAL | values, 2)


def test_all_conditions_or_none_are_said(data):
    with pytest.raises(pv.InputError, match=r"age is not given; the conditions of this run are .*: give all, or none"):
        data.preparation.given({"segment": "Retail"}, 2)
    plain = pv.load_data(FRAME)
    with pytest.raises(pv.InputError, match="no condition 'segmen'; this run has no conditions"):
        plain.preparation.given({"segmen": "Retail"}, 2)
    assert parse_conditions(["age=4", "a=b=True"], data.schema) == {"age": "4", "a=b": "True"}
    for texts, message in ((["age"], "expected NAME=VALUE"), (["age=1", "age=2"], "said twice, 1 and 2")):
        with pytest.raises(pv.InputError, match=message):
            parse_conditions(texts, data.schema)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": "nobody"}, "no column 'nobody'"),
        ({"given": "agee"}, "did you mean 'age'"),
        ({"given": "age", "drop": "age"}, "age cannot be given: it is ignored"),
        ({"given": "age", "weights": "age"}, "age cannot be given: it is weights"),
        ({"given": "age", "id": "age"}, "age cannot be given: it is id"),
        ({"given": "same"}, "same cannot be given: left out: it does not vary"),
        ({"given": "age", "missing": "refuse"}, "1 values are missing .* column age"),
        ({"given": list(FRAME.columns)}, "no column is left to model"),
    ],
)
def test_what_cannot_be_a_condition_is_refused(options, message):
    frame = FRAME.assign(same=1)
    frame["age"] = frame["age"].astype(float)
    frame.loc[3, "age"] = np.nan
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(frame, **options)


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        ("digits", "segment", r"only labels \(--given label\)"),
        ("two-moons", "x", "no column x to be given"),
        (np.zeros((40, 3)) + np.arange(40)[:, None], "x1", "and no labels"),
    ],
)
def test_rows_without_columns_have_labels_to_give_or_nothing(data, given, message):
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(data, given=given)


def test_densities_are_named_by_what_is_given():
    assert density_name(None) == "log p(x)"
    assert density_name("Lebesgue measure on R^2 (original units)") == "log p(x)"
    assert density_name("counting measure on {0, 1}^64, given label") == "log p(x | label)"
    assert density_name("…, given a, b, c, d, observed values only") == "log p(x | a, b, …)"
