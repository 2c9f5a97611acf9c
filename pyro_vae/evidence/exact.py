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

from pyro_vae.context import evaluating, seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError, RowsError
from pyro_vae.evidence.grid_quadrature import CELLS, ROWS_OF_A_GRID, ROWS_OF_A_SUM, _Grid, _log_joint
from pyro_vae.evidence.log_px import LogPx
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure, require_rows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.scored_rows import ScoredRows, rows_to_score
from pyro_vae.programs.traces import SubstituteLatents, sample_sites, sum_over_plates, unwrap_independent
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, RowLatents

MANY_VALUES = 100_000  # combinations of discrete latents beyond which a sum is not attempted
QUADRATIC_DIM = 512  # latents beyond which nobody waits for a Hessian
PROBES, ROUNDINGS = 4, 300  # points of each kind at which a quadratic must give log p(x, z), to so many roundings


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
    group: ProcessGroup = SINGLE_PROCESS,
) -> Exact:
    r"""$\log p(x_i) = \log \int p(x_i, z) dz$ of each row, where it can be had without sampling.

    Four ways, the first that applies. *The program's own*: it has a method `log_prob(x)` (N,), as mixtures and PPCA do.
    *Closed form*: log p(x, z) is quadratic in z, as in linear-Gaussian models of
    any depth and dimension; its Hessian H (from K gradients, checked at further points) gives $\log p(x, z^*) + \frac
    K2 \log 2\pi - \frac12 \log\det(-H)$. *Sum*: every latent takes finitely many values. *Grid*: one or two continuous
    dimensions, over cells that are halved where the posterior is until no row moves by more than 1e-4. The guide's
    draws are held against the grid; if they find more than it did, it is an error and not a number. Shapes and row
    inputs as in `log_evidence`; nats per row.

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
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False), torch.no_grad():
        scored = ScoredRows(program, split, places, group, seed)
        way, of_batch, size = _way(program, scored, memory_mib)
        found = scored.map_batches(size, of_batch)
    log_px, error = (torch.cat(parts).cpu().double() for parts in zip(*found, strict=True))
    return Exact(
        log_px=log_px + split.log_jacobian,
        mc_se=torch.zeros(len(log_px), dtype=torch.float64),
        error=error,
        way=way,
        measure=scored.measure,
    )


OfBatch = Callable[[Batch], tuple[PerRow, PerRow]]


def _way(program: Any, scored: ScoredRows, memory_mib: float) -> tuple[str, OfBatch, int]:
    """Which way applies, its function of a batch, and how many rows go at once."""
    plates, few = scored.plates, scored.first
    budget = memory_mib * 2**20
    if callable(getattr(program, "log_prob", None)):
        require_rows(plates)
        return "the program's own", lambda batch: _own(program, batch), ROWS_OF_A_SUM
    if choices := _finite_values(program, plates, few):
        count = math.prod(len(one.values) ** one.elements for one in choices.values())
        if count > MANY_VALUES:
            raise InputError(f"the latents have {count:,} values together, too many to sum over; sample them")
        return "sum", lambda batch: _sum(program, plates, batch, choices), ROWS_OF_A_SUM
    joint = UnconstrainedJoint(program, plates, few)
    each = LogWeightSampler(program, plates, few).bytes_per_weight(few)
    if joint.dim <= QUADRATIC_DIM and _quadratic(joint) is not None:
        size = max(1, int(budget // (3 * each + 8 * joint.dim**2)))
        return "closed form", lambda batch: _closed_form(program, plates, batch), size
    if joint.dim in CELLS:
        at_once = max(1, int(budget // each))
        return "grid", lambda batch: _Grid(program, plates, batch, at_once).settle(), ROWS_OF_A_GRID
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


def _finite_values(program: Any, plates: PlateStructure, few: Batch) -> dict[str, _Choices]:
    """What each latent can be, if all have finitely many values; nothing where one has not."""
    trace = poutine.trace(bind_supported_kwargs(program.model)).get_trace(few.x, few.row_inputs)
    latents = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}
    bases = {name: unwrap_independent(site["fn"]) for name, site in latents.items()}
    if not latents or not all(base.has_enumerate_support for base in bases.values()):
        return {}
    if plates.row_dim is None or (alone := [name for name in latents if name in plates.outside]):
        names = ", ".join(latents if plates.row_dim is None else alone)
        raise RowsError(f"{names} lies outside the plate over rows, so no row has a log p(x) of its own")
    found = {}
    for name, base in bases.items():
        try:
            values = base.enumerate_support(expand=False)
        except NotImplementedError as error:
            raise InputError(f"the values of the latent {name} cannot be listed: {error}; sample it") from error
        values = values.reshape(len(values), *base.event_shape)
        axis = plates.row_dim - latents[name]["fn"].event_dim
        rest = latents[name]["value"].movedim(axis, 0).shape[1:]
        found[name] = _Choices(values, rest.numel() // base.event_shape.numel(), rest, axis)
    return found


def _sum(program: Any, plates: PlateStructure, batch: Batch, choices: dict[str, _Choices]) -> tuple[PerRow, PerRow]:
    total = torch.full((len(batch.x),), -math.inf, dtype=torch.float64)
    each = [itertools.product(range(len(one.values)), repeat=one.elements) for one in choices.values()]
    for combination in itertools.product(*each):
        pairs = zip(choices.items(), combination, strict=True)
        given = {name: one.value(chosen, len(batch.x)) for (name, one), chosen in pairs}
        trace = poutine.trace(SubstituteLatents(given)(bind_supported_kwargs(program.model))).get_trace(
            batch.x, batch.row_inputs
        )
        trace.compute_log_prob()
        assert plates.row_dim is not None
        log_joint = sum(sum_over_plates(site, {plates.row_dim}) for site in sample_sites(trace).values())
        total = torch.logaddexp(total, torch.as_tensor(log_joint).cpu().double())
    return total, torch.zeros_like(total)


def _gradient(joint: UnconstrainedJoint, u: RowLatents) -> RowLatents:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        return torch.autograd.grad(_log_joint(joint, u).sum(), u)[0]


def _quadratic(joint: UnconstrainedJoint) -> tuple[Tensor, Tensor] | None:
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


def _closed_form(program: Any, plates: PlateStructure, batch: Batch) -> tuple[PerRow, PerRow]:
    joint = UnconstrainedJoint(program, plates, batch)
    if (found := _quadratic(joint)) is None:
        raise InputError("log p(x, z) is quadratic in z for the first rows and not for others; sample it")
    mode, precision = found
    halves = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_px = _log_joint(joint, mode).cpu().double() + joint.dim / 2 * math.log(2 * math.pi) - halves
    return log_px, torch.zeros_like(log_px)
