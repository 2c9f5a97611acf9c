"""The command line as people and scripts use it: tables, JSON, files, exit codes, and one line for each mistake."""

import json
import math
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import torch
from processes import Command

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, read_json_lines, read_tensors
from pyro_vae.cli.main import _run, main

KEYS = {
    "run", "model", "way", "fit_method", "split", "measure", "elbo", "reconstruction", "kl", "log_px", "log_px_kind",
    "log_px_se", "log_px_mc_se", "method", "prior_share", "smoothed", "iwae", "bound", "gap", "khat_bad",
    "active_units", "num_data", "num_samples", "num_parameters", "seconds", "stages", "densities", "outside_share",
    "num_with_number", "num_zero", "effective_rows", "accuracy",
}  # fmt: skip
SMALL = ["--data", "digits", "--epochs", "4", "--hidden", "30"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small fit on 8×8 digits that the tests here only read."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert _run(["fit", *SMALL, "--out", str(folder), "--json"]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A file of 80 pictures of 4×4."""
    path = tmp_path_factory.mktemp("pictures") / "pictures.npy"
    np.save(path, pv.load_data("digits").train.stored[:80].numpy().reshape(80, 8, 8)[:, 2:6, 2:6])
    return path


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
    assert names == {
        "config.toml",
        "model.safetensors",
        "metrics.jsonl",
        "evaluation.json",
        "checkpoint",
        "figures",
        "reference.safetensors",
    }
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"training.png", "reconstructions.png", "samples.png", "latents.png", "manifold.png"}
    rows = read_json_lines(run / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {
        "epoch", "step", "elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl",
        "valid_kl_apart",
        "active_units", "learning_rate", "beta", "seconds", "restarts",
    }  # fmt: skip
    record = json.loads((run / "evaluation.json").read_text())["valid"]
    assert set(record) == KEYS
    assert record["num_data"] == 90  # of 180, half set aside for checks
    assert record["elbo"] <= record["iwae"]["5"] <= record["iwae"]["50"]
    error = math.sqrt(2 * record["gap"] / (record["num_data"] * record["num_samples"]))  # of the bound, by its draws
    assert record["log_px_kind"] == "exact"
    assert record["iwae"]["50"] <= record["log_px"] + 3 * error
    assert record["gap"] == pytest.approx(record["log_px"] - record["elbo"])


def test_every_command_prints_one_json_object(run, capsys, tmp_path):
    found = json_of(capsys, "evaluate", run, "--num-samples", 60)
    assert set(found) == KEYS
    assert (found["split"], found["num_samples"], found["measure"]) == ("test", 60, "counting measure on {0, 1}^64")
    assert json_of(capsys, "evaluate", run, "--num-samples", 60)["log_px"] == found["log_px"]
    assert set(read_json(run / "evaluation.json")) == {"valid", "test"}
    assert json_of(capsys, "sample", run, "--num", 5, "--out", tmp_path / "s.npy")["num_rows"] == 5
    assert json_of(capsys, "reconstruct", run, "--out", tmp_path / "r.npy")["num_rows"] == 180
    assert json_of(capsys, "encode", run, "--out", tmp_path / "z.csv")["num_columns"] == 2
    assert "mnist-5k" in [row["name"] for row in json_of(capsys, "datasets")["datasets"]]
    assert json_of(capsys, "info", run)["epochs"] == 4


def test_evaluate_agrees_with_python(run, capsys):
    words = ["evaluate", run, "--num-samples", 40, "--split", "valid"]
    found, data = json_of(capsys, *words, "--method", "is"), pv.open_run(run).data()
    evidence = pv.log_evidence(pv.load(run), data.valid, num_samples=40)
    assert found["log_px"] == pytest.approx(evidence.log_px.mean().item(), abs=1e-9)
    by_default = json_of(capsys, *words)
    assert by_default["log_px"] == pytest.approx(pv.exact_evidence(pv.load(run), data.valid).log_px_mean, abs=1e-6)
    assert (by_default["log_px_kind"], by_default["elbo"]) == ("exact", found["elbo"])
    assert found["log_px_mc_se"] == pytest.approx(evidence.log_px_mc_se)
    assert found["num_parameters"] == sum(p.numel() for p in pv.load(run).parameters())


def test_files_of_rows(run, capsys, tmp_path):
    data = pv.open_run(run).data()
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
    out = command(capsys, "evaluate", run)[1]
    assert "exact, by grid" in out
    assert "k-hat" not in out  # of draws that the number does not rest on
    code, out, _ = command(capsys, "evaluate", run, "--num-samples", 40, "--method", "is")
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


@pytest.mark.usefixtures("without_figures")
def test_config_repeats_a_run_bit_for_bit(run, capsys, tmp_path):
    json_of(capsys, "fit", "--config", run / "config.toml", "--out", tmp_path / "again")
    ours, again = (read_tensors(folder / "model.safetensors")[0] for folder in (run, tmp_path / "again"))
    assert all(torch.equal(value, again[name]) for name, value in ours.items())
    first, second = (tomllib.loads((folder / "config.toml").read_text()) for folder in (run, tmp_path / "again"))
    assert first == second


@pytest.mark.usefixtures("without_figures")
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
    assert "likelihood normal with scale network: real numbers; Lebesgue measure on R^3 (original units)" in err
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
    (tmp_path / "own.py").write_text("def nothing():\n    return 3\n")
    (tmp_path / "bad.toml").write_text("epoks = 3\n")
    (tmp_path / "broken.toml").write_text("epochs = = 3\n")
    (tmp_path / "norun").mkdir()
    for words, message in [
        (["fit", "--data", "absent.npy"], "no file or folder absent.npy"),
        (["fit", "--data", "empty.csv"], "the file is empty"),
        (
            ["fit", "--data", "nan.npy"],
            "120 values are missing (NaN), the first in row 0 (counting from 0), column 0; fit with --missing mask",
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
        (["fit", "--data", "nan.npy", "--missing", "mask"], "has no value in any training row"),
        (["fit", "--rank", "2"], "--rank belongs to --guide low-rank"),
        (["fit", "--prior", "mixture", "--components", "0"], "components must be one or more"),
        (["fit", "--data", "reals.npy", "--scale", "0"], "must be positive"),
        (["fit", "--data", "digits", "--image-shape", "4x16"], "the image shape of digits is known"),
        (["fit", "--components", "2"], "--components belongs to --prior mixture or --guide mixture"),
        (["fit", "--network", "linear", "--hidden", "9"], "--hidden belongs to --network mlp or"),
        (["fit", "--scale", "big"], "neither a number nor one of learned, per-feature, network"),
        (["fit", "--scale", "0.1"], "a bernoulli likelihood has no scale"),
        (["fit", "--prior", "vamp", "--guide", "iaf"], "kind='coupling'"),
        (["fit", "--data", "reals.npy", "--network", "conv"], "--network conv is for images"),
        (["fit", "--data", "reals.npy", "--likelihood", "poisson"], "needs whole numbers from 0"),
        (["fit", "--data", "reals.npy", "--likelihood", "continuous-bernoulli"], "needs values in [0, 1]"),
        (
            ["fit", "--data", "reals.npy", "--likelihood", "discretized-logistic"],
            "needs pictures with whole grey levels",
        ),
        (["fit", "--data", "digits", "--likelihood", "poisson"], "is for tables"),
        (["fit", "--dreg"], "--dreg belongs to --loss iwae"),
        (["fit", "--free-bits", "0.1", "--loss", "iwae"], "--free-bits belongs to --loss elbo"),
        (["fit", "--loss", "analytic-elbo", "--guide", "full-rank"], "has no closed form"),
        (["fit", "--num-particles", "0"], "--num-particles must be positive"),
        (["fit", "--program", "mine.py:build"], "no file mine.py"),
        (["fit", "--program", "mine.py"], "as in my_file.py:build"),
        (["fit", "--program", "own.py:absent"], "own.py has no function absent"),
        (["fit", "--program", "own.py:nothing"], "returned int, which has no model and guide"),
        (["fit", "--program", "own.py:build", "--prior", "vamp"], "leave out --prior"),
        (["fit", "--learning-rat", "1"], "No such option '--learning-rat'"),
        (["fit", "--epochs", "many"], "'many' is not a valid integer"),
        (["fit", "--epochs", "0"], "epochs must be positive"),
        (["fit", "--latent-dim", "0"], "--latent-dim must be one or more"),
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
        (["encode", str(run), "--out", "z.xls"], "can write .csv, .parquet, .npy or .h5ad, not .xls"),
        (["scores"], "No such command 'scores'"),
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


LONG = ["fit", "--data", "digits", "--hidden", "20", "--batch-size", "20", "--epochs", "14"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The fit that nothing stops, in this process: those that are stopped are compared with it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert _run([*LONG, "--out", str(folder), "--json"]) == 0
    return folder


@pytest.fixture
def start():
    """Start fits in processes of their own; whatever still runs when the test ends is ended."""
    started = []

    def begin(folder):
        started.append(Command(*LONG, "--out", folder))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def wait_for_epochs(folder, n):
    for _ in range(6000):
        if len(read_json_lines(folder / "metrics.jsonl")) >= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder}: no {n} epochs within a minute")


def test_a_call_from_python_leaves_the_handler_of_sigterm_as_it_was():
    """A process that is forked later, as joblib's are, would not end by it: GridSearchCV hung now and then."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="0"):
        main(["datasets", "--json"])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_fit_goes_on_to_the_same_numbers(capsys, tmp_path, start, whole, how):
    stopped = start(tmp_path / "stopped")
    wait_for_epochs(tmp_path / "stopped", 3)
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
    resumed = json_of(capsys, "fit", "--resume", tmp_path / "stopped")
    expected = json.loads((whole / "evaluation.json").read_text())["valid"]
    for record in (resumed, expected):
        del record["seconds"], record["run"]
    assert resumed == expected
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_json_lines(folder / "metrics.jsonl")]
        for folder in (whole, tmp_path / "stopped")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 14
    weights = [read_tensors(folder / "model.safetensors")[0] for folder in (whole, tmp_path / "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = "[m for m in ('torch', 'matplotlib', 'pyro') if m in sys.modules]"
    code = f"import sys; from pyro_vae.cli.main import _run; _run(['fit', '--help']); print({heavy})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    for group in ("Data:", "Model:", "Objective:", "Training:", "Run:", "Output:"):
        assert group in run.stdout


@pytest.mark.usefixtures("without_figures")
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


@pytest.mark.parametrize(
    "options",
    [
        "--prior vamp --pseudo-inputs 5 --guide full-rank --loss iwae --dreg --num-particles 3",
        "--prior flow --flow-layers 1 --network conv --hidden 4,4 --likelihood discretized-logistic",
        "--prior mixture --components 3 --network gated-mlp --hidden 9 --likelihood continuous-bernoulli",
        "--prior laplace --guide flow --flow-layers 1 --network resnet --hidden 4 --free-bits 0.1",
        "--prior normal --network linear --loss analytic-elbo",
        "--guide low-rank --rank 1 --likelihood student-t --scale network --free-bits 0.1 --num-particles 2",
        "--guide iaf --flow-layers 1 --kl-warmup 1",
        "--guide mixture --components 2",
    ],
)
@pytest.mark.usefixtures("without_figures")
def test_every_option_of_the_model_fits_and_comes_back(options, capsys, pictures, tmp_path):
    run = tmp_path / "run"
    found = json_of(capsys, "fit", "--data", pictures, "--epochs", 1, *options.split(), "--out", run)
    again = json_of(capsys, "evaluate", run, "--split", "valid", "--num-samples", 200)
    assert again["log_px"] == pytest.approx(found["log_px"], abs=1e-9)
    assert again["measure"] == found["measure"]
    repeated = json_of(capsys, "fit", "--config", run / "config.toml", "--out", tmp_path / "again")
    assert repeated["elbo"] == found["elbo"]
    assert json_of(capsys, "sample", run, "--num", 3)["num_rows"] == 3


OWN = """
import pyro, pyro.distributions as dist, torch
import pyro_vae as pv

class Heavy(torch.nn.Module):
    def __init__(self, num_latents):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(num_latents))

    def forward(self):
        return dist.StudentT(5.0, torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)

def build(data):
    D = data.num_features
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 9, 4))
    return pv.VAE(Heavy(2), pv.likelihoods.Normal(pv.nets.mlp(2, 9, D)), guide)

