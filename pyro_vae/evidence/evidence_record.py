"""One program's numbers on one split as a flat record: the JSON that `fit`, `evaluate` and `compare` print."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px import LogPx


def record(
    found: Evidence,
    better: LogPx | None = None,
    *,
    method: str = "is",
    run: str | None = None,
    model: str = "vae",
    way: str = "svi",
    split: str | None = None,
    active_units: int | None = None,
    num_parameters: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The means over rows, nats per row, with kind, errors and diagnostics; None where a thing does not exist.

    `bound` is the ELBO and `gap` is log p(x) − ELBO; `iwae` maps the number of draws, as text, to its bound. log p(x)
    and its errors are those of `better`, by another `method`, where there is one; the ELBO, its terms, the IWAE bounds
    and k-hat are importance sampling's.
    """
    best = found if better is None else better
    log_px, elbo = _mean(best.log_px), _mean(found.elbo)
    return {
        "run": run,
        "model": model,
        "way": way,
        "split": split,
        "measure": found.measure,
        "elbo": elbo,
        "reconstruction": _mean(found.reconstruction),
        "kl": _mean(found.kl),
        "log_px": log_px,
        "log_px_kind": best.kind,
        "log_px_se": _finite(best.log_px_se),
        "log_px_mc_se": _finite(best.log_px_mc_se),
        "method": method,
        "prior_share": found.prior_share,
        "smoothed": _mean(found.smoothed),
        "iwae": {str(k): _mean(bound) for k, bound in found.iwae.items()},
        "bound": elbo,
        "gap": None if log_px is None or elbo is None else log_px - elbo,
        "khat_bad": found.khat_bad,
        "active_units": active_units,
        "num_data": len(found),
        "num_samples": found.num_samples,
        "num_parameters": num_parameters,
        "seconds": seconds,
    }


KEYS = (
    "run", "model", "way", "split", "measure", "elbo", "reconstruction", "kl", "log_px", "log_px_kind", "log_px_se",
    "log_px_mc_se", "method", "prior_share", "smoothed", "iwae", "bound", "gap", "khat_bad", "active_units", "num_data",
    "num_samples", "num_parameters", "seconds",
)  # fmt: skip


def unscored(elbo: float | None, *, run: str, split: str, seconds: float) -> dict[str, Any]:
    """The record of rows that have an ELBO together and no weight each."""
    known = {
        "run": run,
        "model": "program",
        "way": "svi",
        "split": split,
        "elbo": elbo,
        "bound": elbo,
        "seconds": seconds,
    }
    return dict.fromkeys(KEYS) | known


def _mean(values: Tensor) -> float | None:
    return _finite(float(values.to(torch.float64).mean()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
