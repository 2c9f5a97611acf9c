"""Exact log p(x): by a program's `log_prob`, for log p(x, z) quadratic in z, for finitely many z, or on a grid.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
>>> x = torch.ones(3, 5)
>>> exact, sampled = pv.exact_evidence(vae, x), pv.log_evidence(vae, x, prior_share=1.0)
>>> exact.method, bool((exact.log_px - sampled.log_px).abs().max() < 0.1)
('grid', True)
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError, RowsError
from pyro_vae.evidence.grid_quadrature import INITIAL_CELLS
from pyro_vae.evidence.log_px_result import LogPx, require_log_probabilities
from pyro_vae.evidence.shared_grid import integrate_by_grid
from pyro_vae.models import exact_density as models
from pyro_vae.programs.log_densities import sum_sites
from pyro_vae.programs.log_weights import CountOperations, LogWeightSampler
from pyro_vae.programs.masked_latents import mask_of, uniform_where_masked
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure, require_row_plate
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import SubstituteLatents, sample_sites, unwrap_independent
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Density, PerRow, Program, RowLatents

MAX_COMBINATIONS = 100_000  # of the values of discrete latents in a sum
MAX_HESSIAN_DIM = 512  # latents for which a Hessian is computed
NUM_PROBES = 4  # points of each kind at which a quadratic is compared with log p(x, z)
MAX_ROUNDING_ERRORS = 300  # by which the two may differ, in units of machine epsilon
MAX_CHEAP_BYTES = 24_576  # that a decoder writes for a point of a grid of some 300,000
MAX_ROWS_PER_SUM, MAX_ROWS_PER_GRID = 1000, 512


@dataclass(frozen=True, kw_only=True, repr=False)
class Exact(LogPx):
    """log p(x) with no Monte-Carlo error: `mc_se` is zero, `method` says how it was computed.

    `the program's own`, `closed form` and `sum` are exact to rounding of the program's floating type (float32: seven
    digits of log p(x)), `grid` also to `error` (N,) nats, by which the last halving of its cells changed each row,
    whether rows shared the cells or not.
    """

    error: Tensor
    method: str
    kind: str = "exact"

    def __repr__(self) -> str:
        return self._describe(self.method)


@check_call
def exact_evidence(
    program: Program,
    data: RowsGiven,
    *,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 128,
    seed: int | None = 0,
    cheap: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Exact:
    r"""$\log p(x_i) = \log \int p(x_i, z) dz$ of each row, where it can be computed without sampling.

    Four methods, the first that applies. *The program's own*: it has a method `log_prob(x)` (N,), as mixtures and PPCA
    do. *Closed form*: log p(x, z) is quadratic in z, as in linear-Gaussian models of any depth and dimension; its
    Hessian H (from K gradients, checked at further points) gives
    $\log p(x, z^*) + \frac K2 \log 2\pi - \frac12 \log\det(-H)$. *Sum*: every latent takes finitely many values.
    *Grid*: one or two continuous dimensions, over cells that are halved where posteriors have mass until no row changes
    by more than 1e-3; the error of the sum is then far smaller. Where likelihood and prior do not depend on the row,
    as is tested, all rows share the cells, and each is decoded once; else, and for rows that they do not resolve, each
    row has its own. The grid's value is compared with the guide's draws; it is an error if they find more mass.

    Raises `InputError` where none of the four applies or the grid does not converge, `RowsError` where a row has no
    weight of its own.

    Args:
        program: any program.
        data: a tensor (N, D), a split, or a data set (its test split).
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the work in progress, in MiB.
        seed: seed of the draws that the methods are checked with; None leaves the random state as it is.
        cheap: whether grids that cost more than many draws of each row are left out: a large decoder is refused, and
            where more than a few rows need a grid of their own, these have NaN and an infinite `error`.
        group: the processes that share the rows; each gets every result.

    Returns:
        log p(x) (N,), nats per row, and the method.
    """
    split, rows = rows_to_score(data, rows, labels)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False), torch.no_grad():
        scored = ScoredRows(program, split, rows, group, seed, allow_zero=True, needs_guide=False)
        method, of_batch, size = _choose_method(scored.program, scored, memory_mib, cheap)
        results = scored.map_batches(size, of_batch)
    log_px, error = (torch.cat(parts).cpu().double() for parts in zip(*results, strict=True))
    log_px = require_log_probabilities(log_px, "log p(x)", scored.plates)
    log_px, error = scored.restore(log_px), scored.restore(error, 0.0)
    no_number = {int(row): "its log density is NaN" for row in log_px.isnan().nonzero()}
    return Exact(
        log_px=log_px + split.log_jacobian,
        mc_se=torch.where(log_px.isnan(), log_px, 0.0),
        error=error,
        method=method,
        measure=scored.measure,
        reasons=no_number | scored.reasons,
        weights=split.weights,
    )


OfBatch = Callable[[Batch], tuple[PerRow, PerRow]]


def _choose_method(program: Program, scored: ScoredRows, memory_mib: float, cheap: bool) -> tuple[str, OfBatch, int]:
    """The first method that applies, its function of a batch, and the batch size."""
    plates, example = scored.plates, scored.first
    budget = memory_mib * 2**20
    if isinstance(program, Density):
        require_row_plate(plates)
        return "the program's own", lambda batch: _program_log_prob(program, batch), MAX_ROWS_PER_SUM
    if choices := _finite_values(program, plates, example):
        count = math.prod(len(site.values) ** site.elements for site in choices.values())
        if count > MAX_COMBINATIONS:
            raise InputError(f"the latents have {count:,} values together, too many to sum over; sample them")
        return "sum", lambda batch: _sum(program, plates, batch, choices), MAX_ROWS_PER_SUM
    joint = UnconstrainedJoint(program, plates, example)
    bytes_per_row = LogWeightSampler(program, plates, example).bytes_per_weight(example)
    if joint.dim <= MAX_HESSIAN_DIM and _quadratic(joint) is not None:
        size = max(1, int(budget // (3 * bytes_per_row + 8 * joint.dim**2)))
        return "closed form", lambda batch: _closed_form(program, plates, batch), size
    if joint.dim in INITIAL_CELLS:
        if cheap and (bytes_per_row > MAX_CHEAP_BYTES or _convolves(joint)):
            raise InputError("a grid of a large or convolutional decoder is expensive")
        integrate = lambda batch: integrate_by_grid(  # noqa: E731
            program, plates, batch, budget, bytes_per_row, cheap=cheap
        )
        return "grid", integrate, MAX_ROWS_PER_GRID
    raise InputError(
        f"no exact log p(x) for this program: its {joint.dim} latent dimensions are continuous, more than two, and "
        "log p(x, z) is not quadratic in them; use importance sampling or annealing"
    )


def _convolves(joint: UnconstrainedJoint) -> bool:
    """Whether the model runs convolutions, which take more time than the bytes that they write show."""
    with CountOperations() as counter:
        joint.at(joint.from_prior())
    return bool(counter.convolutions)


def _program_log_prob(program: Density, batch: Batch) -> tuple[PerRow, PerRow]:
    if batch.mask is None:
        log_px = program.log_prob(batch.x).cpu().double()
    elif isinstance(program, models.Density):
        log_px = program.log_density(torch.where(batch.mask, batch.x, math.nan)).cpu().double()
    else:
        raise InputError("values are missing, and the program's log_prob(x) takes no mask: fill them first")
    return log_px, torch.zeros_like(log_px)


@dataclass(frozen=True)
class _Choices:
    """A discrete site's values: `values` (V, …) for each of a row's `elements`, independently, in shape `row_shape`."""

    values: Tensor
    elements: int
    row_shape: torch.Size
    row_axis: int

    def value(self, chosen: tuple[int, ...], num_rows: int) -> Tensor:
        """The site's value for n rows, the same for every row."""
        row = self.values[list(chosen)].reshape(self.row_shape)
        return row.expand(num_rows, *self.row_shape).movedim(0, self.row_axis)


