"""Where a fit stands between two epochs: kept on disk, taken up again, and told to the other processes at the start."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.atomic_write import read_tensors
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import copy_state, load_state, named_parameters

if TYPE_CHECKING:
    from pyro_vae.inference.svi.trainer import Trainer

FINGERPRINT_ROWS = 1000
COUNTERS = ("epoch", "best_epoch", "best_value", "history")


def snapshot(trainer: "Trainer") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint keeps: where the fit stands, and its settings and data."""
    tensors, about = _fit_state(trainer)
    return tensors, json.loads(json.dumps(about)) | {"settings": _fixed_settings(trainer)}


def resume(trainer: "Trainer", path: Path) -> None:
    """Take up a checkpoint; `InputError` where it is of a fit begun otherwise."""
    tensors, about = read_tensors(path)
    theirs, ours = about["settings"], _fixed_settings(trainer)
    if other := [f"{name} was {theirs.get(name)}, is {ours[name]}" for name in ours if theirs.get(name) != ours[name]]:
        raise InputError(
            f"{path}: this fit was begun otherwise ({'; '.join(other)}); repeat that, or use another folder"
        )
    _restore(trainer, tensors, about)


def synchronize_start(trainer: "Trainer") -> None:
    """Every process takes up where rank 0 stands, once all are seen to fit the same program to the same rows."""
    if trainer.group.is_single:
        return
    splits = {"training rows": trainer.train, "validation rows": trainer.valid}
    shapes = {name: tuple(value.shape) for name, value in named_parameters(trainer.program).items()}
    trainer.group.require_equal(
        asdict(trainer.settings)
        | {name: None if split is None else quick_fingerprint(split) for name, split in splits.items()}
        | {"loss": trainer.loss_name, "parameters": shapes}
    )
    tensors, about = _fit_state(trainer)
    here = {name: value.cpu() for name, value in tensors.items()} if trainer.group.is_main else {}
    _restore(trainer, *trainer.group.broadcast((here, about)))


def _fit_state(trainer: "Trainer") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that the next epoch depends on beside settings and data: weights, best weights, moments, counters."""
    parts = {"now": copy_state(trainer.program), "best": trainer.best, "optimizer": trainer.optimizer.get_state()}
    tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
    return tensors, {name: getattr(trainer, name) for name in COUNTERS}


def _restore(trainer: "Trainer", tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
    for full, value in tensors.items():
        part, _, name = full.partition("/")
        parts[part][name] = value
    load_state(trainer.program, parts["now"])
    trainer.best = parts["best"]
    trainer.optimizer.set_state(parts["optimizer"])
    for name in COUNTERS:
        setattr(trainer, name, about[name])


def _fixed_settings(trainer: "Trainer") -> dict[str, Any]:
    """What a fit that goes on must share with the one that began."""
    return asdict(trainer.settings) | {"loss": trainer.loss_name, "training rows": trainer.train.fingerprint}


def quick_fingerprint(split: Split) -> str:
    """Rows by their number, width and type, and a digest of some: reading all would take long where there are many."""
    places = torch.linspace(0, len(split) - 1, min(len(split), FINGERPRINT_ROWS), dtype=torch.float64).long()
    some = split.stored[places]
    digest = hashlib.sha256(some.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{len(split)} rows of {split.shape[1]} {some.dtype} {digest}"


CHECKPOINT = Path("checkpoint") / "state.safetensors"
