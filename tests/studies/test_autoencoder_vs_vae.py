"""`pyro-vae study autoencoder-vs-vae`, as a user would type it, and by its spelling of before."""

import contextlib
import io
import json

import pytest

from pyro_vae.cli.main import main

STUDY = ["study", "autoencoder-vs-vae"]
BEFORE = ["compare", "--preset", "ae-vs-vae"]
SMALL = [*STUDY, "--data", "digits", "--latent-dim", "2", "--epochs", "2", "--hidden", "16"]
FEW = [*SMALL, "--train-rows", "300", "--num-rows", "80"]


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def study_once(folder, *words):
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()) as out:
        main([*FEW, *words, "--out", str(folder)])
    return folder, stop.value.code, out.getvalue()


@pytest.fixture
def without_study_figures(monkeypatch):
    monkeypatch.setattr("pyro_vae.studies.autoencoder_vs_vae.draw_encoders", lambda *_: [])


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    return study_once(tmp_path_factory.mktemp("one") / "c", "--seeds", "1", "--json")


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    return study_once(tmp_path_factory.mktemp("two") / "c", "--seeds", "2")


def test_tables_pictures_and_one_json_object(capsys, two_seeds):
    folder, code, out = two_seeds
    assert code in (0, None)
    assert "Reconstruction error" in out
    assert "nearest neighbours on x itself" in out
    assert "standard error over 2 fits" in out
    kept = json.loads((folder / "comparison.json").read_text())
    assert len(kept["rows"]) == 4 * 2
    assert {row["model"] for row in kept["rows"]} == {"pca:2", "kernel-pca:2", "ae:2", "vae:2"}
    assert all(row["log_px"] is None and row["reconstruction_error"] > 0 for row in kept["rows"])
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "sizes.png", "codes.png", "draws.png", "lines.png",
    }  # fmt: skip
    code, out, _ = run(capsys, *FEW, "--seeds", "2", "--out", str(folder), "--json")
    assert json.loads(out)["rows"] == kept["rows"], "a comparison that is repeated finds what was done"


def test_a_table_without_labels_has_what_exists(capsys, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b,c\n" + "\n".join(f"{i % 7},{i * i % 11}.5,{(3 * i) % 5}" for i in range(200)))
    words = [*STUDY, "--data", str(path), *SMALL[4:], "--seeds", "1", "--out", str(tmp_path / "c"), "--json"]
    code, out, _ = run(capsys, *words)
    assert code in (0, None)
    rows = json.loads(out)["rows"]
    assert all(row["knn_accuracy"] is None and row["area_gini"] is None for row in rows)
    assert {path.name for path in (tmp_path / "c" / "figures").iterdir()} == {"sizes.png", "codes.png"}


@pytest.mark.usefixtures("without_study_figures")
def test_another_split_is_measured_anew_and_networks_are_not_fitted_again(capsys, tmp_path, one_seed):
    folder, _, _ = one_seed
    before = (folder / "ae-2-0" / "model.safetensors").stat().st_mtime_ns
    code, out, err = run(capsys, *FEW, "--seeds", "1", "--out", str(folder), "--split", "test", "--json")
    assert code in (0, None), err
    assert (folder / "ae-2-0" / "model.safetensors").stat().st_mtime_ns == before
    code, fresh, err = run(capsys, *FEW, "--seeds", "1", "--out", str(tmp_path / "d"), "--split", "test", "--json")
    assert code in (0, None), err
    found, expected = (
        {row["model"]: row["reconstruction_error"] for row in json.loads(text)["rows"]} for text in (out, fresh)
    )
    assert found == pytest.approx(expected)


def test_draws_follow_the_seed(two_seeds):
    rows = json.loads((two_seeds[0] / "comparison.json").read_text())["rows"]
    first, second = (row["precision"] for row in rows if row["model"] == "pca:2")
    assert first != second


def test_one_latent_has_its_pictures_too(capsys, tmp_path):
    code, _, _ = run(capsys, *FEW[:5], "1", *FEW[6:], "--seeds", "1", "--out", str(tmp_path / "c"))
    assert code in (0, None)
    assert (tmp_path / "c" / "figures" / "codes.png").exists()


@pytest.mark.usefixtures("without_study_figures")
def test_the_roll_is_said_and_kept(capsys, tmp_path, monkeypatch):
    from pyro_vae.studies import swiss_roll
    from pyro_vae.studies.autoencoder_vs_vae_encoders import Training

    short = Training(hidden=(8,), epochs=1)
    fit = swiss_roll.fit_swiss_roll
    monkeypatch.setattr(swiss_roll, "fit_swiss_roll", lambda kind, seed: fit(kind, seed, short, num_rows=100))
    words = [*STUDY, "--latent-dim", "2", "--epochs", "1", "--hidden", "4", "--seeds", "1"]
    words += ["--train-rows", "100", "--num-rows", "50", "--out", str(tmp_path / "c")]
    code, out, _ = run(capsys, *words)
    assert code in (0, None)
    assert "The swiss roll in two dimensions" in out
    monkeypatch.setattr(swiss_roll, "fit_swiss_roll", None)  # a second time it is read
    again = run(capsys, *words)[1]
    assert again.split("swiss roll")[1].split("Written")[0] == out.split("swiss roll")[1].split("Written")[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*BEFORE, "--method", "is"], "--method means nothing to --preset ae-vs-vae"),
        ([*SMALL, "--binarize", "stochastic"], "leave out --binarize"),
        ([*SMALL, "--latent-dim", "64"], "try --latent-dim 63 or fewer"),
        ([*SMALL, "--train-rows", "2000"], "fewer than --train-rows"),
        ([*SMALL, "--train-rows", "200", "--train-rows", "300"], "give --train-rows once"),
        ([*SMALL, "--num-rows", "5"], "too few to measure"),
        (["compare", "--seeds", "2"], "--seeds belongs to pyro-vae study autoencoder-vs-vae"),
    ],
)
def test_wrong_words_are_errors_that_leave_nothing(capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert says in err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_study_figures")
def test_the_spelling_of_before_is_the_same_study(capsys, tmp_path, one_seed):
    _, out, _ = run(capsys, *BEFORE, *FEW[2:], "--seeds", "1", "--json", "--out", str(tmp_path / "c"))
    found = [json.loads(text)["rows"] for text in (one_seed[2], out)]
    for row in (*found[0], *found[1]):
        row["seconds"] = 0.0
    assert found[0] == found[1]
