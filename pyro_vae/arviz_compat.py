"""The only module that uses ArviZ, versions 0.23 (`InferenceData`) and 1.x (`DataTree`), imported on first use.

Arrays in, arrays and containers out; no tensors here.
"""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.atomic_write import atomic_path


def _arviz() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        return importlib.import_module("arviz")


def _is_version_0(arviz: Any) -> bool:
    return hasattr(arviz, "psislw")


def _array_stats() -> Any:
    return importlib.import_module("arviz_stats.base").array_stats


def psislw(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed, normalized log weights (N, S) and each row's k-hat (N,)."""
    arviz = _arviz()
    with np.errstate(over="ignore"):  # 0.23 divides by exp of a large number, and the zero is right
        if _is_version_0(arviz):
            return arviz.psislw(log_weights)
        return _array_stats().psislw(-log_weights, axis=-1)  # 1.x takes minus the log weights


def rhat_and_ess(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank-normalized r-hat and bulk effective sample size over chains and draws, (chains, draws, M) → (M,) each."""
    arviz = _arviz()
    if not _is_version_0(arviz):
        stats = _array_stats()
        return tuple(getattr(stats, name)(draws, chain_axis=0, draw_axis=1) for name in ("rhat", "ess"))  # type: ignore[return-value]
    columns = [np.ascontiguousarray(draws[:, :, i]) for i in range(draws.shape[2])]
    return np.array([float(arviz.rhat(c)) for c in columns]), np.array([float(arviz.ess(c)) for c in columns])


def container(
    groups: Mapping[str, Mapping[str, tuple[tuple[str, ...], np.ndarray]]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> Any:
    """Groups of named arrays, each with the names of its axes, as `InferenceData` or a `DataTree`."""
    xarray = importlib.import_module("xarray")
    datasets = {}
    for group, arrays in groups.items():
        used = {axis for axes, _ in arrays.values() for axis in axes}
        kept = {axis: values for axis, values in coords.items() if axis in used}
        datasets[group] = xarray.Dataset(dict(arrays), coords=kept, attrs=dict(attrs))
    arviz = _arviz()
    return arviz.InferenceData(**datasets) if _is_version_0(arviz) else xarray.DataTree.from_dict(datasets)


def write_netcdf(data: Any, path: Path) -> None:
    """Write a container to a netCDF file, atomically."""
    with atomic_path(path) as temporary:
        data.to_netcdf(str(temporary), engine="h5netcdf")
