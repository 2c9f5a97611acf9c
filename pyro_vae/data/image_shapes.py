"""The shape of the images whose pixels are a row: (height, width) in grey, (channels, height, width) in colour.

As torch has it; a row holds all pixels of the first channel, then those of the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_vae.errors import InputError

ImageShape = tuple[int, int] | tuple[int, int, int]
NUM_COLOURS = 3  # red, green, blue


def as_image_shape(sizes: Sequence[int]) -> ImageShape:
    """A shape of plain numbers, without the one channel of grey images; `InputError` for other numbers of channels.

    Args:
        sizes: height and width, or channels, height and width.

    Returns:
        The shape.

    >>> as_image_shape([1, 28, 20])
    (28, 20)
    """
    *channels, height, width = (int(size) for size in sizes)
    if channels in ([], [1]):
        return height, width
    if channels != [NUM_COLOURS]:
        raise InputError(
            f"images have one channel (grey) or three (red, green, blue), got {describe_shape(sizes)}, which has "
            f"{channels[0]}; keep three of them, or leave the shape out and fit the rows as a table"
        )
    return NUM_COLOURS, height, width


def height_and_width(shape: ImageShape) -> tuple[int, int]:
    return shape[-2], shape[-1]


def is_colour(shape: ImageShape | None) -> bool:
    """Whether rows are images with several channels."""
    return shape is not None and len(shape) == 3


def describe_shape(shape: Sequence[int]) -> str:
    """The sizes in words, as in 28×20."""
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class ArrayShape:
    """What an array's shape says: that of its images, whether their channels are the last axis, what was decided."""

    image_shape: ImageShape | None = None
    channels_last: bool = False
    notes: tuple[str, ...] = ()


def shape_of_array(sizes: tuple[int, ...], path: Path) -> ArrayShape:
    """What an array's shape says; `InputError` for one of neither rows nor images.

    Args:
        sizes: the shape: (N, D), (N, height, width), or (N, height, width) with one or three channels before or after.
        path: the source, for the message.

    Returns:
        The images' shape, and where their channels are.
    """
    if len(sizes) < 2:
        raise InputError(
            f"{path}: has shape {sizes}; expected one row for each observation, (N, D) or (N, height, width)"
        )
    if len(sizes) == 2:
        return ArrayShape()
    if len(sizes) == 3:
        return ArrayShape(as_image_shape(sizes[1:]))
    known = (1, NUM_COLOURS)
    if len(sizes) > 4 or not (sizes[1] in known or sizes[3] in known):
        raise InputError(
            f"{path}: has shape {sizes}; expected (N, D), grey images (N, height, width), or images in colour (N, 3, "
            "height, width) or (N, height, width, 3)"
        )
    if sizes[1] == NUM_COLOURS == sizes[3]:
        raise InputError(
            f"{path}: in shape {sizes} the channels may be the first or the last axis; reshape to (N, D), the channels "
            f"first, and give the shape, as in --image-shape {'x'.join(map(str, sizes[1:]))} (image_shape={sizes[1:]})"
        )
    if sizes[1] in known and not (sizes[1] == 1 and sizes[3] == NUM_COLOURS):
        return ArrayShape(as_image_shape(sizes[1:]))
    shape = as_image_shape((sizes[3], sizes[1], sizes[2]))
    note = f"channels put first: a row is an image of {describe_shape(shape)}, channel by channel"
    return ArrayShape(shape, channels_last=True, notes=(note,) if len(shape) == 3 else ())
