"""The cache folder: downloaded data sets, parsed and converted files, and what was computed of them."""

import contextlib
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_vae.atomic_write import atomic_path

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of cached data: $PYRO_VAE_CACHE, else `pyro_vae` in the user's cache folder."""
    chosen = os.environ.get("PYRO_VAE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "pyro_vae"


def cache_key(path: Path, *more: object) -> str:
    """A key for a file's present content: a hash of its path, its size and the time of its last change.

    Args:
        path: the file.
        *more: what else the cached values depend on.

    Returns:
        16 hexadecimal digits.
    """
    status = path.stat()
    values = (str(path.resolve()), status.st_size, status.st_mtime_ns, *more)
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def write_cache(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write arrays to a `.npz` file of the cache, atomically; without effect where the cache cannot be written.

    Args:
        path: the file.
        **arrays: the arrays by name.
    """
    with contextlib.suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_cache(path: Path, *names: str) -> dict[str, NDArray[np.generic]] | None:
    """Arrays of a `.npz` file of the cache.

    Args:
        path: the file.
        *names: the arrays' names.

    Returns:
        The arrays by name; None where the file is missing or damaged, which is noted: the caller makes it anew.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if archive.zip.testzip() is not None:
                raise ValueError("a CRC is wrong")
            return {name: archive[name] for name in names}
    except Exception as error:  # whatever is wrong with it, it is made anew
        note_damaged(path, f"{type(error).__name__}: {error}")
        return None


def note_damaged(path: Path, reason: str) -> None:
    """Log that a file of the cache is damaged and made anew.

    Args:
        path: the file.
        reason: what was found.
    """
    log.warning("note: %s: damaged (%s), and made anew", path, " ".join(reason.split()))
