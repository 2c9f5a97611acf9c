"""Copies of `.h5ad` files with results in them: everything else stays as it is, bit for bit."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyro_vae.data.annotated.annotated_rows import Group
from pyro_vae.errors import InputError


def copy_with_latents(source: Path, file: BinaryIO, name: str, latents: np.ndarray) -> None:
    """Write a copy of a `.h5ad` with an array in `obsm`, in place of one of that name.

    Args:
        source: the file.
        file: the open file of the copy.
        name: of the array.
        latents: the array (N, K).
    """
    from anndata.io import write_elem

    with _copy(source, file) as group:
        if "obsm" not in group:
            write_elem(group, "obsm", {})
        _replace(group["obsm"], name, latents)


def copy_with_columns(source: Path, file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    """Write a copy of a `.h5ad` with columns in `obs`, in place of those of the same names.

    Args:
        source: the file.
        file: the open file of the copy.
        columns: the columns (N,) by name; whole numbers 0 and 1, and None for none, are written as truth values.
    """
    with _copy(source, file) as group:
        obs = group["obs"]
        if "column-order" not in obs.attrs:
            raise InputError(f"{source}: was written by anndata before 0.7; read and write it again with a later one")
        for name, values in columns.items():
            _replace(obs, name, _with_truth_values(values))
        order = [name for name in obs.attrs["column-order"] if name not in columns]
        obs.attrs["column-order"] = np.array([*order, *columns], dtype=object)


def _with_truth_values(values: np.ndarray) -> object:
    """Integers and None as truth values; other columns, of text too, unchanged."""
    if values.dtype == object and not any(isinstance(value, str) for value in values):
        import pandas

        return pandas.array([None if value is None else bool(value) for value in values], dtype="boolean")
    return values.astype(bool) if values.dtype.kind in "iu" else values


def _replace(group: Group, name: str, values: object) -> None:
    from anndata.io import write_elem

    if name in group:
        del group[name]
    write_elem(group, name, values)


@contextmanager
def _copy(source: Path, file: BinaryIO) -> Iterator[Group]:
    """A copy of a file, open to be written to."""
    import h5py

    file.seek(0)
    with source.open("rb") as original:
        shutil.copyfileobj(original, file, 2**24)
    file.flush()
    with h5py.File(Path(file.name), "r+") as group:
        yield group
