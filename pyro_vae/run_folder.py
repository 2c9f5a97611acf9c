"""A run's folder: the names of its files, its settings, and a new one that nothing else uses."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pyro_vae.atomic_write import JsonDict, read_toml, write_atomic, write_toml
from pyro_vae.errors import InputError

CONFIG, WEIGHTS, METRICS, EVALUATION = "config.toml", "model.safetensors", "metrics.jsonl", "evaluation.json"
REFERENCE = "reference.safetensors"  # scores of validation rows
SETTINGS = "settings.json"  # of a comparison or study
FORMAT = 1  # of a run's folder; a config.toml that names none is of format 1


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    write_toml(folder / CONFIG, config)


def read_config(folder: Path) -> JsonDict:
    """A run's settings; `InputError` where the folder is no run, or of a later format than this version knows."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG}; `pyro-vae fit` makes one, by default under runs/")
    config = read_toml(path)
    about = config.get("about", {})
    if about.get("format", FORMAT) > FORMAT:
        raise InputError(
            f"{folder} has format {about['format']} of a later version ({about.get('pyro_vae', 'unknown')}), and this "
            f"version reads formats up to {FORMAT}: install a later pyro-vae"
        )
    return config


def new_run(parent: Path, name: str) -> Path:
    """A folder for a new run that nothing else uses.

    Args:
        parent: the folder of all runs.
        name: the data set's name.

    Returns:
        `parent/NAME-MONTHDAY-HHMM`, numbered where taken.
    """
    stem = f"{name}-{datetime.now():%m%d-%H%M}"
    for number in range(1, 10_000):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise InputError(f"no free name for a run called {stem} under {parent}")


def require_unused(folder: Path) -> None:
    """`InputError` where a folder that a new run is to be written to is a file, a run, or holds other files."""
    if folder.is_file():
        raise InputError(f"{folder} is a file: name a folder that is new or empty")
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} holds a run already: go on with it (--resume {folder}), or name another folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files: name a folder that is new or empty")


def claim_folder(folder: Path, settings: Mapping[str, object], fingerprint: str) -> None:
    """Note the settings that a comparison or study in this folder was begun with.

    Raises `InputError` where it was begun with others, or holds other files.

    Args:
        folder: the folder.
        settings: the settings by name; those that are None are left out.
        fingerprint: the fingerprint of the data.
    """
    path = folder / SETTINGS
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in settings.items() if v is not None}
    text = json.dumps(plain | {"fingerprint": fingerprint}, default=list, sort_keys=True) + "\n"
    if path.exists() and path.read_text() != text:
        before, now = json.loads(path.read_text()), json.loads(text)
        changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
        other = "; ".join(f"{n}: {before.get(n)} → {now.get(n)}" for n in changed)
        raise InputError(f"{folder} holds a comparison with other settings ({other}): name another folder")
    if not path.exists():
        require_unused(folder)
        write_atomic(path, text.encode())


def remove_if_empty(folder: Path, result: str) -> None:
    """Remove a folder in which no part was finished.

    Args:
        folder: the folder.
        result: the file that the subfolder of a finished part has.
    """
    if not any(folder.glob(f"*/{result}")):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
