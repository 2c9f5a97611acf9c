"""Plots: arrays in, Axes out. One style for all of them, with colours that colour-blind readers tell apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.ticker import MaxNLocator

# Paul Tol's muted scheme and a grey, ten colours that stay apart for colour-blind readers; three of his vibrant ones
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip
BLUE, ORANGE, RED, DARK = "#0077BB", "#EE7733", "#CC3311", "0.15"
SHADES = LinearSegmentedColormap.from_list(
    "pyro_vae", ["#FFFFFF", "#CDE6F5", "#88CCEE", "#3A87C8", "#332288", "#1B1145"]
)
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


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, Any]], at: float = 1.02, room: float = 0.075) -> Axes:
    """Names beside the ends of lines, (height, text, colour) each, moved apart where they would meet."""
    low, high = axes.get_ylim()
    inside = [(min(max((height - low) / (high - low), 0.0), 1.0), text, colour) for height, text, colour in ends]
    places: list[float] = []
    for height, _, _ in sorted(inside, key=lambda end: end[0]):
        places.append(max(height, places[-1] + room) if places else height)
    excess = max(0.0, places[-1] - 1.0) if places else 0.0
    for place, (_, text, colour) in zip(places, sorted(inside, key=lambda end: end[0]), strict=True):
        axes.text(
            at, place - excess, text, color=colour, transform=axes.transAxes, va="center", fontsize=9, clip_on=False
        )
    return axes


def gap(axes: Axes, epochs: Sequence[float], bound: Sequence[Any], log_px: Sequence[Any], title: str) -> Axes:
    """log p(x) over epochs, the bound below it where there is one, and what lies between them shaded."""
    at, top, below = np.asarray(epochs, dtype=float), _numbers(log_px), _numbers(bound)
    both, known = np.isfinite(top) & np.isfinite(below), np.isfinite(top)
    axes.plot(at[known], top[known], color=DARK, linewidth=1.6)
    if np.isfinite(below).any():
        drawn = np.isfinite(below)
        axes.plot(at[drawn], below[drawn], color=BLUE, linewidth=1.6)
        axes.fill_between(at[both], below[both], top[both], color=BLUE, alpha=0.18, linewidth=0)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.margins(x=0)
    return axes


def log_density(axes: Axes, xx: np.ndarray, yy: np.ndarray, log_px: np.ndarray, top: float, depth: float) -> Any:
    """A log-density (n, n) in the plane, shaded in steps of one nat from `top` down to `depth` nats below."""
    levels = np.linspace(top - depth, top, round(depth) + 1)
    drawn = axes.contourf(xx, yy, log_px.clip(min=levels[0]), levels=levels, cmap=SHADES, extend="max")
    axes.contour(xx, yy, log_px, levels=levels[1:], colors="white", linewidths=0.4, alpha=0.7)
    return drawn


def ellipses(
    axes: Axes, mean: np.ndarray, covariance: np.ndarray, colour: Any, sizes: Sequence[float] = (1, 2)
) -> Axes:
    """The ellipses that lie some standard deviations around a mean (2,)."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for size in sizes:
        line = mean[:, None] + size * vectors @ (np.sqrt(values)[:, None] * circle)
        axes.plot(line[0], line[1], color=colour, linewidth=1.5 if size == min(sizes) else 0.8)
    return axes


def mixed_colours(shares: np.ndarray, colours: Sequence[Any]) -> np.ndarray:
    """One colour for each row (N, 3): those of the components, mixed as the row's shares (N, C) say."""
    return np.clip(shares @ np.array([to_rgb(colour) for colour in colours]), 0, 1)


def component_colours(count: int) -> list[Any]:
    """A colour for each of some components, far apart where there are ten or fewer."""
    return [COLOURS[c % len(COLOURS)] for c in range(count)]
