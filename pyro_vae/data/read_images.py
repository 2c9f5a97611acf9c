"""Image files as rows of pixels: one size, one number of channels, classes from folders, and what was decided."""

import math
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from pyro_vae.data.columns import Schema
from pyro_vae.data.image_settings import IMAGE_SUFFIXES, ImageSettings
from pyro_vae.data.image_shapes import as_image_shape, describe_shape, height_and_width, is_colour
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.table import Table, encode_labels, label_schema
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_memory, require_unpackable

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, struct.error)
MAX_BYTES = 2**32  # of all rows, which are in memory
BYTES_PER_PIXEL = 16  # of one image while it is read: its channels, with and without transparency, and comparisons
LABEL_NAME, FILE_ID = "folder", "file"
ORIENTATION = 0x0112  # the EXIF tag
TRANSPARENT = "transparent pictures put on white"
GREYED = "colours read as grey levels"
FIRST_FRAME = "the first frame read of pictures with several"
TURNED = "pictures turned as their EXIF orientation says"
CMYK = "CMYK pictures read as red, green and blue"
REPEATED = "grey pictures as three equal channels"


@runtime_checkable
class _WithFrames(Protocol):
    """An image of a format that may hold several."""

    @property
    def n_frames(self) -> int: ...


@dataclass(frozen=True, eq=False)
class _Picture:
    """An image: `pixels` (height, width) where it is grey, else (3, height, width), uint8; `size` is (height, width)
    as it was in the file; `decisions` are what was done to it.
    """

    path: Path
    pixels: Array
    size: tuple[int, int]
    decisions: tuple[str, ...]


def read_images(source: Path, settings: ImageSettings) -> Table[Tensor]:
    """The images of a folder, also of folders in it, or of one file, as rows of bytes, channel by channel.

    Grey images are (height, width); where one of them has colours, all are (3, height, width). Folders inside name
    classes, files name rows. Raises `InputError` for a file that is no image of 8 bits, several sizes without
    `resize`, and images unlike those that a program was fitted to.

    Args:
        source: the folder, or an image.
        settings: how they are read.

    Returns:
        The table.
    """
    paths, notes = _find_images(source) if source.is_dir() else ([source], [])
    _require_room(source, len(paths), settings.resize or _size(paths[0]))
    pictures = []
    for path in paths:
        pictures.append(_read_image(path, settings))
        _require_one_size(pictures[0], pictures[-1], settings)
    decisions = Counter(each for picture in pictures for each in picture.decisions)
    pixels = [picture.pixels for picture in pictures]
    if is_colour(settings.fitted) or any(each.ndim == 3 for each in pixels):
        if grey := sum(each.ndim == 2 for each in pixels):
            decisions[REPEATED] = grey
        pixels = [each if each.ndim == 3 else np.broadcast_to(each, (3, *each.shape)) for each in pixels]
    notes += [words + (f" ({n} of {len(paths)})" if n < len(paths) else "") for words, n in decisions.items()]
    notes += _note_on_sizes([picture.size for picture in pictures], settings)
    labels, levels, of_classes = _classes(source, paths, settings.label_levels)
    values = torch.from_numpy(np.stack(pixels).reshape(len(pixels), -1))
    schema = Schema() if labels is None else label_schema(LABEL_NAME, levels)
    shape, notes = as_image_shape(pixels[0].shape), [*notes, *of_classes]
    files = [path.name if path == source else path.relative_to(source).as_posix() for path in paths]
    return Table(values, labels, shape, schema, ids={FILE_ID: np.array(files, dtype=object)}, notes=tuple(notes))


