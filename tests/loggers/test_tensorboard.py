"""The TensorBoard logger, read back by TensorBoard's own reader: what it wrote is what the fit said."""

import json
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pyro_vae as pv
from pyro_vae.atomic_write import read_json_lines
from pyro_vae.cli.main import _run
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.loggers.tensorboard import SCALARS, TensorBoard, sprites

SMALL = ["--data", "digits", "--epochs", "3", "--hidden", "10", "--logger", "tensorboard"]


def read(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def steps(found, name):
    return [event.step for event in found.Scalars(name)]


def row(epoch, **values):
    return EpochRecord(**{"epoch": epoch, "step": epoch, "elbo": -float(epoch)} | values)


def digits_vae():
    likelihood, guide = pv.likelihoods.Bernoulli(pv.nets.mlp(3, 8, 64)), pv.guides.MeanFieldNormal(pv.nets.mlp(64, 6))
    return pv.VAE(pv.priors.StandardNormal(3), likelihood, guide)


@pytest.mark.parametrize("argument", ["callbacks", "on_epoch"])
def test_scalars_are_the_history(tmp_path, argument):
    vae, data = digits_vae(), pv.load_data("digits")
    with TensorBoard(tmp_path) as board:
        fitted = pv.fit(vae, data, epochs=3, **{argument: [board] if argument == "callbacks" else board})
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == set(SCALARS)
    for name in SCALARS:
        assert steps(found, name) == [1, 2, 3]
        expected = [epoch[name] for epoch in fitted.history]
        np.testing.assert_allclose([event.value for event in found.Scalars(name)], expected, rtol=1e-6)


def test_the_latent_space_has_labels_and_sprites(tmp_path):
    vae, data = digits_vae(), pv.load_data("digits")
    with TensorBoard(tmp_path) as board:
        pv.fit(vae, data, epochs=1, on_epoch=board)
        board.finish(vae, data)
    found = read(tmp_path)
    assert set(found.Tags()["images"]) == {"reconstructions", "samples"}
    assert found.Images("samples")[0].width > 300
    folder = tmp_path / "00001" / "posterior_means"
    means = np.loadtxt(folder / "tensors.tsv")
    np.testing.assert_allclose(means, vae.encode(data.valid.x).numpy(), rtol=1e-4, atol=1e-6)
    header, *lines = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    assert header == ["label", "row"]
    assert [int(label) for label, _ in lines] == data.valid.labels.tolist()
    assert [int(place) for _, place in lines] == data.valid.index.tolist()
    assert "sprite.png" in (tmp_path / "projector_config.pbtxt").read_text()


def test_a_fit_that_goes_on_repeats_no_epoch(tmp_path):
    """Two epochs more than the checkpoint were written before the crash: they count no more."""
    with TensorBoard(tmp_path) as board:
        for epoch in (1, 2, 3, 4):
            board([row(e) for e in range(1, epoch + 1)])
    with TensorBoard(tmp_path) as board:
        for epoch in (3, 4, 5):
            board([row(e, elbo=-10.0 * e) for e in range(1, epoch + 1)])
    found = read(tmp_path)
    assert steps(found, "elbo") == [1, 2, 3, 4, 5]
    assert [event.value for event in found.Scalars("elbo")] == [-1, -2, -30, -40, -50]
    assert found.Tags()["scalars"] == ["elbo"]  # what is None is not written


def test_a_logger_that_comes_late_writes_the_epochs_before(tmp_path):
    with TensorBoard(tmp_path) as board:
        board([row(1), row(2), row(3)])
        board([row(1), row(2), row(3)])
    assert steps(read(tmp_path), "elbo") == [1, 2, 3]


def test_a_program_without_latents_for_each_row_is_finished_all_the_same(tmp_path):
    from example_programs import global_mean

    program, data = global_mean(), pv.load_data("seven-normals")
    pv.fit(program, data.train, epochs=1, batch_size=len(data.train))
    with TensorBoard(tmp_path) as board:
        board([row(1)])
        board.finish(program, data)
    assert not (tmp_path / "00001").exists()
    assert read(tmp_path).Tags()["images"] == ["reconstructions", "samples"]


def test_sprites_are_square_and_dark_on_white():
    rows = Split("valid", torch.tensor([[0, 255, 0, 255, 0, 255]], dtype=torch.uint8), Measure(255), None, (3, 2))
    found = sprites(rows)
    assert found.shape == (1, 1, 3, 3)
    assert found[0, 0].tolist() == [[1, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert sprites(Split("valid", torch.zeros(2, 6))) is None


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[tensorboard\]'"):
        TensorBoard(tmp_path / "board")
    assert _run(["fit", *SMALL, "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'pyro-vae[tensorboard]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_figures")
def test_the_command_logs_and_a_resumed_run_goes_on_by_itself(tmp_path, capsys):
    run = tmp_path / "run"
    assert _run(["fit", *SMALL, "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"tensorboard --logdir {run}/tensorboard" in out
    rows = read_json_lines(run / "metrics.jsonl")
    assert steps(read(run / "tensorboard"), "valid_elbo") == [1, 2, 3]
    assert _run(["fit", "--resume", str(run), "--json"]) == 0
    json.loads(capsys.readouterr().out)  # one object, and no complaint of torch's beside it
    found = read(run / "tensorboard")
    assert steps(found, "valid_elbo") == [1, 2, 3]
    assert found.Scalars("valid_elbo")[2].value == pytest.approx(rows[2]["valid_elbo"], rel=1e-6)
    assert [event.step for event in found.Images("samples")] == [3]


@pytest.mark.usefixtures("without_figures")
def test_a_run_begun_without_it_can_be_resumed_with_it(tmp_path, capsys):
    run = tmp_path / "run"
    assert _run(["fit", *SMALL[:-2], "--out", str(run), "--json"]) == 0
    assert not (run / "tensorboard").exists()
    assert _run(["fit", "--resume", str(run), "--logger", "tensorboard", "--json"]) == 0
    assert steps(read(run / "tensorboard"), "elbo") == [1, 2, 3]


def test_a_board_that_is_finished_later_keeps_its_curves_and_takes_a_second_fit(tmp_path):
    data, vae = pv.load_data("digits"), digits_vae()
    with TensorBoard(tmp_path) as board:
        for epoch in (1, 2, 3):
            board([row(e) for e in range(1, epoch + 1)])
        board([])
    with TensorBoard(tmp_path) as board:
        board.finish(vae, data)
    assert steps(read(tmp_path), "elbo") == [1, 2, 3]
    with TensorBoard(tmp_path / "two") as board:
        for _ in range(2):
            for epoch in (1, 2):
                board([row(e) for e in range(1, epoch + 1)])
    assert steps(read(tmp_path / "two"), "elbo") == [1, 2, 1, 2]
