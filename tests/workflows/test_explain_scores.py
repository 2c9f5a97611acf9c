"""`score --explain`: the columns that make flagged rows improbable, in frames, files, words and JSON."""

import json

import pandas
import pytest

import pyro_vae as pv
from pyro_vae.cli.main import _run
from pyro_vae.data.customers import STRANGE, customers
from pyro_vae.report.explained_rows import value_in_words
from pyro_vae.workflows import score_rows
from pyro_vae.workflows.fit_run import fit_run

EXPLAINED = ["column_1", "nats_1", "column_2", "nats_2", "column_3", "nats_3"]


@pytest.fixture(scope="module")
def frame():
    return customers(None, 0).values


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame):
    """A run whose training file is gone, and a file of usual rows and the three strange ones."""
    folder = tmp_path_factory.mktemp("customers")
    frame.to_csv(folder / "customers.csv", index=False)
    options = {"label": "churned", "epochs": 20, "hidden": (32,), "latent_dim": 3, "learning_rate": 5e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
        fit_run(folder / "run", data=str(folder / "customers.csv"), **options)
    (folder / "customers.csv").unlink()
    frame.iloc[[*range(25), *STRANGE]].to_csv(folder / "new.csv", index=False)
    return folder


def test_the_planted_values_come_first(folder, frame):
    """Of each strange row a planted value, of usual rows nothing; numbers of other rows stay as they were."""
    run, rows = pv.open_run(folder / "run"), frame.iloc[[*range(25), *STRANGE]].reset_index(drop=True)
    plain, found = run.score(rows), run.score(rows, explain=True)
    assert list(found.columns) == [*plain.columns, *EXPLAINED]
    pandas.testing.assert_frame_equal(found[plain.columns], plain)
    for place, (number, planted) in enumerate(STRANGE.items(), start=25):
        row = found.iloc[place]
        assert row["anomaly"] == 1
        assert row["column_1"] in planted, number
        assert row["nats_1"] < -5
        nats = row[["nats_1", "nats_2", "nats_3"]].dropna().tolist()
        assert nats == sorted(nats)
    assert found.loc[found["anomaly"] == 0, EXPLAINED].isna().all(axis=None)


def test_the_command_says_it_in_words_and_json(folder, frame, capsys, monkeypatch):
    """Chunks are explained one by one; the types of a first chunk without any flagged row fit the others."""
    out = folder / "scores.parquet"
    words = ["score", str(folder / "run"), str(folder / "new.csv"), "--explain", "--out", str(out)]
    monkeypatch.setattr(score_rows, "CHUNK_ROWS", 20)
    assert _run([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    table = pandas.read_parquet(out)
    assert len(summary["explanations"]) == summary["num_anomalies"] == int(table["anomaly"].sum())
    log_px = [row["log_px"] for row in summary["explanations"]]
    assert log_px == sorted(log_px)
    first = summary["explanations"][0]
    own = frame[frame["customer_id"] == first["row"]].iloc[0]
    assert {each["column"]: each["value"] for each in first["columns"]}.items() <= own.to_dict().items()
    by_id = table.set_index("customer_id")
    assert by_id.loc[first["row"], "column_1"] == first["columns"][0]["column"]
    few = folder / "few.csv"
    frame.iloc[[*range(5), *STRANGE]].to_csv(few, index=False)
    assert _run(["score", str(folder / "run"), str(few), "--explain", "--out", str(folder / "few-scores.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = first["columns"][0]
    said = f"row {first['row']}: {column['column']} = {value_in_words(column['value'])} (−"
    assert any(line.strip().startswith(said) for line in lines), lines
