"""`pyro-vae report`: the page it writes, what it prints, and its mistakes."""

import json

import numpy as np

import pyro_vae as pv
from pyro_vae.cli.main import _run

PLAIN = """
import pyro, pyro.distributions as dist, torch, pyro_vae as pv
def build(data):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * torch.ones(3), 1.0).to_event(1), obs=x)
    def guide(x):
        weight = pyro.param("weight", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, 0.5))
    return pv.Program(model, guide)
"""


def command(capsys, *words):
    code = _run([str(word) for word in words])
    return code, *capsys.readouterr()


def test_report_of_a_run(capsys, tmp_path):
    run = tmp_path / "digits"
    assert _run(["fit", "--data", "digits", "--epochs", "3", "--hidden", "20", "--out", str(run), "--json"]) == 0
    capsys.readouterr()
    code, out, err = command(capsys, "report", run, "--num-rows", 60, "--num-samples", 30)
    assert code == 0, err
    page = run / "report.html"
    assert f"{page}: {page.stat().st_size / 1e6:.1f} MB" in out
    assert page.resolve().as_uri() in out
    assert "60 validation rows" in page.read_text()
    assert "pyro-vae fit --config" in page.read_text()
    code, out, err = command(
        capsys, "report", run, "--split", "test", "--out", tmp_path / "t.html", "--json", "--num-rows", 9
    )
    assert code == 0, err
    found = json.loads(out)
    assert (found["path"], found["split"], found["bytes"]) == (
        str(tmp_path / "t.html"), "test", (tmp_path / "t.html").stat().st_size,
    )  # fmt: skip
    found = pv.auto_evidence(pv.load(run), pv.load_data("digits").test.head(9), num_samples=200)
    text = (tmp_path / "t.html").read_text()
    assert "9 test rows" in text
    assert json.dumps(found.log_px[3].item()) in text
    (tmp_path / "there.html").mkdir()
    for words, says in [
        (["report", tmp_path / "nowhere"], "is not a run"),
        (["report", run, "--out", "page.pdf"], "a report is written as .html"),
        (["report", run, "--out", tmp_path / "there.html"], "there.html cannot be written: it is a folder"),
    ]:
        code, _, err = command(capsys, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert says in err


def test_report_of_a_program_of_ones_own(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PLAIN)
    np.save("x.npy", np.random.default_rng(0).normal(size=(100, 3)))
    assert _run(["fit", "--data", "x.npy", "--epochs", "2", "--program", "own.py:build", "--out", "run", "--json"]) == 0
    code, _, err = command(capsys, "report", "run")
    assert code == 2
    assert "add --program own.py:build" in err
    code, _, err = command(capsys, "report", "run", "--program", "own.py:build")
    assert code == 0, err
    assert (
        "There is no explorer on this page: this program has no decode(z)" in (tmp_path / "run/report.html").read_text()
    )


TABLE = ["fit", "--data", "mine.csv", "--epochs", "2", "--hidden", "10", "--out", "run"]


def test_a_column_may_be_called_what_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(100, 3)).round(3)
    np.savetxt("mine.csv", rows, delimiter=",", header="profit_$_per_$,b^$_$,c", comments="")
    code, out, err = command(capsys, *TABLE, "--dtype", "float64")
    assert code == 0, err
    assert "no more figures" not in err
    assert "reconstructions.png" in out
    code, _, err = command(capsys, "report", "run", "--num-rows", 5, "--num-samples", 5)
    assert code == 0, err
    assert "profit_$_per_$" in (tmp_path / "run/report.html").read_text()


def test_a_figure_that_cannot_be_drawn_does_not_lose_the_run(capsys, tmp_path, monkeypatch):
    from pyro_vae.plots import fit_figures

    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(fit_figures, "samples", broken)
    monkeypatch.setattr("pyro_vae.loggers.tensorboard.TensorBoard.finish", broken)
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(100, 3)).round(3)
    np.savetxt("mine.csv", rows, delimiter=",", header="a,b,c", comments="")
    for debug in ([], ["--debug"]):
        words = [*TABLE[:-1], f"run{len(debug)}", *debug, *(["--logger", "tensorboard"] if debug else [])]
        code, out, err = command(capsys, *words)
        assert code == 0, err
        assert "no more figures: RuntimeError: no ink" in err
        assert ("Traceback" in err) is bool(debug)
        assert ("no more TensorBoard figures: RuntimeError: no ink" in err) is bool(debug)
        assert "reconstructions.png" in out
        assert json.loads((tmp_path / f"run{len(debug)}" / "evaluation.json").read_text())["valid"]["log_px"]


def test_help_says_what_it_is_for(capsys):
    code, out, _ = command(capsys, "report", "--help")
    assert code == 0
    assert "one file that needs no network" in " ".join(out.split())
