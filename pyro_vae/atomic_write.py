"""Atomic file writes, and readers and writers of JSON, JSON lines, TOML and tensors; none of these can run code.

What is written here holds its digest (`file_digests`), and what is read is checked against it.
"""

import errno
import json
import os
import re
import socket
import sys
import tomllib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyro_vae.errors import InputError, UnwritableError
from pyro_vae.file_digests import (
    NO_DIGEST,
    add_json_digest,
    add_line_crc,
    add_toml_digest,
    check_tensors,
    damaged,
    digest_of_tensors,
    log,
    note_no_digest,
    remove_digest,
    remove_line_crc,
    tensor_header,
)
from pyro_vae.json_records import to_json

JsonDict = dict[str, Any]  # plain values, as JSON and TOML hold them
PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})\.(\d+)\.partial")  # of a host and a process
OLD_PARTIAL = re.compile(r"\..+\.\d+\.partial")  # of earlier versions
ROOM_IN_NAME = 40  # characters that a temporary file's name has more
REASONS = {
    errno.ENOSPC: "free some space on that disk, or write to another",
    errno.EDQUOT: "your quota is used up: free some space, or write to another disk",
    errno.EROFS: "that file system is read-only: write to another folder",
    errno.EACCES: "give yourself the right to write there, or write to another folder",
    errno.EPERM: "give yourself the right to write there, or write to another folder",
    errno.EIO: "the disk fails: write to another",
}


@contextmanager
def atomic_path(path: Path, keep_as: Path | None = None) -> Iterator[Path]:
    """A temporary path in the folder of `path`, to write to; at the end of the block it is synced and replaces `path`.

    A reader, or a crash, finds the old content or the new one and nothing between. The temporary file is removed when
    the block raises, and those of killed processes are removed at the next write. `UnwritableError` names the file
    where the disk is full or cannot be written.

    Args:
        path: the file.
        keep_as: the name that the file's old content gets.

    Yields:
        Path: the temporary path.
    """
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path.parent)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in REASONS or isinstance(error, UnwritableError):
            raise
        raise unwritable(path, error) from error
    finally:
        _remove(temporary)


def require_file_path(path: Path) -> None:
    """`InputError` where no file can be written: before any work is done.

    Args:
        path: the file that is to be written.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} cannot be written: it is a folder; try another name")
        if taken := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
            raise InputError(f"{path} cannot be written: {taken} is a file, not a folder; try another path")
        path.with_name(f"{path.name}{'.' * ROOM_IN_NAME}").exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r:.80} cannot be written: {reason}; try another name") from error


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """The error for a file that a full or read-only disk refused, with what can be done about it.

    Args:
        path: the file.
        error: what the system said, of a kind in `REASONS`.

    Returns:
        The error.
    """
    reason = os.strerror(error.errno or 0)
    return UnwritableError(error.errno, f"{path}: not written ({reason}); {REASONS[error.errno or 0]}")


class DeferUnwritable:
    """A context that keeps the first `UnwritableError` as `error`, so that a finished result is returned first."""

    def __init__(self) -> None:
        self.error: UnwritableError | None = None

    def __enter__(self) -> "DeferUnwritable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, UnwritableError):
            return False
        self.error = self.error or error
        return True


def is_partial(path: Path) -> bool:
    """Whether a file is one that a process has not finished, or is writing."""
    return bool(PARTIAL.fullmatch(path.name) or OLD_PARTIAL.fullmatch(path.name))


def is_leftover(path: Path) -> bool:
    """Whether a file is one that a killed process did not finish."""
    found = PARTIAL.fullmatch(path.name)
    if found is None:
        return bool(OLD_PARTIAL.fullmatch(path.name))
    return found[1] == _host() and not _is_alive(int(found[2]))


def remove_partial_files(folder: Path) -> None:
    """Remove the files that killed processes did not finish."""
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name) and is_leftover(path):
            _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # nothing can be written there, which another error says
        if error.errno not in REASONS:
            raise


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_alive(pid: int) -> bool:
    """Whether a process of this host runs; on Windows, where asking would end it, all of them count as running."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file by `atomic_path`.

    Args:
        path: the file.
        content: its bytes.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    text = (to_json(content, indent=2) + "\n").encode()
    write_atomic(path, add_json_digest(text) if isinstance(content, Mapping) else text)


