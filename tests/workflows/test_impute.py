"""Missing cells of frames and files filled: everything that was observed comes back as it was."""

import csv
import json

import numpy as np
import pandas
import polars
import pytest

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.data.customers import customers
from pyro_vae.workflows import read_run
from pyro_vae.workflows.fit_resampled import fit_resampled
from pyro_vae.workflows.fit_run import fit_run

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.errors.UnknownValueWarning")  # of rare cities

COLUMNS = ["signup", "segment", "city", "revenue", "orders", "satisfaction"]


def with_holes(frame, columns=COLUMNS, share=0.2):
    rng, holed = np.random.default_rng(0), frame.copy()
    for name in columns:
        holed[name] = holed[name].mask(rng.random(len(holed)) < share)
    return holed


@pytest.fixture(scope="module")
def frame():
    return customers(None, 0).values.head(140)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame):
    folder = tmp_path_factory.mktemp("impute")
    frame.to_csv(folder / "whole.csv", index=False)
    fit_run(folder / "run", data=str(folder / "whole.csv"), label="churned", epochs=2, hidden=(16,))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return pv.open_run(folder / "run")


def typed(frame, kind):
    """The table with types that pandas has for gaps."""
    holed = with_holes(frame)
    if kind == "plain":
        return holed
    if kind == "nullable":
        return holed.astype({"orders": "Int64", "satisfaction": "Float32", "segment": "string"})
    if kind == "category":
        levels = {name: pandas.CategoricalDtype(sorted(frame[name].unique())) for name in ("segment", "city")}
        return holed.astype(levels)
    return holed.astype({"signup": object, "segment": object, "orders": object})


@pytest.mark.parametrize("kind", ["plain", "nullable", "category", "objects"])
@pytest.mark.parametrize("method", ["draws", "mean", "mode"])
def test_observed_cells_and_types_stay(run, frame, kind, method):
    holed = typed(frame, kind).set_index(np.arange(len(frame)) * 3)
    filled = run.impute(holed, method=method, num_samples=200)
    assert list(filled.columns) == list(holed.columns)  # the id is the first already
    assert filled.index.equals(holed.index)
    assert filled.dtypes.to_dict() == holed.dtypes.to_dict()
    assert filled.notna().all().all()
    pandas.testing.assert_frame_equal(filled.where(holed.notna()), holed.where(holed.notna()), check_exact=True)
    was_missing = holed["orders"].isna()
    orders = filled["orders"][was_missing].astype(float)
    assert (orders >= 0).all()
    assert (orders == orders.round()).all()
    assert set(filled["segment"]) <= set(frame["segment"])


def test_several_imputations_are_one_below_the_other(run, frame):
    holed = with_holes(frame)[
        ["city", "orders", "customer_id", "churned", "signup", "segment", "revenue", "satisfaction"]
    ]
    filled = run.impute(holed, num_imputations=3, num_samples=200)
    assert list(filled.columns)[:4] == ["customer_id", "imputation", "city", "orders"]
    assert filled["imputation"].tolist() == [1] * 140 + [2] * 140 + [3] * 140
    assert filled["customer_id"].tolist() == 3 * holed["customer_id"].tolist()
    one, two = (filled[filled["imputation"] == i].reset_index(drop=True) for i in (1, 2))
    assert not one.equals(two)
    is_observed = holed["revenue"].notna()
    assert (one["revenue"] == two["revenue"])[is_observed].all()
    assert (one["revenue"] != two["revenue"])[~is_observed].mean() > 0.9
    with pytest.raises(pv.InputError, match="a column is called imputation"):
        run.impute(holed.assign(imputation=1), num_imputations=2)


def test_polars_stays_polars(run, frame):
    holed = polars.from_pandas(with_holes(frame).astype({"orders": "Int64"}))
    filled = run.impute(holed, num_samples=200)
    assert isinstance(filled, polars.DataFrame)
    assert filled.schema == holed.schema
    assert sum(filled.null_count().row(0)) == 0
    for name in holed.columns:
        known = holed[name].is_not_null()
        assert filled[name].filter(known).equals(holed[name].filter(known))
    assert run.impute(holed, num_imputations=2, num_samples=200).height == 280


def test_whole_rows_come_back_and_empty_ones_are_drawn(run, frame):
    whole = frame.dropna().reset_index(drop=True)
    pandas.testing.assert_frame_equal(run.impute(whole), whole)
    empty = whole.head(100).copy()
    for name in COLUMNS:
        empty[name] = empty[name].mask(np.ones(100, bool))
    filled = run.impute(empty, num_samples=200)
    assert filled[COLUMNS].notna().all().all()
    assert filled["segment"].nunique() > 1
    assert filled["revenue"].nunique() > 50
    drawn = run.sample(2000, seed=0)
    difference = np.log(filled["revenue"]).mean() - np.log(drawn["revenue"]).mean()
    assert abs(difference) < 5 * np.log(drawn["revenue"]).std() / np.sqrt(100)


