"""The figures of a comparison, as its data and programs allow."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pyro_vae.comparison.comparison_table import Fitted
from pyro_vae.comparison.learning_curves import Point
from pyro_vae.data import Dataset
from pyro_vae.data.synthetic import SEVEN_MEANS, SEVEN_SCALES, SEVEN_WEIGHTS
from pyro_vae.diagnostics.density_grid import Plane, density_on_grid
from pyro_vae.inference.em.select_mixture import MixtureScore
from pyro_vae.models.gaussian_mixture import GaussianMixture
from pyro_vae.plots import style
from pyro_vae.plots.draw_on_axes import OptionalPoints, Points
from pyro_vae.plots.learning_curve_figures import plot_curves, plot_gap
from pyro_vae.plots.mixture_densities import plot_components, plot_planes
from pyro_vae.plots.mixture_selection import plot_selection
from pyro_vae.programs.program_defaults import Predictive
from pyro_vae.typing import Density

MAX_PLANES = 4
Table = Sequence[Mapping[str, Any]]  # the records of `compare`, best first


def draw_comparison(
    folder: Path,
    fitted: Sequence[Fitted],
    table: Table,
    data: Dataset,
    curves: Mapping[str, Sequence[Point]],
    *,
    by_train_rows: bool = False,
) -> list[Path]:
    """Write a comparison's figures: bounds and log p(x) during the fits; densities of each kind of model on a line or a
    plane.

    Args:
        folder: where the PNG files are written.
        fitted: the fitted programs.
        table: their records, best first.
        data: the data set.
        curves: the scores during each program's fit, by its name.
        by_train_rows: draw the learning curves, with a panel for each number of training rows, as in figure 3 of Kingma
            & Welling (arXiv:1312.6114).

    Returns:
        The files.
    """
    best = _best_of_each_kind(fitted, table)
    drawings: dict[str, Callable[[], Figure | None]] = {
        "gap": lambda: None if by_train_rows else _gaps(curves),
        "learning": lambda: _learning(curves) if by_train_rows else None,
        "components": lambda: _components(best, data),
        "planes": lambda: _planes(best, table, data),
    }
    return _write(folder, drawings)


def draw_selections(folder: Path, scores: Mapping[str, Sequence[MixtureScore]]) -> list[Path]:
    """Write the curves of mixtures that were chosen by cross-validation.

    Args:
        folder: where the PNG files are written.
        scores: what each was chosen by, by the name of the model.

    Returns:
        The files.
    """
    return _write(
        folder,
        {
            f"{name.replace(':', '-')}-selection": functools.partial(plot_selection, found)
            for name, found in scores.items()
        },
    )


def _write(folder: Path, drawings: Mapping[str, Callable[[], Figure | None]]) -> list[Path]:
    written = []
    with style.figure_style(), mpl.rc_context({"backend": "agg"}):
        for name, draw in drawings.items():
            if (figure := draw()) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                written.append(folder / f"{name}.png")
                style.save_figure(figure, written[-1])
    return written


def _best_of_each_kind(fitted: Sequence[Fitted], table: Table) -> dict[type, Fitted]:
    """The program of each kind of model with the highest log p(x), of those fitted by EM if any; best kind first."""
    by_name = {one.name: one for one in fitted}
    best: dict[type, Fitted] = {}
    for one in (by_name[row["name"]] for row in table):
        kind = type(one.program)
        if kind not in best or (one.fit_method == "em" and best[kind].fit_method != "em"):
            best[kind] = one
    return best


def _gaps(curves: Mapping[str, Sequence[Point]]) -> Figure | None:
    several = {name: points for name, points in curves.items() if len(points) > 1}
    if not several:
        return None
    return plot_gap(
        {
            name: ([p.epoch for p in points], [p.bound for p in points], [p.log_px for p in points])
            for name, points in several.items()
        }
    )


def _learning(curves: Mapping[str, Sequence[Point]]) -> Figure | None:
    panels: dict[str, dict[str, tuple[Points, OptionalPoints, OptionalPoints]]] = {}
    for name, points in curves.items():
        title = f"{points[0].rows_seen // points[0].epoch:,} training rows"
        seen = [point.rows_seen for point in points]
        found = (seen, [point.train_log_px for point in points], [point.log_px for point in points])
        model, fit_method = name.rsplit(" ", 1)
        label = f"{model.rsplit('-', 2)[0]} {fit_method}"  # without the number of rows
        panels.setdefault(title, {})[label] = found
    return plot_curves(panels) if panels else None


def _components(best: Mapping[type, Fitted], data: Dataset) -> Figure | None:
    mixture = best.get(GaussianMixture)
    if mixture is None or not isinstance(mixture.program, GaussianMixture) or data.num_features != 1:
        return None
    truth = (SEVEN_WEIGHTS, SEVEN_MEANS, SEVEN_SCALES) if data.name == "seven-normals" else None
    return plot_components(mixture.program, data.valid, truth=truth)


def _planes(best: Mapping[type, Fitted], table: Table, data: Dataset) -> Figure | None:
    if data.num_features != 2:
        return None
    rows = data.train.measure.to_original_units(data.train.x)
    low, high = rows.amin(0), rows.amax(0)
    room = 0.1 * (high - low)
    corners = tuple((low - room).tolist()), tuple((high + room).tolist())
    found = {row["name"]: row["log_px"] for row in table}
    planes: dict[str, Plane] = {}
    for one in list(best.values())[:MAX_PLANES]:
        if isinstance(one.program, Density) or not isinstance(one.program, Predictive):
            planes[one.name] = density_on_grid(one.program, *corners, like=data)
    mixture = next((one.program for one in best.values() if isinstance(one.program, GaussianMixture)), None)
    held_out = {name: found[name] for name in planes}
    return plot_planes(data, planes, mixture=mixture, held_out=held_out)
