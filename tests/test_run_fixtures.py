"""Runs that earlier versions wrote: they load, and give the numbers that they gave.

With the environment variable PYRO_VAE_EXACT_BITS=1 numbers are compared to the bit, which holds on the machine that
made them and with one thread (OMP_NUM_THREADS=1). Otherwise matrix products add in another order: float32 sums over 64
columns keep about 1e-5 of themselves, the float64 densities of the mixture 1e-7, and 1e-5 nats is the rounding of
numbers that are differences, as a gap.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, read_json_lines
from pyro_vae.cli.main import _run
from pyro_vae.run_folder import read_config

FOLDER = Path(__file__).parent / "fixtures" / "runs_0_1_0"
VAES = ("plain", "vamp", "flow", "conditional")
EXACT = os.environ.get("PYRO_VAE_EXACT_BITS") == "1"
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}
RESUMED = 1e-4  # 24 epochs follow the interruption, whose roundings add up
EVALUATIONS = [
    *((name, "evaluate.json", ["--num-samples", "100", "--num-rows", "40", "--seed", "3"]) for name in VAES),
    ("plain", "evaluate-exact.json", ["--method", "exact", "--num-rows", "20", "--num-samples", "100"]),
]
# Densities of 0.1.0 that were wrong and that a later version corrects: the files stay as they were written, and an
# entry here says what they hold and what is true.
#     (folder, quantity): (what 0.1.0 gave, what is true, why)
# A quantity is a tensor of expected.safetensors ("log_joint", with a list of all rows) or a number of a JSON file by
# its path ("evaluate.json/log_px", "evaluate.json/iwae/5"). The old value has to be the stored one, so that no entry
# outlives its reason, and the program has to give the true one.
CORRECTED: dict[tuple[str, str], tuple[float | list, float | list, str]] = {}


@pytest.fixture(scope="module")
def quantities():
    """The script that wrote the folders, for what it computes of a program."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
    try:
        import run_fixtures
    finally:
        sys.path.pop(0)
    return run_fixtures


