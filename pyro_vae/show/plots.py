"""Plots: arrays in, Axes out. One style for all of them, with colours that colour-blind readers tell apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Paul Tol's muted scheme and a grey, ten colours that stay apart for colour-blind readers; three of his vibrant ones
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip
BLUE, ORANGE, RED = "#0077BB", "#EE7733", "#CC3311"
STYLE: Any = {
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
def style() -> Iterator[None]:
    """The package's look, for the figures drawn inside."""
    with mpl.rc_context(STYLE):
        yield


def curve(
    axes: Axes, epochs: Sequence[int], train: Sequence[Any], valid: Sequence[Any], title: str, best: int | None = None
) -> Axes:
    """A quantity over epochs, on training and validation rows, the kept epoch marked."""
    axes.plot(epochs, _numbers(train), color=BLUE, label="training")
    if any(value is not None for value in valid):
        axes.plot(epochs, _numbers(valid), color=ORANGE, label="validation")
    if best is not None:
        axes.axvline(best, color="0.6", linewidth=1, linestyle=":", label=f"kept: epoch {best}")
    axes.set(title=title, xlabel="epoch", ylabel="nats per row")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _show_the_end(axes, [*train, *valid])
    return axes


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _show_the_end(axes: Axes, values: Sequence[Any]) -> None:
    """Leave the steep first epochs out of the y-range where they would flatten all that follows."""
    finite = _numbers(values)
    finite = finite[np.isfinite(finite)]
    if len(finite) > 20:
        low, high = np.percentile(finite, [5, 100])
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(max(finite.min() - room, low - room), high + room)


def pictures(axes: Axes, rows: np.ndarray, shape: tuple[int, int], columns: int, title: str = "", gap: int = 2) -> Axes:
    """Pictures (n, D) side by side in a grid, dark ink on white, a thin gap between them."""
    height, width = shape
    count = -(-len(rows) // columns)
    sheet = np.zeros((count * (height + gap) - gap, columns * (width + gap) - gap))
    for i, row in enumerate(rows):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = row.reshape(shape)
    axes.imshow(sheet, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    return axes


def scatter(axes: Axes, points: np.ndarray, labels: np.ndarray | None, title: str, names: tuple[str, str]) -> Axes:
    """Points in the plane, coloured by label where there are labels (ten colours at most, else one)."""
    size = float(np.clip(9000 / len(points), 3, 30))
    kinds = np.unique(labels) if labels is not None else np.array([])
    if labels is not None and 1 < len(kinds) <= len(COLOURS):
        for colour, kind in zip(COLOURS, kinds, strict=False):
            chosen = points[labels == kind]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, alpha=0.8, linewidths=0, label=str(kind))
        axes.legend(title="label", markerscale=max(1.0, 5 / size**0.5), loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=BLUE, alpha=0.6, linewidths=0)
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    return axes


def two_clouds(axes: Axes, data: np.ndarray, model: np.ndarray, title: str, names: Sequence[str], second: str) -> Axes:
    """Data and model rows in the same plane (the first two columns), or as histograms where there is one column."""
    if data.shape[1] == 1:
        bins = np.histogram_bin_edges(np.concatenate([data, model]), bins=60).tolist()
        axes.hist(data[:, 0], bins=bins, density=True, color="0.75", label="data")
        axes.hist(model[:, 0], bins=bins, density=True, histtype="step", color=RED, linewidth=1.5, label=second)
        axes.set(xlabel=names[0], ylabel="density")
    else:
        axes.scatter(data[:, 0], data[:, 1], s=5, color="0.7", linewidths=0, label="data")
        axes.scatter(model[:, 0], model[:, 1], s=5, color=RED, alpha=0.7, linewidths=0, label=second)
        axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2)
    return axes


def marginals(axes: Axes, exact: np.ndarray, guide: np.ndarray, title: str, note: str) -> Axes:
    """Draws from p(z | x) as a filled histogram and draws from q as an outline, on one axis."""
    bins = np.histogram_bin_edges(np.concatenate([exact, guide]), bins=50).tolist()
    axes.hist(exact, bins=bins, density=True, color="0.78", label="p(z | x), NUTS")
    axes.hist(guide, bins=bins, density=True, histtype="step", color=BLUE, linewidth=1.4, label="q(z | x)")
    axes.set(yticks=[], title=title, ylim=(0, 1.3 * axes.get_ylim()[1]))
    axes.spines["left"].set_visible(False)
    axes.text(0.98, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color="0.35")
    return axes
