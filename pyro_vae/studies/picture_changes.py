"""Changes of pictures: a piece cut off, and a move by whole pixels."""

import math

import torch.nn.functional as F
from torch import Tensor

from pyro_vae.data.image_shapes import ImageShape, height_and_width
from pyro_vae.errors import InputError
from pyro_vae.typing import Rows

SIDES = ("top", "bottom", "left", "right")


def cut(x: Rows, shape: ImageShape, share: float = 0.1, side: str = "top") -> Rows:
    """Images without the fewest pixel rows from one side that hold a share of the ink.

    Ink is the sum of x. Strokes begin at the top, so a digit loses the beginning of its stroke, as in figure 3 of
    Doersch (arXiv:1606.05908). Raises `InputError` for negative values, another side, or a share not in (0, 1).

    Args:
        x: images (N, D).
        shape: their height and width; in colour the channels before them.
        share: of each picture's own ink; since whole pixel rows (columns, from the left or the right) are removed, it
            is somewhat more than asked for.
        side: `top`, `bottom`, `left` or `right`.

    Returns:
        The images (N, D).

    >>> import torch
    >>> picture = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0]]).float()
    >>> cut(picture, (4, 2), share=0.2).tolist()
    [[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]]
    """
    pictures = _pictures(x, shape)
    if side not in SIDES or not 0 < share < 1 or x.min() < 0:
        raise InputError(
            f"expected ink that is not negative, a share between 0 and 1 and one of the sides {', '.join(SIDES)}, got "
            f"values from {float(x.min()):g}, {share} and {side!r}"
        )
    across = side in ("left", "right")
    lines = pictures.double().sum(1).sum(1 if across else 2)
    lines = lines.flip(1) if side in ("bottom", "right") else lines
    before = lines.cumsum(1) - lines
    kept = before >= share * lines.sum(1, keepdim=True) * (1 - 1e-12)  # the rounding of the sums
    kept = kept.flip(1) if side in ("bottom", "right") else kept
    return (pictures * (kept[:, None, None, :] if across else kept[:, None, :, None])).flatten(1)


def shift(x: Rows, shape: ImageShape, right: int = 1, down: int = 0) -> Rows:
    """Pictures moved by whole pixels; zeros enter.

    Args:
        x: images (N, D).
        shape: their height and width; in colour the channels before them.
        right: pixels to the right, to the left where negative.
        down: pixels down, up where negative.

    Returns:
        The images (N, D).

    >>> import torch
    >>> shift(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (2, 2)).tolist()
    [[0.0, 1.0, 0.0, 3.0]]
    """
    pictures = _pictures(x, shape)
    height, width = height_and_width(shape)
    if abs(right) > width or abs(down) > height:
        raise InputError(f"expected a move within a picture of {height} × {width}, got {right} right and {down} down")
    return F.pad(pictures, (right, -right, down, -down)).flatten(1)


def _pictures(x: Tensor, shape: ImageShape) -> Tensor:
    """The pictures (N, channels, height, width)."""
    if x.dim() != 2 or x.shape[1] != math.prod(shape):
        sizes = " × ".join(map(str, shape))
        raise InputError(f"expected pictures (N, {math.prod(shape)}) of {sizes}, got {tuple(x.shape)}")
    return x.reshape(len(x), -1, *height_and_width(shape))
