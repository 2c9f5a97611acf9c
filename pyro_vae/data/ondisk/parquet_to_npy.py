"""Parquet files larger than memory, converted once, batch by batch, to a `.npy` array with random access to rows."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pyro_vae.atomic_write import atomic_path
from pyro_vae.data.cache import cache_folder, cache_key, note_damaged
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_values import is_text
from pyro_vae.data.columns.infer_columns import LABEL_COLUMNS
from pyro_vae.data.ondisk.rows_on_disk import Array, RowsOnDisk, rows_from_npy
from pyro_vae.data.table import Table, encode_labels
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

ROWS_PER_BATCH = 2**14
ParquetFile = Any  # pyarrow's: the package is optional and has no types


def table_from_parquet(path: Path) -> Table[RowsOnDisk]:
    """The table in a Parquet file, its values an array in the cache folder, its labels in memory."""
    file = open_parquet(path)
    names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
    label = next((name for name in names if name.lower() in LABEL_COLUMNS), None)
    values = [name for name in names if name.lower() not in LABEL_COLUMNS]
    converted = cache_folder() / f"{path.stem}-{cache_key(path)}.npy"
    if not _is_converted(file, values, converted):
        _convert(file, values, path, converted)
    rows = rows_from_npy(converted, as_floats=True)
    columns = [Column(name, "real") for name in values]
    labels = None
    if label is not None:
        labels, levels = encode_labels(file.read([label]).column(label).to_pandas().to_numpy(), path, len(rows))
        columns.append(Column(label, "label", "text" if levels else "int64", levels))
    return Table(rows, labels, schema=Schema(tuple(columns)))


def open_parquet(path: Path) -> ParquetFile:
    """A Parquet file with none of its rows read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _convert(file: ParquetFile, names: list[str], path: Path, converted: Path) -> None:
    """Write the columns as one array, in the narrowest type that holds them all."""
    num_rows = file.metadata.num_rows
    if not num_rows or not names:
        raise InputError(f"{path}: no rows in it")
    dtype = _array_dtype(file, names)
    try:
        with atomic_path(converted) as temporary, temporary.open("wb") as out:
            _write_array(file, names, dtype, path, out)
    except OSError as error:
        size = num_rows * len(names) * dtype.itemsize / 2**30
        raise InputError(
            f"{path}: an array of {size:.1f} GiB cannot be written to {converted.parent} ({error}); make room, or name "
            "another folder in PYRO_VAE_CACHE"
        ) from error


def _is_converted(file: ParquetFile, names: list[str], converted: Path) -> bool:
    """Whether the array is there, with the header and the size that it was written with."""
    if not converted.exists():
        return False
    dtype, shape = _array_dtype(file, names), (file.metadata.num_rows, len(names))
    header = _header(dtype, shape)
    with converted.open("rb") as array:
        is_whole = array.read(len(header)) == header
    if is_whole and converted.stat().st_size == len(header) + math.prod(shape) * dtype.itemsize:
        return True
    note_damaged(converted, "its header or its size is wrong")
    return False


def _header(dtype: np.dtype[Any], shape: tuple[int, int]) -> bytes:
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _write_array(file: ParquetFile, names: list[str], dtype: np.dtype[Any], path: Path, out: BinaryIO) -> None:
    out.write(_header(dtype, (file.metadata.num_rows, len(names))))
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=names):
        values = _numbers(batch.to_pandas(ignore_metadata=True), path)
        if dtype != np.float64 and bool(np.isnan(values).any()):
            raise InputError(f"{path}: values are missing; fill them, or read the file into memory (--no-stream)")
        out.write(np.ascontiguousarray(values, dtype).data)


def _numbers(frame: "pandas.DataFrame", path: Path) -> Array:
    """The columns of a batch as numbers (n, D); `InputError` for those that hold none."""
    if wrong := [str(name) for name in frame.columns if is_text(frame[name]) or frame[name].dtype.kind not in "fiub"]:
        raise InputError(
            f"{path}: no numbers in {', '.join(wrong[:3])}, and rows that stay on disk hold numbers only; leave those "
            "columns out, or read the file into memory (--no-stream, stream=False)"
        )
    return frame.to_numpy(dtype=np.float64)


def _array_dtype(file: ParquetFile, names: list[str]) -> np.dtype[Any]:
    """The type of the array: float64 unless all columns fit into uint8 or float32."""
    types = [file.schema_arrow.field(name).type for name in names]
    try:
        common = np.result_type(*(kind.to_pandas_dtype() for kind in types))
    except (NotImplementedError, TypeError):  # no NumPy type (text, dates, decimals): the reader refuses the column
        return np.dtype(np.float64)
    return np.dtype(common) if common in (np.uint8, np.float32) else np.dtype(np.float64)
