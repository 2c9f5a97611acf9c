"""log p(x) exactly, where it can be: quadratic in z, finitely many z, or one or two dimensions of z."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError, RowsError
from pyro_vae.evidence.logpx import LogPx, Scored, rows_to_score
from pyro_vae.inference.joint import Joint
from pyro_vae.inference.ranks import ALONE, Ranks
from pyro_vae.inference.weights import GivenValues, Weigher, over_plates
from pyro_vae.models.program import parameters_of
from pyro_vae.models.rows import Batch, Layout, caller, evaluating, innermost, require_rows, sample_sites, seeded
from pyro_vae.shapes import PerRow, RowLatents

MANY_VALUES = 100_000  # combinations of discrete latents beyond which a sum is not attempted
QUADRATIC_DIM = 512  # latents beyond which nobody waits for a Hessian
PROBES, ROUNDINGS = 4, 300  # points of each kind at which a quadratic must give log p(x, z), to so many roundings
CELLS = {1: 1024, 2: 64}  # of the first grid, on each side
KEEP = (200.0, 100.0, 50.0, 25.0)  # nats below a row's highest cell at which cells are not divided further, by level
LEVELS, TOLERANCE = 14, 1e-4
BOX_DRAWS, BOX_SPREADS, BOX_DOUBLINGS = 64, 8.0, 24
ROWS_OF_A_SUM, ROWS_OF_A_GRID, MOST_CELLS = 1000, 64, 8_000_000
DROPPED = 1e-7  # share of a row's mass below which a cell, times their number, is not divided further
FOUND_MORE = 0.05  # nats by which the guide's draws may exceed a grid, beside five of their standard errors


@dataclass(frozen=True, kw_only=True, repr=False)
class Exact(LogPx):
    """log p(x) with no Monte-Carlo error: `mc_se` is zero, `way` says how it was found.

    `the program's own`, `closed form` and `sum` are exact to rounding of the program's floating type (float32: seven
    digits of log p(x)), `grid` beside that to `error` (N,) nats, by which the last halving of its cells moved each row.
    """

    error: Tensor
    way: str
    kind: str = "exact"

    def __repr__(self) -> str:
        return self._in_words(self.way)


def exact_evidence(
    program: Any,
    data: Dataset | Split | Tensor,
    *,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 128,
    seed: int | None = 0,
    ranks: Ranks = ALONE,
) -> Exact:
    r"""$\log p(x_i) = \log \int p(x_i, z) dz$ of each row, where it can be had without sampling.

    Four ways, the first that applies. *The program's own*: it has a method `log_prob(x)` (N,), as mixtures and PPCA do.
    *Closed form*: log p(x, z) is quadratic in z, as in linear-Gaussian models of
    any depth and dimension; its Hessian H (from K gradients, checked at further points) gives $\log p(x, z^*) + \frac
    K2 \log 2\pi - \frac12 \log\det(-H)$. *Sum*: every latent takes finitely many values. *Grid*: one or two continuous
    dimensions, over cells that are halved where the posterior is until no row moves by more than 1e-4. The guide's
    draws are held against the grid; if they find more than it did, it is an error and not a number. Shapes and extras
    as in `log_evidence`; nats per row.

    Raises `InputError` where none of the four applies or the grid does not settle, `RowsError` where a row has no
    weight of its own.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> x = torch.ones(3, 5)
    >>> exact, sampled = pv.exact_evidence(vae, x), pv.log_evidence(vae, x, prior_share=1.0)
    >>> exact.way, bool((exact.log_px - sampled.log_px).abs().max() < 0.1)
    ('grid', True)
    """
    split, places = rows_to_score(data, rows, labels)
    with parameters_of(program), seeded(seed), evaluating(program), pyro.validation_enabled(False), torch.no_grad():
        scored = Scored(program, split, places, ranks, seed)
        way, of_batch, size = _way(program, scored, memory_mib)
        found = scored.of_batches(size, of_batch)
    log_px, error = (torch.cat(parts).cpu().double() for parts in zip(*found, strict=True))
    return Exact(
        log_px=log_px + split.log_jacobian,
        mc_se=torch.zeros(len(log_px), dtype=torch.float64),
        error=error,
        way=way,
        measure=scored.measure,
    )


OfBatch = Callable[[Batch], tuple[PerRow, PerRow]]


def _way(program: Any, scored: Scored, memory_mib: float) -> tuple[str, OfBatch, int]:
    """Which way applies, its function of a batch, and how many rows go at once."""
    layout, few = scored.layout, scored.first
    budget = memory_mib * 2**20
    if callable(getattr(program, "log_prob", None)):
        require_rows(layout)
        return "the program's own", lambda batch: _own(program, batch), ROWS_OF_A_SUM
    if choices := _finite_values(program, layout, few):
        count = math.prod(len(one.values) ** one.elements for one in choices.values())
        if count > MANY_VALUES:
            raise InputError(f"the latents have {count:,} values together, too many to sum over; sample them")
        return "sum", lambda batch: _sum(program, layout, batch, choices), ROWS_OF_A_SUM
    joint = Joint(program, layout, few)
    each = Weigher(program, layout, few).bytes_per_weight(few)
    if joint.dim <= QUADRATIC_DIM and _quadratic(joint) is not None:
        size = max(1, int(budget // (3 * each + 8 * joint.dim**2)))
        return "closed form", lambda batch: _closed_form(program, layout, batch), size
    if joint.dim in CELLS:
        at_once = max(1, int(budget // each))
        return "grid", lambda batch: _Grid(program, layout, batch, at_once).settle(), ROWS_OF_A_GRID
    raise InputError(
        f"no exact log p(x) for this program: its {joint.dim} latent dimensions are continuous, more than two, and "
        "log p(x, z) is not quadratic in them; use importance sampling or annealing"
    )


def _own(program: Any, batch: Batch) -> tuple[PerRow, PerRow]:
    log_px = program.log_prob(batch.x).cpu().double()
    return log_px, torch.zeros_like(log_px)


@dataclass(frozen=True)
class _Choices:
    """What a discrete site can be: `values` (V, …) for each of a row's `elements`, independently, laid out as
    `rest`."""

    values: Tensor
    elements: int
    rest: torch.Size
    row_axis: int

    def value(self, chosen: tuple[int, ...], num_rows: int) -> Tensor:
        """The site's value for n rows, every row alike."""
        of_row = self.values[list(chosen)].reshape(self.rest)
        return of_row.expand(num_rows, *self.rest).movedim(0, self.row_axis)