def read_json(path: Path) -> JsonDict:
    """The object in a JSON file of a run; `InputError` where it is missing or damaged."""
    try:
        content, has_digest = remove_digest(path, path.read_bytes())
        found = json.loads(content)
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, f"not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise damaged(path, f"it holds a {type(found).__name__} where an object is expected")
    if not has_digest:
        note_no_digest(path)
    return found


def write_toml(path: Path, content: Mapping[str, object], to_edit: bool = False) -> None:
    """Write a TOML file.

    Args:
        path: the file.
        content: plain values.
        to_edit: whether it is made to be edited, and has no digest.
    """
    try:
        text = tomli_w.dumps(content).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: {error.object[error.start : error.end]!r} is no text in this locale (it stands in a file's name, "
            "perhaps): set PYTHONUTF8=1, or rename the file"
        ) from error
    write_atomic(path, text if to_edit else add_toml_digest(text))


def read_toml(path: Path, of_run: bool = False) -> JsonDict:
    """The content of a TOML file.

    Args:
        path: the file.
        of_run: whether it is a run's, which has a digest unless an earlier version wrote it: without one, it is noted.

    Returns:
        The content; `InputError` where it is missing, damaged or not readable.
    """
    try:
        content, has_digest = remove_digest(path, path.read_bytes())
        found = tomllib.loads(content.decode())
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (ValueError, RecursionError, OSError) as error:  # TOML's and the encoding's are ValueErrors
        raise InputError(f"{path}: not readable as TOML ({error})") from error
    if of_run and not found:
        raise damaged(path, "it is empty")
    if of_run and not has_digest:
        note_no_digest(path)
    return found


def write_json_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    lines = [to_json(row).encode() for row in rows]
    write_atomic(path, b"".join(add_line_crc(line, number == len(lines)) for number, line in enumerate(lines, 1)))


def append_json_line(path: Path, row: Mapping[str, object]) -> None:
    """Write one more line, in one piece.

    Args:
        path: the file.
        row: plain values.
    """
    line = add_line_crc(to_json(row).encode())
    try:
        with path.open("ab", buffering=0) as file:
            file.write(line)
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise unwritable(path, error) from error


def read_json_lines(path: Path, complete: bool = False) -> list[JsonDict]:
    """The rows of a file of JSON lines, [] where there is none; an unfinished last line is left out, and noted.

    Args:
        path: the file.
        complete: whether the file must be whole, because what wrote it has ended: `DamagedFileError` where it is not.

    Returns:
        The rows.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        log.warning("note: %s: its last line was cut off (line %d), and is left out", path, len(lines) + 1)
    checked = [remove_line_crc(path, number, line + b"\n") for number, line in enumerate(lines, 1)]
    with_crc = sum(has_crc for _, has_crc, _ in checked)
    if 0 < with_crc < len(checked):
        raise damaged(path, "some of its lines have no CRC")
    if complete and with_crc and not checked[-1][2]:
        raise damaged(path, f"lines after line {len(checked)} are missing")
    try:
        rows = [json.loads(line) for line, _, _ in checked]
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not readable as JSON lines: {error}") from error
    if strange := [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]:
        raise damaged(path, f"line {strange[0]} is no object")
    if not with_crc and lines:
        note_no_digest(path)
    return rows


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, object] | None = None,
    keep_as: Path | None = None,
) -> None:
    """Write tensors as safetensors.

    Args:
        path: the file.
        tensors: by name.
        about: plain values, written as JSON in the file's metadata.
        keep_as: the name that the file's old content gets.
    """
    saved = safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()})
    start = 8 + int.from_bytes(saved[:8], "little")
    header = tensor_header(json.loads(saved[8:start]), None if about is None else json.dumps(about))
    values = memoryview(saved)[start:]
    digest = digest_of_tensors(header, values)
    with atomic_path(path, keep_as) as temporary, temporary.open("wb") as file:
        file.write(header.replace(NO_DIGEST.encode(), digest.encode(), 1))
        file.write(values)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], JsonDict]:
    """The tensors of a file and the JSON in its metadata; `InputError` where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file, path.open("rb") as content:
            metadata = file.metadata() or {}
            check_tensors(path, content, metadata.get("digest"))
            about = json.loads(metadata.get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dictionary
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no readable weights there ({error})") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, f"no readable weights there: {error}") from error
