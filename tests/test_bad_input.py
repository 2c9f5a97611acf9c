"""What a stranger's file, run or option may not do; scripts/bad_input.py has the whole table of refusals."""

import base64
import hashlib
import os
import random
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import jaxtyping
import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
import typecheck

import pyro_vae as pv
from pyro_vae import resource_limits
from pyro_vae.atomic_write import read_tensors, read_toml, write_tensors, write_toml
from pyro_vae.cli.echo import printable
from pyro_vae.cli.main import _run
from pyro_vae.data.formula_quotes import quote_formula, unquote_formula
from pyro_vae.run_folder import lock_run
from pyro_vae.workflows.report_run import report_run
from pyro_vae.workflows.row_writers import open_row_writer

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import bad_input
import bad_input_files

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


# Arguments of other kinds, in Python

PRIOR, NET, MEASURE = pv.priors.StandardNormal(2), pv.nets.mlp(2, 4, 3), pv.data.Measure(given=True)
LIKELIHOOD = pv.likelihoods.Normal(NET)
PPCA = pv.PPCA(1, 3)
BAD_ARGUMENTS = {
    "labels of another length": (lambda: pv.Split("a", X, MEASURE, labels=torch.zeros(3)), "for each of the 20 rows"),
    "an index of another length": (lambda: pv.Split("a", X, MEASURE, index=torch.zeros(3)), "for each of the 20 rows"),
    "inputs without names": (lambda: pv.Split("a", X, MEASURE, inputs=3), "tensors by name, got 3"),
    "weights that are a text": (lambda: pv.Split("a", X, MEASURE, weights="a"), "must be numbers"),
    "another image shape": (lambda: pv.Split("a", X, MEASURE, image_shape=(5, 5)), "5×5 pixels are no rows of 3"),
    "a data set of tensors": (lambda: pv.Dataset("a", X, X, X), "training rows are a pv.Split"),
    "kinds that are no texts": (lambda: pv.load_data(KINDS["data frame"], columns={"a": 3}), "kinds by name"),
    "ragged lists": (lambda: pv.load_data([[1.0, 2.0], [1.0]]), "no array of rows"),
    "a name that is too long": (lambda: pv.load_data("x" * 300 + ".csv"), "File name too long; try another name"),
    "a run that is too long": (lambda: pv.load("x" * 300), "File name too long; try another name"),
    "a header of an array": (lambda: pv.load_data(X).prepare(X, header="maybe"), "header must be"),
    "no latents of a guide": (lambda: pv.guides.FullRankNormal(NET, 0), "num_latents must be one or more, got 0"),
    "no draws": (lambda: pv.auto_evidence(PPCA, X, 0), "num_samples must be one or more, got 0"),
    "a net of 1e18 weights": (lambda: pv.nets.mlp(10**9, 10**9), "mlp: more weights than memory holds"),
    "a shape that is a text": (lambda: pv.nets.conv("big", 4, outputs=4), "image_shape must be whole numbers"),
    "a billion layers": (lambda: pv.priors.FlowPrior(2, layers=10**9), "1,000 at most, got 1,000,000,000"),
    "no functions": (lambda: pv.Program(3, 4), "Program: model must be a function, got 3"),
    "no schema": (lambda: pv.ColumnsMixture(2, 3), "schema must be a Schema, got 3"),
    "a whole number as type": (lambda: pv.fit(PPCA, X, dtype=torch.long), "dtype must be a floating type"),
    "a callback that is none": (lambda: pv.fit(PPCA, X, callbacks=3), "callbacks must be a sequence, got 3"),
    "a file as checkpoint": (lambda: pv.fit(PPCA, X, checkpoint=__file__), "is a file, not a folder"),
    "labels of a fit": (lambda: pv.fit(PPCA, X, labels=torch.zeros(3)), "a label for each of 20 rows"),
    "a tensor of epochs": (lambda: pv.fit(PPCA, X, epochs=X), "epochs must be a number, got a Tensor"),
    "free bits in words": (lambda: pv.FreeBits_ELBO("a"), "free_bits must be a finite number"),
    "nothing to compare": (lambda: pv.compare({}, X), "no program to compare"),
    "evidence of none": (lambda: pv.compare_evidence({"a": 3, "b": 4}), "each value a LogPx"),
    "texts to pool": (lambda: pv.diagnostics.pool_estimates(["a"], ["b"]), "estimates must be a tensor or a sequence"),
    "a plane of numbers": (lambda: pv.plots.plot_planes(X[:, :2], {"a": 3}), "each value a Plane"),
}


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations are not checked at run time, as for users, whose mistakes our own checks have to find."""
    monkeypatch.setattr(typecheck, "CHECKED_CALLS", 0)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_arguments_of_other_kinds_are_refused_in_a_line(kind, unchecked):
    call, words = BAD_ARGUMENTS[kind]
    with pytest.raises(pv.InputError, match=re.escape(words)) as found:
        call()
    assert "\n" not in str(found.value)


def test_complete_rows_of_another_width_are_not_imputed(vae):
    impute_rows = pv.evidence.impute_rows.impute_rows
    assert torch.equal(impute_rows(vae, X, num_samples=30).values[0], X)
    for program in (vae, PPCA):
        with pytest.raises(pv.InputError, match=r"2 columns|the rows have 2"):
            impute_rows(program, X[:, :2], num_samples=30)


# Files and folders


@pytest.mark.parametrize(
    ("kept", "about", "words"),
    [
        ({}, "own", "the saved weights do not fit this program"),
        ("own", None, "it is not that of a fit"),
        ("own", {"epoch": "a", "history": 3}, "it is not that of a fit"),
    ],
)
def test_a_checkpoint_that_is_none_of_the_run_is_refused_before_anything_is_said(
    kept, about, words, run_folder, capsys
):
    path = run_folder / "checkpoint" / "state.safetensors"
    (run_folder / "checkpoint" / "previous.safetensors").unlink(missing_ok=True)
    tensors, own = read_tensors(path)
    write_tensors(path, tensors if kept == "own" else kept, own if about == "own" else about)
    assert _run(["fit", "--resume", str(run_folder)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert words in err


def test_a_header_of_negative_rows_is_refused(tmp_path):
    (tmp_path / "rows.npy").write_bytes(bad_input_files._npy("(-40, 3)"))
    with pytest.raises(pv.InputError, match="not a readable numpy file"):
        pv.load_data(str(tmp_path / "rows.npy"))


def test_a_large_picture_is_refused_without_a_warning(tmp_path):
    (tmp_path / "a.png").write_bytes(bad_input_files._png(12_000, 13_000, num_rows=20))
    with pytest.raises(pv.InputError, match=r"unpacks to 0\.468 GB"):
        pv.load_data(str(tmp_path))


def test_a_study_does_not_write_into_a_folder_of_others(run_folder, tmp_path, capsys):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.txt").touch()
    for folder, words in ((run_folder, "holds a run already"), (tmp_path / "others", "holds other files")):
        assert _run(["study", "em-bounds", "--out", str(folder)]) == 2
        assert words in capsys.readouterr().err


def test_a_command_without_arguments_shows_its_commands_and_says_so(capsys):
    assert _run([]) == 2
    out, err = capsys.readouterr()
    assert "evaluate" in out
    assert err == "pyro-vae: name one of the commands above\n"


LEFT_OUT = ("picture", "own", "unpacks", "million", "strangers")  # what is not prepared here
COMMANDS = [case for case in bad_input.all_cases() if case.is_command and not any(w in case.text for w in LEFT_OUT)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")
def test_some_of_the_bad_command_lines_are_refused(fitted_folder, tmp_path, unchecked):
    bad_input_files.prepare_small(tmp_path / "files")
    shutil.copytree(fitted_folder, tmp_path / "files" / "run")
    (tmp_path / "place").mkdir()
    cases = random.Random(0).sample(COMMANDS, 25)
    found = bad_input.run_all(cases, tmp_path / "files", tmp_path / "place", verbose=False)
    assert {case.text: outcome.what for case, outcome in found.items() if outcome.what != "refused"} == {}


def test_the_page_has_the_place_of_the_table():
    page = bad_input.PAGE.read_text("utf-8")
    assert 0 < page.index(bad_input.BEGIN) < page.index(bad_input.END)


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


@pytest.fixture(scope="module")
def report_page(fitted_folder, tmp_path_factory):
    """The page of a run that has a figure which is a link to another folder."""
    place = tmp_path_factory.mktemp("report")
    shutil.copytree(fitted_folder, place / "run")
    (place / "private.png").write_bytes((fitted_folder / "figures" / "training.png").read_bytes())
    (place / "run" / "figures" / "private.png").symlink_to(place / "private.png")
    return report_run(place / "run", num_rows=5, num_samples=5).read_text("utf-8")


def test_links_in_a_run_are_not_followed(report_page, run_folder, tmp_path):
    assert "Private" not in report_page
    outside = tmp_path / "outside"
    outside.mkdir()
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


def test_the_report_runs_its_own_script_alone(report_page):
    (script,) = re.findall(r"<script>(.*?)</script>", report_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in report_page
    assert "script-src 'unsafe-inline'" not in report_page
