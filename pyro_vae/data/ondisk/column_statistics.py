"""Checks and a digest of all rows of a file, in one pass that holds one block of rows at a time."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.cache import cache_folder, cache_key, read_cache, write_cache
from pyro_vae.data.ondisk.rows_on_disk import Array, RowsOnDisk
from pyro_vae.errors import InputError


def validate_rows(rows: RowsOnDisk, source: Path, names: tuple[str, ...] = ()) -> RowsOnDisk:
    """The rows with every value checked, and with `representative_values` and `digest` computed.

    `representative_values` are the lowest value, the highest, and one that is not a whole number if there is any: tests
    of range and kind give the same answer on these as on all values. `digest` is the SHA-256 of all values. Both are
    cached until the file changes. Raises `InputError` for a value that is missing or infinite, with the place of the
    first one.

    Args:
        rows: the rows (N, D).
        source: the file they come from, for the message.
        names: the columns' names, for the message; by number where there are none.

    Returns:
        The same rows.
    """
    cached = cache_folder() / f"statistics-{cache_key(rows.path, rows.columns, str(rows.dtype))}.npz"
    if (kept := read_cache(cached, "representative_values", "digest")) is not None:
        values, digest = torch.from_numpy(kept["representative_values"]), str(kept["digest"])
        return replace(rows, representative_values=values, digest=digest)
    values, digest = _representatives_and_digest(rows, source, names)
    write_cache(cached, representative_values=values.numpy(), digest=np.array(digest))
    return replace(rows, representative_values=values, digest=digest)


def _representatives_and_digest(rows: RowsOnDisk, source: Path, names: tuple[str, ...]) -> tuple[Tensor, str]:
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    low, high, fractional, start = np.inf, -np.inf, np.empty(0), 0
    for block in rows.blocks():
        values = block.numpy()
        digest.update(values.data)
        if block.is_floating_point():
            _check_finite(values, start, source, names)
            fractional = fractional if len(fractional) else values[values != np.rint(values)][:1]
        low, high, start = min(low, values.min()), max(high, values.max()), start + len(values)
    return torch.tensor([low, high, *fractional], dtype=rows.dtype), digest.hexdigest()


def _check_finite(values: Array, start: int, source: Path, names: tuple[str, ...]) -> None:
    if np.isfinite(values).all():
        return
    row, column = np.argwhere(~np.isfinite(values))[0]
    problem = "missing (NaN)" if np.isnan(values[row, column]) else "infinite"
    raise InputError(
        f"{source}: a value is {problem}, the first in row {start + row} (counting from 0), column "
        f"{names[column] if names else column}; rows that stay on disk must be complete: remove or fill those rows, or "
        "fit to them in memory (--no-stream, stream=False)"
    )
