"""log p(x) by an adaptive grid over one or two latents of each row."""

import math

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, Program

INITIAL_CELLS = {1: 1024, 2: 64}  # along each side, by number of dimensions
MAX_DROP = (
    200.0,
    100.0,
    50.0,
    25.0,
)  # nats below a row's highest cell at which cells are not divided further, by level
MAX_LEVELS, TOLERANCE = 14, 1e-4  # TOLERANCE: nats by which the last halving may change log p(x)
BOX_DRAWS, BOX_SCALES, MAX_DOUBLINGS = 64, 8.0, 24
MAX_CELLS = 8_000_000
MIN_SHARE = 1e-7  # share of a row's mass below which a cell, times their number, is not divided further
MAX_EXCESS = 0.05  # nats by which the guide's draws may exceed a grid, in addition to five standard errors


class AdaptiveGrid:
    """The integral over u for some rows, by cells that are halved where a row's posterior has mass.

    The cells and their sums are kept on the CPU.

    Args:
        program: a program with one or two continuous latents.
        plates: its plates.
        batch: the n rows.
        chunk_size: the number of cells at which log p(x, u) is computed in one call.
    """

    def __init__(self, program: Program, plates: PlateStructure, batch: Batch, chunk_size: int) -> None:
        self.program, self.plates, self.batch, self.chunk_size = program, plates, batch, chunk_size
        self.num_rows = len(batch.x)
        repeated = batch.take(torch.arange(self.num_rows, device=batch.x.device).repeat(BOX_DRAWS))
        joint = UnconstrainedJoint(program, plates, repeated)
        self.dim = joint.dim
        proposal, prior = joint.proposal(), joint.from_prior()
        guide = proposal.u
        point = joint.at(guide, guide=proposal.is_guide)
        log_weights = (point.likelihood + point.prior - (point.prior if point.guide is None else point.guide)).cpu()
        log_weights = log_weights.double()
        self.log_weights = log_weights.unflatten(0, (BOX_DRAWS, -1))
        ends = []
        for draws in (guide, prior):
            by_row = draws.cpu().double().unflatten(0, (BOX_DRAWS, -1))
            half_width = BOX_SCALES * by_row.std(0)
            ends.append((by_row.mean(0) - half_width, by_row.mean(0) + half_width))
        self.low = torch.minimum(ends[0][0], ends[1][0])
        self.width = torch.maximum(ends[0][1], ends[1][1]) - self.low
        self.centres, self.is_edge = cell_centres(self.dim)
        self.joint = joint

    def _enclose(self) -> None:
        """Double a row's box until its edge has negligible mass; `InputError` where no box has."""
        too_small = torch.arange(self.num_rows)
        for _ in range(MAX_DOUBLINGS):
            log_joint = self._log_joint(
                too_small.repeat_interleave(len(self.centres)), self.centres.repeat(len(too_small), 1)
            )
            log_joint = log_joint.unflatten(0, (len(too_small), -1))
            inside = torch.logsumexp(log_joint, 1) - math.log(len(self.centres))
            outside = log_joint[:, self.is_edge].amax(1)  # as if the density were that of the edge everywhere
            too_small = too_small[~(outside - inside < math.log(TOLERANCE / 10))]
            if not len(too_small):
                return
            self.low[too_small] -= self.width[too_small] / 2
            self.width[too_small] *= 2
        raise InputError(
            f"no box holds the posterior of {len(too_small)} of {self.num_rows} rows: their tails are too heavy for a "
            "grid; use importance sampling or annealing"
        )

    def integrate(self) -> tuple[PerRow, PerRow]:
        """log p(x) (n,) and by how much the last halving changed it."""
        self._enclose()
        row = torch.arange(self.num_rows).repeat_interleave(len(self.centres))
        position, size = self.centres.repeat(self.num_rows, 1), 1 / INITIAL_CELLS[self.dim]
        done = torch.full((self.num_rows,), -math.inf, dtype=torch.float64)
        previous, change = done, torch.full_like(done, math.inf)
        result = torch.full_like(done, math.nan)
        for level in range(MAX_LEVELS):
            log_joint = self._log_joint(row, position)
            mass = log_joint + self.dim * math.log(size) + self.width.log().sum(-1)[row]
            total = torch.logaddexp(done, _log_sum(mass, row, self.num_rows))
            is_open = result.isnan()
            change = torch.where(is_open, (total - previous).abs(), change)
            result = torch.where(is_open & (change < TOLERANCE), total, result)
            divide = self._cells_to_divide(result.isnan(), row, log_joint, mass, total, level)
            keep = result.isnan()[row] & ~divide
            if not divide.any() or int(divide.sum()) * 2**self.dim > MAX_CELLS:
                break
            done = torch.logaddexp(done, _log_sum(mass[keep], row[keep], self.num_rows))
            previous = total
            position = halves_of_cells(position[divide], level)
            row, size = row[divide].repeat_interleave(2**self.dim), size / 2
        self._check(result)
        return result, change

    def _cells_to_divide(
        self, is_open: Tensor, row: Tensor, log_joint: Tensor, mass: Tensor, total: PerRow, level: int
    ) -> Tensor:
        """Which cells to halve: high ones at first, as peaks may be narrower than cells; later those with mass."""
        top = torch.full((self.num_rows,), -math.inf, dtype=torch.float64).scatter_reduce(0, row, log_joint, "amax")
        high = is_open[row] & (log_joint > top[row] - MAX_DROP[min(level, len(MAX_DROP) - 1)])
        if level < len(MAX_DROP) - 1:
            return high
        number = torch.bincount(row, minlength=self.num_rows)[row]
        return high & (mass + number.log() > total[row] + math.log(MIN_SHARE))

    def _log_joint(self, row: Tensor, position: Tensor) -> Tensor:
        """log p(x, u) at positions (M, K) in the rows' boxes, from 0 to 1 along each side, (M,) float64."""
        parts = []
        for index, within in zip(row.split(self.chunk_size), position.split(self.chunk_size), strict=True):
            u = (self.low[index] + within * self.width[index]).to(self.batch.x)
            batch = self.batch.take(index.to(self.batch.x.device))
            parts.append(self.joint.over(batch).at(u).log_joint.cpu().double())
        return torch.cat(parts).nan_to_num(nan=-math.inf)

    def _check(self, result: PerRow) -> None:
        if result.isnan().any():
            raise InputError(
                f"the grid did not converge for {int(result.isnan().sum())} of {self.num_rows} rows: their posteriors "
                "are too narrow or too rough; use importance sampling or annealing"
            )
        if (more := is_exceeded(result, self.log_weights)).any():
            raise InputError(
                f"the guide's draws find more probability than the grid in {int(more.sum())} rows, so the grid has "
                "missed part of their posteriors; use importance sampling or annealing"
            )


