"""The cache folder: what was downloaded, parsed, converted or validate_rows once."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np


def cache_folder() -> Path:
    """Where downloaded and parsed data is kept: $PYRO_VAE_CACHE, else the user's cache folder."""
    given = os.environ.get("PYRO_VAE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "pyro_vae"


def cache_key(path: Path, *more: Any) -> str:
    """A name for a file as it is now, by its place, its size and the time it was last written."""
    about = path.stat()
    words = (str(path.resolve()), about.st_size, about.st_mtime_ns, *more)
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Write a cache file whole or not at all; a cache that cannot be written is only a slower start."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
