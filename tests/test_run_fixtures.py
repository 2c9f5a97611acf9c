"""Runs that earlier versions wrote: they load, and give the numbers that they gave.

`EXACT` compares numbers to the bit (the environment variable PYRO_VAE_EXACT_BITS=1), which holds on the machine that
made them; elsewhere matrix products round otherwise, and 1e-5 is what float32 leaves of sums over 64 columns.
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
from pyro_vae.cli import _run

FOLDER = Path(__file__).parent / "fixtures" / "runs_0_1_0"
VAES = ("plain", "vamp", "flow", "conditional")
EXACT = os.environ.get("PYRO_VAE_EXACT_BITS") == "1"
# (folder, quantity): (what 0.1.0 gave, what is true, why), for a density that a later version corrects
CORRECTED: dict[tuple[str, str], tuple[float, float, str]] = {}
EVALUATIONS = [
    *((name, "evaluate.json", ["--num-samples", "100", "--num-rows", "40", "--seed", "3"]) for name in VAES),
    ("plain", "evaluate-exact.json", ["--method", "exact", "--num-rows", "20", "--num-samples", "100"]),
]


@pytest.fixture(scope="module")
def quantities():
    sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
    try:
        import run_fixtures
    finally:
        sys.path.pop(0)
    return run_fixtures


def assert_same(folder, found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if (folder, name) not in CORRECTED:
            tolerance = 0 if EXACT else 1e-5
            torch.testing.assert_close(found[name].detach(), value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", VAES)
def test_a_vae_gives_the_densities_that_it_gave(name, quantities):
    expected = load_file(FOLDER / name / "expected.safetensors")
    given = {key: expected[key] for key in ("labels",) if key in expected}
    vae, z = pv.load(FOLDER / name), expected["z"]
    found = quantities.expected_of_vae(vae, expected["x"], given, z)
    assert_same(name, found, expected)


def test_a_mixture_gives_the_density_that_it_gave(quantities):
    expected = load_file(FOLDER / "mixture" / "expected.safetensors")
    found = quantities.expected_of_mixture(pv.load(FOLDER / "mixture"), expected["x"])
    assert_same("mixture", found, expected)


@pytest.mark.parametrize(
    ("name", "file", "words"), EVALUATIONS, ids=[f"{name}-{file}" for name, file, _ in EVALUATIONS]
)
def test_evaluate_prints_what_it_printed(name, file, words, tmp_path, monkeypatch, capsys):
    """Every key of before at its value of before; there may be more keys."""
    shutil.copytree(FOLDER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert _run(["evaluate", name, *words, "--json"]) == 0
    found, expected = json.loads(capsys.readouterr().out), json.loads((FOLDER / name / file).read_text())
    for key in expected.keys() - {"seconds"}:
        near = expected[key] if EXACT else pytest.approx(expected[key], rel=1e-5, abs=1e-5)
        assert found[key] == near, key


def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path, monkeypatch, capsys):
    shutil.copytree(FOLDER / "interrupted", tmp_path / "interrupted")
    monkeypatch.chdir(tmp_path)
    assert _run(["fit", "--resume", "interrupted", "--json"]) == 0
    found, expected = (
        json.loads(capsys.readouterr().out),
        json.loads((FOLDER / "interrupted/expected.json").read_text()),
    )
    weights = load_file(FOLDER / "interrupted" / "expected.safetensors")
    tolerance = 0 if EXACT else 1e-3  # of 24 epochs that follow, whose roundings add up
    for name, value in pv.load("interrupted").state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=tolerance, atol=tolerance)
    for key in expected.keys() - {"seconds", "run"}:
        near = expected[key] if EXACT else pytest.approx(expected[key], rel=1e-3, abs=1e-3)
        assert found[key] == near, key
    assert len(Path("interrupted/metrics.jsonl").read_text().splitlines()) == 30
