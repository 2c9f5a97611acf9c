"""The training settings that a fit, its checkpoint and the command line share."""

import math
from dataclasses import dataclass

import torch

from pyro_vae.errors import InputError
from pyro_vae.inference.svi.optimizer import OPTIMIZERS, SCHEDULES, rate_factor


@dataclass(frozen=True)
class TrainConfig:
    """Training settings; the fields are keywords of `fit`."""

    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 5e-3
    optimizer: str = "adam"
    schedule: str = "one-cycle"
    clip: float | None = None
    beta: float = 1.0
    kl_warmup: float = 0.0
    num_particles: int = 1
    patience: int | None = None
    seed: int = 0
    compile: bool | None = None

    def check(self) -> None:
        """Raise `InputError` for a value that cannot be used."""
        for name in ("epochs", "batch_size", "learning_rate", "num_particles"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("beta", "kl_warmup", "patience", "clip"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise InputError(f"{name} must not be negative, got {value}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"no optimizer called {self.optimizer!r}; try one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"no schedule called {self.schedule!r}; try one of {', '.join(SCHEDULES)}")

    def rate(self, epoch: float) -> float:
        """The learning rate at a (fractional) epoch, counted from zero."""
        return self.learning_rate * rate_factor(self.schedule, epoch / self.epochs)

    def kl_weight(self, epoch: float) -> float:
        """β at a (fractional) epoch: rising linearly from 0 over the warm-up, then constant."""
        return self.beta * (min(1.0, epoch / self.kl_warmup) if self.kl_warmup > 0 else 1.0)

    def out_of_patience(self, epoch: int, best_epoch: int) -> bool:
        """Whether `patience` epochs (0 or None: never) have passed without a better one, counted after the warm-up."""
        patience = self.patience or math.inf
        return epoch - max(best_epoch, math.ceil(self.kl_warmup)) >= patience

    def epoch_seed(self, epoch: int) -> int:
        """The seed of an epoch's random numbers; −1 is for validation, −2 for the first trace."""
        return (self.seed * 1_000_003 + epoch + 1) % 2**32


DTYPES = {"float32": torch.float32, "float64": torch.float64}
