"""NumPy's files, `.npy` and `.npz`, as tables: no pickle, and what they declare is compared with what they hold."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pyro_vae.data.columns.infer_columns import LABEL_COLUMNS
from pyro_vae.data.ondisk.rows_on_disk import UNREADABLE, Array
from pyro_vae.data.sparse.read_sparse import read_sparse_npz
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, encode_labels, label_schema, table_from_array
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_memory, require_unpackable

LABEL_ARRAYS = (*LABEL_COLUMNS, "y")
HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MAX_HEADER = 2**17


def read_npy(path: Path) -> Table[Tensor]:
    """The table in a `.npy` file.

    Args:
        path: the file.

    Returns:
        Its table; `InputError` for one that holds other than numbers, or less than it declares.
    """
    array = _load(path, mapped=True)
    if isinstance(array, NpzFile):
        array.close()
        raise InputError(f"{path}: holds an archive, not one array; name it .npz")
    require_memory(array.nbytes + 8 * array.size, str(path), "leave its rows on disk (--stream), or give fewer")
    return table_from_array(np.array(array) if array.dtype == np.uint8 else array, path)  # others are copied there


def read_npz(path: Path) -> Table[Values]:
    """The table in a `.npz` file: of rows and their labels, or as `scipy.sparse.save_npz` writes them.

    Args:
        path: the file.

    Returns:
        Its table.
    """
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: holds one array, not an archive; name it .npy")
    with archive:
        return _table_in(archive, path)


def _table_in(archive: NpzFile, path: Path) -> Table[Values]:
    names = list(archive.files)
    for name in names:
        _require_declared(path, name)
    if {"format", "shape", "data"} <= set(names):
        return read_sparse_npz(path)
    label_arrays = [name for name in names if name.lower() in LABEL_ARRAYS]
    value_arrays = [name for name in names if name not in label_arrays]
    preferred = [name for name in value_arrays if name.lower() in ("x", "data")]
    if not preferred and len(value_arrays) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = table_from_array(_read_array(archive, (preferred or value_arrays)[0], path), path)
    if not label_arrays:
        return table
    labels, levels = encode_labels(_read_array(archive, label_arrays[0], path), path, len(table.values))
    return replace(table, labels=labels, schema=label_schema(label_arrays[0], levels))


def _load(path: Path, mapped: bool = False) -> Array | NpzFile:
    try:
        loaded: Array | NpzFile = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return loaded
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error


def _require_declared(path: Path, name: str) -> None:
    """`InputError` where an array of an archive says to be larger than it is, or unpacks to more than there is room."""
    try:
        with zipfile.ZipFile(path) as members:
            member = name if name in members.namelist() else f"{name}.npy"
            file, held = io.BytesIO(members.open(member).read(MAX_HEADER)), members.getinfo(member).file_size
        shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except UNREADABLE as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error
    require_unpackable(path, held)
    declared = dtype.itemsize * int(np.prod([int(size) for size in shape], dtype=object))
    if declared > held and not dtype.hasobject:
        raise InputError(f"{path}: {name} is cut off: its shape {shape} takes {declared:,} bytes, and it has {held:,}")


def _read_array(archive: NpzFile, name: str, path: Path) -> Array:
    try:
        return np.asarray(archive[name])
    except UNREADABLE as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error
