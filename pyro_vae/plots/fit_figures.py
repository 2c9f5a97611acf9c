"""The figures every fit writes, from a program and its data to PNG files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset
from pyro_vae.data.image_shapes import height_and_width
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.posterior.nuts import Posterior
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.column_axes import format_column_axes, shown_columns
from pyro_vae.plots.display_units import escaped_column_names, observed, stored_to_pixels, to_pixels
from pyro_vae.plots.latent_manifold import manifold
from pyro_vae.programs.encode_rows import encode, reconstruct
from pyro_vae.programs.sample_rows import inputs_of_rows, sample, sample_means
from pyro_vae.typing import Program

PRIOR_DRAWS = 64


def write_figures(
    folder: Path, program: Program, data: Dataset, history: Sequence[EpochRecord], best_epoch: int
) -> list[Path]:
    """Draw what this program and data allow.

    Training curve; originals over reconstructions; samples from the prior; latent means coloured by label; for two
    latents and images the manifold of Kingma & Welling's figure 4.

    Args:
        folder: where the PNG files are written.
        program: the fitted program.
        data: the data set it was fitted to.
        history: the fit's epochs.
        best_epoch: the epoch whose weights were kept.

    Returns:
        The files, in the order to read them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[], Figure | None]] = {
        "training": lambda: training(history, best_epoch),
        "reconstructions": lambda: reconstructions(program, data),
        "samples": lambda: samples(program, data),
        "latents": lambda: latents(program, data),
        "manifold": lambda: manifold(program, data),
    }
    written = []
    with style.figure_style(), mpl.rc_context({"backend": "agg"}):
        for name, draw in drawings.items():
            figure = draw()
            if figure is not None:
                written.append(folder / f"{name}.png")
                style.save_figure(figure, written[-1])
    return written


