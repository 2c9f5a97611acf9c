"""The picture of the squared-error trap: a digit, a piece cut off, one pixel moved, and what each measure says."""

from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from pyro_vae.argument_checks import check_call
from pyro_vae.data.image_shapes import height_and_width
from pyro_vae.errors import InputError
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.studies.squared_error_trap import (
    LATENT_DISTANCE,
    LOG_PX,
    SQUARED_ERROR,
    ChangedPictures,
    SquaredErrorTrap,
)

COLOUR_OF = {SQUARED_ERROR: style.RED, LATENT_DISTANCE: style.BLUE, LOG_PX: style.DARK}
BETWEEN, LINE = 7, 4  # pixels between two pictures, and from one line of numbers to the next


@check_call
def plot_squared_error_trap(found: SquaredErrorTrap, *, share: float | None = None, row: int | None = None) -> Figure:
    """A picture, the same with a piece cut off and moved by one pixel, the measures of both, and how often each agrees.

    What a measure calls nearer to the picture as it was is set in bold. On the right the share of pictures that are
    called nearer when shifted, over the size of the cut, with 95 % intervals. Raises `InputError` for a share or a row
    that is not in `found`.

    Args:
        found: the study's pictures and measures.
        share: the cut that is shown, the middle one by default.
        row: the picture; by default one on which each measure says what it says of most (`typical_row`).

    Returns:
        The figure.

    >>> import pyro_vae as pv
    >>> from pyro_vae.studies.squared_error_trap import measure_squared_error_trap
    >>> data = pv.load_data("digits")
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 32, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 32, 64)), guide)
    >>> len(plot_squared_error_trap(measure_squared_error_trap(vae, data.valid, num_samples=20)).axes)
    2
    """
    share = sorted(found.cuts)[len(found.cuts) // 2] if share is None else share
    if share not in found.cuts:
        raise InputError(f"no cut of {share} here; there are {', '.join(map(str, sorted(found.cuts)))}")
    row = typical_row(found, share) if row is None else row
    if not 0 <= row < len(found.x):
        raise InputError(f"expected a row from 0 to {len(found.x) - 1}, got {row}")
    with style.figure_style():
        figure = Figure(figsize=(11.5, 3.7))
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        _pictures(left, found, share, row)
        _shares(right, found)
    return figure


def typical_row(found: SquaredErrorTrap, share: float) -> int:
    """Of the pictures on which the measures say what they say of most, the one with the most usual amount of ink.

    Args:
        found: the study's pictures and measures.
        share: the cut.

    Returns:
        The picture's row.
    """
    votes = torch.stack([vote for name, vote in found.votes(share).items() if name in COLOUR_OF])
    against = (votes - (votes.mean(1, keepdim=True) > 0.5).double()).abs().sum(0)
    ink = found.x.double().sum(1)
    unusual = (ink - ink.median()).abs()
    return int(torch.where(against == against.min(), unusual, torch.inf).argmin())


def _pictures(axes: Axes, found: SquaredErrorTrap, share: float, row: int) -> None:
    height, width = height_and_width(found.image_shape)
    cut, shifted = found.cuts[share], found.shifted
    shown = np.stack([x[row].numpy() for x in (found.x, cut.x, shifted.x)])
    draw_on_axes.image_grid(axes, shown, found.image_shape, columns=3, gap=BETWEEN)
    gone = 1 - float(cut.x[row].sum() / found.x[row].sum())
    centres = [i * (width + BETWEEN) + width / 2 - 0.5 for i in range(3)]
    names = ["as it was", f"{gone:.0%} cut off", _moved(found.moved)]
    for x, name in zip(centres, names, strict=True):
        axes.text(x, -2, name, ha="center", va="bottom", fontsize=10)
        axes.add_patch(_frame(x - width / 2, width, height))
    for i, (name, words, one, nearest) in enumerate(_measures(found, cut, shifted, row)):
        y = height + LINE * (i + 1)
        axes.text(-2, y, name, ha="right", va="center", fontsize=10, color=COLOUR_OF[name], fontweight="bold")
        for x, word, value in zip(centres, words, one, strict=True):
            bold = "bold" if value is not None and value == nearest else "normal"
            axes.text(x, y, word, ha="center", va="center", fontsize=10, fontweight=bold)
    axes.set_xlim(-0.5 - 0.8 * width, 3 * width + 2 * BETWEEN)
    axes.set_ylim(height + 3.7 * LINE, -6)
    style.title(axes, "Which of the two is nearer to it?", "bold: the nearer one; by log p(x), the more probable one")


def _moved(by: tuple[int, int]) -> str:
    right, down = by
    return "moved one pixel" if abs(right) + abs(down) == 1 else f"moved by {right}, {down}"


def _measures(
    found: SquaredErrorTrap, cut: ChangedPictures, shifted: ChangedPictures, row: int
) -> list[tuple[str, list[str], list[float | None], float]]:
    """Name, words for the three pictures, their values, and the value that counts as nearest, for each measure."""
    table: list[tuple[str, list[str], list[float | None], float]] = []
    for name, pair, form in (
        (SQUARED_ERROR, (cut.mse, shifted.mse), "{:.3f}"),
        (LATENT_DISTANCE, (cut.distance, shifted.distance), "{:.2f}"),
    ):
        values = [float(one[row]) for one in pair]
        table.append((name, ["0", *map(form.format, values)], [None, *values], min(values)))
    if found.log_px is not None and cut.log_px is not None and shifted.log_px is not None:
        log_px = [float(one.log_px[row]) for one in (found.log_px, cut.log_px, shifted.log_px)]
        table.append(
            (LOG_PX, [f"{value:.1f}".replace("-", "−") for value in log_px], [None, *log_px[1:]], max(log_px[1:]))
        )
    return table


def _frame(left: float, width: int, height: int) -> Rectangle:
    return Rectangle((left, -0.5), width, height, fill=False, edgecolor="0.8", linewidth=0.8, clip_on=False)


def _shares(axes: Axes, found: SquaredErrorTrap) -> None:
    cuts = sorted(found.cuts)
    at = [found.removed(share) for share in cuts]
    nearer = [found.nearer(share) for share in cuts]
    ends = []
    for name, colour in COLOUR_OF.items():
        if name not in nearer[0]:
            continue
        values, errors = [one[name].value for one in nearer], [1.96 * one[name].se for one in nearer]
        axes.errorbar(at, values, errors, color=colour, marker="o", markersize=4, capsize=3)
        ends.append((values[-1], name, colour))
    axes.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.set(ylim=(-0.03, 1.03), xlabel="ink cut off from the other one, mean", ylabel="share of pictures")
    axes.set_xlim(0, max(at) * 1.06)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    style.label_ends(axes, ends)
    style.title(axes, "The one that moved is nearer", f"{len(found.x)} pictures, 95 % intervals")


def draw_squared_error_trap(folder: Path, found: SquaredErrorTrap) -> Path:
    """Draw the figure into a folder.

    Args:
        folder: the folder.
        found: the study's pictures and measures.

    Returns:
        The file.
    """
    path = folder / "squared_error_trap.png"
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"backend": "agg"}):
        style.save_figure(plot_squared_error_trap(found), path)
    return path
