"""`pyro-vae compare` as people type it: a grid, saved runs, an interrupted comparison, and every way to be wrong."""

import json

import pytest
from click.testing import CliRunner

from pyro_vae.cli.main import _run
from pyro_vae.inference.em import select_mixture
from pyro_vae.models import regularization

SMALL = ["--data", "two-moons", "--train-rows", "200", "--num-rows", "50", "--epochs", "2", "--iterations", "5"]
QUICK = [*SMALL, "--hidden", "8", "--num-samples", "50"]


def run(capsys, *words):
    code = _run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_grid_prints_a_table_writes_it_and_draws(tmp_path, capsys):
    out = tmp_path / "c"
    grid = [
        "--model",
        "gaussian-mixture:3",
        "--model",
        "vae:2",
        "--model",
        "ppca:1",
        "--fit-method",
        "em",
        "--way",
        "svi",
    ]
    code, printed, _ = run(capsys, "compare", *grid, *QUICK, "--out", out)
    assert code == 0
    assert "gaussian-mixture:3 em" in printed
    assert "KL(q ‖ p(z|x))" in printed
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert {(row["model"], row["way"]) for row in rows} == {
        ("gaussian-mixture:3", "em"),
        ("gaussian-mixture:3", "svi"),
        ("ppca:1", "em"),
        ("ppca:1", "svi"),
        ("vae:2", "svi"),
    }
    assert (out / "figures" / "planes.png").exists()
    assert (out / "gaussian-mixture-3-em" / "model.safetensors").exists()


def test_json_is_one_object_with_rows(tmp_path, capsys):
    code, printed, _ = run(capsys, "compare", "--model", "ppca:1", *QUICK, "--out", tmp_path / "c", "--json")
    assert code == 0
    (row,) = json.loads(printed)["rows"]
    assert row["way"] == row["fit_method"] == "em"
    assert row["measure"] == "Lebesgue measure on R^2 (original units)"
    assert row["log_px_kind"] == "exact"


def test_the_size_and_form_of_a_mixture_by_cross_validation(tmp_path, capsys, monkeypatch):
    """What was chosen is printed, drawn, kept, and not chosen again; its table says how each number was found."""
    monkeypatch.setattr(regularization, "PRIOR_SHARES", (0.03, 1e-3))
    monkeypatch.setattr(select_mixture, "NUM_COMPONENTS", (1, 4))
    out, words = tmp_path / "c", ["--model", "gaussian-mixture-auto:auto", "--model", "vae:2", *QUICK]
    code, printed, log = run(capsys, "compare", *words, "--out", out)
    assert code == 0
    assert "spherical, 4 components: " in log
    assert "4 components, chosen by five-fold cross-validation on training rows" in printed
    assert "exact: the program's own" in printed
    kept = json.loads((out / "gaussian-mixture-auto-auto-choice.json").read_text())
    assert len(kept["scores"]) == 8
    assert kept["model"].endswith(":4")
    assert (out / "figures" / "gaussian-mixture-auto-auto-selection.png").exists()
    (out / "comparison.json").unlink()
    monkeypatch.setattr(select_mixture, "_fold_scores", None)
    again, printed_again, _ = run(capsys, "compare", *words, "--out", out)
    assert again == 0
    assert printed_again.splitlines()[:4] == printed.splitlines()[:4]


def test_sizes_that_cannot_be(capsys):
    for name, words in {
        "ppca:auto": "whole number, as in ppca:2",
        "gaussian-mixture:many": "gaussian-mixture:auto",
    }.items():
        code, _, error = run(capsys, "compare", "--model", name, *QUICK)
        assert code == 2
        assert words in error


def test_an_interrupted_comparison_goes_on(tmp_path, capsys):
    """What was fitted is not fitted again; other settings under the same name are refused."""
    out = tmp_path / "c"
    pair = ["--model", "ppca:1", "--model", "gaussian-mixture:3"]
    assert run(capsys, "compare", *pair, *QUICK, "--out", out)[0] == 0
    kept = (out / "ppca-1-em" / "model.safetensors").stat().st_mtime_ns
    (out / "comparison.json").unlink()
    code, _, err = run(capsys, "compare", *pair, *QUICK, "--out", out)
    assert code == 0
    assert "by em" not in err
    assert (out / "ppca-1-em" / "model.safetensors").stat().st_mtime_ns == kept
    code, _, err = run(capsys, "compare", *pair, *QUICK, "--seed", "3", "--out", out)
    assert code == 2
    assert "other settings" in err


def test_curves_and_sizes_make_figure_3(tmp_path, capsys):
    words = ["--model", "vae:2", "--way", "svi", "--way", "wake-sleep", "--train-rows", "100", *QUICK, "--curve"]
    code, _, err = run(capsys, "compare", *words, "--out", tmp_path / "c")
    assert code == 0
    assert "rows seen" in err
    assert (tmp_path / "c" / "figures" / "learning.png").exists()


