"""`pyro-vae study` as people type it: a table, a figure, one JSON object, and one line for each mistake."""

import json

import pytest

from pyro_vae.cli.main import _run
from pyro_vae.studies import swiss_roll
from pyro_vae.studies.autoencoder_vs_vae_encoders import Training


def study(capsys, *words):
    code = _run(["study", *map(str, words)])
    return code, *capsys.readouterr()


def test_em_bounds(capsys, tmp_path):
    code, printed, _ = study(capsys, "em-bounds", "--out", tmp_path / "e")
    assert code == 0
    assert "log px" in printed
    assert (tmp_path / "e" / "coordinate_ascent.png").exists()
    rows = json.loads((tmp_path / "e" / "table.json").read_text())["rows"]
    assert max(abs(row["kl"]) for row in rows if row["fit_method"] == "em") < 1e-12
    assert min(row["kl"] for row in rows if row["fit_method"] == "vi") > 0.05


def test_posterior_collapse(capsys, tmp_path):
    words = ["posterior-collapse", "--seeds", "0", "--epochs", "1", "--out", tmp_path / "p", "--json"]
    code, printed, err = study(capsys, *words)
    assert (code, err) == (0, "")
    rows = json.loads(printed)["rows"]
    assert [row["remedy"] for row in rows] == ["plain", "KL warm-up", "free bits 0.1", "free bits 0.5", "β = 0.5"]
    assert rows[0]["gain"] == 0
    assert (tmp_path / "p" / "posterior_collapse.png").exists()


def test_swiss_roll_is_kept(capsys, tmp_path, monkeypatch):
    fit, short = swiss_roll.fit_swiss_roll, Training(hidden=(8,), epochs=1)
    monkeypatch.setattr(swiss_roll, "fit_swiss_roll", lambda kind, seed: fit(kind, seed, short, num_rows=100))
    code, first, _ = study(capsys, "swiss-roll", "--out", tmp_path / "s", "--json")
    assert code == 0
    monkeypatch.setattr(swiss_roll, "fit_swiss_roll", None)  # the second time it is read
    assert study(capsys, "swiss-roll", "--out", tmp_path / "s", "--json")[1] == first
    assert (tmp_path / "s" / "roll.png").exists()


def test_squared_error_trap(capsys, tmp_path):
    assert _run(["fit", "--data", "digits", "--epochs", "1", "--hidden", "8", "--out", str(tmp_path / "r")]) == 0
    capsys.readouterr()
    words = ["squared-error-trap", tmp_path / "r", "--data", "digits", "--num-rows", "40", "--num-samples", "10"]
    code, printed, _ = study(capsys, *words, "--out", tmp_path / "t")
    assert code == 0
    assert "squared error" in printed
    assert (tmp_path / "t" / "squared_error_trap.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["posterior-collapse", "--seeds", "a"], "expected whole numbers"),
        (["squared-error-trap", "nowhere", "--data", "digits"], "not a run"),
        (["nothing"], "No such command"),
    ],
)
def test_mistakes_leave_nothing(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = study(capsys, *words)
    assert (code, out) == (2, "")
    assert says in err
    assert not list(tmp_path.iterdir())
