"""Arrays of images in colour, and new images for a data set: of the channels, size and classes of the fit."""

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae.data import DataConfig
from pyro_vae.data.image_shapes import as_image_shape

G = np.random.default_rng(0)
H, W = 4, 5
FIRST = G.integers(0, 256, (40, 3, H, W), dtype=np.uint8)
LAST = np.ascontiguousarray(FIRST.transpose(0, 2, 3, 1))
GREY = FIRST[:, 0]
SAID = ("channels put first: a row is an image of 3×4×5, channel by channel",)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("array", "rows", "shape", "notes"),
    [
        (FIRST, FIRST, (3, H, W), ()),
        (LAST, FIRST, (3, H, W), SAID),
        (GREY[:, None], GREY, (H, W), ()),
        (GREY[..., None], GREY, (H, W), ()),
        (GREY, GREY, (H, W), ()),
        (LAST.astype(np.float32) / 255, FIRST.astype(np.float32) / 255, (3, H, W), SAID),
    ],
    ids=["channels first", "channels last", "one channel first", "one channel last", "grey", "floats"],
)
def test_arrays_of_images(array, rows, shape, notes, stream, tmp_path):
    np.save(tmp_path / "x.npy", array)
    sources = [tmp_path / "x.npy"] if stream else [tmp_path / "x.npy", array, torch.from_numpy(array)]
    for source in sources:
        data = pv.load_data(source, stream=stream or None)
        assert data.image_shape == shape
        assert data.notes == notes
        found = np.concatenate([split.stored[:].numpy() for split in (data.train, data.valid, data.test)])
        index = np.concatenate(
            [split.source_index(slice(None)).numpy() for split in (data.train, data.valid, data.test)]
        )
        assert np.array_equal(found, rows.reshape(len(rows), -1)[index])


