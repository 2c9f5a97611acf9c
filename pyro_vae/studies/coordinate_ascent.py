"""Coordinate ascent of a bound on a mixture with one parameter, where everything is exact: EM's and VI's steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError

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


@check_call
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

    With $q_i = q(c_i = 1)$ the bound is $F(q, \theta) = \frac1N \sum_i E_{q_i}[\log p(x_i, c_i; \theta) - \log q_i]$, a
    parabola in θ that lies below $\ell(\theta) = \frac1N \sum_i \log p(x_i; \theta)$ by the mean $KL(q_i \|
    p(c_i|x_i))$. Both methods maximize it alternately in q and in θ (Neal & Hinton 1998), in closed form: $\theta =
    \sum_i q_i x_i / \sum_i q_i$. EM's q is the posterior, where the bound equals ℓ. VI's q is one number for all rows
    between two `cuts`, as of a small encoder: its best log-odds are the mean of the rows' own. So VI is the same ascent
    on a lower curve, $\max_q F(q, \theta)$, whose maxima lie elsewhere; without cuts all rows share one q, with a row
    to each cell VI is EM.

    Raises `InputError` for settings that make no mixture.

    Args:
        x: the rows (N,), else 42 in three groups, on which EM and VI part from the default `start`.
        start: the first θ.
        steps: the steps that are kept.
        cuts: where VI's cells end.
        weight: π.
        scale: σ.
        background: σ₀.
        low: the lowest θ of the grid.
        high: its highest θ.
        num_points: its points.

    Returns:
        Both ascents and ℓ over the grid, nats per row.

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
