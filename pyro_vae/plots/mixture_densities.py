"""Mixtures and densities on a line or in the plane."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.diagnostics.density_grid import Plane, rows_like
from pyro_vae.errors import InputError
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.models.gaussian_mixture import GaussianMixture
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.learning_curve_figures import require_curves

DEPTH = 8.0  # nats below the highest density that are shaded
NormalMixture = GaussianMixture | BayesianGaussianMixture


@check_call
def plot_components(
    mixture: GaussianMixture,
    data: RowsGiven,
    *,
    truth: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
    num_points: int = 1000,
) -> Figure:
    r"""A one-dimensional mixture over a histogram of rows: $p(x)$, each $\pi_c p(x|c)$, and below the responsibilities.

    Args:
        mixture: the fitted mixture.
        data: rows (N, 1), a split or a data set (its test split); densities are in its original units.
        truth: weights, means and scales of normals in those units, drawn dashed.
        num_points: points of the curves.

    Returns:
        The figure.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("seven-normals")
    >>> mixture = pv.GaussianMixture(num_components=7, num_features=1)
    >>> fitted = pv.fit_em(mixture, data, epochs=20)
    >>> len(plot_components(mixture, data).axes)
    2
    """
    split = as_split(data, "test")
    if split.shape[1] != 1:
        raise InputError(f"expected rows of one column, got {split.shape[1]}; plot_planes shows two")
    rows = split.measure.to_original_units(split.x).numpy()[:, 0]
    room = 0.05 * np.ptp(rows)
    at = torch.linspace(rows.min() - room, rows.max() + room, num_points, dtype=torch.float64)
    points = rows_like(at[:, None], split)
    order = mixture.means[:, 0].argsort()
    shares = mixture.responsibilities(points.x)[:, order].cpu().numpy().T
    density, colours = mixture.log_prob(points).exp().numpy(), style.distinct_colours(len(shares))
    with style.figure_style():
        figure = Figure(figsize=(9, 4.8))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        _mixture_components(upper, rows, at.numpy(), density, shares * density, colours)
        _draw_true_components(upper, at, truth)
        handles, labels = upper.get_legend_handles_labels()
        upper.legend(*zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True))
        _stacked_shares(lower, at.numpy(), shares, colours)
        lower.set(xlabel="x", ylabel="p(c|x)")
    return figure


def _draw_true_components(
    axes: Axes, at: torch.Tensor, truth: tuple[Sequence[float], Sequence[float], Sequence[float]] | None
) -> None:
    for weight, loc, scale in zip(*truth, strict=True) if truth else ():
        part = (weight * torch.distributions.Normal(loc, scale).log_prob(at).exp()).numpy()
        axes.plot(at.numpy(), part, color="0.25", linewidth=0.9, linestyle=(0, (4, 2)), label="true components")


@check_call
def plot_planes(
    data: RowsGiven,
    planes: Mapping[str, Plane],
    *,
    mixture: NormalMixture | None = None,
    held_out: Mapping[str, float] | None = None,
) -> Figure:
    """Rows in the plane and densities of them, a panel each, in one scale of shades.

    Args:
        data: rows (N, 2), a split or a data set (its test split).
        planes: for each name the points and log p(x), as `density_on_grid` gives them, in the original units of `data`.
        mixture: a mixture of normals: a first panel has its rows coloured by responsibility and its ellipses at one and
            two standard deviations.
        held_out: mean log p(x) of held-out rows by name, nats per row, written under the name.

    Returns:
        The figure.

    >>> import pyro_vae as pv
    >>> from pyro_vae.diagnostics.density_grid import density_on_grid
    >>> data = pv.load_data("two-moons")
    >>> mixture = pv.GaussianMixture(num_components=8, num_features=2)
    >>> fitted = pv.fit_em(mixture, data, epochs=20)
    >>> plane = density_on_grid(mixture, (-2, -1.5), (3, 2), 40, like=data)
    >>> len(plot_planes(data, {"mixture": plane}, mixture=mixture).axes)  # and the bar of shades
    3
    """
    require_curves(planes)
    split = as_split(data, "test")
    if split.shape[1] != 2:
        raise InputError(f"expected rows of two columns, got {split.shape[1]}")
    rows = split.measure.to_original_units(split.x).numpy()
    count = len(planes) + (mixture is not None)
    log_px = {name: np.asarray(plane[2]) for name, plane in planes.items()}
    top = float(np.ceil(max(values.max() for values in log_px.values())))
    with style.figure_style():
        figure = Figure(figsize=(3.3 * count + 0.6, 3.9))
        panels = list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0])
        if mixture is not None:
            _draw_mixture(panels.pop(0), mixture, split, rows)
        for axes, (name, plane) in zip(panels, planes.items(), strict=True):
            xx, yy = np.asarray(plane[0]), np.asarray(plane[1])
            shades = draw_on_axes.log_density_contours(axes, xx, yy, log_px[name], top, DEPTH)
            found = (held_out or {}).get(name)
            style.title(axes, name, "" if found is None else f"log p(x) {found:.2f} nats".replace("-", "−"))
        bar = figure.colorbar(shades, ax=panels, shrink=0.8, pad=0.02)
        bar.ax.set_title("nats", fontsize=9, fontweight="normal")
        bar.ax.spines["outline"].set_visible(False)
        for axes in figure.axes[:count]:
            axes.set_aspect("equal")
            axes.label_outer()
    return figure


def _draw_mixture(axes: Axes, mixture: NormalMixture, split: Split, rows: np.ndarray) -> None:
    shares = mixture.responsibilities(split.x).cpu().numpy()
    colours = style.distinct_colours(shares.shape[1])
    stretch = torch.tensor(split.measure.scale or (1.0, 1.0), dtype=torch.float64).numpy()
    means = split.measure.to_original_units(mixture.means).cpu().numpy()
    axes.scatter(rows[:, 0], rows[:, 1], s=6, color=style.blend_colours(shares, colours), linewidths=0, alpha=0.85)
    for mean, covariance, colour in zip(means, _full_covariances(mixture), colours, strict=True):
        _covariance_ellipses(axes, mean, covariance * np.outer(stretch, stretch), colour)
    style.title(axes, "EM", f"{len(means)} normals, rows by responsibility")


def _full_covariances(mixture: NormalMixture) -> np.ndarray:
    """A mixture's covariances as full matrices (C, D, D)."""
    covariances, (C, D) = mixture.covariances.cpu().numpy(), mixture.means.shape
    if isinstance(mixture, BayesianGaussianMixture) or mixture.covariance in ("full", "tied"):
        return np.broadcast_to(covariances, (C, D, D))
    return covariances.reshape(C, -1, 1) * np.eye(D)


