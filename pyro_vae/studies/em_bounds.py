"""EM and VI on a mixture with one parameter, where everything is exact: the bound that touches and the one that does
not."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.argument_checks import check_call
from pyro_vae.json_records import Record
from pyro_vae.plots import style
from pyro_vae.studies.coordinate_ascent import AscentPath, CoordinateAscentDemo, coordinate_ascent_demo

MAX_BOUNDS = 4  # bounds in a panel


@check_call
def plot_coordinate_ascent(found: CoordinateAscentDemo) -> Figure:
    r"""EM's bound touches ℓ(θ) at each step; VI's stays below by KL(q ‖ p(c|x)), and so ascends another curve.

    `found` is that of `coordinate_ascent_demo`. A step goes along a bound to its maximum, the next θ, and up to the
    next bound, the best there. Below are the q of the first bound, one for each row.

    >>> len(plot_coordinate_ascent(coordinate_ascent_demo()).axes)
    4
    """
    paths = ((found.em, style.BLUE), (found.vi, style.ORANGE))
    with style.figure_style():
        figure = Figure(figsize=(11, 5.6))
        upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[5, 1])
        low, high = float(found.log_px.min()), float(found.log_px.max())
        upper[0].set(xlim=(float(found.theta[0]), float(found.theta[-1])), ylabel="nats per row")
        upper[0].set_ylim(low - 0.3 * (high - low), high + 0.15 * (high - low))
        for axes, strip, (path, colour) in zip(upper, lower, paths, strict=True):
            _plot_ascent(axes, found, path, colour)
            _plot_first_responsibilities(strip, found, path, colour)
        _annotate_gap(upper[1], found)
        top = int(found.log_px.argmax())
        at = float(found.theta[top]), float(found.log_px[top])
        _note(upper[0], r"$\ell(\theta)$, the mean log p(x)", at, (0, 8), style.DARK)
        upper[0].set_title("EM: q is the posterior, so each bound touches")
        upper[1].set_title("VI: q is of a family, and its bounds stay below")
        lower[0].set_ylabel("$q_0$", rotation=0, ha="right", va="center")
    return figure


def _plot_ascent(axes: Axes, found: CoordinateAscentDemo, path: AscentPath, colour: str) -> None:
    grid, theta = found.theta.numpy(), path.theta.numpy()
    axes.plot(grid, found.log_px.numpy(), color=style.DARK, linewidth=2, zorder=3)
    shown = _shown(found, path)
    for t in range(shown):
        bound = path.bounds[t].numpy()
        axes.plot(grid, bound, color=colour, linewidth=1, alpha=0.75)
        along = np.linspace(theta[t], theta[t + 1], 50)
        height = np.interp(along, grid, bound)
        axes.plot(along, height, color=colour, linewidth=2.6, zorder=4, solid_capstyle="round")
        axes.plot([along[-1]] * 2, [height[-1], float(path.elbo[t + 1])], color=colour, linewidth=2.6, zorder=4)
    for t in range(shown + 1):
        axes.plot(theta[t], float(path.elbo[t]), "o", color=colour, markeredgecolor="white", markersize=8, zorder=5)
    side = -1.0 if theta[1] > theta[0] else 1.0  # where the first bound falls off alone
    apart = abs(theta[1] - theta[0]) > (grid[-1] - grid[0]) / 40  # or their names would meet
    for t in range(1 + apart):
        _note(axes, f"$\\theta_{t}$", (theta[t], float(path.elbo[t])), (11 * side, 5), colour)
    bottom = axes.get_ylim()[0] + 0.08 * np.ptp(axes.get_ylim())
    below = grid[((grid - theta[1]) * side > 0) & (path.bounds[0].numpy() < bottom)]
    if len(below):
        nearest = below[np.abs(below - theta[1]).argmin()]
        _note(axes, "$F(q_0, \\theta)$", (nearest, bottom), (26 * side, 0), colour)


def _shown(found: CoordinateAscentDemo, path: AscentPath) -> int:
    """How many steps can be told apart."""
    moved = path.theta.diff().abs() > 0.02 * (found.theta[-1] - found.theta[0])
    return max(1, min(MAX_BOUNDS, int(moved.long().cumprod(0).sum())))


def _plot_first_responsibilities(axes: Axes, found: CoordinateAscentDemo, path: AscentPath, colour: str) -> None:
    axes.vlines(found.x.numpy(), 0, path.shares[0].numpy(), color=colour, linewidth=1.6)
    axes.plot(found.x.numpy(), np.zeros(len(found.x)), "|", color="0.45", markersize=4)
    axes.set(xlabel="θ, and the rows x", yticks=[0, 1], ylim=(-0.12, 1.15))
    right = partial(axes.text, transform=axes.transAxes, ha="right", va="top", fontsize=9)
    if path is found.em:
        right(1, 1, "a q for each row", color=colour)
        right(1, 0.74, "which is the posterior", color=colour)
        return
    axes.plot(found.x.numpy(), found.em.shares[0].numpy(), ".", color=style.DARK, markersize=3.5)
    for cut in found.cuts:
        axes.axvline(cut, color="0.6", linewidth=1, linestyle=":")
    words = {0: "one q for all rows", 1: "a q for each side of the cut"}.get(len(found.cuts), "a q between two cuts")
    right(1, 1, words, color=colour)
    right(1, 0.74, "dots: the posterior", color=style.DARK)


def _annotate_gap(axes: Axes, found: CoordinateAscentDemo) -> None:
    grid, best, top = (values.numpy() for values in (found.theta, found.vi.best, found.log_px))
    axes.plot(grid, best, color=style.ORANGE, linestyle="--", linewidth=1.4)
    axes.fill_between(grid, best, top, color=style.ORANGE, alpha=0.12, linewidth=0)
    left = float(found.vi.theta[1]) < float(found.vi.theta[0])  # then the first bound's name is on the right
    some = slice(0, len(grid) // 5) if left else slice(-(len(grid) // 5), None)
    _note(axes, r"$\max_q\, F(q, \theta)$", (grid[some].mean(), best[some].min()), (0, -13), style.ORANGE)
    last = _shown(found, found.vi)
    end, kl = float(found.vi.theta[last]), float(found.vi.kl[last])
    ends = [float(found.vi.elbo[last]), float(found.vi.log_px[last])]
    arrow = {"arrowstyle": "<->", "color": style.DARK, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", (end, ends[0]), (end, ends[1]), arrowprops=arrow, zorder=6)
    leader = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.8, "shrinkB": 2}
    words = f"KL(q ‖ p(c|x))\n{kl:.2f} nats"
    text = axes.annotate(words, (end, ends[1]), (0.42, 0.9), textcoords="axes fraction", arrowprops=leader)
    text.set(ha="center", va="center", fontsize=9, color=style.DARK)


def _note(axes: Axes, text: str, at: tuple[float, float], away: tuple[float, float], colour: str) -> None:
    """A text near the point `at`, `away` printer's points from it."""
    axes.annotate(text, at, away, textcoords="offset points", ha="center", va="center", color=colour, fontsize=9)


def draw_em_bounds(folder: Path) -> Path:
    """Draw the demonstration into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "coordinate_ascent.png"
    with style.figure_style(), rc_context({"backend": "agg"}):
        style.save_figure(plot_coordinate_ascent(coordinate_ascent_demo()), path)
    return path


@dataclass(frozen=True)
class AscentRow(Record):
    """One step of one fit method: `theta`, the `elbo` and `log_px` there, and their difference `kl`, nats per row."""

    fit_method: str
    step: int
    theta: float
    elbo: float
    log_px: float
    kl: float


def run_em_bounds(folder: Path) -> tuple[list[AscentRow], Path]:
    """The demonstration as records, one for each fit method and step, and as a figure."""
    found = coordinate_ascent_demo()
    table = [
        AscentRow(fit_method=name, step=step, theta=theta, elbo=elbo, log_px=log_px, kl=log_px - elbo)
        for name, path in (("em", found.em), ("vi", found.vi))
        for step, (theta, elbo, log_px) in enumerate(
            zip(path.theta.tolist(), path.elbo.tolist(), path.log_px.tolist(), strict=True)
        )
    ]
    return table, draw_em_bounds(folder)
