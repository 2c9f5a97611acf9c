"""Files written whole or not at all: JSON, JSON lines, TOML and tensors, none of which can run code."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyro_vae.errors import InputError


def write_atomic(path: Path, content: bytes) -> None:
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
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line without its end was being written when a process died."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    metadata = {"about": json.dumps(about)} if about is not None else None
    write_atomic(
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
