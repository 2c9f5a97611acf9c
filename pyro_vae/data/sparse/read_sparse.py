"""Sparse matrices of SciPy and torch, and SciPy's `.npz` files, as rows: checked, and kept sparse."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.sparse.sparse_rows import SparseRows
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError

MAX_DENSE_BYTES = 2**30  # of rows that are made dense because they have to be


class CompressedMatrix(Protocol):
    """A matrix in rows, columns or blocks, whose indices can be checked."""

    def check_format(self, full_check: bool = True) -> None: ...


@runtime_checkable
class SparseMatrix(Protocol):
    """What is asked of a sparse matrix or array: those of SciPy have it."""

    @property
    def format(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    @property
    def nnz(self) -> int: ...

    def astype(self, dtype: object) -> "SparseMatrix": ...

    def tocsr(self, copy: bool = ...) -> Any: ...


def is_sparse(data: object) -> bool:
    """Whether rows in memory are a sparse matrix, of SciPy or torch."""
    return isinstance(data, SparseMatrix) or (isinstance(data, Tensor) and data.layout != torch.strided)


def table_from_sparse(matrix: object, source: Path) -> Table[Values]:
    """The table of a sparse matrix, its entries copied: what is done to the matrix later does not reach them.

    Args:
        matrix: the rows (N, D), a matrix or array of SciPy's in any format, or a sparse tensor.
        source: where it comes from, for messages.

    Returns:
        The table, its values `SparseRows`; `InputError` for no numbers, infinite ones, and indices out of range.
    """
    if isinstance(matrix, Tensor):
        matrix = _from_torch(matrix)
    assert isinstance(matrix, SparseMatrix)
    if len(matrix.shape) != 2:
        raise InputError(f"{source}: has shape {tuple(matrix.shape)}; expected one row for each observation, (N, D)")
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"{source}: holds {matrix.dtype} values; expected numbers")
    if 0 in matrix.shape:
        raise InputError(f"{source}: no rows in it, or no columns: its shape is {tuple(matrix.shape)}")
    rows, notes = _rows(matrix, source)
    require_finite(rows, source, allow_missing=True)
    return Table(rows, notes=notes)


def _from_torch(tensor: Tensor) -> SparseMatrix:
    from scipy import sparse

    entries = tensor.detach().cpu().to_sparse_coo().coalesce()
    index, shape = entries.indices().numpy(), tuple(entries.shape)
    matrix: SparseMatrix = sparse.coo_array((entries.values().numpy(), tuple(index)), shape)
    return matrix


def _rows(matrix: SparseMatrix, source: Path) -> tuple[SparseRows, tuple[str, ...]]:
    """The rows in canonical form, each entry once, none of them zero; and what was done."""
    try:
        if matrix.format in ("csr", "csc", "bsr"):
            cast(CompressedMatrix, matrix).check_format(full_check=True)
        given = _num_given(matrix)
        csr = _to_csr(matrix)
    except (ValueError, IndexError) as error:
        raise InputError(f"{source}: not a valid sparse matrix ({error})") from error
    notes = []
    if given is not None and given > csr.nnz:
        notes.append(f"{given - csr.nnz} entries of the sparse matrix were given more than once, and are added up")
    csr.eliminate_zeros()
    rows = SparseRows(csr.indptr.astype(np.int64), csr.indices, csr.data, int(matrix.shape[1]))
    return rows, tuple(notes)


def _num_given(matrix: SparseMatrix) -> int | None:
    """The number of entries as given; None for formats that hold no entry twice."""
    return int(matrix.nnz) if matrix.format in ("coo", "csr", "csc") else None


def _to_csr(matrix: SparseMatrix) -> Any:
    """A copy in compressed-row form, its indices sorted; entries that were given twice are added up, exactly."""
    dtype = matrix.dtype
    is_narrow = dtype.kind in "iu" and dtype.itemsize < 8 and matrix.format in ("coo", "csr", "csc")
    csr = (matrix.astype(np.int64) if is_narrow else matrix).tocsr(copy=True)
    csr.sum_duplicates()
    if is_narrow:
        info = np.iinfo(dtype)
        if not csr.nnz or info.min <= csr.data.min() <= csr.data.max() <= info.max:
            return csr.astype(dtype)
    return csr


def require_finite(rows: SparseRows, source: Path, allow_missing: bool) -> None:
    """`InputError` for an infinite entry, and for a missing one (NaN) unless these are allowed.

    Args:
        rows: the rows.
        source: where they come from.
        allow_missing: whether NaN is allowed.
    """
    if (first := rows.first_not_finite()) is None:
        return
    row, column, value = first
    is_missing = value != value
    if is_missing and allow_missing:
        finite = [entries.value[~np.isnan(entries.value)] for entries in rows.entry_blocks()]
        if all(np.isfinite(values).all() for values in finite):
            return
        raise InputError(f"{source}: holds infinite values; remove or fill those rows")
    problem = "missing (NaN)" if is_missing else "infinite"
    remedy = "fit with --missing mask (missing='mask') to model the observed values, or " if is_missing else ""
    raise InputError(
        f"{source}: a value is {problem}, the first in row {row} (counting from 0), column {column}; "
        f"{remedy}remove or fill those rows"
    )


def keep_or_make_dense(table: Table[Values], source: Path, missing: bool) -> Table[Values]:
    """A table whose sparse rows hold no missing value; where missing values are modelled, they are made dense.

    Args:
        table: the table.
        source: where it comes from.
        missing: whether missing values are kept.

    Returns:
        The table; `InputError` for missing values that are not kept, and for dense rows of more than 1 GiB.
    """
    rows = table.values
    if not isinstance(rows, SparseRows) or rows.first_not_finite() is None:
        return table
    if not missing:
        require_finite(rows, source, allow_missing=False)
    return made_dense(table, source, "values are missing")


def made_dense(table: Table[Values], source: Path, reason: str) -> Table[Values]:
    """A table with its sparse rows as a tensor, and a note of the reason.

    Args:
        table: the table, of `SparseRows`.
        source: where it comes from.
        reason: why, in words.

    Returns:
        The table; `InputError` for more than 1 GiB.
    """
    rows = table.values
    num_bytes = len(rows) * rows.shape[1] * (1 if rows.dtype == torch.uint8 else 8)
    if num_bytes > MAX_DENSE_BYTES:
        raise InputError(
            f"{source}: {reason}, which needs dense rows, and these would take {num_bytes / 2**30:.1f} GiB; take fewer "
            "columns or rows, or leave that out"
        )
    return replace(table, values=rows[:], notes=(*table.notes, f"sparse rows made dense: {reason}"))


def read_sparse_npz(path: Path) -> Table[Values]:
    """The table in a file of `scipy.sparse.save_npz`.

    Args:
        path: the file.

    Returns:
        The table, its values `SparseRows`.
    """
    from scipy import sparse

    load: Callable[[Path], SparseMatrix] = sparse.load_npz
    try:
        matrix = load(path)
    except (ValueError, KeyError, IndexError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable sparse matrix ({error})") from error
    return table_from_sparse(matrix, path)
