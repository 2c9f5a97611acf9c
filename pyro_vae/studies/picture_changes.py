"""Changes of pictures: a piece cut off, and a move by whole pixels."""

import torch.nn.functional as F
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.typing import Rows

SIDES = ("top", "bottom", "left", "right")


def cut(x: Rows, shape: tuple[int, int], share: float = 0.1, side: str = "top") -> Rows:
    """Images without the fewest pixel rows from one side that hold a share of the ink.

    Ink is the sum of x. Strokes begin at the top, so a digit loses the beginning of its stroke, as in figure 3 of
    Doersch (arXiv:1606.05908). Raises `InputError` for negative values, another side, or a share not in (0, 1).

    Args:
        x: images (N, D).
        shape: their height and width.
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
    lines = pictures.double().sum(1 if across else 2)
    lines = lines.flip(1) if side in ("bottom", "right") else lines
    before = lines.cumsum(1) - lines
    kept = before >= share * lines.sum(1, keepdim=True) * (1 - 1e-12)  # the rounding of the sums
    kept = kept.flip(1) if side in ("bottom", "right") else kept
    return (pictures * (kept[:, None, :] if across else kept[:, :, None])).flatten(1)


def shift(x: Rows, shape: tuple[int, int], right: int = 1, down: int = 0) -> Rows:
    """Pictures moved by whole pixels; zeros enter.

    Args:
        x: images (N, D).
        shape: their height and width.
        right: pixels to the right, to the left where negative.
        down: pixels down, up where negative.

    Returns:
        The images (N, D).

    >>> import torch
    >>> shift(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (2, 2)).tolist()
    [[0.0, 1.0, 0.0, 3.0]]
    """
    pictures = _pictures(x, shape)
    if abs(right) > shape[1] or abs(down) > shape[0]:
        raise InputError(
            f"expected a move within a picture of {shape[0]} × {shape[1]}, got {right} right and {down} down"
        )
    return F.pad(pictures, (right, -right, down, -down)).flatten(1)


def _pictures(x: Tensor, shape: tuple[int, int]) -> Tensor:
    if x.dim() != 2 or x.shape[1] != shape[0] * shape[1]:
        raise InputError(
            f"expected pictures (N, {shape[0] * shape[1]}) of {shape[0]} × {shape[1]}, got {tuple(x.shape)}"
        )
    return x.unflatten(1, shape)