def labelled(data):
    D = data.num_features
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D + 10, 9, 4))
    return pv.ConditionalVAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(12, 9, D)), guide, 10)

def shared_mean():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)
    def guide(x):
        pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))
    return pv.Program(model, guide)
"""


@pytest.mark.usefixtures("without_figures")
def test_a_program_of_ones_own_is_fitted_scored_and_resumed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ["fit", "--data", "x.npy", "--epochs", "2", "--program", "own.py:build", "--out", "run"]
    found = json_of(capsys, *words)
    own = ["--program", "own.py:build"]
    again = json_of(capsys, "evaluate", "run", "--split", "valid", "--num-samples", 200, *own)
    assert again["log_px"] == pytest.approx(found["log_px"], abs=1e-9)
    assert json_of(capsys, "encode", "run", "x.npy", *own)["num_rows"] == 60
    assert json_of(capsys, "sample", "run", *own)["num_columns"] == 3
    assert json_of(capsys, "fit", "--resume", "run", *own)["log_px"] == found["log_px"]
    for words in (["evaluate", "run"], ["fit", "--resume", "run"], ["fit", "--config", "run/config.toml"]):
        code, _, err = command(capsys, *words)
        assert code == 2
        assert "add --program own.py:build" in err


@pytest.mark.usefixtures("without_figures")
def test_a_conditional_program_is_fitted_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    words = ["fit", "--data", "digits", "--program", "own.py:labelled", "--epochs", "2", "--free-bits", "0.1"]
    code, out, err = command(capsys, *words, "--out", "run")
    assert code == 0, err
    assert "no manifold figure: this program's decoder needs more than z" in out
    assert json_of(capsys, "evaluate", "run", "--num-samples", 5)["num_data"] == 180


def test_categories_with_gaps_are_fitted(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("c.npy", np.where(rng.random((80, 3)) < 0.9, rng.integers(0, 3, (80, 3)), np.nan))
    words = ["fit", "--data", "c.npy", "--likelihood", "categorical", "--missing", "mask", "--epochs", 1]
    assert json_of(capsys, *words, "--out", "run")["measure"] == "counting measure on {0, …, 2}^3, observed values only"


@pytest.mark.usefixtures("without_figures")
def test_a_program_whose_rows_have_no_weight_is_fitted_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ["fit", "--data", "x.npy", "--epochs", "2", "--program", "own.py:shared_mean", "--out", "run"]
    code, out, err = command(capsys, *words)
    assert code == 0, err
    assert "log p(x) of a row needs every site inside one plate" in out + err
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.usefixtures("without_figures")
def test_counts_and_gaps_need_no_more_than_they_say(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savetxt("counts.csv", rng.poisson(4.0, size=(80, 3)), delimiter=",", header="a,b,c", comments="")
    code, _, err = command(capsys, "fit", "--data", "counts.csv", "--epochs", "1", "--out", "counts")
    assert code == 0, err
    assert "likelihood negative-binomial: counts of 0 to" in err
    assert json.loads((tmp_path / "counts" / "evaluation.json").read_text())["valid"]["measure"] == (
        "counting measure on {0, 1, 2, …}^3"
    )
    as_reals = json_of(capsys, "fit", "--data", "counts.csv", "--likelihood", "normal", "--epochs", 1, "--out", "reals")
    assert as_reals["measure"] == "Lebesgue measure on R^3 (original units)"
    (tmp_path / "gaps.csv").write_text(
        "a,b\n" + "\n".join(f"{v},{'' if i % 4 else v / 2}" for i, v in enumerate(rng.normal(size=80)))
    )
    gaps = json_of(capsys, "fit", "--data", "gaps.csv", "--missing", "mask", "--epochs", 1, "--out", "gaps")
    assert gaps["measure"].endswith("observed values only")
    assert json_of(capsys, "encode", "gaps", "gaps.csv")["num_rows"] == 80


def test_collapse_is_said_with_what_to_try(capsys, tmp_path):
    words = ["fit", "--data", "digits", "--latent-dim", "8", "--beta", "1000", "--epochs", "8", "--batch-size", "20"]
    code, out, err = command(capsys, *words, "--out", tmp_path / "run")
    assert code == 0, err
    assert "8 of 8 latent dimensions are inactive" in err
    assert "goes back" not in err
    assert "KL of z" in out
    vae = pv.load(tmp_path / "run")
    with pytest.warns(pv.errors.CollapseWarning, match="KL warm-up"):
        pv.fit(vae, pv.load_data("digits"), epochs=3, batch_size=20, learning_rate=1e-3, beta=1000)


def test_help_shows_every_option_of_the_model_under_its_group(capsys):
    _, out, _ = command(capsys, "fit", "--help")
    groups, at = {}, ""
    for line in out.splitlines():
        if line and not line.startswith(" ") and line.endswith(":"):
            at = line[:-1]
        groups.setdefault(at, set()).update(word for word in line.split() if word.startswith("--"))
    assert groups["Data"] >= {"--data", "--binarize", "--dequantize", "--standardize", "--missing"}
    assert groups["Model"] >= {
        "--latent-dim", "--prior", "--components", "--pseudo-inputs", "--likelihood", "--scale", "--guide", "--rank",
        "--flow-layers", "--network", "--hidden", "--activation",
    }  # fmt: skip
    assert groups["Objective"] >= {"--loss", "--num-particles", "--dreg", "--beta", "--kl-warmup", "--free-bits"}
    assert "--program" in groups["Program"]


def test_evaluate_picks_a_method_and_says_which(run, capsys, tmp_path):
    """The run has two latents, so that a grid is possible; each method's record is kept under its own name."""
    few = ["evaluate", run, "--split", "valid", "--num-rows", 12]
    exact = json_of(capsys, *few, "--method", "exact")
    assert (exact["method"], exact["log_px_kind"], exact["log_px_mc_se"]) == ("exact: grid", "exact", 0)
    annealed = json_of(capsys, *few, "--method", "ais", "--temperatures", 60, "--chains", 8)
    assert annealed["method"] == "ais"
    sampled = json_of(capsys, *few, "--prior-share", 0.2, "--netcdf", tmp_path / "run.nc")
    assert sampled["num_data"] == 12
    for record in (annealed, sampled):
        assert record["log_px_kind"] == "lower bound"
        assert abs(record["log_px"] - exact["log_px"]) < 4 * record["log_px_mc_se"] + 0.1
    assert exact["elbo"] == annealed["elbo"]
    assert exact["gap"] == pytest.approx(exact["log_px"] - exact["elbo"])
    kept = json.loads((run / "evaluation.json").read_text())
    assert {"valid", "valid exact first 12", "valid ais first 12", "valid prior-share 0.2 first 12"} <= set(kept)
    import xarray

    rows = xarray.open_dataset(tmp_path / "run.nc", group="observed_data", engine="h5netcdf")
    assert rows["x"].sizes == {"row": 12, "feature": 64}
    code, out, _ = command(capsys, *few, "--method", "exact")
    assert code == 0
    assert "exact, by grid; what follows is from S = 1000 draws" in out


