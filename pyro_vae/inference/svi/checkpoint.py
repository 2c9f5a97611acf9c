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
from pyro_vae.programs.parameters import load_state, named_parameters, state_of

if TYPE_CHECKING:
    from pyro_vae.inference.svi.trainer import Loop

GLANCED_AT = 1000
COUNTERS = ("epoch", "best_epoch", "best_value", "history")


def snapshot(loop: "Loop") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint keeps: where the fit stands, and its settings and data."""
    tensors, about = _standing(loop)
    return tensors, json.loads(json.dumps(about)) | {"settings": _settled(loop)}


def go_on_from(loop: "Loop", path: Path) -> None:
    """Take up a checkpoint; `InputError` where it is of a fit begun otherwise."""
    tensors, about = read_tensors(path)
    theirs, ours = about["settings"], _settled(loop)
    if other := [f"{name} was {theirs.get(name)}, is {ours[name]}" for name in ours if theirs.get(name) != ours[name]]:
        raise InputError(
            f"{path}: this fit was begun otherwise ({'; '.join(other)}); repeat that, or use another folder"
        )
    _take_up(loop, tensors, about)


def begin_together(loop: "Loop") -> None:
    """Every process takes up where rank 0 stands, once all are seen to fit the same program to the same rows."""
    if loop.ranks.alone:
        return
    splits = {"training rows": loop.train, "validation rows": loop.valid}
    shapes = {name: tuple(value.shape) for name, value in named_parameters(loop.program).items()}
    loop.ranks.agree(
        asdict(loop.settings)
        | {name: None if split is None else _glance(split) for name, split in splits.items()}
        | {"loss": loop.loss_name, "parameters": shapes}
    )
    tensors, about = _standing(loop)
    here = {name: value.cpu() for name, value in tensors.items()} if loop.ranks.main else {}
    _take_up(loop, *loop.ranks.same((here, about)))


def _standing(loop: "Loop") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that the next epoch depends on beside settings and data: weights, best weights, moments, counters."""
    parts = {"now": state_of(loop.program), "best": loop.best, "optimizer": loop.optimizer.get_state()}
    tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
    return tensors, {name: getattr(loop, name) for name in COUNTERS}


def _take_up(loop: "Loop", tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
    for full, value in tensors.items():
        part, _, name = full.partition("/")
        parts[part][name] = value
    load_state(loop.program, parts["now"])
    loop.best = parts["best"]
    loop.optimizer.set_state(parts["optimizer"])
    for name in COUNTERS:
        setattr(loop, name, about[name])


def _settled(loop: "Loop") -> dict[str, Any]:
    """What a fit that goes on must share with the one that began."""
    return asdict(loop.settings) | {"loss": loop.loss_name, "training rows": loop.train.fingerprint}


def _glance(split: Split) -> str:
    """Rows by their number, width and type, and a digest of some: reading all would take long where there are many."""
    places = torch.linspace(0, len(split) - 1, min(len(split), GLANCED_AT), dtype=torch.float64).long()
    some = split.stored[places]
    digest = hashlib.sha256(some.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{len(split)} rows of {split.shape[1]} {some.dtype} {digest}"


CHECKPOINT = Path("checkpoint") / "state.safetensors"
