"""What a stranger's file, run or option may not do; scripts/bad_input.py has the whole table of refusals."""

import base64
import hashlib
import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch

import pyro_vae as pv
from pyro_vae import resource_limits
from pyro_vae.atomic_write import read_toml, write_toml
from pyro_vae.cli.echo import printable
from pyro_vae.cli.main import _run
from pyro_vae.data.formula_quotes import quote_formula, unquote_formula
from pyro_vae.run_folder import lock_run
from pyro_vae.workflows.report_run import report_run
from pyro_vae.workflows.row_writers import open_row_writer

ROOT = Path(__file__).parent.parent
X = torch.arange(60.0).reshape(20, 3) / 10

# Rows of every kind

KINDS = {
    "array": X.numpy(),
    "float64 array": X.double().numpy(),
    "lists": X.tolist(),
    "rows as tensors": list(X),
    "data frame": pandas.DataFrame(X.numpy(), columns=["a", "b", "c"]),
    "sparse matrix": scipy.sparse.csr_matrix(X.numpy()),
    "sparse tensor": X.to_sparse(),
    "split": pv.Split("test", X, pv.data.Measure(given=True)),
    "with a gradient": X.clone().requires_grad_(),
    "not contiguous": X.T.contiguous().T,
}


@pytest.fixture(scope="module")
def vae():
    nets = pv.nets.mlp(2, 4, 3), pv.nets.mlp(3, 4, 4)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(nets[0]), pv.guides.MeanFieldNormal(nets[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_functions_take_rows_of_every_kind(kind, vae):
    torch.testing.assert_close(vae.encode(KINDS[kind]), vae.encode(X))
    found, expected = (pv.log_evidence(vae, rows, 5, seed=0).log_px for rows in (KINDS[kind], X))
    torch.testing.assert_close(found, expected)


def test_a_split_is_an_array_and_a_tensor():
    split = pv.data.as_split(X, "test")
    np.testing.assert_array_equal(np.asarray(split), X.numpy())
    assert torch.equal(torch.as_tensor(split), X)


BAD_ROWS = {
    "a name": ("rows.csv", "read them first"),
    "complex": (X + 1j, "real numbers"),
    "infinite": (torch.full((3, 3), torch.inf), "missing or infinite values"),
    "missing": (torch.full((3, 3), torch.nan), "missing='mask'"),
    "ragged": ([[1.0, 2.0, 3.0], [1.0]], "all of one length"),
    "text in a frame": (pandas.DataFrame({"a": ["x", "y"], "b": [1, 2]}), "holds other than numbers"),
    "nothing": (X[:0], r"shape \(N, D\)"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_other_rows_are_refused(kind):
    rows, words = BAD_ROWS[kind]
    with pytest.raises(pv.InputError, match=words):
        pv.data.rows_given.rows_as_tensor(rows)


def test_rows_of_another_width_are_refused(vae):
    for call in (lambda: vae.encode(X[:, :2]), lambda: pv.log_evidence(vae, X[:, :2]), lambda: pv.fit(vae, X[:, :2])):
        with pytest.raises(pv.InputError, match="does not run on rows of 2 columns"):
            call()


# Memory and disk


def test_a_packed_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((2000, 1000)))
    monkeypatch.setattr(resource_limits, "EXPANDS_FREELY", 2**20)
    with pytest.raises(pv.InputError, match=r"zeros.npz: unpacks to 0.016 GB, 1,0\d\d times its size"):
        pv.load_data(str(tmp_path / "zeros.npz"))


def test_more_than_free_memory_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.zeros((100, 3)))
    monkeypatch.setattr(resource_limits, "free_memory", lambda: 1000)
    with pytest.raises(pv.InputError, match=r"of memory are needed, 1e-06 GB are free"):
        pv.load_data(str(tmp_path / "rows.npy"))


def test_a_recipe_larger_than_its_weights_is_refused(run_folder):
    config = read_toml(run_folder / "config.toml")
    config["program"]["likelihood"]["net"]["sizes"] = [2, 10**9, 6]
    write_toml(run_folder / "config.toml", config)
    with pytest.raises(pv.InputError, match="its recipe makes a program of another size than its weights"):
        pv.load(run_folder)


def test_a_file_larger_than_the_free_disk_is_not_begun(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resource_limits.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    assert _run(["sample", str(run_folder), "--num", "5000", "--out", str(tmp_path / "new.csv")]) == 2
    assert "5,000 rows of 3: about 6e-05 GB of disk are needed, 1e-06 GB are free" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()


# Links, escapes, formulas, scripts


def test_links_in_a_run_are_not_followed(run_folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    picture = (run_folder / "figures" / "training.png").read_bytes()
    (outside / "private.png").write_bytes(picture)
    (run_folder / "figures" / "private.png").symlink_to(outside / "private.png")
    page = report_run(run_folder, num_rows=5, num_samples=5).read_text("utf-8")
    assert "Private" not in page
    (run_folder / "checkpoint").rename(outside / "checkpoint")
    (run_folder / "checkpoint").symlink_to(outside / "checkpoint")
    with pytest.raises(pv.InputError, match="checkpoint is a symbolic link"), lock_run(run_folder):
        pass


def test_escapes_are_printed_as_text(run_folder, capsys):
    config = read_toml(run_folder / "config.toml")
    config["about"]["pyro_vae"] = "0.1.0\x1b[31m\x07"
    write_toml(run_folder / "config.toml", config)
    assert _run(["info", str(run_folder)]) == 0
    out = capsys.readouterr().out
    assert r"0.1.0\x1b[31m\x07" in out
    assert "\x1b[31m" not in out
    assert printable("größe\tµ\n") == "größe\tµ\n"


def test_no_command_prints_by_other_means():
    folder = Path(pv.__file__).parent / "cli"
    assert [path.name for path in folder.glob("*.py") if "click.echo" in path.read_text("utf-8")] == ["echo.py"]


FORMULAS = {
    "=1+1": "'=1+1", "@SUM(A1)": "'@SUM(A1)", "+49 30 1": "'+49 30 1", "-cmd|x": "'-cmd|x", "-1.5": "-1.5",
    "+1e3": "+1e3", "name": "name", "'tis": "'tis", "'=x": "''=x", "\tx": "'\tx",
}  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_quoted_and_unquoted(text):
    assert quote_formula(text) == FORMULAS[text]
    assert unquote_formula(FORMULAS[text]) == text


def test_names_and_levels_come_back_from_a_csv(tmp_path):
    rows = pandas.DataFrame({"=cmd|' /C calc'!A0": ["=a", "b", "-1"] * 20, "x": np.arange(60.0)})
    with open_row_writer(tmp_path / "rows.csv", 60) as writer:
        writer.write(pandas.DataFrame(index=rows.index), rows)
    text = (tmp_path / "rows.csv").read_text("utf-8")
    assert not re.search(r"(^|,)=", text, re.MULTILINE)
    data = pv.load_data(str(tmp_path / "rows.csv"), coding="columns")
    assert data.schema.columns[0].name == rows.columns[0]
    assert "=a" in data.schema.columns[0].levels


def test_the_report_runs_its_own_script_alone(run_folder):
    page = report_run(run_folder, num_rows=5, num_samples=5).read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "script-src 'unsafe-inline'" not in page
