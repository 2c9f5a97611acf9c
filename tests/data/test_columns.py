"""Columns: what kind their values suggest, what the user says instead, and values that come back as they were."""

import datetime
import decimal

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from whole_table import whole_table

import pyro_vae as pv
from pyro_vae.data.columns import KINDS, Column, Schema
from pyro_vae.data.columns.choose_columns import choose_columns
from pyro_vae.data.columns.column_options import parse_kinds
from pyro_vae.data.columns.column_range import column_range
from pyro_vae.data.columns.column_values import decimals_of, precision_of
from pyro_vae.data.frames import frame_like
from pyro_vae.data.read_files import read_memory
from pyro_vae.errors import UnknownValueWarning
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.choose_likelihood import choose_likelihood

N = 60
G = np.random.default_rng(0)
NORMAL = G.normal(size=N)
DAYS = pandas.Series(pandas.date_range("2024-01-01", periods=N, freq="D"))


def cycle(*values):
    return [values[i % len(values)] for i in range(N)]


# the values of a column, its kind, what comes back of them (None: the same), part of its note
COLUMNS = {
    "normal": (NORMAL, "real", None, ""),
    "lengths": (G.normal(5.8, 0.8, N).round(1), "real", None, ""),
    "incomes": (np.exp(G.normal(10, 1, N)).round(2), "positive", None, ""),
    "shares": (G.beta(0.5, 0.5, N), "bounded", None, ""),
    "counts": (G.poisson(3, N), "count", None, ""),
    "counts with gaps": (np.where(np.arange(N) % 9 == 0, np.nan, G.poisson(3, N)), "count", None, ""),
    "nullable whole numbers": (pandas.array(cycle(1, 5, None, 9, 0), dtype="Int64"), "count", None, ""),
    "years": (G.integers(1950, 2020, N), "integer", None, ""),
    "whole numbers, some negative": (G.integers(-5, 5, N), "integer", None, ""),
    "codes above 2^53": (np.array(cycle(2**60, 2**60 + 512, 2**60 + 2048)), "integer", None, ""),
    "truth values": (np.array(cycle(True, False, False)), "binary", None, ""),
    "truth values with gaps": (pandas.array(cycle(True, False, None), dtype="boolean"), "binary", None, ""),
    "two numbers": (cycle(-0.0446, 0.0507), "binary", None, ""),
    "one and two": (cycle(1, 2, 2), "binary", None, ""),
    "yes and no": (cycle("yes", "no", "no"), "binary", None, ""),
    "text": (cycle("a", "b", "c"), "categorical", None, ""),
    "text with gaps": (cycle("a", "b", None, "c"), "categorical", None, ""),
    "text with blanks around": (cycle("a", " b", "c "), "categorical", cycle("a", "b", "c"), ""),
    "pandas' text": (pandas.array(cycle("a", "b", "c"), dtype="string"), "categorical", None, ""),
    "levels": (pandas.Categorical(cycle("b", "a", "c"), ["c", "b", "a"]), "categorical", None, ""),
    "levels of numbers": (pandas.Categorical(cycle(3, 1, 2)), "categorical", None, ""),
    "ordered levels": (pandas.Categorical(cycle("L", "S", "M"), ["S", "M", "L"], ordered=True), "ordinal", None, ""),
    "numbers as text": (cycle("1.5", "2", "1e3"), "real", cycle(1.5, 2.0, 1000.0), ""),
    "per cent": (cycle("12.5%", "3%", "40%"), "real", cycle(12.5, 3.0, 40.0), ""),
    "amounts": (cycle("$1,200.50", "$3.00", "$15,000.25", "$7.75"), "positive", cycle(1200.5, 3.0, 15000.25, 7.75), ""),
    "decimals": (cycle(decimal.Decimal("1.50"), decimal.Decimal("2.25"), decimal.Decimal("9.75")), "real", None, ""),
    "dates": (cycle(*(datetime.date(2024, 1, day) for day in (3, 9, 27))), "datetime", None, ""),
    "times": (DAYS + pandas.Timedelta("13h"), "datetime", None, ""),
    "times with a zone": ((DAYS + pandas.Timedelta("1min")).dt.tz_localize("Europe/Berlin"), "datetime", None, ""),
    "times with gaps": (DAYS.where(np.arange(N) % 7 > 0), "datetime", None, ""),
    "dates as text": (DAYS.dt.strftime("%Y-%m-%d").tolist(), "datetime", None, ""),
    "times as text": (DAYS.dt.strftime("%Y-%m-%dT%H:%M:%S").tolist(), "datetime", None, ""),
    "time spans": (pandas.to_timedelta(np.abs(NORMAL).round(2), unit="h").round("s"), "real", None, ""),
    "numbered rows": (np.arange(N), "id", None, "not modelled"),
    "customer_id": (G.permutation(N) + 10_000, "id", None, "not modelled"),
    "names of rows": ([f"row {i}" for i in range(N)], "id", None, "not modelled"),
    "nearly names of rows": ([f"row {max(i, 2)}" for i in range(N)], "id", None, "nearly (58 values in 60 rows)"),
    "no values": ([None] * N, "ignored", None, "no values"),
    "blank text": (cycle("", " "), "ignored", None, "no values"),
    "one number": ([3.5] * N, "ignored", None, "does not vary"),
    "one text": (["a"] * N, "ignored", None, "does not vary"),
    "one number and gaps": (cycle(3.0, None), "ignored", None, "does not vary"),
    "many zeros": (np.where(NORMAL < 0, 0.0, NORMAL), "real", None, "of the values are 0"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_of_its_kind_and_comes_back(name):
    values, kind, back, note = COLUMNS[name]
    frame = pandas.DataFrame({"other": NORMAL, name: values})
    table = whole_table(frame)
    column = table.schema[name]
    assert column.kind == kind
    assert note in column.note
    assert Schema.from_dict(table.schema.to_dict()) == table.schema
    if kind == "ignored":
        assert name not in table.columns
        assert (name in table.schema.decode(table.values.numpy())) == ("vary" in note)
        return
    if kind == "id":
        assert table.ids[name].tolist() == list(frame[name])
        return
    found = table.schema.decode(table.values.numpy())
    expected = pandas.DataFrame({"other": NORMAL, name: values if back is None else back})[[*found.columns]]
    if kind == "categorical":  # one-hot codes of a gap are gaps, which the largest of them is not
        known = expected[name].notna()
        found, expected = found[known], expected[known]
    if name == "levels":
        expected[name] = expected[name].cat.set_categories(["c", "b", "a"])
    pandas.testing.assert_frame_equal(found, expected, check_dtype=name not in ("decimals", "pandas' text"), rtol=1e-12)


def customers():
    return pv.load_data("customers", label="churned")


@pytest.mark.parametrize(
    ("options", "name", "kind"),
    [
        ({"columns": {"orders": "categorical"}}, "orders", "categorical"),
        ({"columns": {"orders": "real"}}, "orders", "real"),
        ({"columns": {"segment": "ordinal:Retail<Public<Partner<Business"}}, "segment", "ordinal"),
        ({"columns": {"segment": "id"}}, "segment", "id"),
        ({"drop": "city"}, "city", "ignored"),
        ({"drop": ["city", "signup"]}, "signup", "ignored"),
        ({"id": "segment"}, "segment", "id"),
        ({"label": "segment"}, "segment", "label"),
        ({"columns": {"satisfaction": "bounded"}}, "satisfaction", "bounded"),
    ],
)
def test_what_the_user_says_counts(options, name, kind, tmp_path):
    data = pv.load_data("customers", **options)
    assert data.schema[name].kind == kind
    data.schema.to_toml(tmp_path / "schema.toml")
    assert pv.load_data("customers", schema=tmp_path / "schema.toml").schema == data.schema
    if "ordinal" in str(options):
        assert data.schema[name].levels == ("Retail", "Public", "Partner", "Business")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"order": "count"}}, r"no column 'order'; did you mean 'orders'\? \(columns: customer_id"),
        ({"columns": {"orders": "cuont"}}, r"no kind called 'cuont'; did you mean 'count'\?"),
        ({"columns": {"revenue": "count"}}, "revenue has values from .*; count takes whole numbers from 0"),
        ({"columns": {"city": "real"}}, "city holds 'City .*' in row .*no number"),
        ({"columns": {"city": "datetime"}}, "city holds a date that is not written as ISO 8601"),
        ({"columns": {"city": "binary"}}, "city has 30 values; binary takes two"),
        ({"columns": {"orders": "count:3"}}, "count takes nothing after a colon"),
        ({"label": "churned", "drop": "churned"}, "churned is given two kinds, ignored and label"),
        ({"drop": ["revenue", "orders", "satisfaction", "segment", "city", "signup", "churned"]}, "no column is left"),
        ({"split": "fold"}, "no column 'fold'"),
        ({"split": "segment"}, "segment is '.*' in row 0 .*; a column of splits holds train, valid, test"),
        ({"group": "city", "split": "segment"}, "leave the column of groups out"),
        ({"schema": "absent.toml"}, "no file absent.toml"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(options, message):
    with pytest.raises(pv.InputError, match=message):
        pv.load_data("customers", **options)


def test_a_positive_column_takes_zeros_and_nothing_below():
    zeros = pandas.DataFrame({"x": np.where(NORMAL < 0, 0.0, np.exp(3 * NORMAL)), "y": cycle("a", "b", "c")})
    assert pv.load_data(zeros).schema["x"].has_zeros
    with pytest.raises(pv.InputError, match="positive takes numbers from 0"):
        pv.load_data(pandas.DataFrame({"x": NORMAL, "y": NORMAL}), columns={"x": "positive"})


def test_columns_are_named_for_tables_only():
    for source in ("digits", NORMAL[:, None]):
        with pytest.raises(pv.InputError, match="columns are named, and rows of other files given, for tables only"):
            pv.load_data(source, label="y")


def test_the_command_line_says_kinds_as_python_does():
    texts = ("a=count", "size=ordinal:S<M<L", "a=b=categorical", "when=datetime:%d.%m.%Y")
    assert parse_kinds(texts) == {
        "a": "count",
        "size": "ordinal:S<M<L",
        "a=b": "categorical",
        "when": "datetime:%d.%m.%Y",
    }
    for wrong in ("a", "a=", "=count", "a=number"):
        with pytest.raises(pv.InputError, match="expected NAME=KIND, with a kind of real, positive"):
            parse_kinds([wrong])
    with pytest.raises(pv.InputError, match="given twice"):
        parse_kinds(["a=count", "a=real"])


def test_levels_and_ranges_are_those_of_the_training_rows():
    frame = pandas.DataFrame({"x": np.arange(100.0), "kind": ["a", "b"] * 49 + ["rare", "a"]})
    split = ["train"] * 90 + ["valid"] * 5 + ["test"] * 5
    data = pv.load_data(frame.assign(split=split), split="split")
    assert data.schema["kind"].levels == ("a", "b")
    assert data.schema["x"].high == 89
    assert data.test.stored[3, 1] == 2.0  # a level that the training rows do not have
    with pytest.warns(UnknownValueWarning, match="kind: a level that no training row had in 1 of 2 rows, first rare"):
        assert data.prepare(frame.iloc[98:]).stored[:, 1].tolist() == [2.0, 0.0]


def test_a_category_that_was_never_seen_has_no_code():
    frame = pandas.DataFrame({"x": NORMAL, "kind": cycle("a", "b", "c")})
    for coding, codes in (("columns", [[1], [3]]), ("one-hot", [[0, 1, 0], [0, 0, 0]])):
        data = pv.load_data(frame, coding=coding)
        with pytest.warns(UnknownValueWarning, match="first d in row 1"):
            new = data.prepare(pandas.DataFrame({"kind": ["b", "d", None], "x": [0.0, 1.0, 2.0]}).iloc[:2])
        assert new.stored[:, 1:].tolist() == codes
    with pytest.raises(pv.InputError, match="values are missing"):
        data.prepare(pandas.DataFrame({"kind": [None], "x": [0.0]}))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_of_every_library_are_one_table(library, tmp_path):
    frame = pandas.DataFrame(
        {
            "name": [f"r{i}" for i in range(N)],
            "x": NORMAL,
            "count": pandas.array(cycle(1, 5, None, 9, 0), dtype="Int64"),
            "on": cycle(True, False),
            "kind": cycle("a", "b", None, "c"),
            "day": DAYS,
            "level": pandas.Categorical(cycle("L", "M", "S"), ["L", "M", "S"]),
        }
    )
    given = {
        "pandas": frame,
        "polars": polars.from_pandas(frame),
        "pyarrow": pyarrow.Table.from_pandas(frame, preserve_index=False),
    }[library]
    table, expected = whole_table(given), whole_table(frame)
    assert [column.kind for column in table.schema] == [column.kind for column in expected.schema]
    assert table.columns == expected.columns
    np.testing.assert_array_equal(table.values.numpy(), expected.values.numpy())
    assert table.ids["name"].tolist() == expected.ids["name"].tolist()
    back = frame_like(given, table.schema.decode(table.values.numpy()))
    assert type(back) is type(given)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    for path in (tmp_path / "t.parquet", tmp_path / "t.csv"):
        read = whole_table(path)
        assert [column.kind for column in read.schema] == [column.kind for column in expected.schema]
        np.testing.assert_allclose(read.values.numpy(), expected.values.numpy(), rtol=1e-15)


def test_lazy_frames_have_no_rows_yet():
    with pytest.raises(pv.InputError, match=r"a lazy frame has no rows yet; collect it first"):
        read_memory(polars.LazyFrame({"x": NORMAL}))


def test_one_value_that_dwarfs_the_rest_does_not_decide_the_scale():
    """A single 1e9 gave a column the deviation 1e8, and the others no difference that a fit could see."""
    x = NORMAL.copy()
    x[7] = 1e9
    frame = pandas.DataFrame({"x": x, "y": G.normal(size=N)})
    data = pv.load_data(frame)
    assert "x: 1e+09, more than 10,000 times the spread of the others" in "; ".join(data.notes)
    assert "(row 7)" in "; ".join(data.notes)
    assert 0.5 < data.train.measure.scale[0] < 2
    assert 7 not in torch.cat([data.train.index, data.valid.index])
    heavy = pandas.DataFrame({"x": G.standard_cauchy(N), "y": G.normal(size=N)})
    assert not pv.load_data(heavy).notes  # heavy tails are not one value


def test_equal_columns_are_said():
    frame = pandas.DataFrame({"a": NORMAL, "b": NORMAL, "c": cycle("x", "y", "z")})
    assert pv.load_data(frame).schema["b"].note == "equals a in every training row; --drop b"


@pytest.mark.parametrize(
    "spellings", [("train", "valid", "test"), ("Training", "VAL", "holdout"), ("fit", "dev", "Test ")]
)
def test_a_column_of_splits(spellings):
    which = [spellings[min(i % 10, 9) // 8 + (i % 10 == 9)] for i in range(N)]
    frame = pandas.DataFrame({"x": NORMAL, "y": NORMAL**2, "fold": which})
    data = pv.load_data(frame, split="fold")
    assert data.columns == ("x", "y")
    assert [i % 10 for i in data.test.index.tolist()] == [9] * len(data.test)
    assert {i % 10 for i in data.valid.index.tolist()} == {8}
    only = pv.load_data(frame[frame["fold"] != spellings[1]], split="fold")
    assert len(only.valid) == 4
    assert "no rows for valid: 4 of the training rows taken" in only.notes


def test_roles_count_however_they_are_said(tmp_path):
    """By an option, as a kind, or in a file of kinds: none is read and ignored."""
    which = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
    frame = pandas.DataFrame({"x": NORMAL, "fold": which, "w": np.arange(1.0, N + 1)})
    said = pv.load_data(frame, split="fold", weights="w")
    said.schema.to_toml(tmp_path / "schema.toml")
    others = (
        pv.load_data(frame, columns={"fold": "split", "w": "weights"}),
        pv.load_data(frame, schema=tmp_path / "schema.toml"),
    )
    for data in (said, *others):
        assert data.columns == ("x",)
        assert data.valid.index.tolist() == list(range(40, 50))
        assert data.test.weights.tolist() == list(range(51, 61))
    with pytest.raises(pv.InputError, match="leave the column of groups out"):
        pv.load_data(frame, schema=tmp_path / "schema.toml", group="x")


def test_groups_stay_in_one_split():
    household = G.integers(0, 15, 300)
    frame = pandas.DataFrame({"x": G.normal(size=300), "household": household})
    data = pv.load_data(frame, group="household")
    assert data.columns == ("x",)
    parts = [set(household[split.index.numpy()]) for split in (data.train, data.valid, data.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert sum(map(len, parts)) == len(set(household))
    assert all(20 <= len(split) <= 75 for split in (data.valid, data.test))
    with pytest.raises(pv.InputError, match="household has 2 groups; three or more"):
        pv.load_data(frame.assign(household=np.arange(300) % 2), group="household")


def test_files_of_their_own_for_validation_and_test(tmp_path):
    frame = pandas.DataFrame({"x": G.normal(5, 3, 300), "kind": G.choice(["a", "b", "c"], 300)})
    for name, rows in {"a": frame[:200], "b": frame[200:250], "c": frame[250:]}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    paths = {name: tmp_path / f"{name}.csv" for name in "abc"}
    data = pv.load_data(paths["a"], valid=paths["b"], test=paths["c"])
    assert [len(split) for split in (data.train, data.valid, data.test)] == [200, 50, 50]
    assert torch.equal(data.test.x, data.prepare(paths["c"]).x)
    assert data.test.index.tolist() == list(range(50))
    assert data.train.measure.shift[0] == pytest.approx(frame["x"][:200].mean())
    assert len(pv.load_data(paths["a"], test=paths["c"]).valid) == 20
    with pytest.raises(pv.InputError, match="no column kind"):
        pv.load_data(paths["a"], test=frame[["x"]])


def test_missing_values_are_masked_in_tables_and_refused_in_arrays():
    x = np.where(np.arange(N) % 5 == 0, np.nan, NORMAL)
    frame = pandas.DataFrame({"x": x, "y": NORMAL})
    data = pv.load_data(frame)
    assert data.has_missing
    assert "12 values are missing (x: 12): the observed ones are modelled" in data.notes
    for source, options in ((frame, {"missing": "refuse"}), (frame.to_numpy(), {})):
        with pytest.raises(pv.InputError, match="12 values are missing"):
            pv.load_data(source, **options)


@pytest.mark.parametrize(
    ("days", "precision"),
    [([19_000.0, 3.0], "D"), ([0.25], "h"), ([1 / 1440], "min"), ([5 / 86400], "s"), ([1e-9], "us")],
)
def test_the_precision_of_dates(days, precision):
    assert precision_of(np.array(days)) == precision


def test_the_decimals_of_numbers():
    assert [decimals_of(np.array(v)) for v in ([1.0], [0.5, 125.45], [0.1234], [1 / 3])] == [0, 2, 4, None]


def test_schemas_say_what_is_wrong_in_a_file(tmp_path):
    path = tmp_path / "schema.toml"
    for text, message in [
        ("kind = 3", "no columns in it"),
        ("[columns.x]\nkind = 'reel'", r"no kind called 'reel'; did you mean 'real'\?"),
        ("[columns.x]\nkind = 'real'\ncolour = 1", "column x: no setting called 'colour'"),
        ("[columns.z]\nkind = 'real'", "no column 'z'"),
    ]:
        path.write_text(text)
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(pandas.DataFrame({"x": NORMAL}), schema=path)
    assert set(KINDS) >= {"real", "id"}
    assert Column("x", "real").describe() == "x  real"


def test_shares_that_float32_cannot_tell_from_one_are_inside():
    values = np.tile([0.2, 0.7, 1 - 1e-10, 1e-12], 20)
    data = pv.load_data(pandas.DataFrame({"share": values}), columns={"share": "bounded"}, coding="columns")
    assert 0 < data.train.x.min() < data.train.x.max() < 1


def test_draws_of_shares_stay_inside_ends_that_rows_reach():
    values = np.tile([0.0, 0.2, 0.7, 1.0], 20)
    data = pv.load_data(pandas.DataFrame({"share": values}), columns={"share": "bounded"}, coding="columns")
    x = torch.tensor([[1e-6], [0.5], [1 - 1e-6]])  # beyond both ends by nearly the margin that x has
    assert data.preparation.to_frame(x)["share"].tolist() == [0.0, pytest.approx(0.5), 1.0]
    assert data.preparation.to_frame(x, rounded=False)["share"].min() < 0


@pytest.mark.parametrize("number", [8, 9])
def test_of_many_columns_eight_are_named(number):
    schema = Schema(tuple(Column(f"c{i}", "real") for i in range(number)), coding="columns")
    with pytest.raises(pv.InputError) as error:
        choose_columns(["other"], schema, number)
    assert str(error.value).startswith("no column 'other'; there are c0, c1, c2, c3, c4, c5, c6, c7")
    assert ("c7, …, or numbers from 0 to 8" in str(error.value)) == (number == 9)
    assert ("c7, or numbers from 0 to 7" in str(error.value)) == (number == 8)


STATED_KINDS = {
    "none": ({}, "plain"),
    "real": ({"b": "real"}, "plain"),
    "positive": ({"b": "positive"}, "columns"),
    "bounded": ({"s": "bounded"}, "columns"),
    "a count among reals": ({"c": "count"}, "columns"),
    "whole numbers": ({"c": "integer"}, "columns"),
    "an identifier": ({"c": "id"}, "plain"),
}


@pytest.mark.parametrize("case", STATED_KINDS)
def test_a_kind_that_is_said_has_its_distribution(case):
    """Kinds that are inferred leave a table of numbers as it is; one that the user says counts."""
    kinds, coding = STATED_KINDS[case]
    g = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": g.normal(size=90), "b": g.lognormal(size=90), "s": g.uniform(size=90)})
    frame["c"] = g.poisson(3.0, 90)
    assert pv.load_data(frame, columns=kinds).schema.coding == coding
    assert pv.load_data(frame, columns=kinds, coding="plain").schema.coding == "plain"
    counts = frame[["c"]].assign(d=frame["c"] + 1)
    assert pv.load_data(counts, columns={"c": "count"}).schema.coding == "plain"  # as for all tables of counts


def test_a_family_in_a_file_of_kinds_counts(tmp_path):
    g = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": g.normal(size=90), "b": g.lognormal(size=90)})
    data = pv.load_data(frame)
    data.schema.to_toml(tmp_path / "kinds.toml")
    assert pv.load_data(frame, schema=tmp_path / "kinds.toml").schema.coding == "plain"
    text = (tmp_path / "kinds.toml").read_text(encoding="utf-8")
    text = text.replace("[columns.a]\n", '[columns.a]\nfamily = "student-t"\n')
    (tmp_path / "kinds.toml").write_text(text, encoding="utf-8")
    again = pv.load_data(frame, schema=tmp_path / "kinds.toml")
    assert (again.schema.coding, again.schema["a"].distribution) == ("columns", "student-t")


def test_levels_are_no_plain_numbers():
    frame = pandas.DataFrame({"a": np.arange(60) / 7, "d": ["x", "y", "z"] * 20})
    with pytest.raises(pv.InputError, match="take --coding columns, or one-hot"):
        pv.load_data(frame, coding="plain")


def test_one_hot_codes_are_said_with_the_columns_that_have_them():
    frame = pandas.DataFrame({"x": NORMAL, "kind": cycle("a", "b", "c"), "y": NORMAL[::-1]})
    assert "kind coded as numbers, categories one-hot: densities are of these codes, and not of the table" in (
        pv.load_data(frame, coding="one-hot").notes
    )


OTHER_ROWS = {  # of a kind that the training rows have: a value of a later row, and the kind that all can have
    "a fraction among counts": ("count", 2.5, "real", "count in the training rows, but not in validation and test"),
    "below zero among counts": ("count", -1, "integer", "count in the training rows, but not in validation and test"),
    "a large count": ("count", 90_000, "count", ""),
    "a fraction among integers": ("integer", 2.5, "real", "not all whole"),
    "zero among positive": ("positive", 0.0, "positive", ""),
    "below zero among positive": ("positive", -2.0, "real", "positive in the training rows, but not in validation"),
    "above one among shares": ("bounded", 1.5, "real", "bounded in the training rows, but not in validation and test"),
    "a share": ("bounded", 1.0, "bounded", ""),
}


@pytest.mark.parametrize("place", ["valid", "test"])
@pytest.mark.parametrize("case", OTHER_ROWS)
def test_a_kind_is_one_that_validation_and_test_rows_can_have(case, place):
    """A fit ended with an error in units of the network, or a list of values, at such a row; or evaluate did."""
    kind, value, expected, note = OTHER_ROWS[case]
    g = np.random.default_rng(1)
    values = {
        "count": g.poisson(3.0, 100),
        "integer": g.integers(-50, 50, 100),
        "positive": np.exp(g.normal(size=100)),
        "bounded": g.permutation(np.linspace(0.01, 0.99, 100)),
    }[kind]
    frame = pandas.DataFrame({"x": values, "kind": ["a", "b"] * 50}).astype({"x": object})
    frame.loc[90 if place == "valid" else 97, "x"] = value
    frame["x"] = pandas.to_numeric(frame["x"])
    parts = ["train"] * 90 + ["valid"] * 5 + ["test"] * 5
    data = pv.load_data(frame.assign(split=parts), split="split")
    column = data.schema["x"]
    assert column.kind == expected
    assert note in column.note
    assert column.high < 90  # of the training rows
    assert bool(
        np.all([column_range(column).contains(part.x[:, 0].double().numpy()) for part in (data.valid, data.test)])
    )
    if expected != kind:
        with pytest.raises(pv.InputError, match=f"column x has values from .*; {kind} takes"):
            pv.load_data(frame.assign(split=parts), split="split", columns={"x": kind})
    elif value == 0.0:
        assert column.has_zeros


@pytest.mark.parametrize("value", [-1.0, 2.5])
def test_arrays_are_counts_where_validation_and_test_rows_are_too(value):
    x = np.random.default_rng(0).poisson(3.0, (400, 5)).astype(float)
    data = pv.load_data(x)
    assert data.train.measure.scale == ()
    for part in (data.valid, data.test):
        other = x.copy()
        other[int(part.source_index(slice(None))[2]), 1] = value
        found = pv.load_data(other)
        assert len(found.train.measure.scale) == 5
        assert choose_likelihood(ModelConfig(), found).name == "multivariate-normal"
        with pytest.raises(pv.InputError, match="a negative-binomial likelihood needs whole numbers from 0"):
            choose_likelihood(ModelConfig(likelihood="negative-binomial"), found)
