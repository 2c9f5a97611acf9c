"""log p(x) by an adaptive grid over one or two latents of each row."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, RowLatents

CELLS = {1: 1024, 2: 64}  # of the first grid, on each side
KEEP = (200.0, 100.0, 50.0, 25.0)  # nats below a row's highest cell at which cells are not divided further, by level
LEVELS, TOLERANCE = 14, 1e-4
BOX_DRAWS, BOX_SPREADS, BOX_DOUBLINGS = 64, 8.0, 24
ROWS_OF_A_SUM, ROWS_OF_A_GRID, MAX_CELLS = 1000, 64, 8_000_000
DROPPED = 1e-7  # share of a row's mass below which a cell, times their number, is not divided further
FOUND_MORE = 0.05  # nats by which the guide's draws may exceed a grid, beside five of their standard errors


def _log_joint(joint: UnconstrainedJoint, u: RowLatents) -> PerRow:
    point = joint.at(u)
    return point.likelihood + point.prior


class _Grid:
    """The integral over u for some rows, by cells that are halved where a row's posterior is. Bookkeeping on the
    CPU."""

    def __init__(self, program: Any, plates: PlateStructure, batch: Batch, at_once: int) -> None:
        self.program, self.plates, self.batch, self.at_once = program, plates, batch, at_once
        self.num_rows = len(batch.x)
        repeated = batch.take(torch.arange(self.num_rows, device=batch.x.device).repeat(BOX_DRAWS))
        joint = UnconstrainedJoint(program, plates, repeated)
        self.dim = joint.dim
        guide, prior = joint.from_guide(), joint.from_prior()
        point = joint.at(guide, guide=True)
        assert point.guide is not None
        log_weights = (point.likelihood + point.prior - point.guide).cpu().double()
        self.log_weights = log_weights.unflatten(0, (BOX_DRAWS, -1))
        ends = []
        for draws in (guide, prior):
            apart = draws.cpu().double().unflatten(0, (BOX_DRAWS, -1))
            reach = BOX_SPREADS * apart.std(0)
            ends.append((apart.mean(0) - reach, apart.mean(0) + reach))
        self.low = torch.minimum(ends[0][0], ends[1][0])
        self.width = torch.maximum(ends[0][1], ends[1][1]) - self.low
        cells = CELLS[self.dim]
        side = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        self.places = torch.cartesian_prod(*[side] * self.dim).reshape(-1, self.dim)
        self.edge = ((self.places < 1 / cells) | (self.places > 1 - 1 / cells)).any(-1)

    def _enclose(self) -> None:
        """Double a row's box until its edge has no mass to speak of; `InputError` where no box does."""
        wrong = torch.arange(self.num_rows)
        for _ in range(BOX_DOUBLINGS):
            height = self._heights(wrong.repeat_interleave(len(self.places)), self.places.repeat(len(wrong), 1))
            height = height.unflatten(0, (len(wrong), -1))
            inside = torch.logsumexp(height, 1) - math.log(len(self.places))
            outside = height[:, self.edge].amax(1)  # as if the whole box were as high as its edge
            wrong = wrong[~(outside - inside < math.log(TOLERANCE / 10))]
            if not len(wrong):
                return
            self.low[wrong] -= self.width[wrong] / 2
            self.width[wrong] *= 2
        raise InputError(
            f"no box holds the posterior of {len(wrong)} of {self.num_rows} rows: their tails are too heavy for a "
            "grid; use importance sampling or annealing"
        )

    def settle(self) -> tuple[PerRow, PerRow]:
        """log p(x) (n,) and by how much the last halving moved it."""
        self._enclose()
        row = torch.arange(self.num_rows).repeat_interleave(len(self.places))
        share, size = self.places.repeat(self.num_rows, 1), 1 / CELLS[self.dim]
        done = torch.full((self.num_rows,), -math.inf, dtype=torch.float64)
        before, moved = done, torch.full_like(done, math.inf)
        result = torch.full_like(done, math.nan)
        halves = torch.cartesian_prod(*[torch.tensor([-0.25, 0.25], dtype=torch.float64)] * self.dim)
        halves = halves.reshape(-1, self.dim)
        for level in range(LEVELS):
            height = self._heights(row, share)
            mass = height + self.dim * math.log(size) + self.width.log().sum(-1)[row]
            total = torch.logaddexp(done, _log_sum(mass, row, self.num_rows))
            settling = result.isnan()
            moved = torch.where(settling, (total - before).abs(), moved)
            result = torch.where(settling & (moved < TOLERANCE), total, result)
            kept = self._worth_dividing(result.isnan(), row, height, mass, total, level)
            left = result.isnan()[row] & ~kept
            if not kept.any() or int(kept.sum()) * len(halves) > MAX_CELLS:
                break
            done = torch.logaddexp(done, _log_sum(mass[left], row[left], self.num_rows))
            before = total
            share = (share[kept][:, None] + size * halves).flatten(0, 1)
            row, size = row[kept].repeat_interleave(len(halves)), size / 2
        self._check(result)
        return result, moved

    def _worth_dividing(
        self, unsettled: Tensor, row: Tensor, height: Tensor, mass: Tensor, total: PerRow, level: int
    ) -> Tensor:
        """Which cells to halve: high ones at first, where peaks may be narrower than cells; then those that hold
        mass."""
        top = torch.full((self.num_rows,), -math.inf, dtype=torch.float64).scatter_reduce(0, row, height, "amax")
        high = unsettled[row] & (height > top[row] - KEEP[min(level, len(KEEP) - 1)])
        if level < len(KEEP) - 1:
            return high
        number = torch.bincount(row, minlength=self.num_rows)[row]
        return high & (mass + number.log() > total[row] + math.log(DROPPED))

    def _heights(self, row: Tensor, share: Tensor) -> Tensor:
        """log p(x, z) at a place of each row's box, (M,) float64."""
        parts = []
        for some, at in zip(row.split(self.at_once), share.split(self.at_once), strict=True):
            u = (self.low[some] + at * self.width[some]).to(self.batch.x)
            batch = self.batch.take(some.to(self.batch.x.device))
            parts.append(_log_joint(UnconstrainedJoint(self.program, self.plates, batch), u).cpu().double())
        return torch.cat(parts).nan_to_num(nan=-math.inf)

    def _check(self, result: PerRow) -> None:
        if result.isnan().any():
            raise InputError(
                f"the grid did not settle for {int(result.isnan().sum())} of {self.num_rows} rows: their posteriors "
                "are too narrow or too rough; use importance sampling or annealing"
            )
        sampled = torch.logsumexp(self.log_weights, 0) - math.log(BOX_DRAWS)
        spread = torch.exp(self.log_weights - sampled).std(0) / math.sqrt(BOX_DRAWS)
        if (more := sampled - result > FOUND_MORE + 5 * spread).any():
            raise InputError(
                f"the guide's draws find more probability than the grid in {int(more.sum())} rows, so the grid has "
                "missed part of their posteriors; use importance sampling or annealing"
            )


def _log_sum(values: Tensor, row: Tensor, num_rows: int) -> PerRow:
    """log Σ exp of the values of each row, −∞ for rows that have none."""
    top = torch.full((num_rows,), -math.inf, dtype=values.dtype, device=values.device).scatter_reduce(
        0, row, values, "amax"
    )
    safe = top.nan_to_num(neginf=0.0)
    return torch.zeros_like(top).scatter_add(0, row, torch.exp(values - safe[row])).log() + safe
