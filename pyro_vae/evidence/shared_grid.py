"""log p(x) by a grid over one or two latents that all rows share: a point is decoded once for all of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.evidence.grid_quadrature import (
    BOX_DRAWS,
    BOX_SCALES,
    INITIAL_CELLS,
    MAX_DROP,
    MAX_LEVELS,
    MIN_SHARE,
    TOLERANCE,
    AdaptiveGrid,
    cell_centres,
    halves_of_cells,
    is_exceeded,
)
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.shared_latents import SharedLatents
from pyro_vae.typing import PerRow, Program

MAX_ROWS_PER_ADAPTIVE_GRID = 64
PRIOR_DRAWS, BOX_QUANTILES = 1024, (0.01, 0.99)
MAX_BOX_DOUBLINGS = 8
MAX_CHANGE = 1e-3  # nats by the last halving; a midpoint sum's error is then far smaller, as it falls exponentially
MAX_CELL_SHARE = {1: 0.3, 2: 0.1}  # of a row's mass in one cell where its sum counts as converged, by dimensions
MIN_CELLS = {1: 8, 2: 64}  # of a row that are divided however far below the highest: it may not be next to the mode
NEARLY_CONVERGED = 0.1  # nats of change below which only cells with mass are divided
BYTES_PER_ENTRY = 16  # a row's log density in a cell, and a copy
SHARE_OF_POINTS = 0.25  # of the memory, for the densities' work in progress; the rest is for the densities
ROWS_PER_SUM = 32  # whose log densities are exponentiated in one call
MIN_ROWS_PER_LABEL = 4
MAX_CHEAP_GRIDS = 8  # of single rows, where a cheap integral is asked for


def integrate_by_grid(
    program: Program, plates: PlateStructure, batch: Batch, memory: float, bytes_per_row: int, *, cheap: bool = False
) -> tuple[PerRow, PerRow]:
    """log p(x) of some rows, by a grid that they share where that is possible, else by a grid for each row.

    Rows share a grid where likelihood and prior do not depend on the row, as `SharedLatents.find` tests, or depend on
    its label and its own inputs (conditions) alone. Rows whose shared grid does not converge, or has less mass than the
    guide's draws find, have one of their own.

    Args:
        program: a program with one or two continuous latents.
        plates: its plates.
        batch: the N rows.
        memory: for the work in progress, bytes.
        bytes_per_row: what a run of the program writes for one row.
        cheap: whether more than a few rows that need a grid of their own are left out.

    Returns:
        log p(x) (N,), nats, and by how much the last halving of cells changed it: NaN and infinite for rows that are
        left out, NaN both where the density is NaN; `InputError` where no grid converges.
    """
    log_px = torch.full((len(batch.x),), math.nan, dtype=torch.float64)
    error = torch.full_like(log_px, math.inf)
    for rows, shared in _rows_that_share(program, plates, batch, SHARE_OF_POINTS * memory, bytes_per_row):
        log_px[rows], error[rows] = SharedGrid(shared, (1 - SHARE_OF_POINTS) * memory).integrate()
    chunk_size = max(1, int(memory // bytes_per_row))
    unresolved = log_px.isnan().nonzero()[:, 0]
    if cheap and len(unresolved) > MAX_CHEAP_GRIDS:
        if len(unresolved) == len(log_px):
            raise InputError("each row needs a grid of its own, which is expensive")
        return log_px, error
    for rows in unresolved.split(MAX_ROWS_PER_ADAPTIVE_GRID) if len(unresolved) else ():
        own = AdaptiveGrid(program, plates, batch.take(rows.to(batch.x.device)), chunk_size)
        error[rows[has_nan := own.log_weights.isnan().any(0)]] = math.nan
        if has_nan.all():
            continue
        if has_nan.any():  # these rows have no number
            rows = rows[~has_nan]
            own = AdaptiveGrid(program, plates, batch.take(rows.to(batch.x.device)), chunk_size)
        log_px[rows], error[rows] = own.integrate()
    return log_px, error


def _rows_that_share(
    program: Program, plates: PlateStructure, batch: Batch, memory: float, bytes_per_row: int
) -> Iterator[tuple[Tensor, SharedLatents]]:
    """The rows of a batch that can share a grid, all of them or those of one label, or equal inputs, at a time."""
    everyone = torch.arange(len(batch.x))
    shared = SharedLatents.find(program, plates, batch, memory, bytes_per_row)
    if shared is not None:
        if shared.dim == 1 or shared.is_product:  # value by value, a grid for each row is no slower
            yield everyone, shared
        return
    known = [each for each in (batch.labels, *batch.inputs.values()) if each is not None]
    if not known:
        return
    table = torch.cat([each.cpu().double().reshape(len(each), -1) for each in known], 1).nan_to_num(nan=math.inf)
    _, label = table.unique(dim=0, return_inverse=True)
    num_labels = int(label.max()) + 1
    if num_labels == 1 or num_labels * MIN_ROWS_PER_LABEL > len(everyone):
        return
    for one in range(num_labels):
        rows = everyone[label == one]
        part = batch.take(rows.to(batch.x.device))
        shared = SharedLatents.find(program, plates, part, memory, bytes_per_row)
        if shared is not None and (shared.dim == 1 or shared.is_product):
            yield rows, shared


@dataclass(frozen=True)
class _Box:
    """The box low … low + width of the unconstrained space, (K,) float64 each; positions in it are from 0 to 1."""

    low: Tensor
    width: Tensor

    def doubled(self) -> "_Box":
        return _Box(self.low - self.width / 2, 2 * self.width)


@dataclass(frozen=True)
class _Cells:
    """Cells that R rows share, by their centres (S, K); all have the size 2^−level of the first.

    Attributes:
        box: the box that they lie in.
        rows: the rows' indices (R,).
        centres: positions in the box, (S, K).
        level: how often cells were halved.
        done: log of the mass of each row in larger cells that are not divided further, (R,).
        previous: log of the mass of each row before the last halving, (R,).
    """

    box: _Box
    rows: Tensor
    centres: Tensor
    level: int
    done: PerRow
    previous: PerRow

    def take(self, index: Tensor, previous: PerRow) -> "_Cells":
        """The cells of some of the rows."""
        return replace(self, rows=self.rows[index], done=self.done[index], previous=previous[index])

    @property
    def log_volume(self) -> float:
        """log of the volume of a cell."""
        dim = len(self.box.width)
        return float(self.box.width.log().sum()) - dim * (math.log(INITIAL_CELLS[dim]) + self.level * math.log(2))


class SharedGrid:
    """The integral over u for all rows at once, by cells that are halved where any row needs it.

    A box around draws of prior and guide is doubled for the rows that have mass at its edge or beyond. Cells of equal
    size are a midpoint sum, whose error falls exponentially once cells are narrower than a posterior, so the change by
    the last halving is an upper limit of a row's error. Rows leave once it is below `MAX_CHANGE`; cells in which no
    remaining row has mass are not divided. Groups that need too much memory are split, by where their modes are.

    Args:
        shared: the rows' densities at shared points.
        memory: for the densities of rows in cells, bytes.
    """

    def __init__(self, shared: SharedLatents, memory: float) -> None:
        self.shared, self.dim = shared, shared.dim
        self.max_entries = max(1, int(memory // BYTES_PER_ENTRY))
        self.centres, self.is_edge = cell_centres(self.dim)
        around = 2 * self.centres - 0.5  # the same number of cells in a box of twice the width
        self.outside = around[((around < 0) | (around > 1)).any(-1)]
        self.log_px = torch.full((shared.num_rows,), math.nan, dtype=torch.float64)
        self.error = torch.full_like(self.log_px, math.inf)

    def integrate(self) -> tuple[PerRow, PerRow]:
        """log p(x) (N,) and by how much the last halving changed it; NaN for rows that need a grid of their own."""
        box, log_weights = self._first_box()
        rows = torch.arange(self.shared.num_rows)
        for _ in range(MAX_BOX_DOUBLINGS):
            size = max(1, self.max_entries // len(self.centres))
            rows = torch.cat([self._integrate_enclosed(box, part) for part in rows.split(size)])
            if not len(rows):
                break
            box = box.doubled()
        self.log_px[is_exceeded(self.log_px, log_weights)] = math.nan
        return self.log_px, self.error

    def _first_box(self) -> tuple[_Box, Tensor]:
        """A box that holds draws of prior and guide, and the log weights of the guide's draws, (draws, N)."""
        prior = self.shared.points(PRIOR_DRAWS).from_prior().cpu().double()
        low, high = prior.quantile(torch.tensor(BOX_QUANTILES, dtype=torch.float64), 0)
        low, high = 2 * low - high, 2 * high - low
        log_weights = []
        for rows in torch.arange(self.shared.num_rows).split(MAX_ROWS_PER_ADAPTIVE_GRID):
            draws = self.shared.joint.over(self.shared.joint.batch.take(rows.repeat(BOX_DRAWS).to(self._device)))
            proposal = draws.proposal()
            u, point = proposal.u, draws.at(proposal.u, guide=proposal.is_guide)
            log_q = point.prior if point.guide is None else point.guide
            log_weights.append((point.log_joint - log_q).cpu().double().unflatten(0, (BOX_DRAWS, -1)))
            by_row = u.cpu().double().unflatten(0, (BOX_DRAWS, -1))
            margin, reach = BOX_SCALES * by_row.std(0), 2 * (high - low)
            low = torch.minimum(low, (by_row.mean(0) - margin).amin(0).clamp(min=low - reach))
            high = torch.maximum(high, (by_row.mean(0) + margin).amax(0).clamp(max=high + reach))
        return _Box(low, high - low), torch.cat(log_weights, 1)

    @property
    def _device(self) -> torch.device:
        return self.shared.joint.batch.x.device

    def _log_joint(self, box: _Box, rows: Tensor, centres: Tensor) -> Tensor:
        """log p(x, u) of rows (R,) at positions (S, K) in a box, (R, S) on the CPU."""
        points = self.shared.at((box.low + centres * box.width).to(self._device), rows)
        return points.log_joint.cpu().nan_to_num(nan=-math.inf)

    def _integrate_enclosed(self, box: _Box, rows: Tensor) -> Tensor:
        """Integrate the rows that the box holds, and return the others: those with mass at its edge or beyond."""
        log_joint = self._log_joint(box, rows, self.centres)
        inside = torch.logsumexp(log_joint, 1) - math.log(len(self.centres))
        edge = log_joint[:, self.is_edge].amax(1)  # as if the density were that of the edge everywhere
        beyond = self._log_joint(box, rows, self.outside).amax(1) + self.dim * math.log(2)
        held = torch.maximum(edge, beyond) - inside < math.log(TOLERANCE / 10)
        start = torch.full((int(held.sum()),), -math.inf, dtype=torch.float64)
        cells = _Cells(box, rows[held], self.centres, 0, start, start)
        groups = self._halve(cells, log_joint[held])
        while groups:
            cells = groups.pop()
            groups += self._halve(cells, self._log_joint(box, cells.rows, cells.centres))
        return rows[~held]

    def _halve(self, cells: _Cells, log_joint: Tensor) -> list[_Cells]:
        """Take the sums of rows that have converged, and halve the cells that the others need."""
        total = torch.logaddexp(cells.done, _log_sum(log_joint) + cells.log_volume)
        change, top = (total - cells.previous).abs(), log_joint.amax(1)
        resolved = top + cells.log_volume - total < math.log(MAX_CELL_SHARE[self.dim])
        converged = resolved & (change < MAX_CHANGE)
        rows = cells.rows[converged]
        self.log_px[rows], self.error[rows] = total[converged], change[converged]
        least = torch.where(
            resolved & ((change < NEARLY_CONVERGED) | (cells.level >= len(MAX_DROP) - 1)),
            torch.maximum(total + math.log(MIN_SHARE / len(cells.centres)) - cells.log_volume, top - MAX_DROP[-1]),
            torch.minimum(top - MAX_DROP[min(cells.level, len(MAX_DROP) - 1)], self._high(log_joint)),
        )
        divide = log_joint > least[:, None]
        open_rows = (~converged).nonzero()[:, 0]
        return self._split(cells.take(open_rows, previous=total), log_joint, divide, open_rows)

    def _high(self, log_joint: Tensor) -> PerRow:
        """The log density below each row's highest cells, which are divided however narrow its posterior is, (R,)."""
        number = min(MIN_CELLS[self.dim], log_joint.shape[1] - 1) + 1
        parts = [part.topk(number, 1).values[:, -1] for part in log_joint.split(ROWS_PER_SUM)]
        return torch.cat(parts)

    def _split(self, cells: _Cells, log_joint: Tensor, divide: Tensor, index: Tensor) -> list[_Cells]:
        """The halved cells of a group of rows, or of two parts of the rows where these are too many.

        `index` has the group's rows in `log_joint` and `divide`.
        """
        needed = torch.zeros(len(cells.centres), dtype=torch.bool)
        for part in index.split(ROWS_PER_SUM):
            needed |= divide[part].any(0)
        num_rows, num_cells = len(index), int(needed.sum()) * 2**self.dim
        if not num_cells or cells.level + 1 == MAX_LEVELS or (num_rows == 1 and num_cells > self.max_entries):
            return []
        if num_rows * num_cells > self.max_entries:
            modes = cells.centres[torch.cat([log_joint[part].argmax(1) for part in index.split(ROWS_PER_SUM)])]
            order = modes[:, (modes.amax(0) - modes.amin(0)).argmax()].argsort()
            halves = order.tensor_split(2)
            return [
                group
                for part in halves
                for group in self._split(cells.take(part, cells.previous), log_joint, divide, index[part])
            ]
        rest = torch.cat([_log_sum(log_joint[part][:, ~needed]) for part in index.split(ROWS_PER_SUM)])
        done = torch.logaddexp(cells.done, rest + cells.log_volume)
        centres = halves_of_cells(cells.centres[needed], cells.level)
        return [_Cells(cells.box, cells.rows, centres, cells.level + 1, done, cells.previous)]


def _log_sum(log_joint: Tensor) -> PerRow:
    """log Σ exp over cells, a few rows at a time, as their exponentials need as much memory again; (R,)."""
    return torch.cat([torch.logsumexp(part, 1) for part in log_joint.split(ROWS_PER_SUM)])