def assert_tensor(folder, name, found, stored):
    """The stored tensor, or the true one where it was wrong."""
    tolerance = 0 if EXACT else TOLERANCE.get(stored.dtype, 0)
    if (folder, name) in CORRECTED:
        old, true, _ = CORRECTED[folder, name]
        old, true = (torch.tensor(value, dtype=stored.dtype) for value in (old, true))
        torch.testing.assert_close(old, stored, rtol=1e-5, atol=1e-5)
        stored, tolerance = true, TOLERANCE[stored.dtype]
    torch.testing.assert_close(found.detach(), stored, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")


def assert_tensors(folder, found, stored):
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        assert_tensor(folder, name, found[name], value)


def assert_json(folder, path, found, stored):
    """Every key of before at its value of before; there may be more keys. Only numbers with a fraction may be near."""
    if isinstance(stored, dict):
        assert stored.keys() <= found.keys(), path
        for key in stored.keys() - {"seconds"}:
            assert_json(folder, f"{path}/{key}", found[key], stored[key])
        return
    exact = EXACT
    if (folder, path) in CORRECTED:
        old, true, _ = CORRECTED[folder, path]
        assert old == pytest.approx(stored, rel=1e-5, abs=1e-5), path
        stored, exact = true, False
    near = isinstance(stored, float) and not exact
    assert type(found) is type(stored), path
    assert found == (pytest.approx(stored, rel=1e-5, abs=1e-5) if near else stored), path


ADDED_BUFFERS = {"strengths"}  # of a mixture's prior, which were fixed before


@pytest.mark.parametrize("name", [*VAES, "mixture"])
def test_a_program_has_the_weights_that_were_saved(name):
    """To the bit everywhere, since loading computes nothing."""
    program, facts = pv.load(FOLDER / name), json.loads((FOLDER / name / "expected.json").read_text())
    weights, stored = program.state_dict(), load_file(FOLDER / name / "model.safetensors")
    assert weights.keys() - stored.keys() <= ADDED_BUFFERS
    assert stored.keys() <= weights.keys()
    assert all(torch.equal(weights[key], value) and weights[key].dtype == value.dtype for key, value in stored.items())
    assert facts["pyro_vae"] == "0.1.0"
    assert sum(parameter.numel() for parameter in program.parameters()) == facts["num_parameters"]


@pytest.mark.parametrize("name", VAES)
def test_a_vae_gives_the_densities_that_it_gave(name, quantities):
    stored = load_file(FOLDER / name / "expected.safetensors")
    given = {key: stored[key] for key in ("labels",) if key in stored}
    found = quantities.expected_of_vae(pv.load(FOLDER / name), stored["x"], given, stored["z"])
    assert_tensors(name, found, stored)


def test_a_mixture_gives_the_density_that_it_gave(quantities):
    stored = load_file(FOLDER / "mixture" / "expected.safetensors")
    found = quantities.expected_of_mixture(pv.load(FOLDER / "mixture"), stored["x"])
    assert_tensors("mixture", found, stored)


@pytest.mark.parametrize(
    ("name", "file", "words"), EVALUATIONS, ids=[f"{name}-{file}" for name, file, _ in EVALUATIONS]
)
def test_evaluate_prints_what_it_printed(name, file, words, tmp_path, monkeypatch, capsys):
    shutil.copytree(FOLDER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    method = [] if "--prior-share" in words or "--method" in words else ["--method", "is"]
    assert _run(["evaluate", name, *words, *method, "--json"]) == 0
    assert_json(name, file, json.loads(capsys.readouterr().out), json.loads((FOLDER / name / file).read_text()))


def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path, monkeypatch, capsys):
    """The end of the same fit that nothing interrupted; its record to the bit where weights are."""
    shutil.copytree(FOLDER / "interrupted", tmp_path / "interrupted")
    monkeypatch.chdir(tmp_path)
    assert len(Path("interrupted/metrics.jsonl").read_text().splitlines()) == 6
    assert _run(["fit", "--resume", "interrupted", "--json"]) == 0
    found, stored = json.loads(capsys.readouterr().out), json.loads(Path("interrupted/expected.json").read_text())
    weights, expected = pv.load("interrupted").state_dict(), load_file("interrupted/expected.safetensors")
    assert weights.keys() == expected.keys()
    tolerance = 0 if EXACT else RESUMED
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=tolerance, atol=tolerance)
    epochs = [json.loads(line)["epoch"] for line in Path("interrupted/metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 31))
    assert (found["method"], found["log_px_kind"]) == ("exact: grid", "exact")  # 0.1.0 sampled it
    words = ["--split", "valid", "--method", "is", "--num-samples", "200"]
    assert _run(["evaluate", "interrupted", *words, "--json"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    if EXACT:
        stored.pop("run")  # the folder of the fit that was not interrupted
        assert_json("interrupted", "expected.json", sampled, stored)
    for key in ("elbo", "reconstruction", "kl", "log_px"):
        assert sampled[key] == pytest.approx(stored[key], rel=RESUMED, abs=RESUMED), key


def test_corrections_name_what_is_stored():
    for folder, quantity in CORRECTED:
        file, *_ = quantity.split("/")
        assert (FOLDER / folder / file).is_file() or quantity in load_file(FOLDER / folder / "expected.safetensors")


def test_a_corrected_density_has_to_be_the_true_one(monkeypatch):
    stored = load_file(FOLDER / "plain" / "expected.safetensors")["log_q"]
    record = json.loads((FOLDER / "plain" / "evaluate.json").read_text())
    true = record | {"log_px": record["log_px"] + 1}
    monkeypatch.setitem(CORRECTED, ("plain", "log_q"), (stored.tolist(), (stored + 1).tolist(), "an example"))
    monkeypatch.setitem(CORRECTED, ("plain", "evaluate.json/log_px"), (record["log_px"], true["log_px"], "an example"))
    assert_tensor("plain", "log_q", stored + 1, stored)
    assert_json("plain", "evaluate.json", true, record)
    for wrong in (
        lambda: assert_tensor("plain", "log_q", stored, stored),
        lambda: assert_json("plain", "evaluate.json", record, record),
    ):
        with pytest.raises(AssertionError):
            wrong()
    monkeypatch.setitem(CORRECTED, ("plain", "log_q"), ((stored + 2).tolist(), (stored + 1).tolist(), "not stored"))
    with pytest.raises(AssertionError):
        assert_tensor("plain", "log_q", stored + 1, stored)


FORMAT_2 = Path(__file__).parent / "fixtures" / "runs_format_2"


@pytest.mark.parametrize("name", VAES)
def test_a_run_of_format_2_gives_what_it_gave(name, quantities, caplog):
    folder = FORMAT_2 / name
    assert read_config(folder)["about"]["format"] == 2
    program, stored = pv.load(folder), load_file(folder / "model.safetensors")
    assert all(torch.equal(program.state_dict()[key], value) for key, value in stored.items())
    expected = load_file(folder / "expected.safetensors")
    given = {key: expected[key] for key in ("labels",) if key in expected}
    assert_tensors(name, quantities.expected_of_vae(program, expected["x"], given, expected["z"]), expected)
    assert [row["epoch"] for row in read_json_lines(folder / "metrics.jsonl", complete=True)] == [1, 2, 3, 4]
    assert read_json(folder / "evaluation.json")["valid"]["split"] == "valid"
    assert caplog.text == ""


def test_a_mixture_of_format_2_gives_the_density_that_it_gave(quantities):
    stored = load_file(FORMAT_2 / "mixture" / "expected.safetensors")
    assert_tensors("mixture", quantities.expected_of_mixture(pv.load(FORMAT_2 / "mixture"), stored["x"]), stored)
