"""Files whose rows are too many for memory: which those are, how they are opened, and how they are cut."""

from dataclasses import replace
from pathlib import Path

import torch

from pyro_vae.data.ondisk.column_statistics import validate_rows
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk, open_npy, rows_of_npy
from pyro_vae.data.read_files import Table, read_file
from pyro_vae.errors import InputError

LARGEST_IN_MEMORY = 2**30  # bytes of a file's rows; a larger one stays on disk
MAX_HELD_OUT = 10_000  # rows, for validation and for the test each


def read_rows(path: Path, missing: bool = False, stream: bool | None = None) -> Table:
    """A file's table, in memory or, with `stream`, its values `RowsOnDisk`; by default large files stay on disk.

    Raises `InputError` as `read_file` does, and for a file whose rows cannot be read from disk in any order.
    """
    if stream is None:
        stream = not missing and _can_stay(path) and _bytes_in(path) > LARGEST_IN_MEMORY
    if not stream:
        return read_file(path, missing)
    if missing:
        raise InputError("missing values are modelled in memory alone: leave out --missing mask or --stream")
    if not path.exists():
        raise InputError(f"no file {path}")
    if path.suffix.lower() not in (".npy", ".parquet"):
        raise InputError(f"{path}: rows can stay on disk in .npy and .parquet; save them as one of these")
    table = _on_disk(path)
    if not len(table.values) or not table.values.shape[1]:
        raise InputError(f"{path}: no rows in it")
    return replace(table, values=validate_rows(table.values, path, table.columns))


def cut_on_disk(table: Table, seed: int, num_held_out: int) -> list[Table]:
    """Training rows on disk, validation and test rows in memory: so many of each, 10,000 at most, by a seeded draw."""
    rows: RowsOnDisk = table.values
    num = min(num_held_out, MAX_HELD_OUT)
    drawn = _distinct(len(rows), 2 * num, torch.Generator().manual_seed(seed))
    valid, test = drawn[:num].sort().values, drawn[num:].sort().values
    left = rows.without(drawn)
    labels = None if table.labels is None else table.labels[left.places(torch.arange(len(left)))]
    return [replace(table, values=left, labels=labels), table.take(valid), table.take(test)]


def _distinct(num_rows: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Different places (count,) below `num_rows`, in an order of no meaning, without a permutation of them all."""
    found: dict[int, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(torch.randint(num_rows, (count,), generator=generator).tolist())
    return torch.tensor(list(found)[:count])


def _on_disk(path: Path) -> Table:
    if path.suffix.lower() == ".parquet":
        from pyro_vae.data.ondisk.parquet_to_npy import table_of_parquet

        return table_of_parquet(path)
    array = open_npy(path)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: has shape {array.shape}; expected (N, D) or grey pictures (N, height, width)")
    shape = (int(array.shape[1]), int(array.shape[2])) if array.ndim == 3 else None
    return Table(rows_of_npy(path), image_shape=shape)


def _can_stay(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and path.suffix.lower() in (".npy", ".parquet")


def _bytes_in(path: Path) -> int:
    """The bytes that a file's rows take in memory; none for one that cannot be read row by row, or not at all."""
    try:
        if path.suffix.lower() == ".parquet":
            from pyro_vae.data.ondisk.parquet_to_npy import open_parquet

            about = open_parquet(path).metadata
            return int(about.num_rows * about.num_columns * 8)
        array = open_npy(path)
    except InputError:
        return 0  # `read_file` says what is wrong
    return int(array.nbytes) if array.ndim > 1 and array.flags.c_contiguous else 0