def test_score_flags_what_is_strange(run, capsys, tmp_path):
    data = pv.load_data("digits")
    rows = np.concatenate([data.test.stored[:30].numpy(), np.full((3, 64), 16, dtype=np.uint8)])
    np.save(tmp_path / "rows.npy", rows)
    found = json_of(capsys, "score", run, tmp_path / "rows.npy", "--out", tmp_path / "scores.csv", "--num-samples", 200)
    assert (found["num_data"], found["path"]) == (33, str(tmp_path / "scores.csv"))
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "index,log_px,khat,percentile,anomaly"
    table = np.array([[float(value or "nan") for value in line.split(",")] for line in lines[1:]])
    assert table[:, 0].tolist() == list(range(33))
    assert found["log_px_kind"] == "exact"  # two latents
    assert found["khat_bad"] is None
    assert np.isnan(table[:, 2]).all()
    assert (table[30:, 4] == 1).all()  # pictures all black
    assert table[:30, 4].mean() < 0.2
    assert found["num_anomalies"] == table[:, 4].sum()
    assert ((table[:, 1] < found["threshold"]) == (table[:, 4] == 1)).all()
    code, out, _ = command(capsys, "score", run, "--num-samples", 50)
    assert code == 0
    assert "flagged" in out
    assert (run / "scores.csv").exists()


def test_mistakes_about_evidence(run, capsys, tmp_path):
    for words, message in {
        ("evaluate", run, "--temperatures", 5): "--temperatures belongs to --method ais",
        ("evaluate", run, "--method", "ais", "--prior-share", 0.5): "--prior-share belongs to --method is",
        ("score", run, "--false-alarms", 0.0001): "cannot tell one in 10000",
        ("score", run, "--explain"): "those of pictures are single pixels",
        ("score", run, "--out", tmp_path / "scores.txt"): "can write .csv, .parquet or .h5ad, not .txt",
    }.items():
        code, out, err = command(capsys, *words)
        assert (code, out) == (2, ""), err
        assert message in err
        assert err.count("\n") == 1
