"""log p(x) on a grid in the plane, for a figure: exact where a program knows it or has one or two latents."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Dataset, RowsGiven, Split, as_split
from pyro_vae.data.reference_measure import Measure
from pyro_vae.errors import InputError
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import Site
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.resource_limits import require_memory
from pyro_vae.typing import Density, Distribution, PerRow, Program, RowLatents

SIDES = {
    1: (256, 1024, 4096),
    2: (64, 128, 256),
}  # points along a side of lattices of z, each tried where the one before was too coarse
TOLERANCE = 0.01  # nats between one lattice and the next
HALF_WIDTH = 6.0  # of a lattice, in standard deviations of the prior
MAX_PAIRS = 2**20  # of a point x and a point z, evaluated in one batch


class Plane(NamedTuple):
    """A log-density over the plane: `xx`, `yy` (size, size) where, y upwards, and `log_px` (size, size), nats."""

    xx: Tensor
    yy: Tensor
    log_px: Tensor


@check_call
def density_on_grid(
    program: Program,
    low: Sequence[float],
    high: Sequence[float],
    size: int = 80,
    *,
    like: Dataset | Split | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> Plane:
    r"""log p(x) of a program of two features at size² points of a rectangle.

    By the program's own `log_prob` where it has one. With one or two continuous latents by a lattice of z, $p(x) =
    \sum_k \Delta\, p(z_k)\, p(x|z_k)$, decoded once for all x, so that it takes seconds where `exact_evidence` takes
    minutes; it is refined for those x whose log p(x) still changes by more than 0.01 nats. Else, and where no lattice
    converges, by `log_evidence`, half of its draws from the prior: a lower bound, rough far from the data.

    Raises `InputError` for a rectangle without area.

    Args:
        program: the fitted program.
        low: the lower left corner (2,).
        high: the upper right corner (2,).
        size: points along each side.
        like: the data that the program was fitted to: the rectangle and the density are then in its original units.
        num_samples: draws for each point where log p(x) is sampled.
        seed: of the draws.

    Returns:
        The points and log p(x) there, (size, size) each, nats.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("two-moons")
    >>> ppca = pv.PPCA(num_latents=1, num_features=2)
    >>> fitted = pv.fit_closed_form(ppca, data)
    >>> xx, yy, log_px = density_on_grid(ppca, (-4, -4), (5, 5), 60, like=data)
    >>> cell = (xx[0, 1] - xx[0, 0]) * (yy[1, 0] - yy[0, 0])
    >>> log_px.shape, bool((log_px.exp().sum() * cell - 1).abs() < 0.01)
    (torch.Size([60, 60]), True)
    """
    if len(low) != 2 or len(high) != 2 or size < 2 or not all(a < b for a, b in zip(low, high, strict=True)):
        raise InputError(f"expected a rectangle from low (2,) to high (2,) and a size of 2 or more, got {low}, {high}")
    require_memory(64.0 * size**2, f"a grid of {size}² points", "give a smaller size")
    across, up = (torch.linspace(a, b, size, dtype=torch.float64) for a, b in zip(low, high, strict=True))
    yy, xx = torch.meshgrid(up, across, indexing="ij")
    split = rows_like(torch.stack([xx.flatten(), yy.flatten()], 1), like)
    return Plane(xx, yy, _log_px(program, split, num_samples, seed).reshape(size, size))


def rows_like(points: Tensor, data: RowsGiven | None) -> Split:
    """Points as a split that is standardized as some data is.

    Args:
        points: points (n, D) in the data's original units.
        data: the data; without it the points are taken as they are.

    Returns:
        The split.
    """
    measure = Measure() if data is None else as_split(data, "test").measure
    return Split("grid", points, Measure(shift=measure.shift, scale=measure.scale))


def _log_px(program: Program, split: Split, num_samples: int, seed: int) -> PerRow:
    if isinstance(program, Density):
        return program.log_prob(split).cpu().double()
    log_px = _by_lattice(program, split, seed)
    left = log_px.isnan()
    if left.any():
        rest = Split(split.name, split.stored[left], split.measure)
        log_px[left] = log_evidence(program, rest, num_samples, prior_share=0.5, seed=seed).log_px
    return log_px


class _Observed(Messenger):
    """Records the distributions of the observed sites."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Distribution] = []

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["is_observed"]:
            self.found.append(msg["fn"])


@torch.no_grad()
def _by_lattice(program: Program, split: Split, seed: int) -> PerRow:
    """log p(x) (n,), NaN where no lattice converges."""
    log_px = torch.full((len(split),), math.nan, dtype=torch.float64)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        scored = ScoredRows(program, split, None, needs_guide=False)
        program = scored.program
        remaining, previous = torch.arange(len(split)), log_px
        for side in SIDES.get(_num_latents(program, scored), ()):
            found = _sum_over(program, scored, side, split[remaining]) if len(remaining) else None
            if found is None:
                break
            converged = (found - previous).abs() < TOLERANCE
            log_px[remaining[converged]] = found[converged] + split.log_jacobian[remaining[converged]]
            remaining, previous = remaining[~converged], found[~converged]
    return log_px


def _num_latents(program: Program, scored: ScoredRows) -> int:
    """How many continuous latents a row has, 0 where some are of another kind."""
    try:
        return UnconstrainedJoint(program, scored.plates, scored.first).dim
    except InputError:
        return 0


def _sum_over(program: Program, scored: ScoredRows, side: int, x: Tensor) -> PerRow | None:
    """log Σ_k Δ p(z_k) p(x | z_k) over side^K points; None where the lattice does not cover the prior, or x has no
    likelihood of its own."""
    first = scored.first.x[:1].expand(side ** _num_latents(program, scored), -1)
    joint = UnconstrainedJoint(program, scored.plates, Batch(first, num_rows=len(first)))
    u, cell = _lattice(joint.from_prior(), side)
    with _Observed() as observed:
        prior = joint.at(u).prior.double() + cell
    total, fn = prior.logsumexp(0), observed.found[0]
    if abs(float(total)) > TOLERANCE or len(observed.found) > 1 or fn.batch_shape != (len(u),) or fn.event_dim != 1:
        return None
    blocks = x.to(u).split(max(1, MAX_PAIRS // len(u)))
    parts = [(fn.log_prob(block[:, None]) + prior.to(u)).logsumexp(1) for block in blocks]
    return torch.cat(parts).cpu().double()


def _lattice(draws: RowLatents, side: int) -> tuple[RowLatents, float]:
    """Points (side^K, K) that cover the prior, and the logarithm of their cells' volume."""
    mean, spread = draws.mean(0), draws.std(0)
    steps = (torch.arange(side).to(draws) + 0.5) / side * 2 - 1
    unit = torch.cartesian_prod(*[steps] * draws.shape[1]).reshape(-1, draws.shape[1])
    return mean + HALF_WIDTH * spread * unit, float((2 * HALF_WIDTH * spread / side).log().sum())
