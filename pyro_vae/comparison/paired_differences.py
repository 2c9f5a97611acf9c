"""Several programs on the same rows: paired differences of log p(x), with their standard errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pyro_vae.argument_checks import check_call
from pyro_vae.data.row_weights import weighted_mean, weighted_se
from pyro_vae.errors import InputError
from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.json_records import Record


@dataclass(frozen=True)
class EvidenceDifference(Record):
    """A program's log p(x) and what it lacks on the best of those compared, nats per row.

    Attributes:
        name: of the program.
        log_px: the mean over rows, weighted where they have weights; a bound is compared as the bound it is.
        log_px_kind: `exact`, `lower bound`, `estimate` or `upper bound`.
        log_px_se: its standard error over rows.
        log_px_mc_se: its Monte-Carlo standard error.
        behind: the mean of the best's log p(x) − this one's.
        behind_se: the standard error of that difference over rows, usually far smaller than either's own.
        behind_mc_se: its Monte-Carlo error.
        khat_bad: the share of rows whose k-hat is above its limit, where it is known.
        measure: the measure of the densities.
        num_data: the number of rows.
    """

    name: str
    log_px: float
    log_px_kind: str
    log_px_se: float
    log_px_mc_se: float
    behind: float
    behind_se: float
    behind_mc_se: float
    khat_bad: float | None
    measure: str
    num_data: int


@check_call
def compare_evidence(found: Mapping[str, LogPx]) -> list[EvidenceDifference]:
    """Records of programs scored on the same rows, best first, each with what it lacks on the best, paired.

    Raises `InputError` for fewer than two, other numbers of rows, other measures, or other weights of the rows.

    >>> import torch
    >>> import pyro_vae as pv
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5)), guide)
    >>> x = (torch.rand(30, 5) < 0.5).float()
    >>> table = pv.compare_evidence({"sampled": pv.log_evidence(vae, x, 50), "exact": pv.exact_evidence(vae, x)})
    >>> table[0]["behind"], table[1]["behind"] < 1
    (0.0, True)
    """
    if len(found) < 2:
        raise InputError(f"a comparison takes two or more, got {len(found)}")
    if len(sizes := {name: len(one) for name, one in found.items()}.values()) and len(set(sizes)) > 1:
        raise InputError(f"these are of different rows: {', '.join(f'{n} has {len(one)}' for n, one in found.items())}")
    if len(measures := {one.measure for one in found.values()}) > 1:
        raise InputError(f"densities against different measures cannot be ranked: {'; '.join(sorted(measures))}")
    _require_same_weights(found)
    ranked = sorted(found.items(), key=lambda pair: _worse(pair[1]))
    best = ranked[0][1]
    return [difference_to(best, name, one) for name, one in ranked]


def _require_same_weights(found: Mapping[str, LogPx]) -> None:
    (first, one), *others = found.items()
    for name, other in others:
        a, b = one.weights, other.weights
        if (a is None) != (b is None) or (a is not None and b is not None and not torch.equal(a, b)):
            raise InputError(f"the rows of {first} and {name} have different weights: score both on the same split")


def _worse(one: LogPx) -> float:
    return math.inf if math.isnan(one.log_px_mean) else -one.log_px_mean


def difference_to(best: LogPx, name: str, one: LogPx) -> EvidenceDifference:
    """What a program lacks on another one, row by row, over the rows at which both have a number.

    Args:
        best: log p(x) of the rows under the other program.
        name: the name of the program.
        one: log p(x) of the same rows under it.

    Returns:
        Its record, nats per row.
    """
    behind, is_best = best.log_px - one.log_px, one is best
    known = ~behind.isnan()
    behind, weights = behind[known], None if one.weights is None else one.weights[known]
    return EvidenceDifference(
        name=name,
        log_px=one.log_px_mean,
        log_px_kind=one.kind,
        log_px_se=one.log_px_se,
        log_px_mc_se=one.log_px_mc_se,
        behind=0.0 if is_best else weighted_mean(behind, weights),
        behind_se=0.0 if is_best else weighted_se(behind, weights),
        behind_mc_se=0.0 if is_best else math.hypot(best.log_px_mc_se, one.log_px_mc_se),
        khat_bad=one.khat_bad if isinstance(one, Evidence) else None,
        measure=one.measure,
        num_data=len(one),
    )
