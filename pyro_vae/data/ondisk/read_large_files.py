"""Files that may be larger than memory: which rows stay on disk, how the files are opened, and how they are split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.annotated.annotated_rows import ANNOTATED_SUFFIXES
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.annotated.read_annotated import read_annotated
from pyro_vae.data.frames import Frame
from pyro_vae.data.image_settings import AS_THEY_ARE, ImageSettings
from pyro_vae.data.image_shapes import shape_of_array
from pyro_vae.data.ondisk.column_statistics import validate_rows
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk, open_npy, rows_from_npy
from pyro_vae.data.read_files import read_file, require_no_image_settings
from pyro_vae.data.split_rows import random_parts
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError
from pyro_vae.file_names import require_path

MAX_BYTES_IN_MEMORY = 2**30  # of a file's rows; a larger file stays on disk
DEFAULT_FIELDS = Fields()
MAX_HELD_OUT = 10_000  # validation rows, and test rows


def read_rows(
    path: Path,
    missing: bool = False,
    stream: bool | None = None,
    header: str = "auto",
    fields: Fields = DEFAULT_FIELDS,
    images: ImageSettings = AS_THEY_ARE,
    most: int | None = None,
) -> Table[Values] | Frame:
    """A file's table, in memory or, with `stream`, its values as `RowsOnDisk`; by default large files stay on disk.

    Raises `InputError` as `read_file` does, and for a file without random access to its rows.

    Args:
        path: the file, or a folder of images.
        missing: whether NaN, a missing value, is kept; then rows are read into memory.
        stream: whether rows stay on disk; None: those of more than `most` bytes.
        header: whether the first row of a text table holds names: yes, no or auto.
        fields: which parts of annotated rows are read.
        images: how images are read.
        most: bytes of rows that are read into memory, by default 1 GiB.

    Returns:
        Its table, or the data frame of a file of columns that is read into memory.
    """
    require_path(path)
    if path.suffix.lower() in ANNOTATED_SUFFIXES and path.exists():
        require_no_image_settings(path, images)
        return read_annotated(path, fields, stream)
    if stream is None:
        stream = not missing and _can_be_streamed(path) and _bytes_in_memory(path) > (most or MAX_BYTES_IN_MEMORY)
    if not stream:
        return read_file(path, header, fields, images)
    require_no_image_settings(path, images)
    if missing:
        raise InputError("missing values are modelled in memory only: leave out --missing mask or --stream")
    if not path.exists():
        raise InputError(f"no file {path}")
    if path.suffix.lower() not in (".npy", ".parquet"):
        raise InputError(f"{path}: rows can stay on disk in .npy, .parquet, .h5ad and .zarr; save them as one of these")
    table = _open_table(path)
    if not len(table.values) or not table.values.shape[1]:
        raise InputError(f"{path}: no rows in it")
    return replace(table, values=validate_rows(table.values, path, table.columns))


def split_rows(table: Table[Values], seed: int, num_held_out: int) -> list[Table[Values]]:
    """Training, validation and test rows, drawn at random; of rows on disk the training rows stay there.

    Args:
        table: the rows.
        seed: the seed of the draw.
        num_held_out: the number of validation rows, and of test rows; of rows on disk at most 10,000.

    Returns:
        The training, validation and test tables, the last two in memory; all three sparse where the rows are.
    """
    rows = table.values
    if not isinstance(rows, RowsOnDisk):
        parts = random_parts(len(rows), seed, num_held_out, num_held_out)
        return [table.of_rows(rows[part] if isinstance(rows, Tensor) else rows.take(part), part) for part in parts]
    num = min(num_held_out, MAX_HELD_OUT)
    held_out = _sample_without_replacement(len(rows), 2 * num, torch.Generator().manual_seed(seed))
    valid, test = held_out[:num].sort().values, held_out[num:].sort().values
    train = rows.without(held_out)
    labels = None if table.labels is None else table.labels[train.source_index(torch.arange(len(train)))]
    return [replace(table, values=train, labels=labels), table.take(valid), table.take(test)]


def _sample_without_replacement(num_rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Distinct row numbers (count,) below `num_rows`, without a permutation of all rows."""
    found: dict[int, None] = {}
    while len(found) < count:
        found |= dict.fromkeys(torch.randint(num_rows, (count,), generator=generator).tolist())
    return torch.tensor(list(found)[:count])


def _open_table(path: Path) -> Table[RowsOnDisk]:
    if path.suffix.lower() == ".parquet":
        from pyro_vae.data.ondisk.parquet_to_npy import table_from_parquet

        return table_from_parquet(path)
    array = open_npy(path)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    found = shape_of_array(array.shape, path)
    rows = rows_from_npy(path)
    if found.channels_last:
        order = np.moveaxis(np.arange(rows.shape[1]).reshape(array.shape[1:]), -1, 0).flatten()
        rows = rows.take_columns(order.tolist())
    return Table(rows, image_shape=found.image_shape, notes=found.notes)


def _can_be_streamed(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0 and path.suffix.lower() in (".npy", ".parquet")


def _bytes_in_memory(path: Path) -> int:
    """The bytes that a file's rows take in memory; 0 for a file that cannot be read, or not row by row."""
    try:
        if path.suffix.lower() == ".parquet":
            from pyro_vae.data.ondisk.parquet_to_npy import open_parquet

            metadata = open_parquet(path).metadata
            return int(metadata.num_rows * metadata.num_columns * 8)
        array = open_npy(path)
    except InputError:
        return 0  # `read_file` reports what is wrong
    return int(array.nbytes) if array.ndim > 1 and array.flags.c_contiguous else 0
