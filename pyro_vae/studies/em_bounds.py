"""EM and VI on a mixture with one parameter, where everything is exact: the bound that touches and the one that does
not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.plots import style

GROUPS = ((-3.0, 0.6, 14), (0.5, 0.6, 8), (2.2, 0.7, 20))  # mean, scale and size of the groups that the rows come in
MAX_STEPS, TOLERANCE = 10_000, 1e-13


@dataclass(frozen=True)
class AscentPath:
    r"""Steps of coordinate ascent on F(q, θ): the best $q_t$ of a family at $\theta_t$, then the best θ for it.

    `theta` (T + 1,) from the start on; `shares` (T + 1, N) the $q_t(c_i = 1)$; `bounds` (T + 1, G) the $F(q_t, \theta)$
    over the grid; `elbo` (T + 1,) $F(q_t, \theta_t)$ and `log_px` (T + 1,) $\ell(\theta_t)$, so that their difference
    is the mean $KL(q_t \| p(c|x))$; `best` (G,) $\max_q F(q, \theta)$ over the family; `limit` the θ where the steps
    converge. Nats per row.
    """

    theta: Tensor
    shares: Tensor
    bounds: Tensor
    elbo: Tensor
    log_px: Tensor
    best: Tensor
    limit: float

    @property
    def kl(self) -> Tensor:
        """The gap at each step, (T + 1,)."""
        return self.log_px - self.elbo


@dataclass(frozen=True)
class CoordinateAscentDemo:
    """A log-likelihood over a grid of θ, and two ascents of it, EM's and VI's.

    `x` (N,) the rows, `theta` (G,) the grid, `log_px` (G,) ℓ(θ) in nats per row; `em` with the exact posterior as q,
    `vi` with a q that sees only the cell between `cuts` that a row lies in.
    """

    x: Tensor
    theta: Tensor
    log_px: Tensor
    em: AscentPath
    vi: AscentPath
    cuts: tuple[float, ...]


def coordinate_ascent_demo(
    x: Tensor | None = None,
    *,
    start: float = -0.55,
    steps: int = 5,
    cuts: Sequence[float] = (1.0,),
    weight: float = 0.5,
    scale: float = 1.0,
    background: float = 3.0,
    low: float = -6.0,
    high: float = 6.0,
    num_points: int = 601,
) -> CoordinateAscentDemo:
    r"""EM and VI from one start on $p(x; \theta) = (1 - \pi) N(x; 0, \sigma_0^2) + \pi N(x; \theta, \sigma^2)$.

    With $q_i = q(c_i = 1)$ the bound is $F(q, \theta) = \frac1N \sum_i E_{q_i}[\log p(x_i, c_i; \theta) - \log q_i]$,
    a parabola in θ that lies below $\ell(\theta) = \frac1N \sum_i \log p(x_i; \theta)$ by the mean $KL(q_i \|
    p(c_i|x_i))$. Both methods maximize it alternately in q and in θ (Neal & Hinton 1998), in closed form:
    $\theta = \sum_i q_i x_i / \sum_i q_i$. EM's q is the posterior, where the bound equals ℓ. VI's q is one number for
    all rows between two `cuts`, as of a small encoder: its best log-odds are the mean of the rows' own. So VI is the
    same ascent on a lower curve, $\max_q F(q, \theta)$, whose maxima lie elsewhere; without cuts all rows share one
    q, with a row to each cell VI is EM.

    `x` (N,) are the rows, else 42 in three groups, on which EM and VI part from the start that is given here; `weight`
    π, `scale` σ, `background` σ₀; the grid has `num_points` from `low` to `high`. Raises `InputError` for settings that
    make no mixture.

    >>> found = coordinate_ascent_demo()
    >>> bool((found.em.bounds <= found.log_px + 1e-12).all()), bool(found.em.kl.abs().max() < 1e-12)
    (True, True)
    >>> bool((found.vi.kl > 0.05).all()), found.em.limit > 0 > found.vi.limit
    (True, True)
    """
    rows = _groups() if x is None else x.detach().cpu().double()
    _check(rows, weight, scale, background, steps)
    theta = _grid(low, high, num_points)
    cell = torch.bucketize(rows, torch.tensor(sorted(cuts), dtype=torch.float64))
    mixture = _Mixture(rows, weight, scale, background)
    paths = [_ascend(mixture, same_cell, theta, start, steps) for same_cell in (torch.arange(len(rows)), cell)]
    return CoordinateAscentDemo(rows, theta, mixture.log_px(theta), paths[0], paths[1], tuple(sorted(cuts)))


def _grid(low: float, high: float, num_points: int) -> Tensor:
    if not low < high or num_points < 2:
        raise InputError(f"expected a grid of two points or more from low to high, got {num_points}, {low} and {high}")
    return torch.linspace(low, high, num_points, dtype=torch.float64)


def _groups() -> Tensor:
    """The quantiles of three normals, (42,)."""
    levels = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for _, _, size in GROUPS]
    parts = [mean + scale * torch.special.ndtri(p) for (mean, scale, _), p in zip(GROUPS, levels, strict=True)]
    return torch.cat(parts)


def _check(rows: Tensor, weight: float, scale: float, background: float, steps: int) -> None:
    if rows.dim() != 1 or not len(rows) or not torch.isfinite(rows).all():
        raise InputError(f"expected finite rows of shape (N,), got {tuple(rows.shape)}; take one column, x[:, 0]")
    if not 0 < weight < 1 or not scale > 0 or not background > 0 or steps < 1:
        raise InputError(
            f"expected a weight between 0 and 1, positive scales and a step or more, got {weight}, {scale}, "
            f"{background} and {steps}"
        )


@dataclass(frozen=True)
class _Mixture:
    """The mixture and its rows; θ (…,) in, rows last."""

    x: Tensor
    weight: float
    scale: float
    background: float

    def log_joint(self, theta: Tensor) -> Tensor:
        """log p(x_i, c; θ) for c = 0 and 1, (2, …, N)."""
        background = math.log(1 - self.weight) + _log_normal(self.x, self.background)
        component = math.log(self.weight) + _log_normal(self.x - theta[..., None], self.scale)
        return torch.stack([background.expand_as(component), component])

    def log_px(self, theta: Tensor) -> Tensor:
        return self.log_joint(theta).logsumexp(0).mean(-1)

    def shares(self, theta: Tensor, cell: Tensor) -> Tensor:
        """The best q that is the same for all rows of a cell, (…, N)."""
        background, component = self.log_joint(theta)
        same_cell = (cell[:, None] == cell).double()
        return torch.sigmoid((component - background) @ (same_cell / same_cell.sum(0)))

    def bound(self, shares: Tensor, theta: Tensor) -> Tensor:
        """F(q, θ), (…,)."""
        background, component = self.log_joint(theta)
        entropy = torch.special.entr(shares) + torch.special.entr(1 - shares)
        return (shares * component + (1 - shares) * background + entropy).mean(-1)


def _log_normal(away: Tensor, scale: float) -> Tensor:
    return -0.5 * (away / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _ascend(mixture: _Mixture, cell: Tensor, grid: Tensor, start: float, steps: int) -> AscentPath:
    path = [torch.tensor(start, dtype=torch.float64)]
    for _ in range(MAX_STEPS):
        shares = mixture.shares(path[-1], cell)
        if not float(shares.sum()) > 0:
            raise InputError(f"no row gives θ = {float(path[-1]):g} any share: start nearer to the rows")
        path.append((shares * mixture.x).sum() / shares.sum())
        if (path[-1] - path[-2]).abs() < TOLERANCE and len(path) > steps:
            break
    theta = torch.stack(path[: steps + 1])
    shares = mixture.shares(theta, cell)
    return AscentPath(
        theta=theta,
        shares=shares,
        bounds=torch.stack([mixture.bound(each, grid) for each in shares]),
        elbo=mixture.bound(shares, theta),
        log_px=mixture.log_px(theta),
        best=mixture.bound(mixture.shares(grid, cell), grid),
        limit=float(path[-1]),
    )


MAX_BOUNDS = 4  # bounds in a panel


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
    right: Any = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 9}
    if path is found.em:
        axes.text(1, 1, "a q for each row", color=colour, **right)
        axes.text(1, 0.74, "which is the posterior", color=colour, **right)
        return
    axes.plot(found.x.numpy(), found.em.shares[0].numpy(), ".", color=style.DARK, markersize=3.5)
    for cut in found.cuts:
        axes.axvline(cut, color="0.6", linewidth=1, linestyle=":")
    words = {0: "one q for all rows", 1: "a q for each side of the cut"}.get(len(found.cuts), "a q between two cuts")
    axes.text(1, 1, words, color=colour, **right)
    axes.text(1, 0.74, "dots: the posterior", color=style.DARK, **right)


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
    leader_style: Any = {"ha": "center", "va": "center", "fontsize": 9, "color": style.DARK, "arrowprops": leader}
    words = f"KL(q ‖ p(c|x))\n{kl:.2f} nats"
    axes.annotate(words, (end, ends[1]), (0.42, 0.9), textcoords="axes fraction", **leader_style)


def _note(axes: Axes, text: str, at: tuple[float, float], away: tuple[float, float], colour: str) -> None:
    """A text near the point `at`, `away` printer's points from it."""
    axes.annotate(text, at, away, textcoords="offset points", ha="center", va="center", color=colour, fontsize=9)


def draw_em_bounds(folder: Path) -> Path:
    """Draw the demonstration into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "coordinate_ascent.png"
    with style.figure_style(), rc_context({"backend": "agg"}):
        plot_coordinate_ascent(coordinate_ascent_demo()).savefig(path)
    return path


def run_em_bounds(folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """The demonstration as records, one for each fit method and step, and as a figure."""
    found = coordinate_ascent_demo()
    table = [
        {"fit_method": name, "step": step, "theta": theta, "elbo": elbo, "log_px": log_px, "kl": log_px - elbo}
        for name, path in (("em", found.em), ("vi", found.vi))
        for step, (theta, elbo, log_px) in enumerate(
            zip(path.theta.tolist(), path.elbo.tolist(), path.log_px.tolist(), strict=True)
        )
    ]
    return table, draw_em_bounds(folder)
