"""Missing values of rows, drawn given the observed ones.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 8, 3))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(3, 8, 4)))
>>> x = torch.tensor([[1.0, float("nan"), 2.0], [0.0, 1.0, 2.0]])
>>> filled = impute_rows(vae, x, num_imputations=5)
>>> filled.values.shape, torch.equal(filled.values[4, 1], x[1]), bool(filled.is_bad.any())
(torch.Size([5, 2, 3]), True, False)
"""

import math
import warnings
from dataclasses import dataclass, replace

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Dataset, RowsGiven, Split, as_split
from pyro_vae.data.rows_given import rows_as_tensor
from pyro_vae.errors import ImputationWarning, InputError, ZeroDensityWarning
from pyro_vae.evidence.impute_blocks import METHODS, BlockImputer, Wanted
from pyro_vae.evidence.impute_by_traces import TraceImputer
from pyro_vae.evidence.pareto_smoothing import MIN_DRAWS
from pyro_vae.evidence.score_blocks import STAGES, has_row_guide, score_by_modes
from pyro_vae.models.exact_density import Density, rows_with_nan
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import require_mask
from pyro_vae.programs.traces import base_constraint
from pyro_vae.resource_limits import require_memory
from pyro_vae.typing import DrawsMissing, PerRow, Program

EXACT, COMPLETE, ZERO_DENSITY = "exact", "complete", "density zero"  # in place of a stage
BY_TRACES = "guide and prior"
MORE_SAMPLES = 4  # times the points, for rows whose weights are bad
NAMED_ROWS = 5  # in a message


@dataclass(frozen=True, repr=False)
class Imputations:
    """Rows with their missing values filled.

    Attributes:
        values: the rows (M, N, D), M times; observed values are as they were, and so is a row whose observed values
            have density zero: its missing ones are NaN.
        missing: which values were filled, (N, D).
        khat: the Pareto shape of the weights of a row's latents, (N,); NaN where none were needed or they are those of
            annealing.
        ess: the effective number of the weighted latents that a row's draws are taken from, (N,); NaN without any.
        is_bad: whether it is not to be trusted, (N,): a k-hat above its limit, or too few chains of annealing.
        stage: how each row was filled: `complete`, nothing was missing; `exact`, from the conditional density;
            `modes`, `more modes` and `annealing` as by `auto_evidence`; `guide and prior`; `density zero`.
        method: draws, mean or mode.
    """

    values: Tensor
    missing: Tensor
    khat: PerRow
    ess: PerRow
    is_bad: Tensor
    stage: tuple[str, ...]
    method: str

    def __repr__(self) -> str:
        rows, cells = int(self.missing.any(1).sum()), int(self.missing.sum())
        bad = int(self.is_bad.sum())
        return f"Imputations({cells} values in {rows} rows, {len(self.values)} × {self.method}; {bad} rows bad)"


@check_call
def impute_rows(
    program: Program,
    data: RowsGiven,
    num_imputations: int = 1,
    *,
    method: str = "draws",
    num_samples: int = 1000,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 64,
    seed: int = 0,
) -> Imputations:
    r"""Missing values by $p(x_m | x_o)$ at the program's parameters.

    Models that know the conditional density are asked for it. For others S latents of each row are drawn from the
    mixture of `auto_evidence` (modes of the row's posterior, guide, prior) and weighed, $w = p(x_o, z) / q(z)$; draws
    take a z with probability proportional to w and then $x_m \sim p(x | z)$, so that they are those of the posterior,
    however bad the guide. Rows whose weights are bad are annealed; where that is not enough, `is_bad` and a warning say
    so. Guides that draw discrete latents get S draws of the guide and the prior, and four times as many for bad rows.

    Draws are independent given the parameters, which are held fixed: the uncertainty of the fit is not in them
    (improper in Rubin's sense), and intervals are somewhat too narrow where there are few training rows.

    Args:
        program: a program with latents for each row, whose model takes a mask, or which knows the conditional density.
        data: a tensor (N, D), NaN where a value is missing, a split, or a data set (its test split).
        num_imputations: the number M of draws of each missing value.
        method: draws; mean, E[x_m | x_o], the most probable level where values have levels; or mode, which is the
            most probable level of those and of bits, and the mean of numbers.
        num_samples: S.
        rows: the rows' positions (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the points in progress, in MiB.
        seed: seed of the draws.

    Returns:
        The rows, filled, and how well that went.
    """
    wanted = _checked(Wanted(method, num_imputations, num_samples, seed, memory_mib))
    split, rows = rows_to_score(_without_nan(data), rows, labels)
    observed = split.mask
    num_bytes = 8.0 * wanted.num_imputations * len(split) * split.shape[1]
    require_memory(num_bytes, f"{wanted.num_imputations:,} imputations of {len(split):,} rows", "ask for fewer")
    blank = _unchanged(split, wanted)
    if observed is None or bool(observed.all()):
        _require_own_rows(program, split, rows, wanted)
        return blank
    index = (~observed).any(1).nonzero()[:, 0]
    part, own_rows = split.take(index), None if rows is None else rows[index]
    with torch.no_grad(), seeded(seed), use_param_store(program), evaluating(program), pyro.validation_enabled(False):
        if isinstance(program, DrawsMissing) and isinstance(program, Density):
            found = _exactly(program, part, wanted)
        else:
            require_mask(program, observed)
            found = _by_weights(program, part, own_rows, wanted)
    filled = _with_found(blank, found, index, observed)
    _warn(filled)
    return filled