def _find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """The images in a folder in their order, and a note on other files; hidden ones are none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InputError(f"{folder}: no images in it (looked for {', '.join(IMAGE_SUFFIXES)})")
    others = Counter(path.suffix.lower() or path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES)
    kinds = ", ".join(sorted(others)[:5]) + (", …" if len(others) > 5 else "")
    return images, [f"files that are no images left out: {others.total()} ({kinds})"] if others else []


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image, without PIL's warning of large ones: `require_unpackable` and `require_memory` say more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(path)
    with opened:
        yield opened


def _read_image(path: Path, settings: ImageSettings) -> _Picture:
    try:
        with _opened(path) as opened:
            num_pixels = opened.height * opened.width
            require_unpackable(path, len(opened.getbands()) * num_pixels)
            require_memory(BYTES_PER_PIXEL * num_pixels, str(path), "make the image smaller")
            _require_eight_bits(opened, path)
            image, decisions = _upright_on_white(opened)
            size = image.height, image.width
            has_colours = _has_colours(np.asarray(image.convert("RGB")))
            _require_grey(path, has_colours, settings)
            image = image.convert("RGB" if has_colours and not settings.gray else "L")
            if settings.resize is not None:
                image = image.resize(settings.resize[::-1], Image.Resampling.LANCZOS)
            pixels = np.array(image)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable image ({error}); save it anew, or take it out") from error
    decisions += [GREYED] if has_colours and settings.gray else []
    return _Picture(path, pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels, size, tuple(decisions))


def _require_eight_bits(image: ImageFile.ImageFile, path: Path) -> None:
    """`InputError` for more than 8 bits, which PIL cuts to 8 where there are colours, and for modes such as LAB."""
    if image.mode.startswith(("I", "F")) or any(_has_sixteen_bits(*tile) for tile in image.tile):
        raise InputError(
            f"{path}: an image of mode {image.mode} with more than 8 bits a pixel, or a channel; save it with 8, or as "
            ".npy"
        )
    if image.mode not in MODES:
        raise InputError(f"{path}: an image of mode {image.mode}; save it in grey or RGB")


def _has_sixteen_bits(decoder: str, extents: object, offset: int, layout: object) -> bool:
    """Whether a part of a file stores 16 bits a channel, by what PIL tells its decoder."""
    if decoder.startswith("ppm"):
        return isinstance(layout, tuple) and layout[-1] > 255
    return re.search(r";16[BLN]", str(layout)) is not None


def _upright_on_white(image: ImageFile.ImageFile) -> tuple[Image.Image, list[str]]:
    """The first frame of an image, turned as its EXIF orientation says, without transparency; what was done."""
    decisions = [FIRST_FRAME] if isinstance(image, _WithFrames) and image.n_frames > 1 else []
    decisions += [TURNED] if image.getexif().get(ORIENTATION, 1) != 1 else []
    decisions += [CMYK] if image.mode == "CMYK" else []
    has_alpha = "A" in image.mode or "transparency" in image.info
    upright = ImageOps.exif_transpose(image)
    if not has_alpha:
        return upright, decisions
    upright = upright.convert("RGBA")
    if int(np.asarray(upright)[..., 3].min()) < 255:  # its own colour there, often black, is not what people see
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        decisions.append(TRANSPARENT)
    return upright, decisions


def _has_colours(channels: Array) -> bool:
    """Whether the channels (height, width, 3) of a picture differ."""
    return bool((channels != channels[..., :1]).any())


def _require_grey(path: Path, has_colours: bool, settings: ImageSettings) -> None:
    """`InputError` for a picture in colour where a program was fitted to grey ones, and colours were not read so."""
    if has_colours and settings.fitted is not None and not is_colour(settings.fitted) and not settings.gray:
        raise InputError(
            f"{path}: a picture in colour, but this run was fitted to grey ones; save it in grey, or fit with --gray "
            "(gray=True), by which new pictures are read in grey too"
        )


def _size(path: Path) -> tuple[int, int]:
    """The height and width in the header of an image."""
    try:
        with _opened(path) as opened:
            return opened.height, opened.width
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable image ({error}); save it anew, or take it out") from error


def _require_room(source: Path, num_images: int, size: tuple[int, int]) -> None:
    """`InputError` for more pixels than memory is likely to hold, before any of them is read."""
    if (num_bytes := num_images * math.prod(size)) > MAX_BYTES:
        raise InputError(
            f"{source}: {num_images} images of {describe_shape(size)} pixels take {num_bytes / 2**30:.0f} GiB of "
            "memory; make them smaller with --resize 64x64 (resize=(64, 64))"
        )


def _require_one_size(first: _Picture, image: _Picture, settings: ImageSettings) -> None:
    """`InputError` for an image of another size than the first, or than those that a program was fitted to."""
    if settings.resize is not None:
        return
    wanted = first.size if settings.fitted is None else height_and_width(settings.fitted)
    if image.size == wanted:
        return
    found, expected = describe_shape(image.size), describe_shape(wanted)
    option = f"--resize {wanted[0]}x{wanted[1]} (resize={wanted})"
    if settings.fitted is not None:
        raise InputError(
            f"{image.path}: {found} pixels (height × width), but this run was fitted to images of {expected}; make it "
            f"that size, or fit with {option}, by which new images are resized too"
        )
    raise InputError(
        f"{image.path}: {found} pixels (height × width), but {first.path.name} has {expected}; bring them to one size "
        f"with {option}"
    )


def _note_on_sizes(sizes: Sequence[tuple[int, int]], settings: ImageSettings) -> list[str]:
    """What was resized to what; stretching is named."""
    kinds, resize = set(sizes), settings.resize
    if resize is None or kinds == {resize}:
        return []
    found = f"{len(kinds)} sizes" if len(kinds) > 1 else describe_shape(next(iter(kinds)))
    is_stretched = any(abs(height * resize[1] - width * resize[0]) > max(height, width) for height, width in kinds)
    words = ", not in proportion" if is_stretched else ""
    return [f"pictures of {found} resized to {describe_shape(resize)} (LANCZOS){words}"]


def _classes(
    source: Path, paths: Sequence[Path], known: Sequence[str]
) -> tuple[Tensor | None, tuple[str, ...], list[str]]:
    """The label of each image, −1 in the top folder; the classes' names; notes. One class alone is none.

    Args:
        source: the folder.
        paths: its images.
        known: the classes of the rows that a program was fitted to; then one class alone is one.

    Returns:
        Labels (N,) or None, the names of 0, 1, …, and what was decided.
    """
    parents = [path.parent.relative_to(source).parts if path != source else () for path in paths]
    names = [parts[-1] if parts else None for parts in parents]
    distinct = set(names)
    if distinct <= {None} or (len(distinct) == 1 and not known):
        return None, (), []
    labels, levels = encode_labels(np.array([*names, None], dtype=object)[:-1], source, len(names))
    above = sorted({part for parts in parents for part in parts[:-1]})
    notes = [f"classes are the last folders' names; those above play no part: {', '.join(above[:5])}"] if above else []
    notes += (
        [f"images in the top folder have no class: {names.count(None)} of {len(names)}"] if None in distinct else []
    )
    return labels, levels, notes
