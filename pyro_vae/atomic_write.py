"""Atomic file writes, and readers and writers of JSON, JSON lines, TOML and tensors; none of these can run code."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyro_vae.errors import InputError

JsonDict = dict[str, Any]  # plain values, as JSON and TOML hold them


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, to write to; at the end of the block it is synced and replaces `path`.

    A reader, or a crash, finds the old content or the new one and nothing between. The temporary file is removed when
    the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file by `atomic_path`.

    Args:
        path: the file.
        content: its bytes.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_toml(path: Path, content: Mapping[str, object]) -> None:
    write_atomic(path, tomli_w.dumps(content).encode())


def write_json_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_atomic(path, "".join(json.dumps(dict(row), allow_nan=False) + "\n" for row in rows).encode())


def read_json_lines(path: Path) -> list[JsonDict]:
    """The rows of a file of JSON lines, [] where there is none; an unfinished last line is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_toml(path: Path) -> JsonDict:
    """The content of a TOML file; `InputError` where it is missing or not readable."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object] | None = None) -> None:
    """Write tensors as safetensors.

    Args:
        path: the file.
        tensors: by name.
        about: plain values, written as JSON in the file's metadata.
    """
    metadata = {"about": json.dumps(about)} if about is not None else None
    write_atomic(
        path, safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata)
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], JsonDict]:
    """The tensors of a file and the JSON in its metadata; `InputError` where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dictionary
    except (FileNotFoundError, SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: no readable weights there ({error})") from error
