"""A run's folder: the names of its files, its settings, and a new one that nothing else uses."""

from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from pyro_vae.atomic_write import read_toml, write_atomic
from pyro_vae.errors import InputError

CONFIG, WEIGHTS, METRICS, EVALUATION = "config.toml", "model.safetensors", "metrics.jsonl", "evaluation.json"


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomic(folder / CONFIG, tomli_w.dumps(config).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """A run's settings; `InputError` where the folder is no run."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG}; `pyro-vae fit` makes one, by default under runs/")
    return read_toml(path)


def new_run(parent: Path, name: str) -> Path:
    """A folder for a new run that nothing else uses: `parent/NAME-MONTHDAY-HHMM`, numbered where taken."""
    stem = f"{name}-{datetime.now():%m%d-%H%M}"
    for number in range(1, 10_000):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise InputError(f"no free name for a run called {stem} under {parent}")