TEXT = """id,when,amount,kind,times,flag
A1,05.01.2024,1.50,red,3,yes
A2,,2.00,,4,no
A3,07.02.2024,NA,blue,,yes
A4,09.03.2024,"1.250",red,0,
"""


@pytest.mark.usefixtures("without_figures")
def test_text_of_a_file_stays_as_it_is_written(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"B{i},{1 + i % 28:02d}.0{1 + i % 9}.2024,{rng.gamma(2):.2f},{rng.choice(['red', 'blue', 'green'])},"
        f"{rng.poisson(3)},{rng.choice(['yes', 'no'])}"
        for i in range(300)
    ]
    (tmp_path / "train.csv").write_text("\n".join(["id,when,amount,kind,times,flag", *rows]))
    (tmp_path / "new.csv").write_text(TEXT)
    settings = {"column": ("when=datetime:%d.%m.%Y",), "id": ("id",), "epochs": 2, "hidden": (8,)}
    fit_run(tmp_path / "run", data=str(tmp_path / "train.csv"), **settings)
    out = tmp_path / "filled.csv"
    with pytest.raises(SystemExit, match="0"):
        main(["impute", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(out)])
    given, found = (list(csv.reader(text.splitlines())) for text in (TEXT, out.read_text()))
    assert found[0] == given[0]
    for before, after in zip(given, found, strict=True):
        for old, new in zip(before, after, strict=True):
            assert new == old or (old in ("", "NA") and new not in ("", "NA"))
    assert pandas.to_datetime(found[2][1], format="%d.%m.%Y").year in range(2020, 2030)
    assert found[2][3] in ("red", "blue", "green")
    assert found[3][4].isdigit()
    assert found[4][5] in ("yes", "no")
    assert len(found[3][2].partition(".")[2]) <= 2


def test_the_command_says_what_it_did(folder, frame, tmp_path, capsys):
    with_holes(frame).to_csv(tmp_path / "holes.csv", index=False)
    command = ["impute", str(folder / "run"), str(tmp_path / "holes.csv"), "--out"]
    with pytest.raises(SystemExit, match="0"):
        main(
            [
                *command,
                str(tmp_path / "a.parquet"),
                "--num-imputations",
                "2",
                "--num-samples",
                "200",
                "--seed",
                "3",
                "--json",
            ]
        )
    record = json.loads(capsys.readouterr().out)
    assert (record["num_rows"], record["num_imputations"], record["method"]) == (280, 2, "draws")
    assert record["num_filled"] == int(with_holes(frame)[COLUMNS].isna().sum().sum())
    written = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(written.columns[:2]) == ["customer_id", "imputation"]
    assert written.notna().all().all()
    with pytest.raises(SystemExit, match="0"):
        main([*command, str(tmp_path / "b.csv"), "--method", "mode", "--num-samples", "200"])
    assert "rows filled (mode)" in capsys.readouterr().out
    for arguments, message in [
        (["--method", "mean", "--num-imputations", "2"], "several imputations are draws"),
        (["--num-samples", "3"], "3 is not in the range"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            main([*command, str(tmp_path / "c.csv"), *arguments])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "c.csv").exists()


@pytest.mark.usefixtures("without_figures")
def test_own_rows_and_arrays(run, tmp_path):
    own = run.impute(num_imputations=2, num_samples=200)
    assert list(own.columns[:3]) == ["customer_id", "index", "imputation"]
    assert own[COLUMNS].notna().all().all()
    values = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "x.npy", values)
    fit_run(tmp_path / "run", data=str(tmp_path / "x.npy"), epochs=1, hidden=(8,))  # without gaps: its guide sees none
    holed = values.copy()
    holed[::2, 1] = np.nan
    filled = pv.open_run(tmp_path / "run").impute(holed)
    assert (filled[["x1", "x3"]].to_numpy() == values[:, [0, 2]]).all()
    assert (filled["x2"].to_numpy()[1::2] == values[1::2, 1]).all()
    assert filled["x2"].notna().all()


def test_a_bootstrap_draws_by_programs_of_resampled_rows(run, frame, monkeypatch):
    """Draws of one program differ less than those of programs that saw other rows; observed cells stay."""
    holed, programs = with_holes(frame).head(40), []

    def keep_program(*arguments):
        programs.append(fit_resampled(*arguments))
        return programs[-1]

    monkeypatch.setattr(read_run, "fit_resampled", keep_program)
    found = run.impute(holed, num_imputations=4, bootstrap=2, num_samples=100)
    assert list(found["imputation"].unique()) == [1, 2, 3, 4]
    known = holed["revenue"].notna().to_numpy()
    for m in range(4):
        part = found[found["imputation"] == m + 1]
        np.testing.assert_array_equal(part["revenue"].to_numpy()[known], holed["revenue"].to_numpy()[known])
    first, second = (program.state_dict() for program in programs)
    again = fit_resampled(run.folder, None, 1).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(second[name]) for name in first)
    for wrong, message in (({"bootstrap": 3}, "no multiple"), ({"bootstrap": 2, "method": "mean"}, "for draws")):
        with pytest.raises(pv.InputError, match=message):
            run.impute(holed, **{"num_imputations": 4} | wrong)
