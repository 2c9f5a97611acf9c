"""Curves during fits: log p(x) and its bound over epochs, and learning curves over rows processed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.draw_on_axes import OptionalPoints, Points


@check_call
def plot_gap(curves: Mapping[str, tuple[Points, OptionalPoints, OptionalPoints]]) -> Figure:
    """The gap between log p(x) and its bound over epochs: a panel for each name, one scale for all.

    `curves` gives for each name (epochs, bound, log p(x)), nats per row, None where it was not measured. The gap,
    the mean KL(q(z|x) ‖ p(z|x)), is shaded, and its last value written; without a bound log p(x) is shown alone.

    >>> figure = plot_gap({"VI": ([1, 2, 3], [-5.0, -4.0, -3.5], [-4.0, -3.5, -3.3]), "MCEM": ([1], [None], [-3.0])})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['VI', 'MCEM']
    """
    require_curves(curves)
    with style.figure_style():
        lines = -(-len(curves) // 4)
        columns = -(-len(curves) // lines)
        figure = Figure(figsize=(2.9 * columns, 2.9 * lines))
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in panels.flat[len(curves) :]:
            axes.remove()
        for axes, (name, (epochs, bound, log_px)) in zip(panels.flat, curves.items(), strict=False):
            _bound_gap(axes, epochs, bound, log_px)
            axes.set_title(name)
        _zoom_to_ends(panels[0, 0], [values for _, *pair in curves.values() for values in pair])
        for line in panels:
            line[0].set_ylabel("nats per row")
        first = max(panels.flat[: len(curves)], key=lambda axes: len(axes.lines))
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _zoom_to_ends(axes: Axes, curves: Sequence[OptionalPoints]) -> None:
    """Set the y-range to the ends of all curves, with room below for text."""
    known = [[value for value in curve if value is not None] for curve in curves]
    draw_on_axes.zoom_to_end(axes, [value for curve in known for value in curve], 25)
    low, high = axes.get_ylim()
    lowest = min(curve[-1] for curve in known if curve)
    axes.set_ylim(min(low, lowest - 0.4 * (high - lowest)), high)


def require_curves(curves: Mapping[str, object]) -> None:
    """`InputError` where there is nothing to draw."""
    if not curves:
        raise InputError("expected one curve or more, got none")


@check_call
def plot_curves(
    curves: Mapping[str, Mapping[str, tuple[Points, OptionalPoints, OptionalPoints]]],
    xlabel: str = "training rows processed",
    ylabel: str = "log p(x), nats per row",
) -> Figure:
    """Learning curves of fit methods, training (dashed) and held out (solid), as in figure 3 of Kingma & Welling
    (arXiv:1312.6114).

    Args:
        curves: for each panel and fit method the rows processed and log p(x) of training and test rows, None where it
            was not measured; the axis of rows is logarithmic.
        xlabel: the name of the axis of rows.
        ylabel: the name of the other axis.

    Returns:
        The figure.

    >>> methods = {"SVI": ([100, 1000], [-9.0, -8.0], [-9.2, -8.3]), "EM": ([100, 1000], [-8.0, -7.0], [-9.0, -8.9])}
    >>> [axes.get_xscale() for axes in plot_curves({"1,000 rows": methods, "50,000 rows": methods}).axes]
    ['log', 'log']
    """
    require_curves(curves)
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    colours = dict(zip(names, style.distinct_colours(len(names)), strict=True))
    with style.figure_style():
        figure = Figure(figsize=(4.6 * len(curves), 3.6))
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (title, by_method) in zip(panels, curves.items(), strict=True):
            _learning_curves(axes, by_method, colours)
            axes.set_title(title)
            axes.set_xlabel(xlabel)
        panels[0].set_ylabel(ylabel)
        keys = [
            Line2D([], [], color="0.3", linestyle="-", label="held out"),
            Line2D([], [], color="0.3", linestyle="--", label="training"),
        ]
        panels[0].legend(handles=keys, loc="lower right", handlelength=2.6)
    return figure


def _bound_gap(axes: Axes, epochs: Points, bound: OptionalPoints, log_px: OptionalPoints) -> Axes:
    """log p(x) over epochs, the bound below it where there is one, the gap shaded and its last value written.

    Args:
        axes: the axes to draw on.
        epochs: the epochs.
        bound: the bound at each, nats per row.
        log_px: log p(x) at each, nats per row.

    Returns:
        The axes.
    """
    at, top, below = np.asarray(epochs, dtype=float), draw_on_axes.numbers(log_px), draw_on_axes.numbers(bound)
    known, bounded = np.isfinite(top), np.isfinite(below)
    words = "no q for held-out rows"
    if bounded.any():
        axes.plot(at[bounded], below[bounded], color=style.BLUE, linewidth=2.4, label="bound")
        words = ""
    if (both := known & bounded).any():
        between = np.interp(at[bounded], at[known], top[known], left=np.nan, right=np.nan)
        axes.fill_between(at[bounded], below[bounded], between, color=style.BLUE, alpha=0.2, linewidth=0)
        words = f"KL(q ‖ p(z|x))\n{(top - below)[both][-1]:.2f} nats"
    axes.plot(at[known], top[known], color=style.DARK, linewidth=1.2, label="log p(x)")
    axes.text(0.97, 0.05, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=9, color="0.35")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return axes


def _learning_curves(
    axes: Axes, curves: Mapping[str, tuple[Points, OptionalPoints, OptionalPoints]], colours: Mapping[str, ColorType]
) -> Axes:
    """Learning curves over rows processed, on a logarithmic axis.

    Args:
        axes: the axes to draw on.
        curves: for each name the rows processed, and log p(x) of training and of test rows there, nats per row.
        colours: the colour of each name.

    Returns:
        The axes.
    """
    ends = []
    for name, (seen, train, test) in curves.items():
        at = np.asarray(seen, dtype=float)
        for values, kind in ((draw_on_axes.numbers(train), "--"), (draw_on_axes.numbers(test), "-")):
            known = np.isfinite(values)
            axes.plot(at[known], values[known], kind, color=colours[name], linewidth=1.6 if kind == "-" else 1.1)
        if known.any():
            ends.append((float(values[known][-1]), name, colours[name]))
    axes.set_xscale("log")
    draw_on_axes.zoom_to_end(axes, [value for _, train, test in curves.values() for value in (*train, *test)])
    return style.label_ends(axes, ends)
