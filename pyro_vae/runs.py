"""What lies on disk: a program's folder and a fit's checkpoint, each file written whole or not at all.

No file here can run code: weights are safetensors, settings TOML, numbers JSON.
"""

import json
import os
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyro_vae import guides, likelihoods, nets, priors, recipes  # noqa: F401 - the parts that a recipe may name
from pyro_vae.errors import InputError
from pyro_vae.models import bayesian_mixture, bernoulli_mixture, gaussian_mixture, ppca, vae  # noqa: F401 - the same
from pyro_vae.models.program import load_state, state_of

CONFIG, WEIGHTS, METRICS, EVALUATION = "config.toml", "model.safetensors", "metrics.jsonl", "evaluation.json"
CHECKPOINT = Path("checkpoint") / "state.safetensors"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line without its end was being written when a process died."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_whole(folder / CONFIG, tomli_w.dumps(config).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """A run's settings; `InputError` where the folder is no run."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG}; `pyro-vae fit` makes one, by default under runs/")
    return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    metadata = {"about": json.dumps(about)} if about is not None else None
    write_whole(
        path, safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata)
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and the JSON written beside them; `InputError` where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dictionary
    except (FileNotFoundError, SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: no readable weights there ({error})") from error


def save(program: Any, folder: str | Path) -> None:
    """Write a program to a folder: `model.safetensors`, and in `config.toml` the recipe that rebuilds it.

    A program made from this package's parts comes back by `load(folder)`; one that holds a user's own parts or
    functions comes back by `load(folder, build=function)`.
    """
    folder = Path(folder)
    config = read_toml(folder / CONFIG) if (folder / CONFIG).exists() else {}
    kept = {key: value for key, value in config.items() if key not in ("program", "program_needs", "num_features")}
    write_config(folder, kept | recipe_of(program))
    write_tensors(folder / WEIGHTS, state_of(program))


def recipe_of(program: Any) -> dict[str, Any]:
    """`{"program": recipe}`, or why there is none: `{"program_needs": reason}`; and the width of its rows."""
    width = getattr(program, "num_features", None)
    known = {} if width is None else {"num_features": width}
    try:
        return known | {"program": recipes.describe(program)}
    except InputError as reason:
        return known | {"program_needs": str(reason)}


def load(folder: str | Path, build: Callable[[], Any] | None = None) -> Any:
    """The program saved in a folder, with its weights, on the CPU.

    `build` makes the program where a file cannot say how (a user's own parts or functions): no file ever names code to
    run. Raises `InputError` where the folder holds no program, or one that needs `build`.
    """
    folder = Path(folder)
    config = read_config(folder)
    if build is not None:
        program = build()
    elif "program" in config:
        program = recipes.build(config["program"])
    else:
        raise InputError(f"{folder}: {config.get('program_needs', 'no program was saved here')}")
    tensors, _ = read_tensors(folder / WEIGHTS)
    first = next((value for value in tensors.values() if value.is_floating_point()), None)
    if hasattr(program, "to") and first is not None:
        program.to(first.dtype)
    load_state(program, tensors)
    if hasattr(program, "num_features"):
        program.num_features = config.get("num_features", program.num_features)
    return program


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