def _checked(wanted: Wanted) -> Wanted:
    if wanted.method not in METHODS:
        raise InputError(f"no method called {wanted.method!r}; try one of {', '.join(METHODS)}")
    if wanted.num_imputations < 1:
        raise InputError(f"num_imputations must be one or more, got {wanted.num_imputations}")
    if wanted.num_imputations > 1 and wanted.method != "draws":
        raise InputError(f"several imputations are draws, and the {wanted.method} is one value: leave one of both out")
    if wanted.num_samples < MIN_DRAWS:
        raise InputError(
            f"num_samples must be {MIN_DRAWS} or more, got {wanted.num_samples}: fewer weights say nothing"
        )
    if not wanted.memory_mib > 0:
        raise InputError(f"memory_mib must be positive, got {wanted.memory_mib}")
    return wanted


def _require_own_rows(program: Program, split: Split, rows: Tensor | None, wanted: Wanted) -> None:
    """`InputError` for complete rows that the program does not run on, as for those with missing values."""
    with torch.no_grad(), seeded(wanted.seed), use_param_store(program), evaluating(program):
        if isinstance(program, Density):
            program.rows_of(split)
        else:
            _scored(program, split, rows, wanted)


def _scored(program: Program, split: Split, rows: Tensor | None, wanted: Wanted) -> ScoredRows:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroDensityWarning)  # it is said of the whole table
        return ScoredRows(program, split, rows, seed=wanted.seed, allow_zero=True, needs_guide=False)


def _without_nan(data: RowsGiven) -> Dataset | Split:
    """The rows, with the mask of a tensor's missing values."""
    if isinstance(data, (Dataset, Split)):
        return data
    x = rows_as_tensor(data, missing=True)
    split = as_split(x.nan_to_num(nan=0.0), "given")
    split.__dict__["mask"] = None if not x.isnan().any() else ~x.isnan()
    return split


def _unchanged(split: Split, wanted: Wanted) -> Imputations:
    """The rows as they are, NaN where a value is missing."""
    N, unknown = len(split), torch.full((len(split),), math.nan, dtype=torch.float64)
    values = rows_with_nan(split, slice(None)).expand(wanted.num_imputations, *split.shape)
    missing = torch.zeros(split.shape, dtype=torch.bool) if split.mask is None else ~split.mask
    return Imputations(
        values, missing, unknown, unknown, torch.zeros(N, dtype=torch.bool), (COMPLETE,) * N, wanted.method
    )


def _with_found(blank: Imputations, found: dict[str, Tensor], index: Tensor, observed: Tensor) -> Imputations:
    """The rows with what was found for those of some indices."""
    drawn = found["values"].cpu()
    dtype = torch.promote_types(blank.values.dtype, drawn.dtype)
    values = blank.values.to(dtype).clone(memory_format=torch.contiguous_format)
    values[:, index] = torch.where(observed[index], values[:, index], drawn.movedim(0, 1).to(dtype))
    stage = list(blank.stage)
    for row, number in zip(index.tolist(), found["stage"].tolist(), strict=True):
        stage[row] = (*STAGES, BY_TRACES, EXACT, ZERO_DENSITY)[number]
    columns = {name: getattr(blank, name).clone() for name in ("khat", "ess", "is_bad")}
    for name, column in columns.items():
        column[index] = found[name].to(column)
    return replace(blank, values=values, stage=tuple(stage), **columns)


