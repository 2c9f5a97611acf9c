"""Pictures of what EM and VI climb: bounds under log p(x), curves of learning, mixtures and densities in the plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.show import plots
from pyro_vae.study.grids import Plane, rows_like
from pyro_vae.study.touching import Climb, Touching

SHOWN = 4  # bounds in a panel
DEPTH = 8.0  # nats that shades reach down from the highest density

Points = Sequence[float]
MayBe = Sequence[float | None]


def plot_touching(found: Touching) -> Figure:
    r"""EM's bound touches ℓ(θ) at each step; VI's stays below by KL(q ‖ p(c|x)), and so climbs another curve.

    `found` is `touching`'s. A step runs along a bound to its top, which is the next θ, and up to the next bound, the
    best there. Below are the q of the first bound, one for each row.

    >>> from pyro_vae.study.touching import touching
    >>> len(plot_touching(touching()).axes)
    4
    """
    ways = ((found.em, plots.BLUE), (found.vi, plots.ORANGE))
    with plots.style():
        figure = Figure(figsize=(11, 5.6))
        upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[5, 1])
        low, high = float(found.log_px.min()), float(found.log_px.max())
        upper[0].set(xlim=(float(found.theta[0]), float(found.theta[-1])), ylabel="nats per row")
        upper[0].set_ylim(low - 0.3 * (high - low), high + 0.15 * (high - low))
        for axes, strip, (climb, colour) in zip(upper, lower, ways, strict=True):
            _climb(axes, found, climb, colour)
            _first_shares(strip, found, climb, colour)
        _say_the_gap(upper[1], found)
        top = int(found.log_px.argmax())
        at = float(found.theta[top]), float(found.log_px[top])
        _note(upper[0], r"$\ell(\theta)$, the mean log p(x)", at, (0, 8), plots.DARK)
        upper[0].set_title("EM: q is the posterior, so each bound touches")
        upper[1].set_title("VI: q is of a family, and its bounds stay below")
        lower[0].set_ylabel("$q_0$", rotation=0, ha="right", va="center")
    return figure


def _climb(axes: Axes, found: Touching, climb: Climb, colour: str) -> None:
    grid, theta = found.theta.numpy(), climb.theta.numpy()
    axes.plot(grid, found.log_px.numpy(), color=plots.DARK, linewidth=2, zorder=3)
    shown = _shown(found, climb)
    for t in range(shown):
        bound = climb.bounds[t].numpy()
        axes.plot(grid, bound, color=colour, linewidth=1, alpha=0.75)
        along = np.linspace(theta[t], theta[t + 1], 50)
        height = np.interp(along, grid, bound)
        axes.plot(along, height, color=colour, linewidth=2.6, zorder=4, solid_capstyle="round")
        axes.plot([along[-1]] * 2, [height[-1], float(climb.elbo[t + 1])], color=colour, linewidth=2.6, zorder=4)
    for t in range(shown + 1):
        axes.plot(theta[t], float(climb.elbo[t]), "o", color=colour, markeredgecolor="white", markersize=8, zorder=5)
    side = -1.0 if theta[1] > theta[0] else 1.0  # where the first bound falls off alone
    apart = abs(theta[1] - theta[0]) > (grid[-1] - grid[0]) / 40  # or their names would meet
    for t in range(1 + apart):
        _note(axes, f"$\\theta_{t}$", (theta[t], float(climb.elbo[t])), (11 * side, 5), colour)
    bottom = axes.get_ylim()[0] + 0.08 * np.ptp(axes.get_ylim())
    below = grid[((grid - theta[1]) * side > 0) & (climb.bounds[0].numpy() < bottom)]
    if len(below):
        nearest = below[np.abs(below - theta[1]).argmin()]
        _note(axes, "$F(q_0, \\theta)$", (nearest, bottom), (26 * side, 0), colour)


def _shown(found: Touching, climb: Climb) -> int:
    """How many steps can be told apart."""
    moved = climb.theta.diff().abs() > 0.02 * (found.theta[-1] - found.theta[0])
    return max(1, min(SHOWN, int(moved.long().cumprod(0).sum())))


def _first_shares(axes: Axes, found: Touching, climb: Climb, colour: str) -> None:
    axes.vlines(found.x.numpy(), 0, climb.shares[0].numpy(), color=colour, linewidth=1.6)
    axes.plot(found.x.numpy(), np.zeros(len(found.x)), "|", color="0.45", markersize=4)
    axes.set(xlabel="θ, and the rows x", yticks=[0, 1], ylim=(-0.12, 1.15))
    right: Any = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 9}
    if climb is found.em:
        axes.text(1, 1, "a q for each row", color=colour, **right)
        axes.text(1, 0.74, "which is the posterior", color=colour, **right)
        return
    axes.plot(found.x.numpy(), found.em.shares[0].numpy(), ".", color=plots.DARK, markersize=3.5)
    for cut in found.cuts:
        axes.axvline(cut, color="0.6", linewidth=1, linestyle=":")
    words = {0: "one q for all rows", 1: "a q for each side of the cut"}.get(len(found.cuts), "a q between two cuts")
    axes.text(1, 1, words, color=colour, **right)
    axes.text(1, 0.74, "dots: the posterior", color=plots.DARK, **right)


def _say_the_gap(axes: Axes, found: Touching) -> None:
    grid, best, top = (values.numpy() for values in (found.theta, found.vi.best, found.log_px))
    axes.plot(grid, best, color=plots.ORANGE, linestyle="--", linewidth=1.4)
    axes.fill_between(grid, best, top, color=plots.ORANGE, alpha=0.12, linewidth=0)
    left = float(found.vi.theta[1]) < float(found.vi.theta[0])  # then the first bound's name is on the right
    some = slice(0, len(grid) // 5) if left else slice(-(len(grid) // 5), None)
    _note(axes, r"$\max_q\, F(q, \theta)$", (grid[some].mean(), best[some].min()), (0, -13), plots.ORANGE)
    last = _shown(found, found.vi)
    end, kl = float(found.vi.theta[last]), float(found.vi.kl[last])
    ends = [float(found.vi.elbo[last]), float(found.vi.log_px[last])]
    arrow = {"arrowstyle": "<->", "color": plots.DARK, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", (end, ends[0]), (end, ends[1]), arrowprops=arrow, zorder=6)
    leader = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.8, "shrinkB": 2}
    style: Any = {"ha": "center", "va": "center", "fontsize": 9, "color": plots.DARK, "arrowprops": leader}
    words = f"KL(q ‖ p(c|x))\n{kl:.2f} nats"
    axes.annotate(words, (end, ends[1]), (0.42, 0.9), textcoords="axes fraction", **style)


def _note(axes: Axes, text: str, at: tuple[float, float], away: tuple[float, float], colour: str) -> None:
    """Words beside a place, `away` points from it."""
    axes.annotate(text, at, away, textcoords="offset points", ha="center", va="center", color=colour, fontsize=9)


def plot_gap(curves: Mapping[str, tuple[Points, MayBe, MayBe]]) -> Figure:
    """What each way's bound leaves of log p(x), over epochs: a panel for each name, one scale for all.

    `curves` gives for each name (epochs, bound, log p(x)), nats per row, None where a thing was not measured. The gap,
    the mean KL(q(z|x) ‖ p(z|x)), is shaded, and its last value written; a way without a bound shows log p(x) alone.

    >>> figure = plot_gap({"VI": ([1, 2, 3], [-5.0, -4.0, -3.5], [-4.0, -3.5, -3.3]), "MCEM": ([1], [None], [-3.0])})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['VI', 'MCEM']
    """
    _some(curves)
    with plots.style():
        lines = -(-len(curves) // 4)
        columns = -(-len(curves) // lines)
        figure = Figure(figsize=(2.9 * columns, 2.9 * lines))
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in panels.flat[len(curves) :]:
            axes.remove()
        for axes, (name, (epochs, bound, log_px)) in zip(panels.flat, curves.items(), strict=False):
            plots.gap(axes, epochs, bound, log_px)
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
    plots.show_the_end(axes, [value for curve in known for value in curve], 25)
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
    colours = dict(zip(names, plots.some_colours(len(names)), strict=True))
    with plots.style():
        figure = Figure(figsize=(4.6 * len(curves), 3.6))
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (title, ways) in zip(panels, curves.items(), strict=True):
            plots.learning(axes, ways, colours)
            axes.set_title(title)
            axes.set_xlabel(xlabel)
        panels[0].set_ylabel(ylabel)
        kinds: dict[str, Any] = {"held out": "-", "training": "--"}
        keys = [Line2D([], [], color="0.3", linestyle=kind, label=name) for name, kind in kinds.items()]
        panels[0].legend(handles=keys, loc="lower right", handlelength=2.6)
    return figure


def plot_components(
    mixture: Any,
    data: Dataset | Split | torch.Tensor,
    *,
    truth: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
    num_points: int = 1000,
) -> Figure:
    r"""A one-dimensional mixture over a histogram of rows: $p(x)$, each $\pi_c p(x|c)$, and below the
    responsibilities.

    `data` is a tensor (N, 1), a split or a data set (its test split); densities are in its original units. `truth`,
    (weights, means, scales) of normals in those units, is drawn dashed.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("seven-normals")
    >>> mixture = pv.GaussianMixture(num_components=7, num_features=1)
    >>> fitted = pv.fit_em(mixture, data, epochs=20)
    >>> len(plot_components(mixture, data).axes)
    2
    """
    split = as_split(data, "test")
    if split.shape[1] != 1:
        raise InputError(f"expected rows of one column, got {split.shape[1]}; plot_planes shows two")
    rows = split.measure.undo(split.x).numpy()[:, 0]
    room = 0.05 * np.ptp(rows)
    at = torch.linspace(rows.min() - room, rows.max() + room, num_points, dtype=torch.float64)
    points = rows_like(at[:, None], split)
    order = mixture.means[:, 0].argsort()
    shares = mixture.responsibilities(points.x)[:, order].cpu().numpy().T
    density, colours = mixture.log_prob(points).exp().numpy(), plots.some_colours(len(shares))
    with plots.style():
        figure = Figure(figsize=(9, 4.8))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        plots.components(upper, rows, at.numpy(), density, shares * density, colours)
        for weight, loc, scale in zip(*truth, strict=True) if truth else ():
            part = weight * torch.distributions.Normal(loc, scale).log_prob(at).exp()
            upper.plot(
                at.numpy(), part.numpy(), color="0.25", linewidth=0.9, linestyle=(0, (4, 2)), label="true components"
            )
        handles, labels = upper.get_legend_handles_labels()
        upper.legend(*zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True))
        plots.stacked(lower, at.numpy(), shares, colours)
        lower.set(xlabel="x", ylabel="p(c|x)")
    return figure


def plot_planes(
    data: Dataset | Split | torch.Tensor,
    planes: Mapping[str, Plane],
    *,
    mixture: Any = None,
    held_out: Mapping[str, float] | None = None,
) -> Figure:
    """Rows in the plane and densities of them, side by side, in one scale of shades.

    `planes` gives for each name (xx, yy, log p(x)), as `density_on_grid` does, in the original units of `data`, a
    tensor (N, 2), a split or a data set (its test split). With a mixture of normals the first panel has its rows
    coloured by responsibility and its ellipses at one and two standard deviations. `held_out` gives a number for each
    name to write under it, mean log p(x) of held-out rows.

    >>> import pyro_vae as pv
    >>> from pyro_vae.study.grids import density_on_grid
    >>> data = pv.load_data("two-moons")
    >>> mixture = pv.GaussianMixture(num_components=8, num_features=2)
    >>> fitted = pv.fit_em(mixture, data, epochs=20)
    >>> plane = density_on_grid(mixture, (-2, -1.5), (3, 2), 40, like=data)
    >>> len(plot_planes(data, {"mixture": plane}, mixture=mixture).axes)  # and the bar of shades
    3
    """
    _some(planes)
    split = as_split(data, "test")
    if split.shape[1] != 2:
        raise InputError(f"expected rows of two columns, got {split.shape[1]}")
    rows = split.measure.undo(split.x).numpy()
    count = len(planes) + (mixture is not None)
    log_px = {name: np.asarray(plane[2]) for name, plane in planes.items()}
    top = float(np.ceil(max(values.max() for values in log_px.values())))
    with plots.style():
        figure = Figure(figsize=(3.3 * count + 0.6, 3.9))
        panels = list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0])
        if mixture is not None:
            _ellipses(panels.pop(0), mixture, split, rows)
        for axes, (name, plane) in zip(panels, planes.items(), strict=True):
            shades = plots.log_density(axes, np.asarray(plane[0]), np.asarray(plane[1]), log_px[name], top, DEPTH)
            note = (
                ""
                if held_out is None or name not in held_out
                else f"log p(x) {held_out[name]:.2f} nats".replace("-", "−")
            )
            plots.title(axes, name, note)
        bar = figure.colorbar(shades, ax=panels, shrink=0.8, pad=0.02)
        bar.ax.set_title("nats", fontsize=9, fontweight="normal")
        bar.outline.set_visible(False)  # type: ignore[operator]
        for axes in figure.axes[:count]:
            axes.set_aspect("equal")
            axes.label_outer()
    return figure


def _ellipses(axes: Axes, mixture: Any, split: Split, rows: np.ndarray) -> None:
    shares = mixture.responsibilities(split.x).cpu().numpy()
    colours = plots.some_colours(shares.shape[1])
    stretch = torch.tensor(split.measure.scale or (1.0, 1.0), dtype=torch.float64).numpy()
    means = split.measure.undo(mixture.means).cpu().numpy()
    axes.scatter(rows[:, 0], rows[:, 1], s=6, color=plots.mixed_colours(shares, colours), linewidths=0, alpha=0.85)
    for mean, covariance, colour in zip(means, _matrices(mixture), colours, strict=True):
        plots.ellipses(axes, mean, covariance * np.outer(stretch, stretch), colour)
    plots.title(axes, "EM", f"{len(means)} normals, rows by responsibility")


def _matrices(mixture: Any) -> np.ndarray:
    """A mixture's covariances, whatever their kind, as (C, D, D)."""
    covariances, (C, D) = mixture.covariances.cpu().numpy(), mixture.means.shape
    if getattr(mixture, "covariance", "full") in ("full", "tied"):
        return np.broadcast_to(covariances, (C, D, D))
    return covariances.reshape(C, -1, 1) * np.eye(D)
