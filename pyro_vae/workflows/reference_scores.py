"""log p(x) of the validation rows, kept in a run: what new rows are compared with, without the training file."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyro_vae.atomic_write import read_tensors, write_tensors
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.run_folder import REFERENCE, WEIGHTS


@dataclass(frozen=True)
class ReferenceScores:
    """log p(x) of validation rows, nats per row, and the estimator that gave it."""

    log_px: LogPx
    estimator: Estimator


def write_reference_scores(folder: Path, found: LogPx, estimator: Estimator) -> None:
    """Keep the scores of validation rows beside the weights that gave them.

    Args:
        folder: the run's folder, which has its weights.
        found: log p(x) of the validation rows, nats per row.
        estimator: the estimator that gave it.
    """
    about = {
        "measure": found.measure,
        "kind": found.kind,
        "estimator": asdict(estimator),
        "weights": digest_of_weights(folder),
    }
    write_tensors(folder / REFERENCE, {"log_px": found.log_px, "mc_se": found.mc_se}, about)


def read_reference_scores(folder: Path) -> ReferenceScores | None:
    """The scores of validation rows in a run's folder.

    Args:
        folder: the run's folder.

    Returns:
        The scores; None where there are none, or those of other weights.
    """
    if not (folder / REFERENCE).exists():
        return None
    tensors, about = read_tensors(folder / REFERENCE)
    try:
        if about["weights"] != digest_of_weights(folder):
            return None
        found = LogPx(log_px=tensors["log_px"], mc_se=tensors["mc_se"], measure=about["measure"], kind=about["kind"])
        return ReferenceScores(found, Estimator(**about["estimator"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / REFERENCE}: not readable as reference scores ({error}); delete it") from error


def estimate_alike(first: Estimator, second: Estimator) -> bool:
    """Whether two estimators compute log p(x) in the same way, memory and seeds aside.

    Args:
        first: an estimator.
        second: another.

    Returns:
        True where their numbers may be compared row by row.
    """
    return replace(first, memory_mib=second.memory_mib, seed=second.seed) == second


def digest_of_weights(folder: Path) -> str:
    """The SHA-256 of the file of a run's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