def _exactly(program: DrawsMissing, part: Split, wanted: Wanted) -> dict[str, Tensor]:
    assert isinstance(program, Density)
    split, blocks = program.rows_of(part), torch.arange(len(part)).split(program.block_rows)
    parts = []
    with seeded(wanted.seed):
        for block in blocks:
            x = rows_with_nan(split, block).to(next(program.parameters()))
            if wanted.method == "draws":
                parts.append(program.draw_missing(x, wanted.num_imputations).movedim(0, 1))
            else:
                parts.append(program.mean_missing(x)[:, None])
    values = torch.cat(parts)
    support = getattr(program, "support", None)
    if wanted.method == "mode" and support is not None and base_constraint(support) is constraints.boolean:
        values = (values > 0.5).to(values)
    unknown = torch.full((len(part),), math.nan, dtype=torch.float64)
    is_bad = values.isnan().flatten(1).any(1)
    return {"values": values, "khat": unknown, "ess": unknown, "is_bad": is_bad, "stage": _stage(len(part), EXACT)}


def _stage(num: int, name: str) -> Tensor:
    return torch.full((num,), (*STAGES, BY_TRACES, EXACT, ZERO_DENSITY).index(name))


def _by_weights(program: Program, part: Split, rows: Tensor | None, wanted: Wanted) -> dict[str, Tensor]:
    """The results of the rows of `part`, NaN for those of density zero."""
    scored = _scored(program, part, rows, wanted)
    if scored.plates.enumerated:
        raise InputError(
            f"{', '.join(scored.plates.enumerated)} is summed out, and missing values are drawn given all latents: let "
            "the guide draw it"
        )
    results = score_by_modes(
        lambda use_guide: BlockImputer(scored.program, scored, wanted, use_guide=use_guide),
        has_row_guide(program, scored),
    )
    if results is None:
        results = _by_traces(scored, wanted)
    columns = {name: torch.cat([block[name].cpu() for block in results]) for name in results[0]}
    if not scored.reasons:
        return columns
    num, kept = len(part), scored.kept
    whole = {
        "values": torch.full((num, *columns["values"].shape[1:]), math.nan, dtype=columns["values"].dtype),
        "khat": torch.full((num,), math.nan, dtype=torch.float64),
        "ess": torch.full((num,), math.nan, dtype=torch.float64),
        "is_bad": torch.ones(num, dtype=torch.bool),
        "stage": _stage(num, ZERO_DENSITY),
    }
    for name, column in whole.items():
        column[kept] = columns[name]
    return whole


def _by_traces(scored: ScoredRows, wanted: Wanted) -> list[dict[str, Tensor]]:
    """The results with draws of the guide and the prior, of four times as many where the weights of some are bad."""
    results = TraceImputer(scored.program, scored, wanted).score()
    if any(bool(block["is_bad"].any()) for block in results):
        more = replace(wanted, num_samples=MORE_SAMPLES * wanted.num_samples)
        results = TraceImputer(scored.program, scored, more).score()
    return [block | {"stage": _stage(len(block["khat"]), BY_TRACES)} for block in results]


def _warn(filled: Imputations) -> None:
    zero = [row for row, stage in enumerate(filled.stage) if stage == ZERO_DENSITY]
    bad = [row for row in filled.is_bad.nonzero()[:, 0].tolist() if filled.stage[row] != ZERO_DENSITY]
    if zero:
        message = f"the observed values of {len(zero)} rows have density zero (rows {name_rows(zero)})"
        warnings.warn(f"{message}; their missing values stay missing", ImputationWarning, stacklevel=3)
    if bad:
        message = f"the weights of {len(bad)} rows are bad, their values not to be trusted (rows {name_rows(bad)})"
        warnings.warn(f"{message}; more samples or a better fit may help", ImputationWarning, stacklevel=3)


def name_rows(rows: list[int]) -> str:
    """The first of some row numbers, in words."""
    return ", ".join(map(str, rows[:NAMED_ROWS])) + (", …" if len(rows) > NAMED_ROWS else "")
