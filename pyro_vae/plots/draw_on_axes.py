"""Arrays in, Axes out: the drawings that figures are made of."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.ticker import MaxNLocator

from pyro_vae.data.image_shapes import NUM_COLOURS, ImageShape, height_and_width, is_colour
from pyro_vae.data.label_text import label_text
from pyro_vae.plots.style import BLUE, COLOURS, DARK, ORANGE, RED, SHADES, escape_mathtext

Points = Sequence[float]
OptionalPoints = Sequence[float | None]  # None where a number was not measured


def training_curve(
    axes: Axes, epochs: Points, train: OptionalPoints, valid: OptionalPoints, title: str, best: int | None = None
) -> Axes:
    """A quantity over epochs, on training and validation rows, the kept epoch marked.

    Args:
        axes: the axes to draw on.
        epochs: the epochs' numbers.
        train: the quantity on training rows at each epoch, nats per row.
        valid: that on validation rows.
        title: the title.
        best: the kept epoch.

    Returns:
        The axes.
    """
    axes.plot(epochs, numbers(train), color=BLUE, label="training")
    if any(value is not None for value in valid):
        axes.plot(epochs, numbers(valid), color=ORANGE, label="validation")
    if best is not None:
        axes.axvline(best, color="0.6", linewidth=1, linestyle=":", label=f"kept: epoch {best}")
    axes.set(title=title, xlabel="epoch", ylabel="nats per row")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    zoom_to_end(axes, [*train, *valid])
    return axes


def numbers(values: OptionalPoints) -> np.ndarray:
    """The values as an array, NaN where one is None."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def zoom_to_end(axes: Axes, values: OptionalPoints, percent: float = 5) -> None:
    """Set the y-range without the lowest values: the steep first epochs would flatten the rest.

    Args:
        axes: the axes to change.
        values: all values that are drawn.
        percent: the share of them, in percent, that is left out.
    """
    finite = numbers(values)
    finite = finite[np.isfinite(finite)]
    if len(finite) > 20:
        low, high = np.percentile(finite, [percent, 100])
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(max(finite.min() - room, low - room), high + room)