def _finite_values(program: Program, plates: PlateStructure, example: Batch) -> dict[str, _Choices]:
    """Each latent's values if all have finitely many, else an empty dictionary."""
    trace = poutine.trace(bind_supported_kwargs(program.model)).get_trace(example.x, example.row_inputs)
    latents = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}
    bases = {name: unwrap_independent(site["fn"]) for name, site in latents.items()}
    if not latents or not all(base.has_enumerate_support for base in bases.values()):
        return {}
    if plates.row_dim is None or (outside := [name for name in latents if name in plates.outside]):
        names = ", ".join(latents if plates.row_dim is None else outside)
        raise RowsError(f"{names} lies outside the plate over rows, so no row has a log p(x) of its own")
    choices = {}
    for name, base in bases.items():
        try:
            values = base.enumerate_support(expand=False)
        except NotImplementedError as error:
            raise InputError(f"the values of the latent {name} cannot be listed: {error}; sample it") from error
        values = values.reshape(len(values), *base.event_shape)
        axis = plates.row_dim - latents[name]["fn"].event_dim
        row_shape = latents[name]["value"].movedim(axis, 0).shape[1:]
        choices[name] = _Choices(values, row_shape.numel() // base.event_shape.numel(), row_shape, axis)
    return choices


def _sum(program: Program, plates: PlateStructure, batch: Batch, choices: dict[str, _Choices]) -> tuple[PerRow, PerRow]:
    """log p(x) by a sum over all combinations of the latents' values."""
    total = torch.full((len(batch.x),), -math.inf, dtype=torch.float64)
    by_site = [itertools.product(range(len(site.values)), repeat=site.elements) for site in choices.values()]
    for combination in itertools.product(*by_site):
        pairs = zip(choices.items(), combination, strict=True)
        given = {name: site.value(chosen, len(batch.x)) for (name, site), chosen in pairs}
        trace = poutine.trace(SubstituteLatents(given)(bind_supported_kwargs(program.model))).get_trace(
            batch.x, batch.row_inputs
        )
        trace.compute_log_prob()
        assert plates.row_dim is not None
        sites = sample_sites(trace)
        for site in (sites[name] for name in given):  # all of a row's values together are one, also where it has none
            site["unscaled_log_prob"] = uniform_where_masked(site, site["unscaled_log_prob"])
            site["mask"] = None if mask_of(site) is not None else site["mask"]
        log_joint = sum_sites(sites.values(), {plates.row_dim})
        total = torch.logaddexp(total, log_joint.cpu().double())
    return total, torch.zeros_like(total)


def _gradient(joint: UnconstrainedJoint, u: RowLatents) -> RowLatents:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        return torch.autograd.grad(joint.at(u).log_joint.sum(), u)[0]


def _quadratic(joint: UnconstrainedJoint) -> tuple[Tensor, Tensor] | None:
    """The mode z* (n, K) and −H (n, K, K) of a quadratic log p(x, z); None where it is not one.

    It is compared with log p(x, z) at draws of the prior, of the prior scaled by three, and of the guide.
    """
    start = joint.from_prior()
    if (gradient := _gradient(joint, start)).isnan().any():
        return None
    columns = [gradient - _gradient(joint, start + unit) for unit in torch.eye(joint.dim).to(start)]
    precision = torch.stack(columns, -1).cpu().double()  # on the CPU: not every accelerator has doubles
    precision = (precision + precision.mT) / 2
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        return None
    mode = start + torch.cholesky_solve(gradient.cpu().double()[..., None], factor)[..., 0].to(start)
    maximum = joint.at(mode).log_joint.cpu().double()
    probes = [scale * joint.from_prior() for scale in (1.0, 3.0) for _ in range(NUM_PROBES)]
    for u in probes + [joint.proposal().u for _ in range(NUM_PROBES)]:
        difference = (u - mode).cpu().double()
        expected = maximum - 0.5 * torch.einsum("nj,njk,nk->n", difference, precision, difference)
        value = joint.at(u).log_joint.cpu().double()
        allowed = MAX_ROUNDING_ERRORS * torch.finfo(u.dtype).eps * (1 + maximum.abs() + value.abs())
        if not ((value - expected).abs() <= allowed).all():
            return None
    return mode, precision


def _closed_form(program: Program, plates: PlateStructure, batch: Batch) -> tuple[PerRow, PerRow]:
    joint = UnconstrainedJoint(program, plates, batch)
    if (quadratic := _quadratic(joint)) is None:
        raise InputError("log p(x, z) is quadratic in z for the first rows and not for others; sample it")
    mode, precision = quadratic
    half_log_det = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_px = joint.at(mode).log_joint.cpu().double() + joint.dim / 2 * math.log(2 * math.pi) - half_log_det
    return log_px, torch.zeros_like(log_px)
