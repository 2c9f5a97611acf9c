"""A run's folder: the names of its files, its settings, and a new one that nothing else uses."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from math import prod
from pathlib import Path

from pyro_vae import __version__
from pyro_vae.atomic_write import JsonDict, is_partial, read_json, read_toml, write_json, write_toml
from pyro_vae.errors import InputError
from pyro_vae.file_names import require_path
from pyro_vae.folder_lock import LOCK, lock_folder
from pyro_vae.json_records import require_types
from pyro_vae.options import MAX_COUNT

CONFIG, WEIGHTS, METRICS, EVALUATION = "config.toml", "model.safetensors", "metrics.jsonl", "evaluation.json"
CHECK = "check.json"  # verdicts about the model
REFERENCE = "reference.safetensors"  # scores of validation rows
FOLDERS = ("figures", "checkpoint", "tensorboard")  # in a run's folder
CONDITIONS = "conditions.safetensors"  # of training rows, where columns are given
SETTINGS = "settings.json"  # of a comparison or study
RUNS = Path("runs")  # where new runs are made
TABLES = ("about", "data", "model", "objective", "training", "measure", "schema", "program", "fitted_measure")
FORMAT = 2  # of a run's folder: 1 had no digests; a config.toml that names none is of format 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _About:
    """The types of single values in a run's `config.toml`."""

    format: int = FORMAT
    pyro_vae: str = ""
    data: str | Mapping[str, object] = ""
    fingerprint: str = ""
    num_features: int = 1
    columns: Sequence[str] = ()
    missing: bool = False
    image_shape: Sequence[int] = ()
    program_needs: str = ""


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """Write a run's settings, with the number of the format and the version that began the run.

    Args:
        folder: the run's folder.
        config: the settings, in tables.
    """
    about = config.get("about", {})
    known = about if isinstance(about, Mapping) else {}
    write_toml(folder / CONFIG, dict(config) | {"about": {"pyro_vae": __version__, **known, "format": FORMAT}})


def read_config(folder: Path) -> JsonDict:
    """A run's settings; `InputError` where the folder is no run, or of a later format than this version knows."""
    path = folder / CONFIG
    require_path(path)
    if not path.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG}; `pyro-vae fit` makes one, by default under runs/")
    config = read_toml(path, of_run=True)
    about = config.get("about", {})
    _require_known_format(folder, about if isinstance(about, dict) else {})
    _require_tables(config, path)
    return config


def _require_known_format(folder: Path, about: JsonDict) -> None:
    """`InputError` for a run of a later format; a run of a later version whose format is known is noted."""
    number, version = about.get("format", 1), str(about.get("pyro_vae", ""))
    is_later = _as_numbers(version) > _as_numbers(__version__)
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise InputError(
            f"{folder} has format {number} of a later version ({version or 'unknown'}), and this "
            f"version ({__version__}) reads formats up to {FORMAT}: install a later pyro-vae"
        )
    if is_later and "format" not in about:
        raise InputError(
            f"{folder} was written by pyro-vae {version}, a later version than this one ({__version__}), and names no "
            "format: install a later pyro-vae"
        )
    if is_later:
        log.warning("note: %s was written by pyro-vae %s; what is new there is left out", folder, version)


def _as_numbers(version: str) -> tuple[int, ...]:
    """The release of a version, as in (0, 1, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _require_tables(config: JsonDict, path: Path) -> None:
    """`InputError` where a run's settings are not of the types that a fit writes."""
    for name in TABLES:
        if not isinstance(config.get(name, {}), dict):
            raise InputError(f"{path}: {name} must be a table, [{name}], got {config[name]!r:.60}; bring back a copy")
    require_types(_About, config.get("about", {}), f"{path}: [about]")
    require_types(_About, config, str(path))
    about = config.get("about", {})
    for place in (config, about):
        if not 0 < place.get("num_features", 1) <= MAX_COUNT:
            raise InputError(
                f"{path}: num_features must be one or more, got {place['num_features']}; bring back a copy"
            )
    shape, width = about.get("image_shape"), about.get("num_features")
    if width is not None and config.get("num_features", width) != width:
        raise InputError(f"{path}: num_features is {width} and {config['num_features']}; bring back a copy")
    if shape is not None and (len(shape) not in (2, 3) or min(shape) < 1 or prod(shape) != width):
        raise InputError(f"{path}: image_shape {shape} is not one of {width} values; bring back a copy")


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


