"""The checkpoint of a fit: its state and settings in a file, from which the fit resumes."""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyro_vae.atomic_write import read_tensors, write_tensors
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.fit_state import FitState
from pyro_vae.inference.svi.train_config import TrainConfig

CHECKPOINT = Path("checkpoint") / "state.safetensors"  # in a run's folder
SECONDS_BETWEEN_CHECKPOINTS = 10.0
FINGERPRINT_ROWS = 1000


class Checkpoint:
    """The file of a fit's state. It is written every ten seconds at most, and once more by `write_latest`.

    `settings` are those that a resumed fit has to share with the one that was interrupted.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self._latest: FitState | None = None
        self._written_at = time.perf_counter()

    def load(self) -> FitState | None:
        """The state in the file, None where there is no file; `InputError` where its settings are other ones."""
        if not self.path.exists():
            return None
        tensors, metadata = read_tensors(self.path)
        old, new = metadata["settings"], self.settings
        if different := [f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name]]:
            raise InputError(
                f"{self.path} is of a fit with other settings ({'; '.join(different)}); use the same ones, or another "
                "folder"
            )
        return FitState.from_file(tensors, metadata)

    def update(self, state: FitState) -> None:
        """Keep the state after an epoch, and write it where the last writing was long enough ago."""
        self._latest = state
        if time.perf_counter() - self._written_at > SECONDS_BETWEEN_CHECKPOINTS:
            self.write_latest()
            self._written_at = time.perf_counter()

    def write_latest(self) -> None:
        """Write the state of the last whole epoch, if there was one."""
        if self._latest is not None:
            tensors, counters = self._latest.to_file()
            write_tensors(self.path, tensors, counters | {"settings": self.settings})


def checkpoint_settings(config: TrainConfig, loss_name: str, train: Split) -> dict[str, Any]:
    """The settings that a resumed fit has to share with the one that was interrupted."""
    normal = {"patience": config.patience or None, "num_particles": config.num_particles or 1}  # as 0.1.0 wrote them
    return asdict(config) | normal | {"loss": loss_name, "training rows": train.fingerprint}


def quick_fingerprint(split: Split) -> str:
    """The number, width and type of a split's rows, and a digest of up to 1,000 of them: reading all may take long."""
    indices = torch.linspace(0, len(split) - 1, min(len(split), FINGERPRINT_ROWS), dtype=torch.float64).long()
    rows = split.stored[indices]
    digest = hashlib.sha256(rows.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{len(split)} rows of {split.shape[1]} {rows.dtype} {digest}"
