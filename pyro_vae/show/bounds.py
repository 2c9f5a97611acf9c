"""Pictures of what EM and VI climb: bounds under log p(x), curves of learning, mixtures and densities in the plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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
    r"""EM's bound touches ℓ(θ) at each step; VI's stays below by KL(q ‖ p(c|x)), climbs its own curve and ends elsewhere.

    `found` is `touching`'s. A step runs along a bound to its top, which is the next θ, and up to the next bound, the
    best there. Below are the q of the first bound, one for each row.

    >>> from pyro_vae.study.touching import touching
    >>> len(plot_touching(touching()).axes)
    4
    """
    ways = ((found.em, plots.BLUE), (found.vi, plots.ORANGE))
    with plots.style():
        figure = Figure(figsize=(11, 5.6))
        upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[6, 1])
        low, high = float(found.log_px.min()), float(found.log_px.max())
        upper[0].set(xlim=(float(found.theta[0]), float(found.theta[-1])), ylabel="nats per row")
        upper[0].set_ylim(low - 0.3 * (high - low), high + 0.15 * (high - low))
        for axes, strip, (climb, colour) in zip(upper, lower, ways, strict=True):
            _climb(axes, found, climb, colour)
            _first_shares(strip, found, climb, colour)
        upper[0].set_title("EM: q is the posterior, so each bound touches")
        upper[1].set_title("VI: q is of a family, and its bounds stay below")
        lower[0].set_ylabel("$q_0$", rotation=0, ha="right", va="center")
        _say_the_gap(upper[1], found)
    return figure


def _climb(axes: Axes, found: Touching, climb: Climb, colour: str) -> None:
    grid, theta = found.theta.numpy(), climb.theta.numpy()
    axes.plot(grid, found.log_px.numpy(), color=plots.DARK, linewidth=2, zorder=3)
    top = int(found.log_px.argmax())
    _note(axes, "$\\ell(\\theta)$, the mean log p(x)", (grid[top], float(found.log_px[top])), (0, 8), plots.DARK)
    moved = np.abs(np.diff(theta)) > 0.02 * (grid[-1] - grid[0])
    shown = min(SHOWN, int(moved.argmin()) if not moved.all() else len(moved))
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
    for t in range(min(shown + 1, 3)):
        _note(axes, f"$\\theta_{t}$", (theta[t], float(climb.elbo[t])), (11 * side, 5), colour)
    bottom = axes.get_ylim()[0] + 0.08 * np.ptp(axes.get_ylim())
    flank = grid[(grid - theta[1]) * side > 0]
    at = flank[np.abs(np.interp(flank, grid, climb.bounds[0].numpy()) - bottom).argmin()]
    _note(axes, "$F(q_0, \\theta)$", (at, bottom), (26 * side, 0), colour)


def _first_shares(axes: Axes, found: Touching, climb: Climb, colour: str) -> None:
    axes.vlines(found.x.numpy(), 0, climb.shares[0].numpy(), color=colour, linewidth=1.6)
    axes.plot(found.x.numpy(), np.zeros(len(found.x)), "|", color="0.45", markersize=4)
    axes.plot(found.x.numpy(), found.em.shares[0].numpy(), ".", color=plots.DARK, markersize=3)
    axes.set(xlabel="θ, and the rows x", yticks=[0, 1], ylim=(-0.12, 1.05))


def _say_the_gap(axes: Axes, found: Touching) -> None:
    grid, best, top = (values.numpy() for values in (found.theta, found.vi.best, found.log_px))
    axes.plot(grid, best, color=plots.ORANGE, linestyle="--", linewidth=1.4)
    axes.fill_between(grid, best, top, color=plots.ORANGE, alpha=0.12, linewidth=0)
    highest = int(best.argmax())
    _note(axes, "max$_q$ $F(q, \\theta)$", (grid[highest], best[highest]), (0, -12), plots.ORANGE)
    end, kl = found.vi.limit, float(found.vi.kl[-1])
    ends = [float(np.interp(end, grid, values)) for values in (best, top)]
    axes.annotate("", (end, ends[1]), (end, ends[0]), arrowprops={"arrowstyle": "<->", "color": plots.DARK})
    _note(axes, f"KL(q ‖ p(c|x))\n{kl:.2f} nats", (end, ends[1]), (30, 24), plots.DARK)


def _note(axes: Axes, text: str, at: tuple[float, float], away: tuple[float, float], colour: str) -> None:
    """Words beside a place, `away` points from it."""
    axes.annotate(text, at, away, textcoords="offset points", ha="center", va="center", color=colour, fontsize=9)
