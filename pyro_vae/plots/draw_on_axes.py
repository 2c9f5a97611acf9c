"""Arrays in, Axes out: the drawings that figures are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.style import BLUE, COLOURS, DARK, ORANGE, RED, SHADES, label_ends


def training_curve(
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
    zoom_to_end(axes, [*train, *valid])
    return axes


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def zoom_to_end(axes: Axes, values: Sequence[Any], percent: float = 5) -> None:
    """Set the y-range without the lowest `percent` of all values: the steep first epochs would flatten the rest."""
    finite = _numbers(values)
    finite = finite[np.isfinite(finite)]
    if len(finite) > 20:
        low, high = np.percentile(finite, [percent, 100])
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(max(finite.min() - room, low - room), high + room)


def image_grid(
    axes: Axes, rows: np.ndarray, shape: tuple[int, int], columns: int, title: str = "", gap: int = 2
) -> Axes:
    """Images (n, D) in a grid, 1 is black, with a thin gap between them."""
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


def data_and_samples(
    axes: Axes, data: np.ndarray, model: np.ndarray, title: str, names: Sequence[str], second: str
) -> Axes:
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


def posterior_marginals(axes: Axes, exact: np.ndarray, guide: np.ndarray, title: str, note: str) -> Axes:
    """Draws from p(z | x) as a filled histogram and draws from q as an outline, on one axis."""
    bins = np.histogram_bin_edges(np.concatenate([exact, guide]), bins=50).tolist()
    axes.hist(exact, bins=bins, density=True, color="0.78", label="p(z | x), NUTS")
    axes.hist(guide, bins=bins, density=True, histtype="step", color=BLUE, linewidth=1.4, label="q(z | x)")
    axes.set(yticks=[], title=title, ylim=(0, 1.3 * axes.get_ylim()[1]))
    axes.spines["left"].set_visible(False)
    axes.text(0.98, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=8, color="0.35")
    return axes


def bound_gap(axes: Axes, epochs: Sequence[float], bound: Sequence[Any], log_px: Sequence[Any]) -> Axes:
    """log p(x) over epochs, the bound below it where there is one, the gap shaded and its last value written."""
    at, top, below = np.asarray(epochs, dtype=float), _numbers(log_px), _numbers(bound)
    known, bounded = np.isfinite(top), np.isfinite(below)
    words = "no q for held-out rows"
    if bounded.any():
        axes.plot(at[bounded], below[bounded], color=BLUE, linewidth=2.4, label="bound")
        words = ""
    if (both := known & bounded).any():
        between = np.interp(at[bounded], at[known], top[known], left=np.nan, right=np.nan)
        axes.fill_between(at[bounded], below[bounded], between, color=BLUE, alpha=0.2, linewidth=0)
        words = f"KL(q ‖ p(z|x))\n{(top - below)[both][-1]:.2f} nats"
    axes.plot(at[known], top[known], color=DARK, linewidth=1.2, label="log p(x)")
    axes.text(0.97, 0.05, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=9, color="0.35")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axes


def learning_curves(axes: Axes, curves: Mapping[str, tuple[Any, Any, Any]], colours: Mapping[str, Any]) -> Axes:
    """Learning curves over rows processed, on a logarithmic axis: (rows, training, test) for each name."""
    ends = []
    for name, (seen, train, test) in curves.items():
        at = np.asarray(seen, dtype=float)
        for values, kind in ((_numbers(train), "--"), (_numbers(test), "-")):
            known = np.isfinite(values)
            axes.plot(at[known], values[known], kind, color=colours[name], linewidth=1.6 if kind == "-" else 1.1)
        if known.any():
            ends.append((float(values[known][-1]), name, colours[name]))
    axes.set_xscale("log")
    zoom_to_end(axes, [value for _, train, test in curves.values() for value in (*train, *test)])
    return label_ends(axes, ends)


def mixture_components(
    axes: Axes, rows: np.ndarray, at: np.ndarray, density: np.ndarray, parts: np.ndarray, colours: Sequence[Any]
) -> Axes:
    """A histogram of rows (N,), a mixture's density (G,) over it, and its components' parts of that (C, G), filled."""
    bins = np.histogram_bin_edges(rows, bins=60).tolist()
    axes.hist(rows, bins=bins, density=True, color="0.87", label="rows")
    for part, colour in zip(parts, colours, strict=True):
        axes.fill_between(at, part, color=colour, alpha=0.55, linewidth=0)
        axes.plot(at, part, color=colour, linewidth=1)
    axes.plot(at, density, color=DARK, linewidth=1.8, label="p(x)")
    axes.set(ylabel="density", xlim=(at[0], at[-1]))
    axes.set_ylim(bottom=0)
    return axes


def stacked_shares(axes: Axes, at: np.ndarray, shares: np.ndarray, colours: Sequence[Any]) -> Axes:
    """Shares (C, G) that sum to one, stacked."""
    axes.stackplot(at, shares, colors=colours, alpha=0.85, linewidth=0)
    axes.set(ylim=(0, 1), yticks=[0, 1])
    return axes


def log_density_contours(
    axes: Axes, xx: np.ndarray, yy: np.ndarray, log_px: np.ndarray, top: float, depth: float
) -> Any:
    """A log-density (n, n) in the plane, shaded in steps of a nat from `top` down to `depth` below; the shades."""
    levels = np.linspace(top - depth, top, round(depth) + 1)
    shades = axes.contourf(xx, yy, log_px, levels=levels, cmap=SHADES)
    axes.contour(xx, yy, log_px, levels=levels[1:], colors="white", linewidths=0.4, alpha=0.7)
    return shades


def covariance_ellipses(
    axes: Axes, mean: np.ndarray, covariance: np.ndarray, colour: Any, sizes: Sequence[float] = (1, 2)
) -> Axes:
    """The ellipses at some standard deviations around a mean (2,)."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 100)
    unit = vectors @ (np.sqrt(values)[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
    for size in sizes:
        line = mean[:, None] + size * unit
        axes.plot(line[0], line[1], color=colour, linewidth=1.5 if size == min(sizes) else 0.8)
    return axes


def bars(axes: Axes, values: np.ndarray, names: Sequence[str], active: np.ndarray) -> Axes:
    """A bar for each name, grey where it is not `active`; no names where there are too many to read."""
    axes.bar(np.arange(len(values)), values, color=[BLUE if one else "0.75" for one in active], width=0.8)
    if len(values) <= 30:
        axes.set_xticks(np.arange(len(values)), names, rotation=90 if max(map(len, names)) > 9 else 0)
    else:
        axes.set(xticks=[], xlabel=f"{len(values)} latents")
    return axes


def prior_and_posterior_histograms(axes: Axes, filled: np.ndarray, line: np.ndarray) -> Axes:
    """Draws of the aggregate posterior as a filled histogram, and draws of the prior as an outline over it."""
    bins = np.histogram_bin_edges(np.concatenate([filled, line]), bins=40).tolist()
    axes.hist(filled, bins=bins, density=True, color=BLUE, alpha=0.45, label="aggregate posterior")
    axes.hist(line, bins=bins, density=True, histtype="step", color=DARK, linewidth=1.2, label="prior")
    return axes


def density_and_contours(
    axes: Axes, x: np.ndarray, y: np.ndarray, shaded: np.ndarray, lines: np.ndarray, mass: Sequence[float], hole: float
) -> Axes:
    """A density (Gy, Gx) in shades, another as contours that enclose shares `mass` of it, holes of the first hatched.

    A hole lies inside the outermost line, where the first is below a share `hole` of the second.
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


def highlighted_scatter(axes: Axes, rows: np.ndarray, groups: Mapping[str, np.ndarray]) -> Axes:
    """Rows in the plane of their first two columns (one: against their order), some groups of them in colour."""
    for points, colour, size, name in [
        (rows, "0.75", 8, "others"),
        *[(some, colour, 26, name) for (name, some), colour in zip(groups.items(), (BLUE, RED), strict=False)],
    ]:
        across = points[:, 0]
        up = points[:, 1] if points.shape[1] > 1 else np.linspace(0, 1, len(points))
        axes.scatter(across, up, s=size, color=colour, linewidths=0, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return axes


def log_px_histograms(axes: Axes, values: Mapping[str, np.ndarray]) -> Axes:
    """Histograms on one axis, the first in blue and filled, the second in orange; the lowest 1% at the edge."""
    low = min(float(np.percentile(some, 1)) for some in values.values())
    high = max(float(some.max()) for some in values.values())
    bins = np.linspace(low, high + 1e-9, 40).tolist()
    for (name, some), colour in zip(values.items(), (BLUE, ORANGE), strict=False):
        axes.hist(some.clip(low), bins=bins, density=True, color=colour, alpha=0.45, label=f"{len(some)} {name}")
    axes.set(yticks=[], ylim=(0, 1.35 * axes.get_ylim()[1]))
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", ncols=2)
    return axes


def standardized_table(
    axes: Axes, values: np.ndarray, names: Sequence[str], cell_texts: Sequence[Sequence[str]] = (), most: float = 4.0
) -> Any:
    """A table (n, D) in standard deviations: orange below the mean, blue above it, white where missing; its shades.

    `cell_texts` are written into the cells.
    """
    colours = LinearSegmentedColormap.from_list("pyro_vae_signed", [ORANGE, "#FFFFFF", BLUE])
    shades = axes.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    upright = len(names) > 8 or max(map(len, names)) > 14
    axes.set_xticks(np.arange(len(names)), names, rotation=90 if upright else 0)
    for i, line in enumerate(cell_texts):
        for j, word in enumerate(line):
            axes.text(j, i, word, ha="center", va="center", fontsize=8, color=DARK)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return shades
