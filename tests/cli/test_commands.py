"""The command line as people and scripts use it: tables, JSON, files, exit codes, and one line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import _run
from pyro_vae.runs import read_lines, read_tensors

KEYS = {
    "run", "model", "way", "split", "measure", "elbo", "reconstruction", "kl", "log_px", "log_px_kind", "log_px_se",
    "log_px_mc_se", "iwae", "bound", "gap", "khat_bad", "active_units", "num_data", "num_samples", "num_parameters",
    "seconds",
}  # fmt: skip
SMALL = ["--data", "digits", "--epochs", "4", "--hidden", "30"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small fit on 8×8 digits that the tests here only read."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert _run(["fit", *SMALL, "--out", str(folder), "--json"]) == 0
    return folder


def command(capsys, *words):
    code = _run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def json_of(capsys, *words):
    code, out, err = command(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_fit_writes_a_run_and_prints_a_record(run, capsys):
    names = {path.name for path in run.iterdir()}
    assert names == {"config.toml", "model.safetensors", "metrics.jsonl", "evaluation.json", "checkpoint", "figures"}
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"training.png", "reconstructions.png", "samples.png", "latents.png", "manifold.png"}
    rows = read_lines(run / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {
        "epoch", "step", "elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl",
        "valid_kl_apart",
        "active_units", "learning_rate", "beta", "seconds",
    }  # fmt: skip
    record = json.loads((run / "evaluation.json").read_text())["valid"]
    assert set(record) == KEYS
    assert record["num_data"] == 180
    assert record["elbo"] <= record["iwae"]["5"] <= record["iwae"]["50"] <= record["log_px"]
    assert record["gap"] == pytest.approx(record["log_px"] - record["elbo"])


def test_every_command_prints_one_json_object(run, capsys, tmp_path):
    found = json_of(capsys, "evaluate", run, "--num-samples", 60)
    assert set(found) == KEYS
    assert (found["split"], found["num_samples"], found["measure"]) == ("test", 60, "counting measure on {0, 1}^64")
    assert json_of(capsys, "evaluate", run, "--num-samples", 60)["log_px"] == found["log_px"]
    assert set(json.loads((run / "evaluation.json").read_text())) == {"valid", "test"}
    assert json_of(capsys, "sample", run, "--num", 5, "--out", tmp_path / "s.npy")["num_rows"] == 5
    assert json_of(capsys, "reconstruct", run, "--out", tmp_path / "r.npy")["num_rows"] == 180
    assert json_of(capsys, "encode", run, "--out", tmp_path / "z.csv")["num_columns"] == 2
    assert "mnist-5k" in [row["name"] for row in json_of(capsys, "datasets")["datasets"]]
    assert json_of(capsys, "info", run)["epochs"] == 4


def test_evaluate_agrees_with_python(run, capsys):
    found = json_of(capsys, "evaluate", run, "--num-samples", 40, "--split", "valid")
    data = pv.load_data("digits")
    evidence = pv.log_evidence(pv.load(run), data.valid, num_samples=40)
    assert found["log_px"] == pytest.approx(evidence.log_px.mean().item(), abs=1e-9)
    assert found["log_px_mc_se"] == pytest.approx(evidence.log_px_mc_se)
    assert found["num_parameters"] == sum(p.numel() for p in pv.load(run).parameters())


def test_files_of_rows(run, capsys, tmp_path):
    data = pv.load_data("digits")
    vae = pv.load(run)
    rows = data.test.stored[:7]
    np.save(tmp_path / "mine.npy", rows.numpy())
    json_of(capsys, "encode", run, tmp_path / "mine.npy", "--out", tmp_path / "z.npy")
    assert np.load(tmp_path / "z.npy").shape == (7, 2)
    json_of(capsys, "encode", run, "--out", tmp_path / "z.csv")
    table = np.genfromtxt(tmp_path / "z.csv", delimiter=",", names=True)
    assert table.dtype.names == ("index", "label", "z1", "z2")
    np.testing.assert_allclose(table["z1"], vae.encode(data.test.x)[:, 0].numpy(), rtol=1e-4)
    assert table["label"].astype(int).tolist() == data.test.labels.tolist()
    assert table["index"].astype(int).tolist() == data.test.index.tolist()
    json_of(capsys, "reconstruct", run, "--split", "valid", "--out", tmp_path / "r.npy")
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), vae.reconstruct(data.valid.x).numpy(), rtol=1e-5)
    json_of(capsys, "sample", run, "--num", 3, "--seed", 4, "--out", tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), vae.sample(3, seed=4).numpy())


def test_people_see_tables(run, capsys):
    code, out, _ = command(capsys, "evaluate", run, "--num-samples", 40)
    assert code == 0
    for words in (
        "log p(x)",
        "(rows)",
        "(Monte Carlo)",
        "lower bound, S = 40",
        "E[log p(x|z)]",
        "k-hat",
        "nats per row over 180 rows",
    ):
        assert words in out
    assert "4 epochs, finished" in command(capsys, "info", run)[1]


def test_config_repeats_a_run_bit_for_bit(run, capsys, tmp_path):
    json_of(capsys, "fit", "--config", run / "config.toml", "--out", tmp_path / "again")
    ours, again = (read_tensors(folder / "model.safetensors")[0] for folder in (run, tmp_path / "again"))
    assert all(torch.equal(value, again[name]) for name, value in ours.items())
    first, second = (tomllib.loads((folder / "config.toml").read_text()) for folder in (run, tmp_path / "again"))
    assert first == second


def test_flag_beats_config_beats_default(capsys, tmp_path):
    (tmp_path / "c.toml").write_text(
        'epochs = 1\nhidden = [7]\n[data]\ndata = "digits"\n[training]\nlearning-rate = 0.005\n'
    )
    json_of(capsys, "fit", "--config", tmp_path / "c.toml", "--learning-rate", 0.001, "--out", tmp_path / "run")
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert kept["training"]["learning_rate"] == 0.001
    assert kept["training"]["epochs"] == 1
    assert kept["model"]["hidden"] == [7]
    assert kept["training"]["batch_size"] == 100


def test_a_users_table_needs_no_option(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1))
    np.savetxt(
        "mine.csv",
        np.hstack([z, 3 * z, z**2]) + rng.normal(size=(200, 3)) * [0.1, 30, 1],
        delimiter=",",
        header="a,b,c",
        comments="",
    )
    code, _, err = command(capsys, "fit", "--data", "mine.csv", "--epochs", "2", "--hidden", "20")
    assert code == 0, err
    assert "likelihood normal with scale 0.3: real numbers; Lebesgue measure on R^3 (original units)" in err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-")
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "training.png",
        "reconstructions.png",
        "samples.png",
        "latents.png",
    }
    json_of(capsys, "reconstruct", folder, "mine.csv", "--out", "again.csv")
    again = np.genfromtxt("again.csv", delimiter=",", skip_header=1)[:, 1:]
    assert again[:, 1].std() > 1, "reconstructions are in the units of the file"


def test_mistakes_get_one_line_and_exit_code_two(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("narrow.npy", np.zeros((20, 5), dtype=np.uint8))
    np.save("reals.npy", np.random.default_rng(0).normal(size=(40, 3)))
    np.save("nan.npy", np.full((40, 3), np.nan))
    (tmp_path / "empty.csv").touch()
    (tmp_path / "bad.toml").write_text("epoks = 3\n")
    (tmp_path / "broken.toml").write_text("epochs = = 3\n")
    (tmp_path / "norun").mkdir()
    for words, message in [
        (["fit", "--data", "absent.npy"], "no file or folder absent.npy"),
        (["fit", "--data", "empty.csv"], "the file is empty"),
        (
            ["fit", "--data", "nan.npy"],
            "120 values are NaN or infinite, the first in row 0 (counting from 0), column 0",
        ),
        (["fit", "--data", "minst"], "no data set or file called 'minst'; try one of mnist-5k"),
        (
            ["fit", "--data", "reals.npy", "--likelihood", "bernoulli", "--epochs", "1"],
            "needs values of 0 or 1, found -",
        ),
        (["fit", "reals.npy"], "name the data with --data"),
        (["fit", "--config", "absent.toml"], "no file absent.toml"),
        (["fit", "--out", str(tmp_path)], "holds other files"),
        (["fit", "--data", "reals.npy", "--binarize", "fixed"], "needs values in [0, 1]"),
        (["fit", "--learning-rat", "1"], "No such option '--learning-rat'"),
        (["fit", "--epochs", "many"], "'many' is not a valid integer"),
        (["fit", "--epochs", "0"], "epochs must be positive"),
        (["fit", "--latent-dim", "0"], "latent_dim must be one or more"),
        (["fit", "--hidden", "a,b"], "is not a list of widths"),
        (["fit", "--device", "cuda"], "device 'cuda' is not available here; available: cpu"),
        (["fit", "--config", "bad.toml"], "bad.toml: no setting called 'epoks'; did you mean 'epochs'?"),
        (["fit", "--config", "broken.toml"], "not readable as TOML"),
        (["fit", "--resume", "norun"], "norun is not a run"),
        (["fit", "--resume", str(run), "--epochs", "9"], "leave out --epochs"),
        (["fit", *SMALL, "--out", str(run)], "holds a run already"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["evaluate", str(run), "--num-samples", "0"], "0 is not in the range"),
        (["encode", str(run), "narrow.npy"], "5 columns, but this run was fitted to rows of 64"),
        (["encode", str(run), "--out", "z.xls"], "can write .npy or .csv, not .xls"),
        (["score"], "No such command 'score'"),
    ]:
        code, out, err = command(capsys, *words)
        assert code == 2, (words, err)
        assert message in err, (words, err)
        assert err.count("\n") <= 4, err
        assert err.splitlines()[-1].startswith("pyro-vae: ")
        assert out == ""
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").rglob("model.safetensors"))


def test_divergence_exits_with_one_and_keeps_good_weights(capsys, tmp_path):
    words = [
        "fit",
        *SMALL,
        "--optimizer",
        "sgd",
        "--learning-rate",
        "1e20",
        "--binarize",
        "none",
        "--likelihood",
        "normal",
        "--scale",
        "0.001",
    ]
    code, _, err = command(capsys, *words, "--out", tmp_path / "run")
    assert code == 1
    assert "learning rate too high" in err
    assert all(torch.isfinite(value).all() for value in pv.load(tmp_path / "run").state_dict().values())


def test_changed_data_is_noticed(capsys, tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    np.save(tmp_path / "x.npy", rows)
    json_of(capsys, "fit", "--data", tmp_path / "x.npy", "--epochs", 1, "--hidden", 5, "--out", tmp_path / "run")
    np.save(tmp_path / "x.npy", rows + 1)
    code, _, err = command(capsys, "evaluate", tmp_path / "run")
    assert code == 2
    assert "is not what it was when this run was fitted" in err


def heed_interrupts():
    """A shell that runs the tests in the background has its children ignore Ctrl-C; these are to heed it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start():
    """Start fits in processes of their own; whatever still runs when the test ends is ended."""
    started = []

    def begin(folder, epochs):
        words = ["fit", "--data", "digits", "--hidden", "200", "--epochs", str(epochs), "--out", str(folder)]
        process = subprocess.Popen(
            [sys.executable, "-m", "pyro_vae", *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
            preexec_fn=heed_interrupts,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_epochs(folder, n):
    for _ in range(1200):
        if len(read_lines(folder / "metrics.jsonl")) >= n:
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder}: no {n} epochs within a minute")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_fit_goes_on_to_the_same_numbers(capsys, tmp_path, start, how):
    whole = start(tmp_path / "whole", 40)
    stopped = start(tmp_path / "stopped", 40)
    wait_for_epochs(tmp_path / "stopped", 5)
    stopped.send_signal(how)
    _, err = stopped.communicate()
    if how == signal.SIGKILL:
        assert not (tmp_path / "stopped" / "model.safetensors").exists()
        assert command(capsys, "evaluate", tmp_path / "stopped")[0] == 2
    else:
        assert stopped.returncode == 130
        assert f"--resume {tmp_path / 'stopped'} goes on from there" in err
        assert json_of(capsys, "sample", tmp_path / "stopped", "--num", 2)["num_rows"] == 2, (
            "the best so far can be used"
        )
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    resumed = json_of(capsys, "fit", "--resume", tmp_path / "stopped")
    expected = json.loads((tmp_path / "whole" / "evaluation.json").read_text())["valid"]
    for record in (resumed, expected):
        del record["seconds"], record["run"]
    assert resumed == expected
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_lines(tmp_path / n / "metrics.jsonl")]
        for n in ("whole", "stopped")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 40
    weights = [read_tensors(tmp_path / n / "model.safetensors")[0] for n in ("whole", "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = "[m for m in ('torch', 'matplotlib', 'pyro') if m in sys.modules]"
    code = f"import sys; from pyro_vae.cli import _run; _run(['fit', '--help']); print({heavy})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    for group in ("Data:", "Model:", "Objective:", "Training:", "Run:", "Output:"):
        assert group in run.stdout


def test_columns_are_known_by_name(capsys, tmp_path, monkeypatch):
    import pandas

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"temp": rng.normal(size=60), "pressure": 5 + rng.normal(size=60), "label": ["lo", "hi"] * 30}
    )
    frame.to_csv("t.csv", index=False)
    code, _, err = command(capsys, "fit", "--data", "t.csv", "--epochs", "1", "--hidden", "5", "--out", "run")
    assert code == 0, err
    assert "labels from 'label'" in err
    json_of(capsys, "encode", "run", "t.csv", "--out", "a.csv")
    frame[["label", "pressure", "temp"]].to_csv("other-order.csv", index=False)
    json_of(capsys, "encode", "run", "other-order.csv", "--out", "b.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    frame.rename(columns={"temp": "id"}).to_csv("others.csv", index=False)
    code, _, err = command(capsys, "encode", "run", "others.csv")
    assert code == 2
    assert "no column temp; this run was fitted to temp, pressure" in err
    json_of(capsys, "sample", "run", "--out", "s.csv")
    assert (tmp_path / "s.csv").read_text().startswith("temp,pressure\n")


def test_a_normal_likelihood_gets_grey_levels(capsys, tmp_path):
    found = json_of(capsys, "fit", *SMALL, "--likelihood", "normal", "--out", tmp_path / "run")
    assert found["measure"] == "Lebesgue measure on [0, 1]^64 (grey levels, not dequantized)"
    assert json_of(capsys, "evaluate", tmp_path / "run", "--num-samples", 5)["measure"] == found["measure"]
