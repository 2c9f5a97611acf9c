"""Digests inside files: a line of TOML and JSON, a key of each JSON line, an entry of a safetensors header.

Each is of the bytes around it, so that a changed bit, a cut or an edit is found when the file is read. A file without
one, of an earlier version or edited by hand, is read with a note.
"""

import hashlib
import json
import logging
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from pyro_vae.errors import DamagedFileError

FIRST_BYTES = 200  # of a file, in which a digest's line begins
PNG = b"\x89PNG\r\n\x1a\n"
NO_DIGEST = "sha256:" + "0" * 64
REMEDIES = {  # by the name of a file in a run's folder; {folder} is that folder
    "config.toml": (
        "if you edited it by hand, delete its first line (digest = …) and it is read as it is; else bring back a copy"
    ),
    "model.safetensors": (
        "pyro-vae fit --resume {folder} writes the best weights anew from the checkpoint; else bring back a copy"
    ),
    "metrics.jsonl": "pyro-vae fit --resume {folder} writes it anew from the checkpoint; else delete it",
    "evaluation.json": "delete it; pyro-vae evaluate {folder} computes its numbers again",
    "reference.safetensors": "delete it; rows are then compared with the validation rows, scored again",
    "conditions.safetensors": "delete it; rows are then drawn at the conditions of the data's training rows",
    "state.safetensors": "start a new run with pyro-vae fit --config {folder}/config.toml",
    "settings.json": "bring back a copy, or name another folder",
    "fit.json": "delete the folder {folder}, and that fit is repeated",
}
OTHER_REMEDY = "bring back a copy, or delete it and repeat the command that wrote it"

_LINE = re.compile(rb' *"?digest"?(?: = |: )"sha256:([0-9a-f]{64})",?\n')
_LAST_KEY = re.compile(rb', "crc": "crc32:([0-9a-f]{8})( end)?"\}\n$')
_noted: set[Path] = set()
log = logging.getLogger(__name__)


def damaged(path: Path, reason: str) -> DamagedFileError:
    """The error for a file whose content is not what was written, with what can be done about it.

    Args:
        path: the file.
        reason: what was found.

    Returns:
        The error.
    """
    folder = run_of(path)
    remedy = REMEDIES.get(path.name, OTHER_REMEDY).format(folder=folder)
    return DamagedFileError(f"{path}: damaged ({reason}); {remedy}")


def run_of(path: Path) -> Path:
    """The folder of the run that a file is of."""
    above = path.parent.parent
    return above if (above / "config.toml").exists() else path.parent


def note_no_digest(path: Path) -> None:
    """Log that a file is read without a check, once for all files of its run."""
    folder = run_of(path)
    if folder not in _noted:
        _noted.add(folder)
        log.warning(
            "note: %s has no digest (an earlier version wrote it, or it was edited by hand), so it cannot be checked; "
            "nor can other files of %s without one",
            path,
            folder,
        )


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def add_toml_digest(content: bytes) -> bytes:
    """TOML with its digest as the first line."""
    return b'digest = "sha256:' + _digest(content) + b'"\n' + content


def add_json_digest(content: bytes) -> bytes:
    """An indented JSON object with its digest as the first key."""
    if content == b"{}\n":
        content = b"{\n}\n"
    comma = b"" if content == b"{\n}\n" else b","
    return b'{\n  "digest": "sha256:' + _digest(content) + b'"' + comma + b"\n" + content.removeprefix(b"{\n")


def remove_digest(path: Path, content: bytes) -> tuple[bytes, bool]:
    """TOML or JSON without the line of its digest.

    Args:
        path: the file, for the message.
        content: its bytes.

    Returns:
        The other bytes, and whether there was a digest; `DamagedFileError` for one of other bytes.
    """
    found = _LINE.search(content, 0, FIRST_BYTES)
    if found is None:
        if b"sha256:" in content[:FIRST_BYTES] or b"digest" in content[:FIRST_BYTES]:
            raise damaged(path, "the line of its digest is not readable")
        return content, False
    rest = content[: found.start()] + content[found.end() :]
    if _digest(rest) != found[1]:
        raise damaged(path, "its content is not that of its digest")
    return rest, True


def add_line_crc(line: bytes, is_last: bool = False) -> bytes:
    """A JSON object as a line that ends with its CRC-32.

    Args:
        line: the object, which is not empty, without a line feed.
        is_last: whether it is the last line of a whole file, which it is marked as.

    Returns:
        The line, with a line feed.
    """
    body = line.removesuffix(b"}")
    end = b" end" if is_last else b""
    crc = zlib.crc32(body + end)
    return body + b', "crc": "crc32:' + f"{crc:08x}".encode() + end + b'"}\n'


def remove_line_crc(path: Path, number: int, line: bytes) -> tuple[bytes, bool, bool]:
    """A line without its CRC.

    Args:
        path: the file, for the message.
        number: the line's number, from 1.
        line: its bytes, with the line feed.

    Returns:
        The JSON object, whether it had a CRC, and whether it is marked as the last one; `DamagedFileError` for a CRC of
        other bytes.
    """
    found = _LAST_KEY.search(line)
    if found is None:
        if b'"crc"' in line or b"crc32:" in line:
            raise damaged(path, f"the CRC of line {number} is not readable")
        return line, False, False
    body, end = line[: found.start()], found[2] or b""
    if zlib.crc32(body + end) != int(found[1], 16):
        raise damaged(path, f"line {number} is not that of its CRC")
    return body + b"}", True, bool(end)


def tensor_header(fields: dict[str, object], about: str | None) -> bytes:
    """The header of a safetensors file with room for a digest.

    Args:
        fields: the header's entries, without metadata.
        about: JSON text for the metadata.

    Returns:
        The bytes before the tensors; the digest in it is `NO_DIGEST`.
    """
    metadata = ({} if about is None else {"about": about}) | {"digest": NO_DIGEST}
    text = json.dumps({"__metadata__": metadata} | fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def digest_of_tensors(header: bytes, content: bytes | memoryview) -> str:
    """The digest of a safetensors file.

    Args:
        header: its header, where the digest is `NO_DIGEST`.
        content: what follows the header.

    Returns:
        The digest, as it stands in the metadata.
    """
    found = hashlib.sha256(header)
    found.update(content)
    return "sha256:" + found.hexdigest()


def check_tensors(path: Path, file: BinaryIO, digest: str | None) -> None:
    """`DamagedFileError` where the bytes of a safetensors file are not those of the digest in its metadata.

    Args:
        path: the file, for the message and the note.
        file: the same file, open at its beginning.
        digest: the digest in its metadata; None without one.
    """
    length = int.from_bytes(size := file.read(8), "little")
    header = size + file.read(length)
    if digest is None:
        if b"sha256:" in header[: 8 + length]:
            raise damaged(path, "the key of its digest is not readable")
        note_no_digest(path)
        return
    found = hashlib.sha256(header.replace(digest.encode(), NO_DIGEST.encode(), 1))
    while block := file.read(2**20):
        found.update(block)
    if digest != "sha256:" + found.hexdigest():
        raise damaged(path, "its content is not that of its digest")


def is_whole_png(content: bytes) -> bool:
    """Whether all chunks of a PNG are there, each with its own CRC."""
    if not content.startswith(PNG):
        return False
    start, kind = len(PNG), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        kind, crc = content[start + 4 : start + 8], content[end : end + 4]
        if len(crc) < 4 or zlib.crc32(content[start + 4 : end]) != int.from_bytes(crc, "big"):
            return False
        start = end + 4
    return start == len(content)
