"""The bytes of files that may be compressed, and whether memory holds what is in them."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError
from pyro_vae.resource_limits import EXPANDS_FREELY, MAX_EXPANSION, require_memory, require_unpackable

COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
UNPACKING = (zipfile.BadZipFile, lzma.LZMAError, zlib.error)  # errors of compressed files


def open_bytes(path: Path) -> io.BufferedIOBase:
    """The bytes of a file, unpacked by its ending.

    Args:
        path: the file.

    Returns:
        An open file.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _open_zip(path)
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
    file: io.BufferedIOBase = openers[suffix](path) if suffix in openers else path.open("rb")
    return file


def _open_zip(path: Path) -> io.BufferedIOBase:
    """The bytes of the only file in a `.zip`; `InputError` for several."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise InputError(f"{path}: holds {len(names)} files ({shown}); unpack it, and give the one with the table")
        file: Any = archive.open(names[0])
        return file


def require_room(path: Path) -> None:
    """`InputError` for a text table that unpacks to so much more than its size, or to more than memory holds.

    Args:
        path: the file.
    """
    size = path.stat().st_size
    if path.suffix.lower() in COMPRESSED:
        packed, size = size, 0
        with open_bytes(path) as file:
            while (size <= max(EXPANDS_FREELY, MAX_EXPANSION * packed)) and (block := file.read(2**20)):
                size += len(block)
        require_unpackable(path, size)
    require_memory(2 * size, str(path), "give fewer rows, or a .npy or .parquet, which can stay on disk")
