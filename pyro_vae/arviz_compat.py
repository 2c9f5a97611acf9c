"""The only module that uses ArviZ, versions 0.23 (`InferenceData`) and 1.x (`DataTree`), imported on first use.

Arrays in, arrays and containers out; no tensors here.
"""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from pyro_vae.atomic_write import atomic_path


@runtime_checkable
class _ArrayStats(Protocol):
    """The statistics of ArviZ 1.x that are used here."""

    def psislw(self, log_weights: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]: ...

    def rhat(self, draws: np.ndarray, *, chain_axis: int, draw_axis: int) -> np.ndarray: ...

    def ess(self, draws: np.ndarray, *, chain_axis: int, draw_axis: int) -> np.ndarray: ...


@runtime_checkable
class Container(Protocol):
    """ArviZ's container of groups: `InferenceData` in 0.23, xarray's `DataTree` in 1.x."""

    def to_netcdf(self, filename: str, /, *, engine: str) -> object: ...


def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        return importlib.import_module("arviz")


def _is_version_0(arviz: ModuleType) -> bool:
    return "psislw" in dir(arviz)


def _array_stats() -> _ArrayStats:
    stats: _ArrayStats = importlib.import_module("arviz_stats.base").array_stats
    return stats


def psislw(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed, normalized log weights (N, S) and each row's k-hat (N,)."""
    arviz = _arviz()
    with np.errstate(over="ignore"):  # 0.23 divides by exp of a large number, and the zero is right
        if _is_version_0(arviz):
            found: tuple[np.ndarray, np.ndarray] = arviz.psislw(log_weights)
        else:
            found = _array_stats().psislw(-log_weights, axis=-1)  # 1.x takes minus the log weights
    return found


def rhat_and_ess(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank-normalized r-hat and bulk effective sample size over chains and draws, (chains, draws, M) → (M,) each."""
    arviz = _arviz()
    if not _is_version_0(arviz):
        stats = _array_stats()
        rhat, ess = (statistic(draws, chain_axis=0, draw_axis=1) for statistic in (stats.rhat, stats.ess))
        return rhat, ess
    columns = [np.ascontiguousarray(draws[:, :, i]) for i in range(draws.shape[2])]
    return np.array([float(arviz.rhat(c)) for c in columns]), np.array([float(arviz.ess(c)) for c in columns])


def container(
    groups: Mapping[str, Mapping[str, tuple[tuple[str, ...], np.ndarray]]],
    coords: Mapping[str, object],
    attrs: Mapping[str, object],
) -> Container:
    """Groups of named arrays as `InferenceData` or a `DataTree`.

    Args:
        groups: by name, each its arrays by name, with the names of their axes.
        coords: the coordinates of each axis.
        attrs: attributes of each group.

    Returns:
        ArviZ's container.
    """
    xarray = importlib.import_module("xarray")
    datasets = {}
    for group, arrays in groups.items():
        used = {axis for axes, _ in arrays.values() for axis in axes}
        kept = {axis: values for axis, values in coords.items() if axis in used}
        datasets[group] = xarray.Dataset(dict(arrays), coords=kept, attrs=dict(attrs))
    arviz = _arviz()
    made: Container = arviz.InferenceData(**datasets) if _is_version_0(arviz) else xarray.DataTree.from_dict(datasets)
    return made


def write_netcdf(data: Container, path: Path) -> None:
    """Write a container to a netCDF file, atomically.

    Args:
        data: ArviZ's container.
        path: the file.
    """
    with atomic_path(path) as temporary:
        data.to_netcdf(str(temporary), engine="h5netcdf")
