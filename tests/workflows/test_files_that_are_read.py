"""No command replaces a file that it reads, or that its run was fitted to."""

import shutil

import numpy as np
import pandas
import pytest

from pyro_vae.cli.main import _run
from pyro_vae.workflows.fit_run import fit_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    g = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": g.normal(size=120), "b": g.normal(size=120), "c": g.normal(size=120)})
    frame.to_csv(folder / "rows.csv", index=False)
    fit_run(folder / "run", data=str(folder / "rows.csv"), epochs=1, hidden=(4,), latent_dim=1)
    frame.head(30).to_csv(folder / "new.csv", index=False)
    return folder


COMMANDS = {
    "score": ["score", "run", "new.csv", "--out", "new.csv"],
    "score over the run's data": ["score", "run", "new.csv", "--out", "rows.csv"],
    "score of the run's rows": ["score", "run", "--out", "rows.csv"],
    "encode": ["encode", "run", "new.csv", "--out", "./new.csv"],
    "encode over the run's data": ["encode", "run", "--out", "rows.csv"],
    "reconstruct": ["reconstruct", "run", "new.csv", "--out", "new.csv"],
    "sample over the run's data": ["sample", "run", "--out", "rows.csv"],
    "impute": ["impute", "run", "new.csv", "--out", "new.csv"],
    "impute over the run's data": ["impute", "run", "--out", "rows.csv"],
    "by a link": ["score", "run", "new.csv", "--out", "link.csv"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_is_read_is_not_replaced(made, tmp_path, monkeypatch, capsys, words):
    for name in ("rows.csv", "new.csv"):
        shutil.copy(made / name, tmp_path)
    config = (made / "run" / "config.toml").read_text(encoding="utf-8")
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "link.csv").symlink_to(tmp_path / "new.csv")
    assert str(made / "rows.csv") in config
    monkeypatch.chdir(made if "rows.csv" in words else tmp_path)
    before = {name: (made / name).read_bytes() for name in ("rows.csv", "new.csv")}
    assert _run(words) == 2
    captured = capsys.readouterr()
    assert "is the file that is read, and would be lost; give another --out" in captured.err
    for folder in (made, tmp_path):
        assert all((folder / name).read_bytes() == content for name, content in before.items())


def test_another_file_is_written(made, monkeypatch):
    monkeypatch.chdir(made)
    for _ in range(2):  # the second time it is there
        assert _run(["score", "run", "new.csv", "--out", "scores.csv"]) == 0
    assert len(pandas.read_csv("scores.csv")) == 30
