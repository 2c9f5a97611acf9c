"""The matrix of annotated rows, in memory or in a file, as rows: what is sparse or large stays sparse."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pyro_vae.atomic_write import atomic_path
from pyro_vae.data.annotated.annotated_rows import Group, SparseGroup
from pyro_vae.data.cache import cache_folder, cache_key, note_damaged, read_cache
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.sparse.read_sparse import SparseMatrix, is_sparse, table_from_sparse
from pyro_vae.data.sparse.sparse_rows import SparseRows
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, table_from_array
from pyro_vae.errors import InputError

MAX_BYTES = 2**30  # of dense rows, and of entries, in memory
BLOCK_ENTRIES = 2**22  # that are read at a time


@runtime_checkable
class StoredMatrix(Protocol):
    """A matrix that is read when it is indexed: an array of h5py or zarr, or a sparse one of anndata."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@runtime_checkable
class BackedMatrix(Protocol):
    """A sparse matrix that anndata left in its file."""

    @property
    def group(self) -> Group: ...

    @property
    def backend(self) -> str: ...


@dataclass(frozen=True)
class EntryFiles:
    """Files of the cache folder that hold the entries of a matrix, and one that is written when they are complete.

    Attributes:
        path: the last file, of `indptr` and the type of the entries.
    """

    path: Path

    @classmethod
    def of(cls, source: Path, layer: str | None) -> "EntryFiles":
        """The files of a matrix of a source; others when the source changes.

        Args:
            source: the file, or the folder of a zarr store.
            layer: the layer that holds the matrix; None for X.

        Returns:
            The files, which may not be there yet.
        """
        parts = [source] if source.is_file() else [part for part in source.rglob("*") if part.is_file()]
        newest = max(parts, key=lambda part: part.stat().st_mtime_ns)
        return cls(cache_folder() / f"{source.stem}-{cache_key(newest, len(parts), layer)}-entries.npz")

    @property
    def indices(self) -> Path:
        return self.path.with_suffix(".indices")

    @property
    def values(self) -> Path:
        return self.path.with_suffix(".values")

    def write(self, blocks: Iterator[SparseRows], dtype: "np.dtype[Any]") -> None:
        """Write the entries of consecutive rows, block by block.

        Args:
            blocks: the rows.
            dtype: of the entries.
        """
        lengths = []
        with (
            atomic_path(self.indices) as indices,
            atomic_path(self.values) as values,
            indices.open("wb") as columns_file,
            values.open("wb") as values_file,
        ):
            for rows in blocks:
                lengths.append(np.diff(rows.indptr))
                columns_file.write(rows.indices.astype(np.int32).tobytes())
                values_file.write(rows.values.astype(dtype).tobytes())
        indptr = np.concatenate([np.zeros(1, np.int64), np.concatenate(lengths).cumsum()])
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, indptr=indptr, dtype=np.array(dtype.str))

    def read(self, num_rows: int, width: int) -> SparseRows | None:
        """The rows, their entries memory-mapped.

        Args:
            num_rows: how many there must be.
            width: the number of columns.

        Returns:
            The rows; None where the files are missing or damaged, which is noted.
        """
        kept = read_cache(self.path, "indptr", "dtype")
        if kept is None:
            return None
        indptr, dtype = kept["indptr"].astype(np.int64), np.dtype(str(kept["dtype"]))
        shape = (int(indptr[-1]),)
        for path, size in ((self.indices, 4), (self.values, dtype.itemsize)):
            if len(indptr) != num_rows + 1 or not path.exists() or path.stat().st_size != shape[0] * size:
                note_damaged(path, "its size is wrong")
                return None
        indices, values = (
            np.memmap(self.indices, np.int32, "r", shape=shape),
            np.memmap(self.values, dtype, "r", shape=shape),
        )
        return SparseRows(indptr, indices, values, width)


