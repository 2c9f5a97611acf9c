"""What has to be known of all rows of a file before any is used, in one pass that holds a block at a time."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.cache import cache_folder, cache_key, keep
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.errors import InputError


def validate_rows(rows: RowsOnDisk, called: Path, names: tuple[str, ...] = ()) -> RowsOnDisk:
    """The rows with every value checked, and with what one pass over all of them tells.

    `witness` are a few of the values that stand for all: the lowest, the highest, and one that is no whole number if
    there is such a one. They answer every question of range and kind as all values would. `digest` is the SHA-256 of
    all values. Both are kept in the cache folder until the file changes. Raises `InputError` for a value that is
    missing or infinite, and says where the first one is.
    """
    kept = cache_folder() / f"survey-{cache_key(rows.path, rows.columns, str(rows.dtype))}.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as archive:
            return replace(rows, witness=torch.from_numpy(archive["witness"]), digest=str(archive["digest"]))
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    low, high, parts, start = np.inf, -np.inf, np.empty(0), 0
    for block in rows.blocks():
        values = block.numpy()
        digest.update(values.data)
        if block.is_floating_point():
            _check_finite(values, start, called, names)
            parts = parts if len(parts) else values[values != np.rint(values)][:1]
        low, high, start = min(low, values.min()), max(high, values.max()), start + len(values)
    witness = torch.tensor([low, high, *parts], dtype=rows.dtype)
    keep(kept, witness=witness.numpy(), digest=np.array(digest.hexdigest()))
    return replace(rows, witness=witness, digest=digest.hexdigest())


def _check_finite(values: np.ndarray, start: int, called: Path, names: tuple[str, ...]) -> None:
    if np.isfinite(values).all():
        return
    row, column = np.argwhere(~np.isfinite(values))[0]
    what = "missing (NaN)" if np.isnan(values[row, column]) else "infinite"
    raise InputError(
        f"{called}: a value is {what}, the first in row {start + row} (counting from 0), column "
        f"{names[column] if names else column}; rows that stay on disk have to be whole: remove or fill those rows, or "
        "read the file into memory (--no-stream, stream=False)"
    )


def moments(rows: RowsOnDisk) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean, standard deviation ($1/N$) and largest magnitude of each column, (D,) float64 each, in one pass.

    Blocks are merged by $M_2 \leftarrow M_2 + M_2' + \delta^2 n n' / (n + n')$ (Chan, Golub & LeVeque 1979).
    """
    count, (mean, squares, largest) = 0, torch.zeros(3, rows.shape[1], dtype=torch.float64)
    for block in rows.blocks():
        x = block.double()
        more, own = len(x), x.mean(0)
        delta = own - mean
        squares = squares + (x - own).square().sum(0) + delta.square() * (count * more / (count + more))
        count, mean = count + more, mean + delta * (more / (count + more))
        largest = torch.maximum(largest, x.abs().amax(0))
    return mean, (squares / count).sqrt(), largest
