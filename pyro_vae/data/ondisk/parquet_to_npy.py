"""Parquet larger than memory: converted once, by the batch, to an array whose rows can be read in any order."""

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.cache import cache_folder, cache_key
from pyro_vae.data.ondisk.rows_on_disk import rows_of_npy
from pyro_vae.data.read_files import LABEL_COLUMNS, Table, frame_table, labels_of
from pyro_vae.errors import InputError

ROWS_AT_ONCE = 2**14


def table_of_parquet(path: Path) -> Table:
    """The table in a Parquet file, its values an array in the cache folder, its labels in memory."""
    file = open_parquet(path)
    names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
    label = next((name for name in names if name.lower() in LABEL_COLUMNS), None)
    values = [name for name in names if name.lower() not in LABEL_COLUMNS]
    converted = cache_folder() / f"{path.stem}-{cache_key(path)}.npy"
    if not converted.exists():
        _convert(file, values, path, converted)
    rows = rows_of_npy(converted, as_floats=True)
    labels = None
    if label is not None:
        labels = labels_of(file.read([label]).column(label).to_pandas().to_numpy(), path, len(rows))
    return Table(rows, labels, columns=tuple(values), label_name=label)


def open_parquet(path: Path) -> Any:
    """A Parquet file with none of its rows read."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _convert(file: Any, names: list[str], path: Path, converted: Path) -> None:
    """Write the columns side by side, in the narrowest type that holds them all."""
    num_rows = file.metadata.num_rows
    if not num_rows or not names:
        raise InputError(f"{path}: no rows in it")
    dtype = _dtype_of(file.schema_arrow, names)
    partial = converted.with_name(f".{converted.name}.{os.getpid()}.partial")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (num_rows, len(names))}
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
                table = frame_table(batch.to_pandas(ignore_metadata=True), path)
                if dtype != np.float64 and bool(table.values.isnan().any()):
                    raise InputError(
                        f"{path}: values are missing; fill them, or read the file into memory (--no-stream)"
                    )
                out.write(np.ascontiguousarray(table.values.numpy(), dtype).data)
        partial.replace(converted)
    except OSError as error:
        size = num_rows * len(names) * dtype.itemsize / 2**30
        raise InputError(
            f"{path}: an array of {size:.1f} GiB cannot be written to {converted.parent} ({error}); make room, or name "
            "another folder in PYRO_VAE_CACHE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _dtype_of(schema: Any, names: list[str]) -> np.dtype:
    """The type of the array: float64 unless all columns fit into a narrower one."""
    kinds = [schema.field(name).type for name in names]
    try:
        found = np.result_type(*(kind.to_pandas_dtype() for kind in kinds))
    except (NotImplementedError, TypeError):
        return np.dtype(np.float64)
    return np.dtype(found) if found in (np.uint8, np.float32) else np.dtype(np.float64)
