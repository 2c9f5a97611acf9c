"""What is asked of annotated rows, in memory and in files; and the files, opened with nothing read but annotations."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.sparse.read_sparse import SparseMatrix
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

ANNOTATED_SUFFIXES = (".h5ad", ".zarr")
RAW = "raw"
Group = Any  # of h5py or zarr, which have the same methods and no types


@runtime_checkable
class Variables(Protocol):
    """The rows before columns were left out: `adata.raw`."""

    @property
    def X(self) -> object: ...

    @property
    def var_names(self) -> Iterable[str]: ...


@runtime_checkable
class AnnotatedRows(Protocol):
    """What is asked of annotated rows: `anndata.AnnData` has it."""

    @property
    def X(self) -> object: ...

    @property
    def obs(self) -> "pandas.DataFrame": ...

    @property
    def obs_names(self) -> Iterable[str]: ...

    @property
    def var_names(self) -> Iterable[str]: ...

    @property
    def layers(self) -> Mapping[str, object]: ...

    @property
    def raw(self) -> Variables | None: ...


@dataclass(frozen=True)
class SparseGroup:
    """A sparse matrix in a file: the arrays `data`, `indices` and `indptr` of a group, read when rows are asked for.

    Attributes:
        group: the group.
    """

    group: Group

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.group.attrs["shape"])

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype(self.group["data"].dtype)

    @property
    def is_by_rows(self) -> bool:
        """Whether the entries of a row lie side by side (CSR)."""
        return str(self.group.attrs["encoding-type"]) == "csr_matrix"

    @property
    def num_entries(self) -> int:
        return int(self.group["data"].shape[0])

    @cached_property
    def indptr(self) -> Array:
        """Where the entries of each row begin and end, (N + 1,); of each column where the matrix is by columns."""
        return np.asarray(self.group["indptr"][:], np.int64)

    def __getitem__(self, rows: slice) -> SparseMatrix:
        from scipy import sparse

        if not self.is_by_rows:
            arrays = tuple(self.group[name][:] for name in ("data", "indices", "indptr"))
            whole: SparseMatrix = sparse.csc_array(arrays, self.shape).tocsr()[rows]
            return whole
        start, end, _ = rows.indices(self.shape[0])
        first, last = int(self.indptr[start]), int(self.indptr[max(start, end)])
        arrays = self.group["data"][first:last], self.group["indices"][first:last]
        part: SparseMatrix = sparse.csr_array(
            (*arrays, self.indptr[start : max(start, end) + 1] - first), (max(0, end - start), self.shape[1])
        )
        return part


@dataclass(frozen=True)
class OpenedVariables:
    """The rows of a file before columns were left out."""

    X: object
    var_names: tuple[str, ...]


@dataclass(frozen=True)
class OpenedRows:
    """The annotated rows of a file: its matrices are read when they are indexed."""

    X: object
    obs: "pandas.DataFrame"
    obs_names: tuple[str, ...]
    var_names: tuple[str, ...]
    layers: Mapping[str, object] = field(default_factory=dict)
    raw: OpenedVariables | None = None


@contextmanager
def open_group(path: Path) -> Iterator[Group]:
    """A `.h5ad` or `.zarr` file, open to be read.

    Args:
        path: the file.

    Yields:
        Group: its outermost group; `InputError` where it cannot be opened.
    """
    try:
        import anndata  # noqa: F401  # h5py is there without it

        group = _open_zarr(path) if path.suffix.lower() == ".zarr" else _open_hdf5(path)
    except ImportError as error:
        raise InputError(f"{path}: needs one more package; pip install 'pyro-vae[omics]'") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable file of annotated rows ({_first_line(error)})") from error
    with group as opened:
        yield opened


def _open_zarr(path: Path) -> AbstractContextManager[Group]:
    import zarr

    return nullcontext(zarr.open_group(path, mode="r"))


def _open_hdf5(path: Path) -> AbstractContextManager[Group]:
    import h5py

    file: AbstractContextManager[Group] = h5py.File(path, "r")
    return file


@contextmanager
def open_annotated(path: Path) -> Iterator[OpenedRows]:
    """The annotated rows of a file, their annotations read.

    Args:
        path: a `.h5ad` or `.zarr` file.

    Yields:
        OpenedRows: the rows; `InputError` for a file that holds none.
    """
    with open_group(path) as group:
        if missing := [name for name in ("obs", "var") if name not in group]:
            raise InputError(f"{path}: has no {' and no '.join(missing)}; expected a file that anndata wrote")
        try:
            obs, var_names = read_element(group["obs"]), _names(group["var"])
            layers = {name: _matrix(group["layers"][name]) for name in group["layers"]} if "layers" in group else {}
            rows = OpenedRows(
                _matrix(group["X"]) if "X" in group else None,
                obs,
                tuple(map(str, obs.index)),
                var_names,
                layers,
                _raw(group),
            )
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise InputError(f"{path}: not a readable file of annotated rows ({_first_line(error)})") from error
        yield rows


def read_element(element: Group) -> Any:
    """What anndata makes of a group or array of a file."""
    from anndata.io import read_elem

    return read_elem(element)


def _names(group: Group) -> tuple[str, ...]:
    return tuple(map(str, read_element(group).index))


def _raw(group: Group) -> OpenedVariables | None:
    if RAW not in group or "X" not in group[RAW]:
        return None
    return OpenedVariables(_matrix(group[RAW]["X"]), _names(group[RAW]["var"]))


def _matrix(element: Group) -> object:
    """A matrix that is read when it is indexed: sparse, or an array of h5py or zarr."""
    return SparseGroup(element) if hasattr(element, "keys") else element


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
