"""The state of a fit between two epochs, and the checkpoint: that state and settings in a file, to resume from."""

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.atomic_write import read_tensors, remove_partial_files, write_tensors
from pyro_vae.data import Split
from pyro_vae.data.stored_split import readable_rows
from pyro_vae.distributed import ProcessGroup
from pyro_vae.errors import DamagedFileError, InputError
from pyro_vae.file_digests import damaged
from pyro_vae.inference.fit_result import EpochRecord, epoch_record
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.json_records import require_types
from pyro_vae.programs.parameters import load_state

CHECKPOINT = Path("checkpoint") / "state.safetensors"  # in a run's folder
PREVIOUS = "previous.safetensors"  # beside it, the checkpoint before it
SECONDS_BETWEEN_CHECKPOINTS = 10.0
FINGERPRINT_ROWS = 1000
PREFIXES = ("now", "best", "optimizer", "best optimizer")  # in the file, of weights and of the method's state
Counters = Mapping[str, Any]  # of a fit's state: what is no tensor, as JSON
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Counters:
    """The types of a fit's counters in a file."""

    epoch: int
    best_epoch: int
    best_value: float
    history: Sequence[Mapping[str, object]]
    restarts: int | None


@dataclass
class FitState:
    """All that the next epoch depends on apart from settings and data.

    Attributes:
        best_weights: the program's weights after the best epoch.
        weights: its current weights; None in the state that a running fit updates, where the program has them.
        method: the tensors of the fit method's `state`, such as the optimizer's moments; None as `weights`.
        best_method: those after the best epoch; None where the fit does not go back, or an earlier version began it.
        epoch: the number of finished epochs.
        best_epoch: the epoch with the best validation ELBO, or the last one without validation rows; 0 before any.
        best_value: that validation ELBO in nats per row, or the epoch's number.
        history: one record for each epoch.
        restarts: how often the fit has gone back to its best weights.
    """

    best_weights: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    method: dict[str, Tensor] | None = None
    epoch: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf
    history: list[EpochRecord] = field(default_factory=list)
    restarts: int = 0
    best_method: dict[str, Tensor] | None = None

    def to_file(self) -> tuple[dict[str, Tensor], Counters]:
        """The tensors, each as `now/NAME`, `best/NAME` or another of `PREFIXES`, and the counters."""
        groups = zip(PREFIXES, (self.weights, self.best_weights, self.method, self.best_method), strict=True)
        tensors = {f"{prefix}/{name}": value for prefix, group in groups for name, value in (group or {}).items()}
        return tensors, {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "history": [dict(row) for row in self.history],
            "restarts": None if self.best_method is None else self.restarts,
        }

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], counters: Counters) -> "FitState":
        """The state that was written.

        Args:
            tensors: by their names in the file.
            counters: what else `to_file` gave; other keys are left out.

        Returns:
            The state whose `to_file` gave them.
        """
        groups: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in PREFIXES}
        for key, value in tensors.items():
            prefix, _, name = key.partition("/")
            groups[prefix][name] = value
        return cls(
            weights=groups["now"],
            best_weights=groups["best"],
            method=groups["optimizer"],
            best_method=None if counters.get("restarts") is None else groups["best optimizer"],
            epoch=counters["epoch"],
            best_epoch=counters["best_epoch"],
            best_value=counters["best_value"],
            history=[epoch_record(row) for row in counters["history"]],
            restarts=counters.get("restarts") or 0,
        )

    def broadcast(self, group: ProcessGroup) -> "FitState":
        """The state of rank 0, in every process."""
        tensors, counters = self.to_file()
        on_cpu = {name: value.cpu() for name, value in tensors.items()} if group.is_main else {}
        return FitState.from_file(*group.broadcast((on_cpu, counters)))


class Checkpoint:
    """The file of a fit's state. It is written every ten seconds at most, and once more by `write_latest`.

    Args:
        path: the file.
        settings: those that a resumed fit has to share with the one that was interrupted.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path, self.settings = path, settings
        self._latest: FitState | None = None
        self._written_at = time.perf_counter()

    def load(self) -> FitState | None:
        """The state in the file, None where there is no file; `InputError` where its settings are other ones."""
        remove_partial_files(self.path.parent)  # a fit with no epoch left writes no further checkpoint
        found = read_checkpoint(self.path)
        if found is None:
            return None
        tensors, metadata = found
        if not isinstance(settings := metadata.get("settings"), dict):
            raise damaged(self.path, "it does not say of which fit it is")
        old, new = asdict(TrainConfig()) | settings, self.settings  # a later setting had its default
        chosen = ("precision", "auto")  # the file holds which one
        names = [name for name in new if old.get(name) != new[name] and (name, new[name]) != chosen]
        if different := [f"{name} was {old.get(name)}, is {new[name]}" for name in names]:
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
            about = dict(counters) | {"settings": dict(self.settings)}
            write_tensors(self.path, tensors, about, keep_as=self.path.with_name(PREVIOUS))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Counters] | None:
    """What a checkpoint holds, or the one before it where it is damaged, which then takes its place, with a note.

    Args:
        path: the file.

    Returns:
        The tensors and the counters; None where there is neither file; `DamagedFileError` where both are damaged.
    """
    before = path.with_name(PREVIOUS)
    if not path.exists() and not before.exists():
        return None
    try:
        if not path.exists():
            raise DamagedFileError(f"{path}: missing")
        return _read_state(path)
    except DamagedFileError as error:
        if not before.exists():
            raise
        tensors, counters = _read_state(before)
        before.replace(path)
        log.warning("note: %s is damaged or missing: the one before it is used, of epoch %d", path, counters["epoch"])
        log.debug("%s", error)
        return tensors, counters


def _read_state(path: Path) -> tuple[dict[str, Tensor], Counters]:
    """A checkpoint's tensors and counters; `DamagedFileError` for counters that no fit writes."""
    tensors, counters = read_tensors(path)
    try:
        require_types(_Counters, counters, "its counters")
        FitState.from_file(tensors, counters)
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"it is not that of a fit: {type(error).__name__} {error}") from error
    return tensors, counters


def require_checkpoint_of(path: Path, program: object) -> None:
    """`InputError` for a checkpoint whose weights are not those of a program, which gets its best ones.

    Args:
        path: the file; nothing is done where there is none.
        program: the program, before its fit is resumed.
    """
    found = read_checkpoint(path)
    if found is not None:
        load_state(program, FitState.from_file(*found).best_weights)


def checkpoint_settings(config: TrainConfig, loss_name: str, train: Split) -> dict[str, object]:
    """The settings that a resumed fit has to share with the one that was interrupted.

    Args:
        config: the training settings.
        loss_name: the name of the fit method and its objective.
        train: the training rows.

    Returns:
        The settings by name, as JSON can hold them.
    """
    normal = {"patience": config.patience or None, "num_particles": config.num_particles or 1}  # as 0.1.0 wrote them
    return asdict(config) | normal | {"loss": loss_name, "training rows": train.fingerprint}


def quick_fingerprint(split: Split) -> str:
    """The number, width and type of a split's rows, and a digest of up to 1,000 of them: reading all may take long."""
    most = readable_rows(split.shape[1], FINGERPRINT_ROWS)
    indices = torch.linspace(0, len(split) - 1, min(len(split), most), dtype=torch.float64).long()
    rows = split.stored[indices]
    digest = hashlib.sha256(rows.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{len(split)} rows of {split.shape[1]} {rows.dtype} {digest}"
