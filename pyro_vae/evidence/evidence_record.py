"""One program's numbers on one split as a flat record: the JSON that `fit`, `evaluate` and `compare` print."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px_result import LogPx

KEYS = (
    "run", "model", "way", "fit_method", "split", "measure", "elbo", "reconstruction", "kl", "log_px", "log_px_kind",
    "log_px_se", "log_px_mc_se", "method", "prior_share", "smoothed", "iwae", "bound", "gap", "khat_bad",
    "active_units", "num_data", "num_samples", "num_parameters", "seconds",
)  # fmt: skip


def record(
    evidence: Evidence,
    better: LogPx | None = None,
    *,
    method: str = "is",
    run: str | None = None,
    model: str = "vae",
    fit_method: str = "svi",
    split: str | None = None,
    active_units: int | None = None,
    num_parameters: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The means over rows, nats per row, with kind, errors and diagnostics; None where a number does not exist.

    `bound` is the ELBO and `gap` is log p(x) − ELBO; `iwae` maps the number of draws, as text, to its bound. log p(x)
    and its errors are those of `better`, by another `method`, where there is one; the ELBO, its terms, the IWAE bounds
    and k-hat are importance sampling's. `way` is an alias of `fit_method`.
    """
    settings = {
        "run": run,
        "model": model,
        "way": fit_method,
        "fit_method": fit_method,
        "split": split,
        "method": method,
    }
    sizes = {"active_units": active_units, "num_parameters": num_parameters, "seconds": seconds}
    values = settings | sizes | _sampled(evidence) | _log_px(evidence if better is None else better)
    values["gap"] = None if values["log_px"] is None or values["elbo"] is None else values["log_px"] - values["elbo"]
    return {key: values[key] for key in KEYS}


def _sampled(evidence: Evidence) -> dict[str, Any]:
    """What importance sampling alone computes."""
    elbo = _mean(evidence.elbo)
    return {
        "measure": evidence.measure,
        "elbo": elbo,
        "reconstruction": _mean(evidence.reconstruction),
        "kl": _mean(evidence.kl),
        "prior_share": evidence.prior_share,
        "smoothed": _mean(evidence.smoothed),
        "iwae": {str(k): _mean(bound) for k, bound in evidence.iwae.items()},
        "bound": elbo,
        "khat_bad": evidence.khat_bad,
        "num_data": len(evidence),
        "num_samples": evidence.num_samples,
    }


def _log_px(best: LogPx) -> dict[str, Any]:
    return {
        "log_px": _mean(best.log_px),
        "log_px_kind": best.kind,
        "log_px_se": _finite(best.log_px_se),
        "log_px_mc_se": _finite(best.log_px_mc_se),
    }


def unscored(elbo: float | None, *, run: str, split: str, seconds: float) -> dict[str, Any]:
    """The record of rows that have an ELBO together but no weight of their own."""
    values = {
        "run": run,
        "model": "program",
        "way": "svi",
        "fit_method": "svi",
        "split": split,
        "elbo": elbo,
        "bound": elbo,
        "seconds": seconds,
    }
    return dict.fromkeys(KEYS) | values


def _mean(values: Tensor) -> float | None:
    return _finite(float(values.to(torch.float64).mean()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