def image_grid(axes: Axes, rows: np.ndarray, shape: ImageShape, columns: int, title: str = "", gap: int = 2) -> Axes:
    """Images in a grid, with a thin gap between them.

    Args:
        axes: the axes to draw on.
        rows: images (n, D): 0 is white and 1 is black; in colour 0 is dark and 1 is light.
        shape: their height and width in pixels; in colour the channels before them.
        columns: images in a line.
        title: the title.
        gap: pixels between two images.

    Returns:
        The axes.
    """
    height, width = height_and_width(shape)
    count = -(-len(rows) // columns)
    size = count * (height + gap) - gap, columns * (width + gap) - gap
    sheet = np.ones((*size, NUM_COLOURS)) if is_colour(shape) else np.zeros(size)  # white
    for i, row in enumerate(rows):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        image = np.moveaxis(row.reshape(shape), 0, -1) if is_colour(shape) else row.reshape(shape)
        sheet[top : top + height, left : left + width] = image
    axes.imshow(sheet, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")  # only grey images need the colour map
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    return axes


def scatter(
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray | None,
    title: str,
    names: tuple[str, str],
    label_levels: Sequence[str] = (),
) -> Axes:
    """Points in the plane, coloured by label where there are labels (ten colours at most, else one).

    Args:
        axes: the axes to draw on.
        points: the points (N, 2).
        labels: their labels (N,).
        title: the title.
        names: the names of the two axes.
        label_levels: the text of labels 0, 1, …; empty for labels that are numbers.

    Returns:
        The axes.
    """
    size = float(np.clip(9000 / len(points), 3, 30))
    kinds = np.unique(labels) if labels is not None else np.array([])
    if labels is not None and 1 < len(kinds) <= len(COLOURS):
        for colour, kind in zip(COLOURS, kinds, strict=False):
            chosen, name = points[labels == kind], escape_mathtext(label_text(int(kind), label_levels))
            axes.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, alpha=0.8, linewidths=0, label=name)
        axes.legend(title="label", markerscale=max(1.0, 5 / size**0.5), loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=BLUE, alpha=0.6, linewidths=0)
    axes.set(title=title, xlabel=names[0], ylabel=names[1])
    return axes


def data_and_samples(
    axes: Axes, data: np.ndarray, model: np.ndarray, title: str, names: Sequence[str], second: str
) -> Axes:
    """Data and model rows in the same plane (the first two columns), or as histograms where there is one column.

    Args:
        axes: the axes to draw on.
        data: rows of the data (N, D).
        model: rows of the model (M, D), in the same units.
        title: the title.
        names: the columns' names.
        second: what the legend calls the model's rows.

    Returns:
        The axes.
    """
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


def posterior_marginals(axes: Axes, exact: np.ndarray, guide: np.ndarray, title: str, note: str) -> Axes:
    """Draws from p(z | x) as a filled histogram and draws from q as an outline, on one axis.

    Args:
        axes: the axes to draw on.
        exact: draws of one latent from p(z | x), (S,).
        guide: draws of it from q(z | x), (S,).
        title: the title.
        note: a text in the corner.

    Returns:
        The axes.
    """
    bins = np.histogram_bin_edges(np.concatenate([exact, guide]), bins=50).tolist()
    axes.hist(exact, bins=bins, density=True, color="0.78", label="p(z | x), NUTS")
    axes.hist(guide, bins=bins, density=True, histtype="step", color=BLUE, linewidth=1.4, label="q(z | x)")
    axes.set(yticks=[], title=title, ylim=(0, 1.3 * axes.get_ylim()[1]))
    axes.spines["left"].set_visible(False)
    axes.text(0.98, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color="0.35")
    return axes


def log_density_contours(
    axes: Axes, xx: np.ndarray, yy: np.ndarray, log_px: np.ndarray, top: float, depth: float
) -> ContourSet:
    """A log-density in the plane, shaded in steps of a nat.

    Args:
        axes: the axes to draw on.
        xx: the points' first coordinates (n, n).
        yy: their second coordinates (n, n).
        log_px: the log-density there (n, n), nats.
        top: the highest value that has a shade, nats.
        depth: how far below it the shades reach, nats.

    Returns:
        The shades, for a colour bar.
    """
    levels = np.linspace(top - depth, top, round(depth) + 1)
    shades = axes.contourf(xx, yy, log_px, levels=levels, cmap=SHADES)
    axes.contour(xx, yy, log_px, levels=levels[1:], colors="white", linewidths=0.4, alpha=0.7)
    return shades


def bars(axes: Axes, values: np.ndarray, names: Sequence[str], active: np.ndarray) -> Axes:
    """A bar for each name, grey where it is inactive; no names where there are too many to read.

    Args:
        axes: the axes to draw on.
        values: the bars' heights (K,).
        names: the K names.
        active: which of them are active (K,).

    Returns:
        The axes.
    """
    axes.bar(np.arange(len(values)), values, color=[BLUE if one else "0.75" for one in active], width=0.8)
    if len(values) <= 30:
        axes.set_xticks(np.arange(len(values)), names, rotation=90 if max(map(len, names)) > 9 else 0)
    else:
        axes.set(xticks=[], xlabel=f"{len(values)} latents")
    return axes


def prior_and_posterior_histograms(axes: Axes, filled: np.ndarray, line: np.ndarray) -> Axes:
    """Draws of the aggregate posterior as a filled histogram, and draws of the prior as an outline over it.

    Args:
        axes: the axes to draw on.
        filled: draws of the aggregate posterior (S,).
        line: draws of the prior (S,).

    Returns:
        The axes.
    """
    bins = np.histogram_bin_edges(np.concatenate([filled, line]), bins=40).tolist()
    axes.hist(filled, bins=bins, density=True, color=BLUE, alpha=0.45, label="aggregate posterior")
    axes.hist(line, bins=bins, density=True, histtype="step", color=DARK, linewidth=1.2, label="prior")
    return axes


def density_and_contours(
    axes: Axes, x: np.ndarray, y: np.ndarray, shaded: np.ndarray, lines: np.ndarray, mass: Sequence[float], hole: float
) -> Axes:
    """A density in shades, another as contours that enclose shares of it, holes of the first hatched.

    A hole lies inside the outermost line, where the first is below a share of the second.

    Args:
        axes: the axes to draw on.
        x: the grid's first coordinates (Gx,).
        y: its second coordinates (Gy,).
        shaded: the first density (Gy, Gx).
        lines: the second density (Gy, Gx).
        mass: the shares of the second that its contours enclose.
        hole: the share of the second below which the first has a hole.

    Returns:
        The axes.
    """
    axes.pcolormesh(x, y, np.sqrt(shaded), cmap=SHADES, vmin=0, shading="gouraud", rasterized=True)  # faint ones too
    ordered = np.sort(lines.ravel())[::-1]
    levels = [float(ordered[np.searchsorted(ordered.cumsum(), share * ordered.sum())]) for share in mass]
    axes.contour(x, y, lines, levels=sorted(set(levels)), colors=[DARK], linewidths=1)
    empty = np.where((shaded < hole * lines) & (lines > min(levels)), 1.0, 0.0)
    if empty.any():
        with mpl.rc_context({"hatch.color": RED, "hatch.linewidth": 0.6}):
            axes.contourf(x, y, empty, levels=[0.5, 1.5], colors="none", hatches=["////"])
        axes.fill_between([], [], hatch="////", facecolor="none", edgecolor=RED, linewidth=0, label="holes")
    axes.plot([], [], color=DARK, linewidth=1, label="prior: " + ", ".join(f"{share:.0%}" for share in sorted(mass)))
    return axes