@pytest.mark.usefixtures("without_figures")
def test_saved_runs_on_the_same_rows(tmp_path, capsys):
    for name, extra in {
        "a": [],
        "b": ["--latent-dim", "1"],
        "other": ["--data", "pinwheel"],
        "raw": ["--no-standardize"],
    }.items():
        data = [] if name == "other" else ["--data", "two-moons"]
        code, _, err = run(
            capsys, "fit", *data, *extra, "--hidden", "8", "--epochs", "1", "--out", tmp_path / name, "--json"
        )
        assert code == 0, err
    code, printed, _ = run(
        capsys, "compare", tmp_path / "a", tmp_path / "b", "--num-rows", "40", "--out", tmp_path / "c"
    )
    assert code == 0
    assert str(tmp_path / "a") in printed
    code, _, err = run(capsys, "compare", tmp_path / "a", tmp_path / "other", "--out", tmp_path / "d")
    assert code == 2
    assert "other valid rows than" in err
    assert not (tmp_path / "d").exists()
    code, _, err = run(capsys, "compare", tmp_path / "a", tmp_path / "raw", "--out", tmp_path / "d")
    assert code == 2
    assert "standardized" in err
    code, printed, _ = run(
        capsys, "compare", tmp_path / "a", "--model", "ppca:1", "--num-rows", "40", "--out", tmp_path / "e"
    )
    assert code == 0
    assert "ppca:1 em" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--way", "em"], "needs --model"),
        (["--model", "gmm"], "no model called 'gmm'"),
        (["--model", "ppca", "--fit-method", "gibbs"], "no fit method called 'gibbs'"),
        (["--model", "ppca:1", "--way", "mcem"], "ppca:1 cannot be fitted by mcem"),
        (["--model", "ppca:1", "--way", "em", "--way", "mcem"], "can be fitted by mcem"),
        (["--model", "ppca:two"], "whole number"),
        (["--model", "vae:x"], "whole number"),
        (["--preset", "toy", "--model", "ppca"], "names its own models"),
        (["--model", "ppca:1", "--train-rows", "100000"], "fewer than"),
        (["--model", "bernoulli-mixture:2"], "0 or 1"),
        (["nowhere"], "is not a run"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = [] if "--train-rows" in words else ["--train-rows", "200"]
    code, out, err = run(capsys, "compare", *words, *sizes, "--epochs", "1", "--out", tmp_path / "c")
    assert code == 2
    assert said in err
    assert out == ""
    assert not (tmp_path / "c").exists()


def test_help_names_every_model_and_fit_method():
    from pyro_vae.cli.compare import compare
    from pyro_vae.comparison.fit_methods import FIT_METHODS
    from pyro_vae.comparison.models_by_name import MODELS

    printed = "".join(CliRunner().invoke(compare, ["--help"]).output.split())  # lines break at hyphens
    for name in FIT_METHODS:
        assert name in printed
    for model in MODELS:
        assert model.split("-")[0] in printed


MIXED = ["--data", "customers", "--label", "churned", "--num-rows", "30", "--epochs", "2", "--iterations", "5"]


def test_a_table_of_several_kinds_compares_a_mixture_of_its_columns_and_a_vae(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(select_mixture, "NUM_COMPONENTS", (1, 2))
    code, printed, _ = run(capsys, "compare", *MIXED, "--num-samples", "50", "--out", tmp_path / "c")
    assert code == 0
    assert "columns-mixture:auto em" in printed
    assert "vae:2 svi" in printed
    rows = json.loads((tmp_path / "c" / "comparison.json").read_text())["rows"]
    kinds = {row["model"]: row["log_px_kind"] for row in rows}
    assert kinds["columns-mixture:auto"] == "exact"
    assert len({row["measure"] for row in rows}) == 1
    assert all("counting measure" in row["measure"] for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*MIXED, "--model", "gaussian-mixture:2", "--model", "vae:2"], "takes real numbers, and the columns of custo"),
        ([*MIXED, "--model", "gaussian-mixture:auto"], "compare columns-mixture, vae"),
        ([*MIXED, "--model", "ppca:2"], "--coding one-hot"),
        ([*MIXED, "--model", "bayesian-mixture:2"], "takes real numbers"),
        ([*MIXED, "--model", "bernoulli-mixture:2"], "takes values of 0 and 1"),
        (["--data", "two-moons", "--model", "columns-mixture:2"], "takes columns coded by their kinds"),
        ([*MIXED, "--model", "columns-mixture:some"], "a whole number, as in columns-mixture:10 or columns-mixture:au"),
    ],
)
def test_models_that_do_not_take_the_columns_are_refused_before_a_fit(tmp_path, capsys, words, said):
    code, _, err = run(capsys, "compare", *words, "--out", tmp_path / "c")
    assert code == 2
    assert said in err
    assert not (tmp_path / "c").exists()
