"""`pyro-vae check`: what it prints and writes, on the rows that the fit set aside; what it refuses."""

import json

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, read_toml
from pyro_vae.cli.main import _run
from pyro_vae.diagnostics.checks.verdicts import LEVELS
from pyro_vae.workflows.check_run import check_run
from pyro_vae.workflows.fit_run import fit_run

SMALL = ["--num-replicates", "120", "--num-simulations", "40", "--num-draws", "19", "--num-samples", "10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    fit_run(folder, data="digits", epochs=2, hidden=(12,))
    return folder


def command(capsys, *words):
    code = _run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_verdicts_are_printed_kept_and_shown_on_a_page(run, capsys):
    code, out, err = command(capsys, "check", run, *SMALL)
    assert (code, err) == (0, "")
    assert out.startswith(f"{run} · 90 rows set aside for checks · ")
    assert "Pictures of rows and of draws: " in out
    assert f"{run}/check.html" in out
    kept = read_json(run / "check.json")
    assert (kept["num_replicates"], kept["num_rows"], kept["rows"]) == (120, 90, "rows set aside for checks")
    page = (run / "check.html").read_text()
    for verdict in kept["verdicts"]:
        assert verdict["title"] in page
        assert verdict["level"] in LEVELS
    assert "<script" not in page
    assert page.count("data:image/png") >= 8
    code, out, _ = command(capsys, "check", run, *SMALL, "--num-rows", "20", "--num-scored", "10", "--json")
    assert code == 0
    assert json.loads(out).keys() > {"run", "path", "verdicts", "num_rows", "seconds"}
    code, out, _ = command(capsys, "report", run, "--num-rows", "20")
    assert code == 0
    assert "Is the model right?" in (run / "report.html").read_text()


def test_rows_set_aside_choose_nothing_and_are_the_same_whenever_the_run_is_read(run):
    config = read_toml(run / "config.toml")
    assert config["data"]["check_rows"] == 90
    data, whole = pv.open_run(run).data(), pv.load_data("digits")
    assert (len(data.check), len(data.valid), data.fingerprint) == (90, 90, whole.fingerprint)
    assert not set(data.check.index.tolist()) & set(data.valid.index.tolist())
    assert read_json(run / "evaluation.json")["valid"]["num_data"] == 90


@pytest.mark.parametrize(("given", "number"), [({"check_rows": 0}, 0), ({"check_rows": 30}, 30)])
@pytest.mark.usefixtures("without_figures")
def test_the_number_of_rows_set_aside_can_be_given(tmp_path, given, number, capsys):
    fit_run(tmp_path / "r", data="digits", epochs=1, hidden=(8,), **given)
    data = pv.open_run(tmp_path / "r").data()
    assert len(data.valid) == 180 - number
    found, _ = check_run(tmp_path / "r", size=pv.diagnostics.CheckSize(num_replicates=20), families=["columns"])
    assert found.num_rows == (number or 180)
    assert ("validation rows, which chose the epoch" in " ".join(found.notes)) == (number == 0)


def test_of_few_validation_rows_none_are_set_aside(tmp_path):
    np.savetxt(tmp_path / "t.csv", np.random.default_rng(0).normal(size=(300, 3)), delimiter=",")
    fit_run(tmp_path / "r", data=str(tmp_path / "t.csv"), epochs=1, hidden=(8,))
    assert pv.open_run(tmp_path / "r").data().check is None


def test_statistics_of_ones_own(run, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def brightest(rows):\n    return rows.mean(0).max()\n\ndef broken(rows):\n    return rows\n")
    words = ["check", run, *SMALL, "--json", "--out", tmp_path / "page.html"]
    code, out, _ = command(capsys, *words, "--statistic", f"{path}:brightest")
    assert code == 0
    found = {verdict["name"]: verdict for verdict in json.loads(out)["verdicts"]}["statistics"]
    assert found["findings"][0]["name"] == "brightest"
    data = pv.open_run(run).data()
    assert found["findings"][0]["rows"] == pytest.approx(float(data.check.x.mean(0).max()))
    assert (tmp_path / "page.html").exists()
    before = (run / "check.json").read_bytes()
    for statistic, message in (
        (f"{path}:broken", "statistic broken: it has to return a finite number"),
        (f"{path}:nothing", "has no function nothing"),
        ("mine.py", "write the file and the function"),
    ):
        code, out, err = command(capsys, *words, "--statistic", statistic)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert (run / "check.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "page.txt"], "the page of a check is written as .html, not .txt"),
        (["--num-replicates", "1"], "1 is not in the range"),
        (["--time", "soon"], "'soon' is no time"),
        (["--split", "train"], "'train' is not one of"),
        (["--num-rows", "5"], "5 is not in the range"),
    ],
)
def test_what_is_refused(run, capsys, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "check", run, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    code, _, err = command(capsys, "check", tmp_path / "none")
    assert code == 2
    assert "none" in err


def test_of_grouped_rows_none_are_set_aside(tmp_path):
    g = np.random.default_rng(0)
    table = np.column_stack([g.normal(size=(1200, 2)), np.arange(1200) // 10])
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="a,b,household", comments="")
    fit_run(tmp_path / "r", data=str(tmp_path / "t.csv"), group="household", epochs=1, hidden=(8,))
    data = pv.open_run(tmp_path / "r").data()
    assert (data.check, len(data.valid) >= 100) == (None, True)


def test_two_statistics_of_one_name_are_refused(run, tmp_path, capsys):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("def mean(rows):\n    return rows.mean()\n")
    given = [word for name in ("a.py", "b.py") for word in ("--statistic", f"{tmp_path / name}:mean")]
    code, _, err = command(capsys, "check", run, *given)
    assert code == 2
    assert "there is another mean; give one of the functions another name" in err


@pytest.mark.usefixtures("without_figures")
def test_fits_to_resampled_rows_say_how_statistics_vary(tmp_path, capsys):
    np.savetxt(tmp_path / "t.csv", np.random.default_rng(0).normal(size=(150, 3)), delimiter=",")
    fit_run(tmp_path / "r", data=str(tmp_path / "t.csv"), epochs=1, hidden=(8,), latent_dim=1)
    size = pv.diagnostics.CheckSize(num_replicates=40)
    lines: list[str] = []
    bound, _ = check_run(tmp_path / "r", size=size, families=["columns"])
    found, page = check_run(tmp_path / "r", size=size, families=["columns"], bootstrap=3, log=lines.append)
    assert (bound.num_refits, found.num_refits) == (0, 3)
    assert sum("rows drawn with replacement" in line for line in lines) == 3
    assert "3 refits to rows drawn with replacement" in page.read_text()
    assert read_json(tmp_path / "r" / "check.json")["num_refits"] == 3
    each, other = ({one.name: one.z for one in check["columns"].findings} for check in (bound, found))
    assert len({round(other[name] / each[name], 6) for name in each.keys() & other.keys()}) > 1
    code, _, err = command(capsys, "check", tmp_path / "r", "--bootstrap", 1)
    assert code == 2
    assert "one fit has no variance; give 12 or more, or none" in err


@pytest.mark.usefixtures("without_figures")
def test_what_cannot_be_checked_is_refused_before_programs_are_fitted(tmp_path, monkeypatch):
    np.savetxt(tmp_path / "t.csv", np.random.default_rng(0).normal(size=(60, 3)), delimiter=",")
    fit_run(tmp_path / "r", data=str(tmp_path / "t.csv"), epochs=1, hidden=(8,), latent_dim=1)
    monkeypatch.setattr("pyro_vae.workflows.check_run.fit_resampled", None)
    with pytest.raises(pv.InputError, match="a check needs 10 rows or more, got 6"):
        check_run(tmp_path / "r", bootstrap=3)
