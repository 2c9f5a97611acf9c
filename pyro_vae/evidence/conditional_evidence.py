"""log p of some columns of rows given others.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Normal(pv.nets.mlp(3, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(3), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 6)))
>>> found = conditional_evidence(vae, torch.zeros(4, 5), columns=[0, 1])
>>> found.kind, found.columns, bool((found.mc_se < 0.1).all())
('estimate', ('x1', 'x2'), True)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.data import Dataset, RowsGiven, Split
from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.choose_columns import choose_columns, number_names
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.data.split import OBSERVED_ONLY
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import finite_or_none
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.evidence.paired_rows import UNDEFINED, FoundRows, PairedRows
from pyro_vae.models import exact_density as models
from pyro_vae.programs.row_batches import rows_to_score
from pyro_vae.typing import PerRow, Program

Columns = Sequence[str | int]
FIELDS = ("log_px", "mc_se", "khat", "is_bad")
NAMED_COLUMNS = 8  # in the name of a measure


@dataclass(frozen=True, kw_only=True, repr=False)
class ConditionalEvidence(LogPx):
    """log p(x_A | x_B) of N rows, nats, in `log_px`; `kind` is `exact` or `estimate`.

    `columns` are the names of A, `given` those of B. `mc_se` (N,) counts that both parts of the difference have the
    same random numbers. `khat` (N,) is the larger of the two parts' Pareto shapes, NaN where nothing was drawn or rows
    were annealed; `is_bad` (N,) says which rows are not to be trusted.
    """

    columns: tuple[str, ...]
    given: tuple[str, ...]
    khat: PerRow
    is_bad: Tensor

    @property
    def khat_bad(self) -> float | None:
        """The share of rows with a finite number that is not to be trusted; None where all are exact."""
        if self.kind == "exact":
            return None
        return finite_or_none(weighted_mean(*self._among(self.log_px.isfinite(), self.is_bad.double())))

    def __repr__(self) -> str:
        return self._describe(f"{_few(self.columns)} given {_few(self.given)}").replace("log p(x)", "log p(A|B)")


def conditional_evidence(
    program: Program,
    data: RowsGiven,
    columns: Columns,
    given: Columns | None = None,
    num_samples: int = 1000,
    *,
    schema: Schema | None = None,
    exact: bool = True,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 64,
    seed: int | None = 0,
    group: ProcessGroup = SINGLE_PROCESS,
) -> ConditionalEvidence:
    r"""$\log p(x_A | x_B) = \log p(x_A, x_B) - \log p(x_B)$ of each row, where the model takes a mask.

    Both parts are exact where `auto_evidence` would be (mixtures, PPCA, linear-Gaussian models, one or two latents,
    discrete latents), and so is the difference. Else each is drawn around the modes of its own posterior with the same
    random numbers, and the error is that of the paired weights: it is several times smaller than that of two
    independent estimates, and than that of the same draws weighed by both. The ratio of two unbiased means is an
    estimate and no bound.

    Only observed values count: a row without any value in A has log 1 = 0, and a value of B that is missing is not
    conditioned on. Where x_B has density zero, the result is NaN.

    Raises `InputError` for a program whose model takes no mask, for unknown columns, and for those in both A and B.

    Args:
        program: a program whose model takes a mask, or a model with an exact density of some of its columns.
        data: a tensor (N, D), a split, or a data set (its test split).
        columns: the columns A, by name or by number from 0 (a column of several numbers, as in one-hot codes, by name
            has all of them).
        given: the columns B; by default all others.
        num_samples: draws S for each row and each part.
        schema: the columns' names; by default those of a data set.
        exact: whether the exact methods are tried first; models with a density of their own have no other.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the draws in progress, in MiB.
        seed: seed of the draws; None is that of 0.
        group: the processes that share the rows; each gets every result.

    Returns:
        log p(x_A | x_B) (N,), nats per row, in the units of A's columns.
    """
    schema = data.schema if schema is None and isinstance(data, Dataset) else schema or Schema()
    split, rows = rows_to_score(data, rows, labels)
    wanted, known = _two_sides(columns, given, schema, split.shape[1])
    observed = torch.ones(split.shape, dtype=torch.bool) if split.mask is None else split.mask.cpu()
    index = (observed & wanted).any(1).nonzero()[:, 0]
    names = number_names(schema, split.shape[1])
    sides = tuple(_pick(names, wanted)), tuple(_pick(names, known))
    blank = _of_rows_without_values(split, sides)
    if not len(index):
        return blank
    part, own = split.take(index), None if rows is None else rows[index]
    both, only_given = (part.with_mask(observed[index] & some) for some in (wanted | known, known))
    if isinstance(program, models.Density):
        return _with_found(blank, _by_density(program, both, only_given), index)
    pair = PairedRows(program, both, only_given, own, memory_mib, seed, group)
    return _with_found(blank, pair.score(num_samples, exact=exact), index)


def _two_sides(columns: Columns, given: Columns | None, schema: Schema, num_features: int) -> tuple[Tensor, Tensor]:
    """Which numbers of a row belong to A, and which to B, (D,) each."""
    wanted = choose_columns(columns, schema, num_features)
    if not wanted.any():
        raise InputError("no column is asked for; name one or more")
    known = ~wanted if given is None else choose_columns(given, schema, num_features)
    if (both := wanted & known).any():
        names = _few(_pick(number_names(schema, num_features), both))
        raise InputError(f"{names} cannot be asked for and given at the same time; leave it out of one of them")
    return wanted, known


def _of_rows_without_values(split: Split, sides: tuple[tuple[str, ...], tuple[str, ...]]) -> ConditionalEvidence:
    """The results of rows of which no value is asked for: log 1."""
    zero = torch.zeros(len(split), dtype=torch.float64)
    return ConditionalEvidence(
        log_px=zero,
        mc_se=zero,
        measure=_measure(split.measure_name, sides),
        kind="exact",
        columns=sides[0],
        given=sides[1],
        khat=torch.full_like(zero, math.nan),
        is_bad=torch.zeros(len(split), dtype=torch.bool),
        weights=split.weights,
    )


def _measure(name: str, sides: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    columns, given = map(_few, sides)
    return f"{name.removesuffix(OBSERVED_ONLY)}: {columns} given {given}"


def _with_found(blank: ConditionalEvidence, found: FoundRows, index: Tensor) -> ConditionalEvidence:
    """The results with those of some rows (n,)."""
    columns = {
        name: vars(blank)[name].index_copy(0, index, values) for name, values in found.values.items() if name in FIELDS
    }
    sides = (blank.columns, blank.given)
    reasons = {int(index[row]): reason for row, reason in found.reasons.items()}
    return replace(blank, **columns, measure=_measure(found.measure, sides), kind=found.kind, reasons=reasons)


def _by_density(program: models.Density, both: Split, given: Split) -> FoundRows:
    log_px = program.log_prob(both) - program.log_prob(given)
    reasons = {int(row): UNDEFINED for row in log_px.isnan().nonzero()}
    return FoundRows({"log_px": log_px, "mc_se": 0.0 * log_px}, both.measure_name, "exact", reasons)


def _pick(names: Sequence[str], chosen: Tensor) -> list[str]:
    return [names[number] for number in chosen.nonzero()[:, 0].tolist()]


def _few(names: Sequence[str]) -> str:
    """Some names in words."""
    more = len(names) - NAMED_COLUMNS
    return ", ".join(names[:NAMED_COLUMNS]) + (f" and {more} more" if more > 0 else "") or "nothing"
