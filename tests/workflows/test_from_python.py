"""What the commands do, called from Python with plain arguments: the same numbers and files, and errors before any."""

import json

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.main import _run
from pyro_vae.data import load_data
from pyro_vae.errors import InputError
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import LikelihoodChoice, choose_likelihood
from pyro_vae.workflows.compare_models import compare_models
from pyro_vae.workflows.evaluate_run import Estimator, evaluate_run
from pyro_vae.workflows.export_rows import encode_run, reconstruct_run, sample_run
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.score_rows import score_rows

SMALL = {"data": "digits", "epochs": 2, "hidden": (12,)}
WORDS = ["--data", "digits", "--epochs", "2", "--hidden", "12"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    lines = []
    return fit_run(tmp_path_factory.mktemp("runs") / "digits", log=lines.append, **SMALL), lines


@pytest.mark.usefixtures("without_figures")
def test_a_fit_is_the_commands_fit(done, tmp_path):
    made, lines = done
    assert _run(["fit", *WORDS, "--out", str(tmp_path / "b"), "--json"]) == 0
    record = json.loads((tmp_path / "b" / "evaluation.json").read_text())["valid"]
    assert {k: v for k, v in made.record.items() if k not in ("run", "seconds")} == {
        k: v for k, v in record.items() if k not in ("run", "seconds")
    }
    ours, theirs = (pv.load(folder).state_dict() for folder in (made.folder, tmp_path / "b"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "likelihood bernoulli" in "\n".join(lines)
    assert "prior standard-normal, guide mean-field, network mlp (hidden 12), K = 2" in "\n".join(lines)
    assert len(made.fitted.history) == 2
    assert {path.name for path in made.figures} >= {"training.png", "manifold.png"}


def test_a_run_is_evaluated_scored_and_exported(done, tmp_path):
    folder = done[0].folder
    name, record = evaluate_run(folder, split="valid", num_rows=20, estimator=Estimator(num_samples=20))
    assert (name, record["num_data"], record["num_samples"]) == ("valid first 20", 20, 20)
    assert name in json.loads((folder / "evaluation.json").read_text())
    summary, totals = score_rows(folder, split="valid", out=tmp_path / "s.csv", estimator=Estimator(num_samples=20))
    assert summary["num_data"] == len(load_data("digits").valid) // 2  # the others are set aside for checks
    assert len(totals.lowest) == 5
    assert sample_run(folder, 7, out=tmp_path / "a.npy").num_rows == 7
    assert np.load(tmp_path / "a.npy").shape == (7, 64)
    assert reconstruct_run(folder, out=tmp_path / "r.npy").num_columns == 64
    assert encode_run(folder, out=tmp_path / "e.csv").num_columns == 2


@pytest.mark.usefixtures("without_figures")
def test_a_run_is_resumed_with_its_own_settings(tmp_path):
    whole = fit_run(tmp_path / "whole", **SMALL)

    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("run "):
            raise Stop

    with pytest.raises(Stop):  # before the first epoch: nothing but the settings is there
        fit_run(tmp_path / "cut", log=stop, **SMALL)
    resumed = fit_run(resume=tmp_path / "cut")
    assert resumed.record["log_px"] == whole.record["log_px"]
    with pytest.raises(InputError, match="its own settings: leave out epochs"):
        fit_run(resume=tmp_path / "cut", epochs=3)


def test_models_are_compared(tmp_path):
    done = compare_models(
        models=("ppca:1", "gaussian-mixture:2"), data="two-moons", train_rows=(200,), num_rows=50, out=tmp_path / "c"
    )
    assert [row["way"] for row in done.table] == ["em", "em"]
    assert (done.folder / "comparison.json").exists()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda out: fit_run(out, epoch=3), "no setting called 'epoch'; did you mean 'epochs'"),
        (lambda out: fit_run(out, epochs=0, data="digits"), "epochs must be positive"),
        (
            lambda out: fit_run(out, dtype="float16", data="digits"),
            "dtype must be 'float32' or 'float64', got 'float16'",
        ),
        (lambda out: compare_models(out=out, model="ppca"), "no setting called 'model'; did you mean 'models'"),
        (lambda out: compare_models(out=out, fit_methods=("em",)), "needs --model"),
        (lambda out: fit_run(resume=out), "is not a run"),
    ],
)
def test_wrong_arguments_are_errors_that_leave_nothing(call, says, tmp_path):
    with pytest.raises(InputError, match=says):
        call(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_likelihood_is_chosen_once():
    """The choice is a value: what is built from it does not look at the data again."""
    data, model = load_data("digits"), ModelConfig()
    chosen = choose_likelihood(model, data)
    assert (chosen.name, chosen.scale) == ("bernoulli", None)
    assert "0 to 16" in chosen.reason
    other = build_vae(model, LikelihoodChoice("normal", 0.5, "for this test"), data, 0)
    assert isinstance(other.likelihood, pv.likelihoods.Normal)