def test_shapes_of_flat_rows():
    flat = FIRST.reshape(40, -1)
    assert pv.load_data(flat, image_shape=(3, H, W)).image_shape == (3, H, W)
    assert pv.load_data(flat[:, :20], image_shape=(1, H, W)).image_shape == (H, W)
    assert pv.load_data(FIRST, image_shape=(3, H, W)).image_shape == (3, H, W)
    for options, message in [
        ({"image_shape": (3, H, W + 1)}, "images of 3×4×6 pixels have 72 values, the rows have 60"),
        ({"image_shape": (4, 3, 5)}, "one channel .grey. or three .red, green, blue., got 4×3×5, which has 4"),
        ({"image_shape": (60,)}, r"image_shape must be \[channels,\] height and width"),
        ({"image_shape": (3, 0, 20)}, "image_shape must be"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(flat, **options)
    with pytest.raises(pv.InputError, match="holds images of 3×4×5, not of 4×5"):
        pv.load_data(FIRST, image_shape=(H, W))
    for sizes in ((40, 2, H, W), (40, H, W, 4), (40, 1, 3, H, W)):
        with pytest.raises(
            pv.InputError, match=r"expected \(N, D\), grey images \(N, height, width\), or images in colour"
        ):
            pv.load_data(np.zeros(sizes, np.uint8))
    with pytest.raises(pv.InputError, match=r"first or the last axis; .* as in --image-shape 3x7x3"):
        pv.load_data(np.zeros((40, 3, 7, 3), np.uint8))
    assert as_image_shape((1, 2, 3)) == (2, 3)


# values, options, the measure, the likelihood that is chosen for them
MEASURES = {
    "bytes": (FIRST, {}, "none", "discretized-logistic"),
    "whole numbers": (FIRST.astype(np.int64), {}, "none", "discretized-logistic"),
    "bits": (FIRST // 128, {}, "fixed", "bernoulli"),
    "floats of [0, 1]": (FIRST / 255.0, {}, "none", "normal"),
    "dequantized": (FIRST, {"dequantize": True}, "none", "normal"),
    "standardized": (FIRST, {"standardize": True}, "none", "normal"),
    "binarized": (FIRST, {"binarize": "stochastic"}, "stochastic", "bernoulli"),
    "threshold": (FIRST, {"binarize": "threshold"}, "threshold", "bernoulli"),
    "grey bytes": (GREY, {}, "stochastic", "bernoulli"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_colours_are_kept_as_levels(name, tmp_path):
    from pyro_vae.registry import ModelConfig
    from pyro_vae.workflows.choose_likelihood import choose_likelihood, load_dataset

    values, options, binarize, likelihood = MEASURES[name]
    np.save(tmp_path / "x.npy", values)
    data = load_dataset(DataConfig(data=str(tmp_path / "x.npy"), **options))
    assert data.train.measure.binarize == binarize
    chosen = choose_likelihood(ModelConfig(), data)
    assert chosen.name == likelihood
    if likelihood == "discretized-logistic":
        assert chosen.scale == "learned"
        assert chosen.reason.startswith("colours of 0 to 255, each level with its probability")
        assert torch.equal(data.train.x, data.train.stored.float() / 255)
    if binarize == "threshold":
        assert torch.equal(data.train.x, (data.train.stored > 127.5).float())  # of each channel alone


def write(folder, colour, size=(H, W), classes=("cat", "dog"), num=20):
    for i in range(num):
        values = G.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)
        (folder / classes[i % len(classes)]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / classes[i % len(classes)] / f"{i:02}.png")
    return folder


# the images of the fit (in colour or not), its options; new ones, their size; shape of a row, or the error
PREPARED = {
    "colour": (True, {}, True, (H, W), 60),
    "grey": (False, {}, False, (H, W), 20),
    "grey for colour": (True, {}, False, (H, W), 60),
    "colour for grey": (False, {}, True, (H, W), r"a picture in colour, but .* fitted to grey ones; .* --gray"),
    "colour for --gray": (True, {"gray": True}, True, (H, W), 20),
    "another size": (
        True,
        {},
        True,
        (6, 5),
        r"6×5 pixels .*, but this run was fitted to images of 4×5; .* --resize 4x5",
    ),
    "turned by a quarter": (False, {}, False, (W, H), r"5×4 pixels .*, but this run was fitted to images of 4×5"),
    "another size, resized": (True, {"resize": (2, 3)}, True, (6, 5), 18),
    "one size, resized": (False, {"resize": (2, 3)}, False, (H, W), 6),
    "all of it": (True, {"resize": (2, 3), "gray": True}, True, (6, 5), 6),
}


@pytest.mark.parametrize("name", PREPARED)
def test_new_images_go_through_what_those_of_the_fit_did(name, tmp_path):
    colour, options, new_colour, size, expected = PREPARED[name]
    data = pv.load_data(write(tmp_path / "fit", colour), **options)
    folder = write(tmp_path / "new", new_colour, size, classes=("dog", "fish"), num=4)
    if isinstance(expected, str):
        with pytest.raises(pv.InputError, match=expected):
            data.prepare(folder)
        return
    new = data.prepare(folder)
    assert new.shape == (4, expected)
    assert new.measure == data.train.measure
    assert new.labels.tolist() == [1, 1, -1, -1]
    if new_colour == colour:
        again = data.prepare(tmp_path / "fit")
        for split in (data.train, data.valid, data.test):
            assert torch.equal(again.stored[split.index], split.stored)
            assert torch.equal(again.labels[split.index], split.labels)
    one = data.prepare(folder / "dog" / "00.png")
    assert torch.equal(one.stored[0], new.stored[0])
    of_one_class = data.prepare(write(tmp_path / "dogs", new_colour, size, classes=("dog",), num=2))
    assert of_one_class.labels.tolist() == [1, 1]


def test_new_arrays_have_the_shape_of_the_fit():
    data = pv.load_data(LAST)
    assert torch.equal(data.prepare(LAST[:3]).stored, data.prepare(FIRST[:3]).stored)
    assert torch.equal(data.prepare(FIRST[:3].reshape(3, -1)).stored, data.prepare(FIRST[:3]).stored)
    with pytest.raises(
        pv.InputError, match="holds grey images of 12×5, but this run was fitted to colour images of 3×4×5"
    ):
        data.prepare(FIRST.reshape(40, 12, 5))
    with pytest.raises(pv.InputError, match="holds grey images of 5×4, but this run was fitted to grey images of 4×5"):
        pv.load_data(GREY).prepare(GREY.transpose(0, 2, 1))
