"""The figures of the study of autoencoder, VAE, PCA and kernel PCA: metrics, codes, decoded draws and lines."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.image_shapes import ImageShape, height_and_width
from pyro_vae.diagnostics.latent_codes import Encoder
from pyro_vae.diagnostics.latent_interpolation import interpolate, path_ratio
from pyro_vae.diagnostics.latent_space_metrics import draws_near_rows, spread
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.display_units import to_pixels
from pyro_vae.studies.autoencoder_vs_vae_encoders import NAMES, has_prior, new_codes
from pyro_vae.studies.encoder_records import EncoderMeans
from pyro_vae.studies.swiss_roll import UnrolledSheet, plot_rolls

KIND_COLOURS = {"pca": style.COLOURS[2], "kernel-pca": style.COLOURS[5], "ae": style.RED, "vae": style.BLUE}
KIND_LINESTYLES = {"pca": "--", "kernel-pca": "--"}  # autoencoders often lie on top of them
PANELS = {
    "reconstruction_error": "Reconstruction error",
    "knn_accuracy": "Ten nearest codes name the label",
    "precision": "Draws decoded among reconstructions",
    "path_ratio": "Decoded line / distance of its ends",
}
NUM_DRAWS, NUM_COLUMNS, NUM_STEPS, NUM_LINES = 60, 20, 9, 3


def draw_encoders(
    folder: Path,
    table: Sequence[EncoderMeans],
    models: Mapping[str, Encoder],
    data: Dataset,
    rows: Split,
    rolls: Sequence[UnrolledSheet] = (),
    pixels: float | None = None,
) -> list[Path]:
    """Write the study's figures: metrics over numbers of latents; codes; decoded draws and lines; the swiss roll.

    Args:
        folder: where the PNG files are written.
        table: the means over seeds.
        models: the smallest encoder of each kind.
        data: the data set.
        rows: the held-out rows.
        rolls: the swiss roll by each kind.
        pixels: the accuracy of nearest neighbours on x itself.

    Returns:
        The files.
    """
    drawings: dict[str, Callable[[], Figure | None]] = {
        "sizes": lambda: plot_sizes(table, pixels),
        "codes": lambda: plot_codes(models, rows, table),
        "draws": lambda: plot_draws(models, rows) if data.image_shape else None,
        "lines": lambda: plot_lines(models, rows) if data.image_shape else None,
        "roll": lambda: plot_rolls(rolls) if rolls else None,
    }
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    with style.figure_style(), mpl.rc_context({"backend": "agg"}):
        for name, draw in drawings.items():
            if (figure := draw()) is not None:
                written.append(folder / f"{name}.png")
                style.save_figure(figure, written[-1])
    return written


def plot_sizes(table: Sequence[EncoderMeans], pixels: float | None = None) -> Figure:
    """Four metrics over the number of latents, mean ± standard error over seeds.

    Args:
        table: the means over seeds.
        pixels: the accuracy of nearest neighbours on x itself, a dotted line.

    Returns:
        The figure.
    """
    with style.figure_style():
        figure = Figure(figsize=(10.5, 6.2))
        for axes, (name, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
            for kind in dict.fromkeys(line.kind for line in table):
                known = [line for line in table if line.kind == kind and line[name] is not None]
                if known:
                    means, errors = zip(*(line[name] for line in known), strict=True)
                    at = [line.num_latents for line in known]
                    bars = [error or 0.0 for error in errors]
                    axes.errorbar(
                        at,
                        means,
                        bars,
                        color=KIND_COLOURS[kind],
                        marker="o",
                        markersize=4,
                        label=NAMES[kind],
                        linestyle=KIND_LINESTYLES.get(kind, "-"),
                    )
            axes.set(title=title, xlabel="latent dimensions", xscale="log")
            sizes = sorted({line.num_latents for line in table})
            axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
            axes.set_xticks([], minor=True)
            if name == "knn_accuracy" and pixels is not None:
                axes.axhline(pixels, color="0.5", linewidth=1, linestyle=":")
                axes.text(sizes[0], pixels, "on x itself", va="bottom", fontsize=9, color="0.35")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_codes(models: Mapping[str, Encoder], rows: Split, table: Sequence[EncoderMeans] = ()) -> Figure:
    """The codes of held-out rows by kind, the origin marked, their metrics under each title.

    Args:
        models: an encoder of each kind.
        rows: the held-out rows.
        table: the means over seeds; what is not in it is computed.

    Returns:
        The figure.
    """
    labels = None if rows.labels is None else rows.labels.numpy()
    with style.figure_style():
        figure = Figure(figsize=(11.5, 9.6))
        for axes, (kind, model) in zip(figure.subplots(2, 2).flat, models.items(), strict=False):
            codes = model.encode(rows.x).double()
            _codes(axes, codes, labels)
            style.title(axes, NAMES[kind], _describe_codes(kind, codes, table))
        _shared_legend(figure)
    return figure


def _codes(axes: Axes, codes: Tensor, labels: np.ndarray | None) -> None:
    names = ("$z_1$", "$z_2$") if codes.shape[1] > 1 else ("$z_1$", "(spread out to be seen)")
    points = codes[:, :2].numpy()
    if codes.shape[1] == 1:
        points = np.column_stack([points, np.random.default_rng(0).uniform(-0.5, 0.5, len(points))])
    draw_on_axes.scatter(axes, points, labels, "", names)
    if (box := axes.get_legend()) is not None:
        box.remove()
    axes.plot(0, 0, marker="+", color=style.DARK, markersize=16, markeredgewidth=2)


def _describe_codes(kind: str, codes: Tensor, table: Sequence[EncoderMeans]) -> str:
    line = next((line for line in table if line.kind == kind and line.num_latents == codes.shape[1]), None)
    if line is None:
        found = spread(codes)
        return f"off centre {found.off_centre:.2f}, anisotropy {found.anisotropy:.2f}"
    words = {
        "off_centre": "off centre",
        "anisotropy": "anisotropy",
        "area_gini": "areas' Gini",
        "precision": "precision",
    }
    return ", ".join(f"{word} {line[name][0]:.2f}" for name, word in words.items() if line[name] is not None)


def _shared_legend(figure: Figure) -> None:
    handles, names = figure.axes[0].get_legend_handles_labels()
    if handles:
        kept = handles[0]
        assert isinstance(kept, PathCollection)
        size = (40 / kept.get_sizes()[0]) ** 0.5  # as large for many points as for few
        figure.legend(handles, names, title="label", loc="outside right center", markerscale=size)


def plot_draws(models: Mapping[str, Encoder], rows: Split, seed: int = 0) -> Figure:
    """Decoded draws: from the prior, or a normal fitted to the codes; framed in red where no reconstruction is near.

    Args:
        models: an encoder of each kind.
        rows: the held-out rows, images.
        seed: of the draws.

    Returns:
        The figure.
    """
    assert rows.image_shape is not None
    with style.figure_style():
        figure = Figure(figsize=(10.5, 2.25 * len(models)))
        for axes, (kind, model) in zip(figure.subplots(len(models), 1), models.items(), strict=True):
            z = new_codes(model, rows, NUM_DRAWS, seed)
            drawn = model.decode(z)
            near = draws_near_rows(drawn, model.reconstruct(rows.x))
            draw_on_axes.image_grid(axes, to_pixels(rows, drawn).numpy(), rows.image_shape, columns=NUM_COLUMNS)
            _frame(axes, ~near.numpy(), rows.image_shape, NUM_COLUMNS)
            where = "the prior" if has_prior(model) else "a normal fitted to its codes"
            style.title(
                axes, NAMES[kind], f"{int((~near).sum())} of {NUM_DRAWS} draws from {where} have no reconstruction near"
            )
    return figure


def _frame(axes: Axes, chosen: np.ndarray, shape: ImageShape, columns: int, gap: int = 2) -> None:
    height, width = height_and_width(shape)
    for i in np.flatnonzero(chosen):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        frame = mpl.patches.Rectangle((left - 1.5, top - 1.5), width + 2, height + 2, clip_on=False)
        frame.set(fill=False, edgecolor=style.RED, linewidth=1.5)
        axes.add_patch(frame)


def plot_lines(models: Mapping[str, Encoder], rows: Split) -> Figure:
    """Straight lines between the codes of two rows, decoded: × how much longer they are than from end to end.

    Args:
        models: an encoder of each kind.
        rows: the held-out rows, images.

    Returns:
        The figure.
    """
    assert rows.image_shape is not None
    height, width = height_and_width(rows.image_shape)
    pairs = _pairs(rows)
    with style.figure_style():
        down = -(-len(models) // 2)
        figure = Figure(figsize=(11.5, 2.2 * down))
        for axes, (kind, model) in zip(figure.subplots(down, 2).flat, models.items(), strict=False):
            codes = model.encode(rows[pairs.flatten()]).reshape(*pairs.shape, -1)
            line = interpolate(codes[:, 0], codes[:, 1], NUM_STEPS - 1).transpose(0, 1)
            draw_on_axes.image_grid(
                axes, to_pixels(rows, model.decode(line.flatten(0, 1))).numpy(), rows.image_shape, columns=NUM_STEPS
            )
            for i, ratio in enumerate(path_ratio(model.decode, codes[:, 0], codes[:, 1])):
                place = i * (height + 2) + height / 2
                axes.text(NUM_STEPS * (width + 2) + 4, place, f"× {ratio:.2f}", va="center", fontsize=9)
            style.title(axes, NAMES[kind])
    return figure


def _pairs(rows: Split) -> Tensor:
    """Pairs of rows to go between, (3, 2): of different labels where there are labels."""
    if rows.labels is None or len(rows.labels.unique()) < 2:
        return torch.arange(2 * NUM_LINES).reshape(NUM_LINES, 2)
    first = [int((rows.labels == kind).nonzero()[0]) for kind in rows.labels.unique()]
    return torch.tensor([[first[i % len(first)], first[(i + 1) % len(first)]] for i in range(0, 2 * NUM_LINES, 2)])
