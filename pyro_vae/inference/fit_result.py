"""The result of every fit method."""

import math
from dataclasses import dataclass
from typing import Any

EPOCH_KEYS = (
    "epoch", "step", "elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl", "valid_kl_apart",
    "active_units", "learning_rate", "beta", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class FitResult:
    """The course of a fit, by any fit method; the fitted parameters are in the program itself.

    `history` has one row an epoch (nats per row; the keys of `metrics.jsonl`, None where a method has no such number),
    `best_epoch` is the epoch whose weights were kept, `stopped` why the fit ended ("epochs", "patience" or, for EM,
    "tolerance"), `seconds` its wall time, `advice` what to try where most latents are inactive, else empty.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    stopped: str
    seconds: float
    advice: str = ""

    def __repr__(self) -> str:
        best = self.history[self.best_epoch - 1]
        value = best["elbo"] if best["valid_elbo"] is None else best["valid_elbo"]
        words = f"best {self.best_epoch}: ELBO {math.nan if value is None else value:.2f} nats per row"
        return f"FitResult({len(self.history)} epochs, {words}; stopped by {self.stopped}; {self.seconds:.1f} s)"
