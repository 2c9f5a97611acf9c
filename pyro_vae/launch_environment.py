"""What `torchrun` tells a process by environment variables, checked: its number, and how many there are."""

import os

from pyro_vae.errors import InputError


def launched_rank() -> int | None:
    """This process's number among those that a launcher started; None for one alone.

    Raises `InputError` for variables that no launcher sets so.
    """
    size = _whole_number("WORLD_SIZE", 1)
    if size < 1:
        raise InputError(
            f"WORLD_SIZE is the number of processes, one or more, got {size}; torchrun sets it, or unset it"
        )
    if size == 1 or "RANK" not in os.environ:
        return None
    rank = _whole_number("RANK", 0)
    if not 0 <= rank < size:
        raise InputError(
            f"RANK is the number of a process, from 0 to {size - 1} (WORLD_SIZE - 1), got {rank}; use torchrun"
        )
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise InputError(f"WORLD_SIZE is {size}, and {missing[0]} is not set: start the processes by torchrun")
    if not 0 < (port := _whole_number("MASTER_PORT", 0)) < 2**16:
        raise InputError(f"MASTER_PORT is a port, from 1 to {2**16 - 1}, got {port}")
    return rank


def _whole_number(name: str, default: int) -> int:
    """A variable as a whole number."""
    text = os.environ.get(name, "").strip()
    try:
        return int(text) if text else default
    except ValueError as error:
        raise InputError(f"{name} is a whole number, which torchrun sets, got {text!r}: unset it") from error