def read_matrix(
    matrix: object, source: Path, files: EntryFiles | None = None, on_disk: bool | None = None
) -> Table[Values]:
    """The rows of a matrix: sparse ones stay sparse, and dense ones of more than 1 GiB become sparse.

    Args:
        matrix: a sparse matrix or an array, in memory or in a file.
        source: where it comes from, for messages.
        files: where entries that are too many for memory are written to; None leaves them in memory.
        on_disk: whether the entries stay on disk; None: those of more than 1 GiB.

    Returns:
        The table; `InputError` for what is no matrix of numbers.
    """
    matrix = _opened(matrix)
    if is_sparse(matrix):
        return table_from_sparse(matrix, source)
    if not isinstance(matrix, StoredMatrix):
        raise InputError(f"{source}: holds a {type(matrix).__name__}; expected a matrix in memory or in the file")
    if len(matrix.shape) != 2 or matrix.dtype.kind not in "fiub":
        raise InputError(f"{source}: holds {matrix.dtype} values of shape {matrix.shape}; expected numbers, (N, D)")
    if 0 in matrix.shape:
        raise InputError(f"{source}: no rows in it")
    if hasattr(matrix, "compute"):
        raise InputError(f"{source}: its rows are not computed yet (dask); give adata.to_memory()")
    is_group = isinstance(matrix, SparseGroup)
    if not is_group and not on_disk and math.prod(matrix.shape) * 8 <= MAX_BYTES:
        return table_from_array(np.asarray(matrix[:]), source)
    if isinstance(matrix, SparseGroup) and not matrix.is_by_rows:
        return table_from_sparse(matrix[:], source)  # the entries of a row are all over the file
    return _read_blocks(matrix, source, files, on_disk)


def read_head(matrix: object, num_rows: int, source: Path) -> Table[Values]:
    """The first rows of a matrix.

    Args:
        matrix: a sparse matrix or an array, in memory or in a file.
        num_rows: how many.
        source: where it comes from, for messages.

    Returns:
        The table.
    """
    matrix = _opened(matrix)
    if isinstance(matrix, SparseMatrix):
        return table_from_sparse(matrix.tocsr()[:num_rows], source)
    assert isinstance(matrix, StoredMatrix)
    head = matrix[:num_rows]
    return table_from_sparse(head, source) if is_sparse(head) else table_from_array(np.asarray(head), source)


def _read_blocks(matrix: StoredMatrix, source: Path, files: EntryFiles | None, on_disk: bool | None) -> Table[Values]:
    num_entries = _num_entries(matrix)
    num_bytes = num_entries * (matrix.dtype.itemsize + 4)
    if files is not None and (on_disk or (on_disk is None and num_bytes > MAX_BYTES)):
        rows = files.read(*matrix.shape)
        if rows is None:
            files.write(_blocks(matrix, num_entries, source), matrix.dtype)
            rows = files.read(*matrix.shape)
        if rows is None:
            raise InputError(f"{files.path}: was written and cannot be read; name another folder in PYRO_VAE_CACHE")
        return Table(rows, notes=(f"{len(rows.values):,} entries of sparse rows stay on disk, in the cache folder",))
    blocks = list(_blocks(matrix, num_entries, source))
    lengths: Array = np.concatenate([np.diff(rows.indptr) for rows in blocks])
    indptr = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    indices, values = (np.concatenate(parts) for parts in zip(*((b.indices, b.values) for b in blocks), strict=True))
    return Table(SparseRows(indptr, indices, values, matrix.shape[1]))


def _num_entries(matrix: StoredMatrix) -> int:
    """The number of entries of a sparse matrix, and of all values of a dense one."""
    return matrix.num_entries if isinstance(matrix, SparseGroup) else math.prod(matrix.shape)


def _opened(matrix: object) -> object:
    """A sparse matrix that anndata left in its file (`backed`) as a `SparseGroup`; others as they are."""
    return SparseGroup(matrix.group) if isinstance(matrix, BackedMatrix) else matrix


def _blocks(matrix: StoredMatrix, num_entries: int, source: Path) -> Iterator[SparseRows]:
    from scipy import sparse

    num_rows = matrix.shape[0]
    size = max(1, BLOCK_ENTRIES * num_rows // max(1, num_entries))
    for start in range(0, num_rows, size):
        part = matrix[start : start + size]
        rows = table_from_sparse(part if is_sparse(part) else sparse.csr_array(part), source).values
        assert isinstance(rows, SparseRows)
        if rows.values.dtype != matrix.dtype:
            raise InputError(
                f"{source}: entries that are given more than once add up to more than {matrix.dtype} holds"
            )
        yield rows
