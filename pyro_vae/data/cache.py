"""The cache folder: downloaded data sets, parsed and converted files, and what was computed of them."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_vae.atomic_write import atomic_path


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
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy has a keyword allow_pickle
