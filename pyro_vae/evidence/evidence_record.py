"""One program's numbers on one split as a flat record: the JSON that `fit`, `evaluate` and `compare` print."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.errors import InputError
from pyro_vae.json_records import Record


@dataclass(frozen=True)
class EvidenceRecord(Record):
    """The means over the rows of a split, nats per row, with kind, errors and diagnostics.

    None where a number does not exist. log p(x) and its errors are those of `method`; the ELBO, its terms, the IWAE
    bounds and k-hat are importance sampling's.

    Attributes:
        run: the run's folder.
        model: the model's name.
        way: an alias of `fit_method`, the key of earlier versions.
        fit_method: how the program was fitted, as in `pyro-vae compare`.
        split: the rows' split.
        measure: the reference measure of the densities.
        elbo: the ELBO.
        reconstruction: E[log p(x|z)], the first term of the ELBO.
        kl: KL(q(z|x) ‖ p(z)), the second.
        log_px: log p(x).
        log_px_kind: `exact`, `lower bound`, `estimate` or `upper bound`.
        log_px_se: standard error of log p(x) over rows.
        log_px_mc_se: Monte-Carlo standard error of log p(x), over draws.
        method: the estimator of log p(x).
        prior_share: the share of the draws that came from the prior.
        smoothed: log p(x) with Pareto-smoothed weights, an estimate.
        iwae: the bound at each number of draws, which is a text.
        bound: the ELBO of the program's own guide.
        gap: log p(x) − ELBO.
        khat_bad: the share of rows whose k-hat is above its limit.
        active_units: latent dimensions whose posterior mean varies over rows.
        num_data: how many rows.
        num_samples: draws S for each row.
        num_parameters: parameters of model and guide.
        seconds: what the fit or the estimate took.
        stages: how many rows were scored at each stage of the method `auto`.
        densities: log densities log p(x, z) that `auto` computed for a row, in the mean.
        outside_share: the share of the guide's draws outside the prior's support; None where there is none.
        num_with_number: how many rows the means are over; None where all have a number.
        num_zero: rows whose density is zero, so that the mean of log p(x) is −∞; None where there is none.
        effective_rows: (Σw)² / Σw² of the rows' weights w, which all means count; None where rows have none.
        accuracy: the share of the rows with a known label whose most probable class under q(label | x) it is; None
            where the program predicts no label, or none is known.
    """

    run: str | None = None
    model: str | None = None
    way: str | None = None
    fit_method: str | None = None
    split: str | None = None
    measure: str | None = None
    elbo: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    log_px: float | None = None
    log_px_kind: str | None = None
    log_px_se: float | None = None
    log_px_mc_se: float | None = None
    method: str | None = None
    prior_share: float | None = None
    smoothed: float | None = None
    iwae: Mapping[str, float | None] | None = None
    bound: float | None = None
    gap: float | None = None
    khat_bad: float | None = None
    active_units: int | None = None
    num_data: int | None = None
    num_samples: int | None = None
    num_parameters: int | None = None
    seconds: float | None = None
    stages: Mapping[str, int] | None = None
    densities: float | None = None
    outside_share: float | None = None
    num_with_number: int | None = None
    num_zero: int | None = None
    effective_rows: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if strange := [key for key in self.iwae or {} if not key.isdigit()]:
            raise InputError(f"iwae has numbers of draws as names, got {strange[0]!r:.60}; compute the record again")
        fit_method = self.way if self.fit_method is None else self.fit_method
        object.__setattr__(self, "fit_method", fit_method)
        object.__setattr__(self, "way", fit_method)


def mean_or_none(values: Tensor, weights: Tensor | None = None) -> float | None:
    """The mean over the rows that have a number, which NaN is not.

    Args:
        values: a number for each row (N,).
        weights: the rows' weights (N,), where they have some.

    Returns:
        The mean, in float64; None where it is infinite or no row has a number.
    """
    values = values.to(torch.float64)
    known = ~values.isnan()
    return finite_or_none(weighted_mean(values[known], None if weights is None else weights[known]))


def finite_or_none(value: float) -> float | None:
    """The number where it is finite; JSON has no other."""
    return value if math.isfinite(value) else None
