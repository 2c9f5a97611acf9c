"""Curves along fits: log p(x), the bound under it, and learning over rows seen."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_vae.errors import InputError
from pyro_vae.plots import on_axes, style

Points = Sequence[float]
MayBe = Sequence[float | None]


def plot_gap(curves: Mapping[str, tuple[Points, MayBe, MayBe]]) -> Figure:
    """What each way's bound leaves of log p(x), over epochs: a panel for each name, one scale for all.

    `curves` gives for each name (epochs, bound, log p(x)), nats per row, None where a thing was not measured. The gap,
    the mean KL(q(z|x) ‖ p(z|x)), is shaded, and its last value written; a way without a bound shows log p(x) alone.

    >>> figure = plot_gap({"VI": ([1, 2, 3], [-5.0, -4.0, -3.5], [-4.0, -3.5, -3.3]), "MCEM": ([1], [None], [-3.0])})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['VI', 'MCEM']
    """
    _some(curves)
    with style.figure_style():
        lines = -(-len(curves) // 4)
        columns = -(-len(curves) // lines)
        figure = Figure(figsize=(2.9 * columns, 2.9 * lines))
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in panels.flat[len(curves) :]:
            axes.remove()
        for axes, (name, (epochs, bound, log_px)) in zip(panels.flat, curves.items(), strict=False):
            on_axes.gap(axes, epochs, bound, log_px)
            axes.set_title(name)
        _show_the_ends(panels[0, 0], [values for _, *pair in curves.values() for values in pair])
        for line in panels:
            line[0].set_ylabel("nats per row")
        first = max(panels.flat[: len(curves)], key=lambda axes: len(axes.lines))
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _show_the_ends(axes: Axes, curves: Sequence[MayBe]) -> None:
    """The end of every curve, with room below it for words."""
    known = [[value for value in curve if value is not None] for curve in curves]
    on_axes.show_the_end(axes, [value for curve in known for value in curve], 25)
    low, high = axes.get_ylim()
    lowest = min(curve[-1] for curve in known if curve)
    axes.set_ylim(min(low, lowest - 0.4 * (high - lowest)), high)


def _some(things: Mapping[str, Any]) -> None:
    if not things:
        raise InputError("expected one curve or more, got none")


def plot_curves(
    curves: Mapping[str, Mapping[str, tuple[Points, MayBe, MayBe]]],
    xlabel: str = "training rows seen",
    ylabel: str = "log p(x), nats per row",
) -> Figure:
    """Learning by several ways, training (dashed) and held out (solid), as in figure 3 of Kingma & Welling
    (arXiv:1312.6114).

    `curves` gives for each panel and way (rows seen, training, test), None where a thing was not measured; the axis of
    rows is logarithmic.

    >>> ways = {"SVI": ([100, 1000], [-9.0, -8.0], [-9.2, -8.3]), "EM": ([100, 1000], [-8.0, -7.0], [-9.0, -8.9])}
    >>> [axes.get_xscale() for axes in plot_curves({"1,000 rows": ways, "50,000 rows": ways}).axes]
    ['log', 'log']
    """
    _some(curves)
    names = list(dict.fromkeys(way for ways in curves.values() for way in ways))
    colours = dict(zip(names, style.distinct_colours(len(names)), strict=True))
    with style.figure_style():
        figure = Figure(figsize=(4.6 * len(curves), 3.6))
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (title, ways) in zip(panels, curves.items(), strict=True):
            on_axes.learning(axes, ways, colours)
            axes.set_title(title)
            axes.set_xlabel(xlabel)
        panels[0].set_ylabel(ylabel)
        kinds: dict[str, Any] = {"held out": "-", "training": "--"}
        keys = [Line2D([], [], color="0.3", linestyle=kind, label=name) for name, kind in kinds.items()]
        panels[0].legend(handles=keys, loc="lower right", handlelength=2.6)
    return figure
