"""One style for all figures: colours that colour-blind readers tell apart, titles, and labels next to lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from pyro_vae.atomic_write import atomic_path

# Paul Tol's muted scheme and a grey, ten colours that stay apart for colour-blind readers; three of his vibrant ones
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip
BLUE, ORANGE, RED, DARK = "#0077BB", "#EE7733", "#CC3311", "0.15"
SHADES = LinearSegmentedColormap.from_list(
    "pyro_vae", ["#FFFFFF", "#CDE6F5", "#88CCEE", "#3A87C8", "#332288", "#1B1145"]
)
STYLE: Any = {  # matplotlib types the keys as literals
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.prop_cycle": cycler(color=COLOURS),
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The package's matplotlib style, for the figures drawn inside."""
    with mpl.rc_context(STYLE):
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole or not at all.

    Args:
        figure: the figure.
        path: the file, whose ending is its format.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))


def escape_mathtext(name: str) -> str:
    r"""A name with its `$` escaped, so that matplotlib reads no formula in it.

    >>> print(escape_mathtext("profit_$_per_$"))
    profit_\$_per_\$
    """
    return name.replace("$", r"\$")


def title(axes: Axes, name: str, note: str = "") -> Axes:
    """A title, and a note in smaller type under it.

    Args:
        axes: the axes.
        name: the title.
        note: the note.

    Returns:
        The axes.
    """
    axes.set_title(name, pad=18 if note else None)
    axes.annotate(note, (0, 1), (0, 4), "axes fraction", "offset points", va="bottom", fontsize=9, color="0.35")
    return axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, ColorType]], room: float = 0.07) -> Axes:
    """Names to the right of lines, moved apart where they would overlap.

    Args:
        axes: the axes with the lines.
        ends: height, text and colour of each name, the height in the axes' units.
        room: the least distance of two names, as a share of the axes' height.

    Returns:
        The axes.
    """
    from sklearn.isotonic import isotonic_regression

    ends, (low, high) = sorted(ends, key=lambda end: end[0]), axes.get_ylim()
    heights = np.array([(height - low) / (high - low) for height, _, _ in ends])
    rooms = room * np.arange(len(ends))
    for y, (_, text, colour) in zip(isotonic_regression(heights - rooms) + rooms, ends, strict=True):
        axes.text(1.02, y, text, color=colour, transform=axes.transAxes, va="center", fontsize=9)
    return axes


def blend_colours(shares: np.ndarray, colours: Sequence[ColorType]) -> np.ndarray:
    """A colour for each row: the components' colours, averaged.

    Args:
        shares: the weights (N, C).
        colours: C colours.

    Returns:
        Red, green and blue of each row, (N, 3) from 0 to 1.
    """
    return np.clip(shares @ np.array([to_rgb(colour) for colour in colours]), 0, 1)


def distinct_colours(count: int) -> list[ColorType]:
    """`count` colours, each far from the one before; they repeat after ten."""
    return [COLOURS[(0, 6, 2, 5, 7, 1, 3, 8, 4, 9)[i % 10]] for i in range(count)]


def label_rows(axes: Axes, names: Sequence[str], height: int, gap: int = 2) -> Axes:
    """Names to the left of the lines of a grid of images.

    Args:
        axes: the axes of the grid.
        names: a name for each line.
        height: an image's height in pixels.
        gap: pixels between two images.

    Returns:
        The axes.
    """
    for i, name in enumerate(names):
        at, away = (-0.5, i * (height + gap) + height / 2), (-8, 0)
        axes.annotate(name, at, away, textcoords="offset points", ha="right", va="center", fontsize=9)
    return axes


def label_columns(axes: Axes, names: Mapping[int, str], shape: tuple[int, int], gap: int = 2) -> Axes:
    """Names over some columns of a grid of images.

    Args:
        axes: the axes of the grid.
        names: the names, by the number of the column.
        shape: an image's height and width in pixels.
        gap: pixels between two images.

    Returns:
        The axes.
    """
    for i, name in names.items():
        at, away = (i * (shape[1] + gap) + shape[1] / 2, -0.5), (0, 4)
        axes.annotate(name, at, away, textcoords="offset points", ha="center", va="bottom", fontsize=8, color="0.35")
    return axes
