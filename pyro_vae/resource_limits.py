"""What may be allocated: sizes that files, recipes and options declare, compared with free memory and disk before."""

import os
import shutil
import sys
from pathlib import Path

from pyro_vae.errors import InputError

MAX_COLUMNS = 100_000  # of a table whose columns have kinds: each is looked at by itself
MAX_EXPANSION, EXPANDS_FREELY = 200, 2**28  # times the size of a packed file, and the bytes up to which it may be more
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def free_memory() -> int:
    """Bytes that this process may allocate: those free on the machine, and in its control group.

    Where the system tells neither, as on Windows, the address space counts.
    """
    found = [sys.maxsize]
    if (available := _available_memory()) is not None:
        found.append(available)
    for limit, used in _CGROUPS:
        if (most := _number_in(limit)) is not None and (now := _number_in(used)) is not None:
            found.append(max(0, most - now))
    return min(found)


def _available_memory() -> int | None:
    """The memory that Linux calls available, else all that the machine has; None where neither is known."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):  # absent, or the word max
        return None


def require_memory(num_bytes: float, what: str, remedy: str) -> None:
    """`InputError` for more memory than is free, before it is allocated.

    Args:
        num_bytes: the bytes that are needed.
        what: what needs them, as the message begins.
        remedy: what to try, as the message ends.

    >>> require_memory(1e15, "10 rows", "give fewer")
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: 10 rows: about 1e+06 GB of memory are needed, ... GB are free; give fewer
    """
    _require(num_bytes, free_memory(), "memory", what, remedy)


def require_disk(num_bytes: float, path: Path, what: str, remedy: str) -> None:
    """`InputError` for a file that is larger than what is free on its disk, before it is begun.

    Args:
        num_bytes: the bytes that are needed.
        path: the file, which need not exist.
        what: what needs them, as the message begins.
        remedy: what to try, as the message ends.
    """
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    if folder is not None:
        _require(num_bytes, shutil.disk_usage(folder).free, "disk", what, remedy)


def _require(needed: float, free: int, kind: str, what: str, remedy: str) -> None:
    if needed > free:
        raise InputError(
            f"{what}: about {needed / 1e9:.3g} GB of {kind} are needed, {free / 1e9:.3g} GB are free; {remedy}"
        )


def require_unpackable(path: Path, num_bytes: int) -> None:
    """`InputError` for a packed file that unpacks to more than is free, or to so much more than its size.

    Args:
        path: the file.
        num_bytes: what it unpacks to.
    """
    if num_bytes > max(EXPANDS_FREELY, MAX_EXPANSION * path.stat().st_size):
        raise InputError(
            f"{path}: unpacks to {num_bytes / 1e9:.3g} GB, {num_bytes / max(1, path.stat().st_size):,.0f} times its "
            "size, as files do that are made to fill memory; if you trust it, unpack it and give what was in it"
        )
    require_memory(2 * num_bytes, f"{path}, unpacked", "give fewer rows, or a .npy, which can stay on disk")


def require_columns(num_columns: int, source: object) -> None:
    """`InputError` for a table of more columns than can be looked at one by one.

    Args:
        num_columns: the number of columns.
        source: the table, as the message begins.
    """
    if num_columns > MAX_COLUMNS:
        raise InputError(
            f"{source}: {num_columns:,} columns, and columns with kinds may be {MAX_COLUMNS:,} at most; save numbers "
            "as .npy, whose columns have none"
        )