def _finite_values(program: Any, layout: Layout, few: Batch) -> dict[str, _Choices]:
    """What each latent can be, if all have finitely many values; nothing where one has not."""
    trace = poutine.trace(caller(program.model)).get_trace(few.x, few.extras)
    latents = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}
    bases = {name: innermost(site["fn"]) for name, site in latents.items()}
    if not latents or not all(base.has_enumerate_support for base in bases.values()):
        return {}
    if layout.row_dim is None or (alone := [name for name in latents if name in layout.outside]):
        names = ", ".join(latents if layout.row_dim is None else alone)
        raise RowsError(f"{names} lies outside the plate over rows, so no row has a log p(x) of its own")
    found = {}
    for name, base in bases.items():
        try:
            values = base.enumerate_support(expand=False)
        except NotImplementedError as error:
            raise InputError(f"the values of the latent {name} cannot be listed: {error}; sample it") from error
        values = values.reshape(len(values), *base.event_shape)
        axis = layout.row_dim - latents[name]["fn"].event_dim
        rest = latents[name]["value"].movedim(axis, 0).shape[1:]
        found[name] = _Choices(values, rest.numel() // base.event_shape.numel(), rest, axis)
    return found


def _sum(program: Any, layout: Layout, batch: Batch, choices: dict[str, _Choices]) -> tuple[PerRow, PerRow]:
    total = torch.full((len(batch.x),), -math.inf, dtype=torch.float64)
    each = [itertools.product(range(len(one.values)), repeat=one.elements) for one in choices.values()]
    for combination in itertools.product(*each):
        pairs = zip(choices.items(), combination, strict=True)
        given = {name: one.value(chosen, len(batch.x)) for (name, one), chosen in pairs}
        trace = poutine.trace(GivenValues(given)(caller(program.model))).get_trace(batch.x, batch.extras)
        trace.compute_log_prob()
        assert layout.row_dim is not None
        log_joint = sum(over_plates(site, {layout.row_dim}) for site in sample_sites(trace).values())
        total = torch.logaddexp(total, torch.as_tensor(log_joint).cpu().double())
    return total, torch.zeros_like(total)


def _log_joint(joint: Joint, u: RowLatents) -> PerRow:
    point = joint.at(u)
    return point.likelihood + point.prior


def _gradient(joint: Joint, u: RowLatents) -> RowLatents:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        return torch.autograd.grad(_log_joint(joint, u).sum(), u)[0]


def _quadratic(joint: Joint) -> tuple[Tensor, Tensor] | None:
    """The mode z* (n, K) and −H (n, K, K) of a quadratic log p(x, z); None where it is not one.

    Draws of the prior, of thrice its width, and of the guide have to agree with it.
    """
    start = joint.from_prior()
    if (slope := _gradient(joint, start)).isnan().any():
        return None
    columns = [slope - _gradient(joint, start + unit) for unit in torch.eye(joint.dim).to(start)]
    precision = torch.stack(columns, -1).cpu().double()  # on the CPU: not every accelerator has doubles
    precision = (precision + precision.mT) / 2
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        return None
    mode = start + torch.cholesky_solve(slope.cpu().double()[..., None], factor)[..., 0].to(start)
    top = _log_joint(joint, mode).cpu().double()
    probes = [stretch * joint.from_prior() for stretch in (1.0, 3.0) for _ in range(PROBES)]
    for u in probes + [joint.from_guide() for _ in range(PROBES)]:
        away = (u - mode).cpu().double()
        expected = top - 0.5 * torch.einsum("nj,njk,nk->n", away, precision, away)
        found = _log_joint(joint, u).cpu().double()
        allowed = ROUNDINGS * torch.finfo(u.dtype).eps * (1 + top.abs() + found.abs())
        if not ((found - expected).abs() <= allowed).all():
            return None
    return mode, precision


def _closed_form(program: Any, layout: Layout, batch: Batch) -> tuple[PerRow, PerRow]:
    joint = Joint(program, layout, batch)
    if (found := _quadratic(joint)) is None:
        raise InputError("log p(x, z) is quadratic in z for the first rows and not for others; sample it")
    mode, precision = found
    halves = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_px = _log_joint(joint, mode).cpu().double() + joint.dim / 2 * math.log(2 * math.pi) - halves
    return log_px, torch.zeros_like(log_px)


class _Grid:
    """The integral over u for some rows, by cells that are halved where a row's posterior is. Bookkeeping on the
    CPU."""

    def __init__(self, program: Any, layout: Layout, batch: Batch, at_once: int) -> None:
        self.program, self.layout, self.batch, self.at_once = program, layout, batch, at_once
        self.num_rows = len(batch.x)
        repeated = batch.take(torch.arange(self.num_rows, device=batch.x.device).repeat(BOX_DRAWS))
        joint = Joint(program, layout, repeated)
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
            if not kept.any() or int(kept.sum()) * len(halves) > MOST_CELLS:
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
            parts.append(_log_joint(Joint(self.program, self.layout, batch), u).cpu().double())
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
