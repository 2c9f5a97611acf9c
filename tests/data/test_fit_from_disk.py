"""Fits and commands with rows that stay on disk give what they give with rows in memory."""

import json

import numpy as np
import pytest
import torch
from large_files import line_file

import pyro_vae as pv
from pyro_vae.cli.main import _run
from pyro_vae.data import load_data
from pyro_vae.data.ondisk import rows_on_disk
from pyro_vae.data.ondisk.read_large_files import read_rows
from pyro_vae.data.prepare_rows import make_split
from pyro_vae.data.table import Table


def small_vae():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 16, 5), 0.3)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 16, 4)))


def test_a_fit_from_disk_improves_as_much_as_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 20 * 10)
    monkeypatch.setattr(rows_on_disk, "WINDOW_BYTES", 20 * 10 * 20)  # 4 windows of 20 blocks of 10 rows
    line_file(tmp_path / "x.npy", 1000)
    data = load_data(tmp_path / "x.npy", stream=True)
    in_memory = make_split("train", Table(data.train.stored[:]), data.train.measure)
    found = [pv.log_evidence(small_vae(), data.valid, num_samples=50).log_px.mean()]
    for train in (data.train, in_memory):
        vae = small_vae()
        pv.fit(vae, train, epochs=4, batch_size=40, learning_rate=0.03, progress="none")
        found.append(pv.log_evidence(vae, data.valid, num_samples=50).log_px.mean())
    before, from_disk, from_memory = map(float, found)
    assert from_disk == pytest.approx(from_memory, abs=0.05 * (from_memory - before))


def test_a_fit_from_disk_resumes_to_the_same_bits(tmp_path, small_blocks):
    line_file(tmp_path / "x.npy", 300)
    data = load_data(tmp_path / "x.npy", stream=True)
    uninterrupted, resumed = small_vae(), small_vae()
    options = {"epochs": 4, "learning_rate": 0.01, "schedule": "constant", "progress": "none", "batch_size": 40}
    pv.fit(uninterrupted, data, **options)

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pv.fit(resumed, data, **options, checkpoint=tmp_path, on_epoch=stop)
    pv.fit(resumed, load_data(tmp_path / "x.npy", stream=True), **options, checkpoint=tmp_path)
    for one, other in zip(uninterrupted.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_em_from_disk_is_equal_to_em_in_memory(tmp_path, small_blocks):
    line_file(tmp_path / "x.npy", 300)
    data = load_data(tmp_path / "x.npy", stream=True)
    found = []
    for train in (data.train, make_split("train", Table(data.train.stored[:]), data.train.measure)):
        mixture = pv.GaussianMixture(2, 5)
        pv.fit_em(mixture, train, epochs=3)
        found.append(mixture.log_prob(data.valid))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=0)


def test_commands_write_the_same_files_for_rows_on_disk(tmp_path, monkeypatch, capsys):
    """Score, encode and reconstruct write equal files, chunk by chunk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    line_file("x.npy", 400)
    np.save("more.npy", np.load("x.npy")[::-1][:300])
    arguments = ["fit", "--data", "x.npy", "--epochs", "2", "--hidden", "8", "--out", "run", "--json"]
    assert _run(arguments) == 0
    commands = (
        ["score", "--num-samples", "30", "--out", "s.csv"],
        ["encode", "--out", "e.npy"],
        ["encode", "--out", "e.csv"],
        ["reconstruct", "--out", "r.npy"],
    )
    files = {}
    for on_disk in (False, True):
        if on_disk:
            monkeypatch.setattr("pyro_vae.workflows.read_run.CHUNK_ROWS", 128)
            monkeypatch.setattr(
                "pyro_vae.data.prepare_rows.read_rows",
                lambda path, missing, stream, *more: read_rows(path, missing, True, *more),
            )
        for command, *options in commands:
            assert _run([command, "run", "more.npy", *options]) == 0
        files[on_disk] = [np.load(name) for name in ("e.npy", "r.npy")]
        files[on_disk] += [np.genfromtxt(name, delimiter=",", names=True) for name in ("s.csv", "e.csv")]
    capsys.readouterr()
    for in_memory, streamed in zip(files[False], files[True], strict=True):
        assert in_memory.dtype == streamed.dtype
        for name in in_memory.dtype.names or [...]:
            np.testing.assert_allclose(in_memory[name], streamed[name], rtol=1e-4, atol=1e-5)
    assert _run(["sample", "run", "--num", "300", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 300
    assert np.load("run/samples.npy").shape == (300, 5)
