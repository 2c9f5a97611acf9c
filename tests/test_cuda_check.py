"""The logic of scripts/cuda_check.py, on the processor: what it prints, and that a difference is one."""

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import cuda_check

SMALL = [
    "--device",
    "cpu",
    "--rows",
    "100",
    "--hidden",
    "4",
    "--epochs",
    "2",
    "--num-samples",
    "5",
    "--batch-size",
    "50",
]


@pytest.fixture(autouse=True)
def plain_only(monkeypatch):
    monkeypatch.setattr(cuda_check, "PROGRAMS", {"plain": {}})


def test_the_same_numbers_pass():
    result = CliRunner().invoke(cuda_check.main, SMALL, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.count("\nequal: ") == 3
    assert result.output.count("| plain") == 3


def test_a_difference_ends_with_1(monkeypatch):
    true = cuda_check._log_densities
    monkeypatch.setattr(
        cuda_check,
        "_log_densities",
        lambda vae, x, z, device: [part + 0.1 * (x.dtype == torch.float32) for part in true(vae, x, z, device)],
    )
    result = CliRunner().invoke(cuda_check.main, SMALL)
    assert result.exit_code == 1
    assert "DIFFERENT: plain, densities against float64" in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
@pytest.mark.parametrize(
    ("words", "said"), [([], "no CUDA here"), (["--device", "cpu", "--epochs", "1"], "two or more")]
)
def test_what_cannot_be_run_is_said(words, said):
    result = CliRunner().invoke(cuda_check.main, words)
    assert result.exit_code == 2
    assert said in result.output
