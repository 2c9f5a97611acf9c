"""Image files as people have them: the right pixels of each kind, the shape, what is said, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

import pyro_vae as pv
from pyro_vae.data.image_settings import ImageSettings
from pyro_vae.data.read_files import is_image_source, read_file
from pyro_vae.workflows.fit_settings import settings_of_earlier_version

G = np.random.default_rng(0)
H, W = 4, 5
GREY = G.integers(0, 256, (H, W), dtype=np.uint8)
RGB = G.integers(0, 256, (H, W, 3), dtype=np.uint8)
BITS = GREY > 127
FIRST = RGB.transpose(2, 0, 1)  # the channels first, as rows hold them
ALPHA = np.where(BITS, 255, 0).astype(np.uint8)
ON_WHITE = np.where(BITS, FIRST, 255)
COLOURS = np.array([[200, 10, 30], [0, 250, 7], [9, 9, 9], [255, 255, 255]], dtype=np.uint8)
INDICES = (GREY % 4).astype(np.uint8)


def picture(values, mode=None):
    return Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)


def with_palette(colours):
    image = Image.fromarray(INDICES, "P")
    image.putpalette(colours.flatten().tolist())
    return image


def cmyk(cyan, key=0):
    channels = [np.full((H, W), value, dtype=np.uint8) for value in (cyan, 0, 0, key)]
    return Image.merge("CMYK", [Image.fromarray(channel) for channel in channels])


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def png_of_16_bits(path, channels):
    """A PNG of 16 bits a channel, which PIL cannot write in colour."""

    def chunk(name, content):
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    values = np.full((H, W, channels), 0x1234, dtype=">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    header = struct.pack(">IIBBBBB", W, H, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(start + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


# file name, the image, options of save, pixels (grey or channels first), notes
FILES = {
    "grey": ("a.png", picture(GREY), {}, GREY, ()),
    "RGB": ("a.png", picture(RGB), {}, FIRST, ()),
    "RGB with three equal channels": ("a.png", picture(GREY, "RGB"), {}, GREY, ()),
    "upper case": ("A.PNG", picture(RGB), {}, FIRST, ()),
    "bmp": ("a.bmp", picture(RGB), {}, FIRST, ()),
    "ppm": ("a.ppm", picture(RGB), {}, FIRST, ()),
    "webp": ("a.webp", picture(RGB), {"lossless": True}, FIRST, ()),
    "tiff": ("a.TIFF", picture(RGB), {}, FIRST, ()),
    "one bit": ("a.png", picture(BITS), {}, 255 * BITS, ()),
    "palette of colours": ("a.png", with_palette(COLOURS), {}, COLOURS[INDICES].transpose(2, 0, 1), ()),
    "palette of greys": ("a.gif", with_palette(COLOURS[2:].repeat(2, 0)), {}, COLOURS[2:].repeat(2, 0)[INDICES, 0], ()),
    "palette with a transparent colour": (
        "a.png",
        with_palette(COLOURS),
        {"transparency": 1},
        np.where(INDICES == 1, 255, COLOURS[INDICES].transpose(2, 0, 1)),
        ("transparent pictures put on white",),
    ),
    "grey and transparent": (
        "a.png",
        Image.merge("LA", [picture(GREY), picture(ALPHA)]),
        {},
        np.where(BITS, GREY, 255),
        ("transparent pictures put on white",),
    ),
    "colours and transparent": (
        "a.png",
        picture(np.dstack([RGB, ALPHA])),
        {},
        ON_WHITE,
        ("transparent pictures put on white",),
    ),
    "half transparent": (
        "a.png",
        picture(np.dstack([np.zeros((H, W, 3), np.uint8), np.full((H, W), 51, np.uint8)])),
        {},
        np.full((H, W), 204),
        ("transparent pictures put on white",),
    ),
    "opaque alpha": ("a.png", picture(np.dstack([RGB, np.full((H, W), 255, np.uint8)])), {}, FIRST, ()),
    "CMYK, cyan": (
        "a.tif",
        cmyk(255),
        {},
        np.broadcast_to(np.array([0, 255, 255])[:, None, None], (3, H, W)),
        ("CMYK pictures read as red, green and blue",),
    ),
    "CMYK, black": ("a.tif", cmyk(0, 255), {}, np.zeros((H, W)), ("CMYK pictures read as red, green and blue",)),
    "animated GIF": (
        "a.gif",
        picture(GREY),
        {"save_all": True, "append_images": [picture(255 - GREY)]},
        GREY,
        ("the first frame read of pictures with several",),
    ),
    "animated PNG": (
        "a.png",
        picture(RGB),
        {"save_all": True, "append_images": [picture(255 - RGB)]},
        FIRST,
        ("the first frame read of pictures with several",),
    ),
    "TIFF of two pages": (
        "a.tif",
        picture(RGB),
        {"save_all": True, "append_images": [picture(255 - RGB)]},
        FIRST,
        ("the first frame read of pictures with several",),
    ),
}
SAID_TURNED = ("pictures turned as their EXIF orientation says",)
TURNS = {  # EXIF orientation: the picture as people see it
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB),
}
for ending in ("png", "tif"):
    for number, seen in TURNS.items():
        FILES[f"EXIF orientation {number}, {ending}"] = (
            f"a.{ending}",
            picture(RGB),
            turned(number),
            seen.transpose(2, 0, 1),
            SAID_TURNED if number > 1 else (),
        )


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_what_people_see(name, tmp_path):
    file, image, options, pixels, notes = FILES[name]
    image.save(tmp_path / file, **options)
    for source in (tmp_path, tmp_path / file):
        table = read_file(source)
        assert table.image_shape == pixels.shape
        assert np.array_equal(table.values.numpy(), pixels.reshape(1, -1))
        assert table.values.numpy().dtype == np.uint8
        assert table.notes == notes
    in_grey = read_file(tmp_path, images=ImageSettings(gray=True))
    assert in_grey.image_shape == pixels.shape[-2:]
    weights = np.array([0.299, 0.587, 0.114])  # of ITU-R 601-2
    expected = pixels if pixels.ndim == 2 else np.tensordot(weights, pixels.astype(float), 1)
    np.testing.assert_allclose(in_grey.values.numpy().reshape(expected.shape), expected, atol=0.51)
    assert ("colours read as grey levels" in in_grey.notes) == (pixels.ndim == 3)


def test_photos_that_lie_on_their_side_are_turned(tmp_path):
    left_dark = np.repeat([0, 255], 8).astype(np.uint8) * np.ones((8, 1), np.uint8)
    picture(left_dark).save(tmp_path / "a.jpg", quality=100, **turned(6))
    table = read_file(tmp_path)
    assert table.image_shape == (16, 8)
    np.testing.assert_allclose(
        table.values.numpy().reshape(16, 8), np.repeat([0, 255], 8)[:, None] * np.ones(8), atol=3
    )
    assert table.notes == SAID_TURNED


def write_cut_off(path):
    picture(RGB.repeat(20, 0).repeat(20, 1)).save(path)
    path.write_bytes(path.read_bytes()[:300])


def write_ppm_of_16_bits(path):
    path.write_bytes(f"P6\n{W} {H}\n65535\n".encode() + RGB.astype(">u2").tobytes())


REFUSED = {
    "no image": ("a.png", lambda path: path.write_text("no image"), "a.png: not a readable image"),
    "empty": ("a.jpg", lambda path: path.touch(), "a.jpg: not a readable image"),
    "cut off": ("a.png", write_cut_off, r"a.png: not a readable image \(.*\); save it anew, or take it out"),
    "grey, 16 bits": ("a.png", lambda path: png_of_16_bits(path, 1), "more than 8 bits a pixel, or a channel"),
    "grey with alpha, 16 bits": ("a.png", lambda path: png_of_16_bits(path, 2), "more than 8 bits"),
    "RGB, 16 bits": ("a.png", lambda path: png_of_16_bits(path, 3), "mode RGB with more than 8 bits"),
    "RGBA, 16 bits": ("a.png", lambda path: png_of_16_bits(path, 4), "mode RGBA with more than 8 bits"),
    "PPM, 16 bits": ("a.ppm", write_ppm_of_16_bits, "more than 8 bits"),
    "TIFF, floats": ("a.tif", lambda path: Image.fromarray(np.ones((H, W), np.float32)).save(path), "more than 8 bits"),
    "LAB": ("a.tif", lambda path: Image.new("LAB", (W, H)).save(path), "mode LAB; save it in grey or RGB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_cannot_be_read_is_named(name, tmp_path):
    """PIL cuts 16 bits a channel to 8 without a word."""
    file, write, message = REFUSED[name]
    picture(RGB).save(tmp_path / "0.png")
    write(tmp_path / file)
    with pytest.raises(pv.InputError, match=message):
        read_file(tmp_path)


def write_folder(folder, *paths, values=GREY):
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture(values if values is not GREY else np.full((H, W), i, np.uint8)).save(folder / path)
    return folder


ABOVE = "classes are the last folders' names; those above play no part: "
# files, the label of each in the order of their paths, the classes, a part of the notes
CLASSES = {
    "no folders": (["b.png", "a.png"], None, (), ()),
    "classes": (["cat/1.png", "cat/2.png", "dog/1.png"], [0, 0, 1], ("cat", "dog"), ()),
    "numbers": (["10/a.png", "2/a.png", "9/a.png"], [2, 0, 1], ("2", "9", "10"), ()),
    "one class": (["cat/1.png", "cat/2.png"], None, (), ()),
    "one class, and one without": (
        ["1.png", "cat/1.png"],
        [-1, 0],
        ("cat",),
        ("images in the top folder have no class: 1 of 2",),
    ),
    "some without": (
        ["0.png", "cat/1.png", "dog/1.png", "z.png"],
        [-1, 0, 1, -1],
        ("cat", "dog"),
        ("images in the top folder have no class: 2 of 4",),
    ),
    "parts and classes": (
        ["test/cat/1.png", "test/dog/1.png", "train/cat/1.png", "train/dog/2.png"],
        [0, 1, 0, 1],
        ("cat", "dog"),
        (ABOVE + "test, train",),
    ),
    "hidden files": (
        [".thumbnails/1.png", "__MACOSX/._1.png", "._1.png", "cat/1.png", "cat/._1.png", "dog/1.png"],
        [0, 1],
        ("cat", "dog"),
        (),
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_folders_are_classes(name, tmp_path):
    paths, labels, levels, notes = CLASSES[name]
    table = read_file(write_folder(tmp_path, *paths))
    assert (None if table.labels is None else table.labels.tolist()) == labels
    assert table.label_levels == levels
    assert [column.name for column in table.schema.columns] == ([] if labels is None else ["folder"])
    assert table.notes == notes
    assert table.ids["file"].tolist() == sorted(path for path in paths if "/." not in f"/{path}")
    shown = [i for _, i in sorted((path, i) for i, path in enumerate(paths) if "/." not in f"/{path}")]
    assert table.values[:, 0].tolist() == shown


def test_other_files_are_left_out_and_said(tmp_path):
    write_folder(tmp_path, "a.png", "b.png")
    for name in (".DS_Store", "labels.csv", "IMG_1.HEIC", "IMG_2.heic", "notes"):
        (tmp_path / name).touch()
    assert read_file(tmp_path).notes == ("files that are no images left out: 4 (.csv, .heic, notes)",)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(pv.InputError, match=r"no images in it \(looked for .png, .jpg"):
        read_file(tmp_path)


def test_grey_pictures_among_coloured_ones_have_three_equal_channels(tmp_path):
    picture(GREY).save(tmp_path / "a.png")
    picture(GREY, "RGB").save(tmp_path / "b.png")
    table = read_file(tmp_path)
    assert (table.image_shape, table.notes) == ((H, W), ())
    picture(RGB).save(tmp_path / "c.png")
    table = read_file(tmp_path)
    assert table.image_shape == (3, H, W)
    assert table.notes == ("grey pictures as three equal channels (2 of 3)",)
    expected = np.stack([np.stack([GREY] * 3), np.stack([GREY] * 3), FIRST])
    assert np.array_equal(table.values.numpy(), expected.reshape(3, -1))
    table = read_file(tmp_path, images=ImageSettings(gray=True))
    assert table.notes == ("colours read as grey levels (1 of 3)",)
    assert np.array_equal(table.values[:2].numpy(), np.stack([GREY, GREY]).reshape(2, -1))


def lanczos(image, size):
    """Lanczos resampling along each axis in turn, its window as wide as the reduction: the oracle, from the formula."""
    for axis, new in ((1, size[1]), (0, size[0])):
        old = image.shape[axis]
        scale, wide = old / new, max(old / new, 1.0)
        at = (np.arange(old) + 0.5)[None] - ((np.arange(new) + 0.5) * scale)[:, None]
        weights = np.where(np.abs(at / wide) < 3, np.sinc(at / wide) * np.sinc(at / wide / 3), 0.0)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, np.moveaxis(image, axis, 0), 1), 0, axis).round().clip(0, 255)
    return image


@pytest.mark.parametrize("values", [GREY, RGB], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [(4, 5), (2, 3), (3, 3), (9, 11)])
def test_pictures_are_resized_with_antialiasing(values, size, tmp_path):
    picture(values).save(tmp_path / "a.png")
    table = read_file(tmp_path, images=ImageSettings(resize=size))
    expected = lanczos(values.astype(float), size)
    expected = expected if values is GREY else expected.transpose(2, 0, 1)
    assert table.image_shape == expected.shape
    np.testing.assert_allclose(table.values.numpy().reshape(expected.shape), expected, atol=1)
    assert bool(table.notes) == (size != (4, 5))


# sizes, resize, the note
SIZES = {
    "three sizes": ([(28, 28), (14, 14), (56, 56)], (28, 28), "pictures of 3 sizes resized to 28×28 (LANCZOS)"),
    "not in proportion": (
        [(28, 28), (20, 30)],
        (28, 28),
        "pictures of 2 sizes resized to 28×28 (LANCZOS), not in proportion",
    ),
    "one size": ([(30, 20), (30, 20)], (15, 10), "pictures of 30×20 resized to 15×10 (LANCZOS)"),
    "the size they have": ([(6, 4), (6, 4)], (6, 4), None),
}


@pytest.mark.parametrize("name", SIZES)
def test_pictures_of_several_sizes(name, tmp_path):
    sizes, resize, note = SIZES[name]
    for i, (height, width) in enumerate(sizes * 5):
        picture(np.full((height, width), 10 * i, np.uint8)).save(tmp_path / f"{i:02}.png")
    data = pv.load_data(tmp_path, resize=resize)
    assert data.image_shape == resize
    assert data.notes == (() if note is None else (note,))
    stored = data.train.stored.numpy()
    assert (stored == 10 * data.train.index[:, None].numpy()).all()  # of one grey level each
    if len(set(sizes)) > 1:
        message = (
            r"01.png: \d+×\d+ pixels \(height × width\), but 00.png has 28×28; bring them to one size with --resize"
        )
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(tmp_path)


def test_settings_of_images_are_for_images(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 4, 4), np.uint8))
    for source in (tmp_path / "x.npy", np.zeros((20, 4, 4), np.uint8), "digits"):
        for options in ({"gray": True}, {"resize": (2, 2)}):
            with pytest.raises(pv.InputError, match=rf"--{next(iter(options))} .* is for images and folders of images"):
                pv.load_data(source, **options)
    with pytest.raises(pv.InputError, match=r"resize must be height and width.*got \(3, 2, 2\)"):
        pv.load_data(tmp_path, resize=(3, 2, 2))
    with pytest.raises(pv.InputError, match=r"stay on disk in \.npy, \.parquet, \.h5ad and \.zarr"):
        pv.load_data(tmp_path, stream=True)


def test_settings_of_images_and_of_other_sources_exclude_each_other(tmp_path):
    rows = sparse.csr_matrix(np.eye(20))
    sparse.save_npz(tmp_path / "sparse.npz", rows)
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "parts").mkdir()
    for name in ("x.h5ad", "x.xlsx", "x.csv", "x.feather", "parts/1.parquet"):
        (tmp_path / name).write_bytes(b"x")
    names = ("sparse.npz", "x.zarr", "x.h5ad", "x.xlsx", "x.csv", "x.feather", "parts")
    for source in (rows, *(tmp_path / name for name in names)):
        for options in ({"gray": True}, {"resize": (2, 2)}):
            with pytest.raises(pv.InputError, match=rf"--{next(iter(options))} .* is for images and folders of images"):
                pv.load_data(source, **options)
    write_folder(tmp_path / "images", *(f"{i}.png" for i in range(12)), values=np.full((4, 4), 7, np.uint8))
    with pytest.raises(pv.InputError, match=r"a layer is one of annotated rows"):
        pv.load_data(tmp_path / "images", layer="counts")
    with pytest.raises(pv.InputError, match=r"columns are named, .*for tables only"):
        pv.load_data(tmp_path / "images", label="file")


def test_what_is_read_as_images(tmp_path):
    for name in ("images", "x.zarr", "parts/a"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "parts/a/1.parquet").write_bytes(b"")
    (tmp_path / "images/1.png").write_bytes(b"")
    expected = {"images": True, "images/1.png": True, "x.zarr": False, "parts": False, "digits": False, "x.h5ad": False}
    assert {name: is_image_source(tmp_path / name) for name in expected} == expected
    for name, is_image in expected.items():  # 0.1.0 read colours as grey levels
        config = {"data": {"data": str(tmp_path / name)}}
        assert settings_of_earlier_version(config) == {"check_rows": 0} | ({"gray": True} if is_image else {})


def test_more_pixels_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    from pyro_vae.data import read_images

    monkeypatch.setattr(read_images, "MAX_BYTES", 3 * 1024)
    write_folder(tmp_path, *(f"{i}.png" for i in range(4)), values=np.full((32, 32), 7, np.uint8))
    with pytest.raises(pv.InputError, match=r"4 images of 32×32 pixels take .* make them smaller with --resize 64x64"):
        read_file(tmp_path)
    assert len(read_file(tmp_path, images=ImageSettings(resize=(8, 8))).values) == 4