def training(history: Sequence[EpochRecord], best_epoch: int) -> Figure | None:
    """The ELBO and its two terms over epochs, training and validation.

    Args:
        history: the fit's epochs.
        best_epoch: the epoch whose weights were kept.

    Returns:
        The figure; None for fewer than two epochs.
    """
    if len(history) < 2:
        return None
    figure = Figure(figsize=(11, 3.4))
    panels = {"elbo": "ELBO", "reconstruction": "Reconstruction  E[log p(x|z)]", "kl": "KL(q(z|x) ‖ p(z))"}
    epochs = [row.epoch for row in history]
    for axes, (key, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        draw_on_axes.training_curve(
            axes, epochs, [row[key] for row in history], [row[f"valid_{key}"] for row in history], title, best_epoch
        )
    figure.axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def reconstructions(program: Program, data: Dataset) -> Figure:
    """Validation rows over their reconstructions, one column for each label where there are labels.

    Args:
        program: the fitted program.
        data: its data set.

    Returns:
        The figure.
    """
    split = data.valid
    index = first_of_each_label(split.labels, len(split)) if data.image_shape else torch.arange(min(500, len(split)))
    x = split[index]
    row_inputs = split.row_inputs(index)
    again = reconstruct(program, x, **row_inputs)
    if data.image_shape:
        shown = [
            stored_to_pixels(split, index),
            to_pixels(split, x, row_inputs.get("mask")),
            to_pixels(split, again),
        ]
        figure = Figure(figsize=(len(index) * 0.8, 3.0))
        axes = draw_on_axes.image_grid(
            figure.subplots(),
            torch.cat(shown).numpy(),
            data.image_shape,
            columns=len(index),
            title="Validation images and their reconstructions",
        )
        _name_rows(axes, ["stored", "x", "E[x | z]"], height_and_width(data.image_shape)[0])
        return figure
    figure = Figure(figsize=(6, 4.4))
    found = split.measure.to_original_units(again.cpu()).numpy()
    _draw_plane(figure, data, observed(split, index), found, "Validation rows and their reconstructions", "E[x | z]")
    return figure


def _draw_plane(figure: Figure, data: Dataset, rows: np.ndarray, found: np.ndarray, title: str, label: str) -> None:
    """Rows of a table in the plane of two of its columns, and others over them."""
    axes, places, names = figure.subplots(), shown_columns(data), escaped_column_names(data)
    known = _with_two_known_columns(rows[:, places])
    draw_on_axes.data_and_samples(axes, known, found[:, places], title, [names[place] for place in places], label)
    format_column_axes(axes, data, places)


def _name_rows(axes: Axes, names: list[str], height: int, gap: int = 2) -> None:
    for i, name in enumerate(names):
        axes.text(-4, i * (height + gap) + height / 2, name, ha="right", va="center", fontsize=9)


def samples(program: Program, data: Dataset) -> Figure:
    """What the model generates: E[x | z] for images (drawn pixels only add noise), drawn rows for tables.

    Args:
        program: the fitted program.
        data: its data set.

    Returns:
        The figure.
    """
    with seeded(0):
        if not data.image_shape:
            num = min(1000, len(data.train))
            inputs = inputs_of_rows(data.train, num)
            drawn = sample(program, num, num_features=data.num_features, row_inputs=inputs).cpu()
            figure = Figure(figsize=(6, 4.4))
            rows = observed(data.train, torch.arange(len(drawn)))
            found = data.train.measure.to_original_units(drawn).numpy()
            name = "drawn from p(x | y)" if inputs else "drawn from p(x)"
            _draw_plane(figure, data, rows, found, "Training rows and draws from the model", name)
            return figure
        inputs = inputs_of_rows(data.train, PRIOR_DRAWS)
        drawn = sample_means(program, PRIOR_DRAWS, num_features=data.num_features, row_inputs=inputs)
    figure = Figure(figsize=(5.2, 5.5))
    what = "E[x | z, y], y of training rows" if inputs else "E[x | z]"
    title = f"Images from the model: {what}, z drawn from p(z)"
    draw_on_axes.image_grid(
        figure.subplots(), to_pixels(data.train, drawn).numpy(), data.image_shape, columns=8, title=title
    )
    return figure


def latents(program: Program, data: Dataset) -> Figure | None:
    """Posterior means of validation rows, coloured by label; by their two principal directions above two dimensions.

    Args:
        program: the fitted program.
        data: its data set.

    Returns:
        The figure; None where rows cannot be encoded, or there are fewer than three.
    """
    split = data.valid
    try:
        parts = split.chunks(chunk_rows(split.shape[1], len(split)))
        means = torch.cat([encode(program, part.x, **part.row_inputs(slice(None))) for part in parts]).cpu().double()
    except InputError:
        return None
    if len(means) < 3:
        return None
    labels = None if split.labels is None else split.labels.numpy()
    figure, names = Figure(figsize=(6.4, 5)), ("$z_1$", "$z_2$")
    title = f"Posterior means of {len(means)} validation rows"
    if means.shape[1] == 1:
        jitter = torch.rand(len(means), 1, generator=torch.Generator().manual_seed(0), dtype=means.dtype)
        means, names = torch.cat([means, jitter], 1), ("$z_1$", "(spread out to be seen)")
    elif means.shape[1] > 2:
        centred = means - means.mean(0)
        _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
        share = float(spread[:2].square().sum() / spread.square().sum())
        title += f"\nthe plane of largest variance, {share:.0%} of that in {means.shape[1]} dimensions"
        means, names = centred @ directions[:2].T, ("first principal direction", "second principal direction")
    draw_on_axes.scatter(figure.subplots(), means.numpy(), labels, title, names, data.label_levels)
    return figure


@check_call
def plot_posterior(found: Posterior, *, rows: int = 4, latents: int = 4) -> Figure:
    """The marginals of p(z | x) by `nuts` over those of q, with r-hat and ESS.

    Args:
        found: what `nuts` found.
        rows: the first rows, at most so many.
        latents: the first latents, at most so many.

    Returns:
        The figure.
    """
    num_rows, num = min(rows, found.draws.shape[2]), min(latents, found.draws.shape[3])
    with style.figure_style():
        figure = Figure(figsize=(2.7 * num, 1.9 * num_rows + 0.3))
        panels = figure.subplots(num_rows, num, squeeze=False)
        for i, line in enumerate(panels):
            for k, axes in enumerate(line):
                exact, guide = found.draws[:, :, i, k].flatten().numpy(), found.guide[:, i, k].numpy()
                note = f"r-hat {found.rhat[i, k]:.3f}\nESS {found.ess[i, k]:.0f}"
                draw_on_axes.posterior_marginals(axes, exact, guide, found.names[k] if i == 0 else "", note)
            line[0].set_ylabel(f"row {i}")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def first_of_each_label(labels: Tensor | None, num_rows: int, most: int = 10) -> Tensor:
    """Rows to show: the first of each label, else the first rows.

    Args:
        labels: the rows' labels (N,).
        num_rows: their number N.
        most: the number of rows to show.

    Returns:
        Their indices, (10,) or fewer.
    """
    if labels is None:
        return torch.arange(min(most, num_rows))
    kinds = labels.unique()[:most]
    return (
        torch.stack([(labels == kind).nonzero()[0, 0] for kind in kinds])
        if len(kinds) > 3
        else torch.arange(min(most, num_rows))
    )


def _with_two_known_columns(rows: np.ndarray) -> np.ndarray:
    """The rows of which the first two columns are known."""
    return rows[~np.isnan(rows[:, :2]).any(1)]
