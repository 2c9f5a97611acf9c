"""What every way of fitting gives back."""

import math
from dataclasses import dataclass
from typing import Any

EPOCH_KEYS = (
    "epoch", "step", "elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl", "valid_kl_apart",
    "active_units", "learning_rate", "beta", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class FitResult:
    """What a fit did, in whatever way it climbed: the program itself holds what it learned.

    `history` has one row an epoch (nats per row; the keys of `metrics.jsonl`, and None where a way has no such thing),
    `best_epoch` the epoch whose weights were kept, `stopped` why the fit ended ("epochs", "patience" or, for EM,
    "tolerance"), `seconds` its wall time, `advice` what to try where something went oddly, else empty.
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