def _mixture_components(
    axes: Axes, rows: np.ndarray, at: np.ndarray, density: np.ndarray, parts: np.ndarray, colours: Sequence[ColorType]
) -> Axes:
    """A histogram of rows, a mixture's density over it, and its components' parts of that, filled.

    Args:
        axes: the axes to draw on.
        rows: the rows (N,).
        at: the points (G,) of the densities.
        density: the mixture's density there (G,).
        parts: its components' parts (C, G), which sum to the density.
        colours: a colour for each component.

    Returns:
        The axes.
    """
    bins = np.histogram_bin_edges(rows, bins=60).tolist()
    axes.hist(rows, bins=bins, density=True, color="0.87", label="rows")
    for part, colour in zip(parts, colours, strict=True):
        axes.fill_between(at, part, color=colour, alpha=0.55, linewidth=0)
        axes.plot(at, part, color=colour, linewidth=1)
    axes.plot(at, density, color=style.DARK, linewidth=1.8, label="p(x)")
    axes.set(ylabel="density", xlim=(at[0], at[-1]))
    axes.set_ylim(bottom=0)
    return axes


def _stacked_shares(axes: Axes, at: np.ndarray, shares: np.ndarray, colours: Sequence[ColorType]) -> Axes:
    """Shares (C, G) that sum to one, stacked.

    Args:
        axes: the axes to draw on.
        at: the points (G,).
        shares: the shares (C, G) there.
        colours: a colour for each of the C.

    Returns:
        The axes.
    """
    axes.stackplot(at, shares, colors=colours, alpha=0.85, linewidth=0)
    axes.set(ylim=(0, 1), yticks=[0, 1])
    return axes


def _covariance_ellipses(
    axes: Axes, mean: np.ndarray, covariance: np.ndarray, colour: ColorType, sizes: Sequence[float] = (1, 2)
) -> Axes:
    """The ellipses at some standard deviations around a mean.

    Args:
        axes: the axes to draw on.
        mean: the mean (2,).
        covariance: the covariance (2, 2).
        colour: the lines' colour.
        sizes: the ellipses' sizes in standard deviations.

    Returns:
        The axes.
    """
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 100)
    unit = vectors @ (np.sqrt(values)[:, None] * np.stack([np.cos(angle), np.sin(angle)]))
    for size in sizes:
        line = mean[:, None] + size * unit
        axes.plot(line[0], line[1], color=colour, linewidth=1.5 if size == min(sizes) else 0.8)
    return axes