def cell_centres(dim: int) -> tuple[Tensor, Tensor]:
    """The centres (S, K) of the first cells, from 0 to 1 along each side, and which of them lie at the edge (S,)."""
    cells = INITIAL_CELLS[dim]
    side = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    centres = torch.cartesian_prod(*[side] * dim).reshape(-1, dim)
    return centres, ((centres < 1 / cells) | (centres > 1 - 1 / cells)).any(-1)


def halves_of_cells(centres: Tensor, level: int) -> Tensor:
    """The centres of cells that are halved along each side.

    Args:
        centres: the centres of the cells, (S, K).
        level: how often the first cells were halved before.

    Returns:
        The centres of the smaller cells, (2^K S, K).
    """
    dim = centres.shape[-1]
    quarter = 0.25 / (INITIAL_CELLS[dim] * 2**level)
    ends = torch.tensor([-quarter, quarter], dtype=centres.dtype)
    return (centres[:, None] + torch.cartesian_prod(*[ends] * dim).reshape(-1, dim)).flatten(0, 1)


def is_exceeded(log_px: PerRow, log_weights: Tensor) -> Tensor:
    """Where the guide's draws find more mass than a grid did, (N,).

    Args:
        log_px: the grid's log p(x), (N,).
        log_weights: log p(x, u) − log q(u | x) of S draws for each row, (S, N).

    Returns:
        True where they exceed the grid by more than `MAX_EXCESS` and five standard errors.
    """
    sampled = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
    standard_error = torch.exp(log_weights - sampled).std(0) / math.sqrt(len(log_weights))
    return sampled - log_px > MAX_EXCESS + 5 * standard_error


def _log_sum(values: Tensor, row: Tensor, num_rows: int) -> PerRow:
    """log Σ exp of the values of each row, −∞ for rows that have none."""
    top = torch.full((num_rows,), -math.inf, dtype=values.dtype, device=values.device).scatter_reduce(
        0, row, values, "amax"
    )
    safe = top.nan_to_num(neginf=0.0)
    return torch.zeros_like(top).scatter_add(0, row, torch.exp(values - safe[row])).log() + safe