@contextmanager
def lock_new_folder(out: Path | None, name: str) -> Iterator[Path]:
    """Inside, this process alone writes into a folder, which is made; at the end those made are removed if empty.

    Args:
        out: the folder, by default a new one under `runs/`; `InputError` where it cannot be made, or another process
            writes to it.
        name: what a new one is named after.

    Yields:
        Path: the folder.
    """
    planned = RUNS / name if out is None else out
    require_path(planned)
    made = [path for path in (planned, *planned.parents) if not path.exists()]
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        folder = new_run(RUNS, name) if out is None else out
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{planned}: no folder can be made there ({reason}); name another with --out") from error
    if out is None:
        made = [folder, *made]
    try:
        with lock_folder(folder):
            yield folder
    finally:
        for path in made:
            with suppress(OSError):  # it holds files
                path.rmdir()


@contextmanager
def lock_run(folder: Path, written: Path | None = None) -> Iterator[None]:
    """Inside, this process alone writes into a folder, if it is that of a run.

    Args:
        folder: the folder; `InputError` where another process writes to it.
        written: the file that will be written, if it is one alone: outside the folder, nothing is locked.

    Yields:
        None: nothing.
    """
    require_own_folders(folder)
    is_outside = written is not None and folder.resolve() not in written.resolve().parents
    with nullcontext() if is_outside or not (folder / CONFIG).is_file() else lock_folder(folder):
        yield


def require_own_folders(folder: Path) -> None:
    """`InputError` where a folder in a run's folder is a symbolic link: what is written there would leave the run.

    Args:
        folder: the run's folder, which may be a link itself.
    """
    require_path(folder)
    for name in FOLDERS:
        if (folder / name).is_symlink():
            raise InputError(f"{folder / name} is a symbolic link, which no command follows: remove it")


def require_unused(folder: Path) -> None:
    """`InputError` where a folder that a new run is to be written to is a file, a run, or holds other files."""
    require_path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file: name a folder that is new or empty")
    # looked through once, as another process may begin a run here
    names = [path.name for path in folder.iterdir() if not is_partial(path)] if folder.is_dir() else []
    if CONFIG in names:
        raise InputError(f"{folder} holds a run already: go on with it (--resume {folder}), or name another folder")
    if any(name != LOCK for name in names):
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
    plain = {n: v for n, v in settings.items() if v is not None} | {"fingerprint": fingerprint}
    now = json.loads(json.dumps(plain, default=list, sort_keys=True))
    if path.exists() and (before := read_json(path)) != now:
        changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
        other = "; ".join(f"{n}: {before.get(n)} → {now.get(n)}" for n in changed)
        raise InputError(f"{folder} holds a comparison with other settings ({other}): name another folder")
    if not path.exists():
        require_unused(folder)
        write_json(path, now)


def remove_if_empty(folder: Path, result: str) -> None:
    """Remove what is in a folder in which no part was finished; `lock_new_folder` removes the folder.

    Args:
        folder: the folder.
        result: the file that the subfolder of a finished part has.
    """
    if not any(folder.glob(f"*/{result}")):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path != folder / LOCK:
                path.rmdir() if path.is_dir() else path.unlink()


def remove_unstarted(folder: Path) -> None:
    """Remove the files of a run that could not begin; the lock's end removes the folders that were made for it."""
    for name in (CONFIG, METRICS, CONDITIONS):
        (folder / name).unlink(missing_ok=True)


def require_same_data(folder: Path, fingerprint: str) -> None:
    """`InputError` where a run that is resumed was begun with other data.

    Args:
        folder: the run's folder.
        fingerprint: of the data that is there now.
    """
    if read_config(folder)["about"]["fingerprint"] != fingerprint:
        raise InputError(
            f"{folder}: the data is not what it was when this run began; start a new run, or bring the old data back"
        )
