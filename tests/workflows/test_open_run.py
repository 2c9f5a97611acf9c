"""A finished run in Python: rows of frames, files and arrays in, frames in the data's own columns out."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import polars
import pytest

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.data.customers import customers
from pyro_vae.workflows.fit_run import fit_run

COLUMNS = ["signup", "segment", "city", "revenue", "orders", "satisfaction"]
NAMES = ["customer_id", "index", "churned"]


@pytest.fixture(scope="module")
def frame():
    return customers(None, 0).values


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame):
    """A run of a file that is gone when new rows come."""
    folder = tmp_path_factory.mktemp("customers")
    frame.to_csv(folder / "customers.csv", index=False)
    fit_run(folder / "run", data=str(folder / "customers.csv"), label="churned", epochs=2, hidden=(16,), latent_dim=2)
    (folder / "customers.csv").rename(folder / "gone.csv")
    return folder


def test_rows_come_back_in_their_own_columns(folder, frame):
    run = pv.open_run(folder / "run")
    drawn = run.sample(500, seed=0)
    assert list(drawn.columns) == COLUMNS
    assert drawn["orders"].dtype.kind == "i"
    assert (drawn["orders"] >= 0).all()
    for name in ("segment", "city"):  # one level a row, of those that the data has
        assert set(drawn[name]) <= set(frame[name])
    assert drawn["signup"].str.fullmatch(r"\d{4}-\d{2}-\d{2}").all()  # days, as in the file
    assert drawn.notna().all(axis=None)
    assert drawn["revenue"].round(2).equals(drawn["revenue"])
    pandas.testing.assert_frame_equal(drawn, run.sample(500, seed=0))
    some = frame.iloc[[7, 417, 3]].reset_index(drop=True)
    for verb, columns in (
        (run.encode, ["z1", "z2"]),
        (run.reconstruct, COLUMNS),
        (run.score, ["log_px", "khat", "percentile", "anomaly"]),
    ):
        found = verb(some)
        assert list(found.columns) == [*NAMES, *columns]
        assert found["customer_id"].tolist() == some["customer_id"].tolist()
        assert found["churned"].tolist() == some["churned"].tolist()
        assert found["index"].tolist() == [0, 1, 2]
        shuffled = verb(some[list(reversed(some.columns))])
        pandas.testing.assert_frame_equal(found, shuffled)
        assert isinstance(verb(polars.from_pandas(some)), polars.DataFrame)


def test_files_and_frames_give_the_same(folder, frame, tmp_path):
    run = pv.open_run(folder / "run")
    new = frame.iloc[100:140].reset_index(drop=True)
    new.to_csv(tmp_path / "new.csv", index=False)
    new.to_parquet(tmp_path / "new.parquet")
    expected = run.score(new)
    for name in ("new.csv", "new.parquet"):
        pandas.testing.assert_frame_equal(run.score(tmp_path / name), expected, rtol=1e-12)
    out = tmp_path / "scores.parquet"
    with pytest.raises(SystemExit, match="0"):
        main(["score", str(folder / "run"), str(tmp_path / "new.csv"), "--out", str(out)])
    pandas.testing.assert_frame_equal(pandas.read_parquet(out), expected, rtol=1e-12)
    with pytest.raises(SystemExit, match="0"):
        main(["sample", str(folder / "run"), "--num", "20", "--out", str(tmp_path / "s.parquet")])
    assert list(pandas.read_parquet(tmp_path / "s.parquet").columns) == COLUMNS


def test_one_row_needs_no_training_file(folder, frame):
    run = pv.open_run(folder / "run")
    whole = frame[frame["satisfaction"].notna()].iloc[:1]
    gaps = frame[frame["satisfaction"].isna()].iloc[:1]
    for row in (whole, gaps):
        assert run.score(row)["log_px"].notna().all()
    with pytest.raises(pv.InputError, match="cannot be read"):
        run.data()
    with pytest.raises(pv.InputError, match=r"\d+ reference rows cannot tell one in 1000"):
        run.score(whole, false_alarms=0.001)


def test_a_run_is_copied_and_used_by_threads(folder, frame):
    run = pv.open_run(folder / "run")
    expected = run.encode(frame)
    for other in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        pandas.testing.assert_frame_equal(other.encode(frame), expected)
    parts = [frame.iloc[start : start + 50] for start in range(0, 400, 50)]
    single = [run.score(part)["log_px"].to_numpy() for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = [scores["log_px"].to_numpy() for scores in pool.map(run.score, parts)]
    for one, other in zip(single, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_is_refused(folder, frame):
    run = pv.open_run(folder / "run")
    for rows, message in [
        (frame.drop(columns="revenue"), "no column revenue; this run was fitted to signup, segment"),
        (np.zeros((3, 6)), "fitted to columns with kinds"),
        (frame.assign(orders="many"), "orders holds 'many' in row 0"),
        (frame.assign(signup="soon"), "signup holds a date that is not written"),
        (folder / "absent.csv", "no file or folder"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            run.encode(rows)


@pytest.mark.usefixtures("without_figures")
def test_a_named_table_is_read_as_in_the_fit(tmp_path):
    fit_run(tmp_path / "run", data="customers", label="churned", epochs=1, hidden=(8,))
    run = pv.open_run(tmp_path / "run")
    assert run.rows("customers", "test").x.equal(run.data().test.x)
    with pytest.raises(pv.InputError, match="columns of another data set; this run was fitted to customers"):
        run.rows("swiss-roll", "test")


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_an_array_gives_frames_too(tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "x.npy", values)
    fit_run(tmp_path / "run", data=str(tmp_path / "x.npy"), epochs=1, hidden=(8,))
    run = pv.open_run(tmp_path / "run")
    assert list(run.reconstruct(values[:5]).columns) == ["index", "x1", "x2", "x3"]
    assert list(run.encode(values[:5]).columns) == ["index", "z1", "z2"]
    assert len(run.score()) == 20


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_the_version_that_gave_stated_kinds_no_distribution(tmp_path):
    """What auto means is what it meant when the run was fitted: its columns are read as they were."""
    g = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": g.normal(size=90), "b": g.lognormal(size=90)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = {"data": str(tmp_path / "t.csv"), "column": ("b=positive",), "coding": "plain", "epochs": 1}
    fit_run(tmp_path / "r", hidden=(4,), latent_dim=1, **given)
    before = pv.open_run(tmp_path / "r").data()
    config = tmp_path / "r" / "config.toml"
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)[1:]  # without the digest
    assert 'coding = "plain"\n' in lines
    config.write_text("".join(lines).replace('coding = "plain"', 'coding = "auto"'), encoding="utf-8")
    after = pv.open_run(tmp_path / "r").data()
    assert after.fingerprint == before.fingerprint
    assert after.train.measure == before.train.measure
    assert after.train.x.equal(before.train.x)
