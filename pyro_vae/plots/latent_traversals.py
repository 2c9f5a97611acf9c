"""Latent traversals and interpolations: decodings as one latent varies, and between two rows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data.image_shapes import ImageShape, height_and_width
from pyro_vae.diagnostics.latent_interpolation import interpolate
from pyro_vae.errors import InputError
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.display_units import escaped_column_names, observed, spread
from pyro_vae.plots.fit_figures import first_of_each_label
from pyro_vae.plots.latent_view import LatentView, none_if_unavailable

MAX_DIMENSIONS = 10
STEPS = 11
PAIRS = 4
MAX_COLUMNS = 6
SPREAD_ROWS = 10_000
TRAVERSAL_TITLE = "E[x | z] as one latent varies from its 1st to its 99th percentile"


@none_if_unavailable
def traversals(view: LatentView) -> Figure | None:
    """E[x | z] as one latent varies and the others stay at a row's posterior mean: the most used latents, ten at most.

    A latent varies from the 1st to the 99th percentile of the aggregate posterior.
    """
    most_used, start = view.order[:MAX_DIMENSIONS], view.means[0]
    low, high = view.posterior_draws.double().quantile(torch.tensor([0.01, 0.99], dtype=torch.float64), 0).to(start)
    points = torch.stack([_vary(start, k, float(low[k]), float(high[k])) for k in most_used])
    flat = points.flatten(0, 1)
    decoded = view.decode(flat, torch.zeros(len(flat), dtype=torch.long)).unflatten(0, (len(most_used), STEPS))
    names = [view.name(k) for k in most_used]
    if view.data.image_shape is None:
        return _traversal_lines(view, [points[i, :, k] for i, k in enumerate(most_used)], decoded, names)
    row = view.to_pixels(view.rows[:1], torch.arange(1))
    lines = [torch.cat([row, view.to_pixels(line)]) for line in decoded]
    ends = {0: "a row", 1: "1%", STEPS: "99%"}
    return _image_sheet(lines, names, ends, view.data.image_shape, TRAVERSAL_TITLE)


def _image_sheet(lines: list[Tensor], names: list[str], ends: dict[int, str], shape: ImageShape, title: str) -> Figure:
    """Rows of images (n, D), a name before each row, some columns named."""
    height, width = height_and_width(shape)
    size = 0.62 / max(height, width)
    figure = Figure(figsize=(1.2 + size * len(lines[0]) * width, 1.0 + size * len(lines) * height))
    axes = draw_on_axes.image_grid(figure.subplots(), torch.cat(lines).numpy(), shape, columns=len(lines[0]))
    style.label_rows(axes, names, height)
    style.label_columns(axes, ends, (height, width))
    axes.set_title(title, pad=22)
    return figure


def _vary(start: Tensor, k: int, low: float, high: float) -> Tensor:
    """Points (steps, K) that differ in latent k alone."""
    z = start.repeat(STEPS, 1)
    z[:, k] = torch.linspace(low, high, STEPS)
    return z


def _traversal_lines(view: LatentView, at: list[Tensor], decoded: Tensor, names: list[str]) -> Figure:
    """One panel for each column that changes, in the data's units, a line for each latent."""
    chosen = _columns_that_change(view, list(decoded))
    figure, panels = _panels(view, chosen)
    for axes, column in panels:
        for z, line, name, colour in zip(at, decoded, names, style.distinct_colours(len(at)), strict=True):
            axes.plot(z.numpy(), view.in_original_units(line)[:, column], color=colour, label=name, linewidth=1.6)
        axes.set_xlabel("the latent's value")
    figure.suptitle(TRAVERSAL_TITLE, x=0.01, ha="left", weight="bold", size=11)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _panels(view: LatentView, chosen: Sequence[int]) -> tuple[Figure, list[tuple[Axes, int]]]:
    """A panel for each column, the middle nine tenths of its known values in grey."""
    across = min(3, len(chosen))
    down = -(-len(chosen) // across)
    figure, names = Figure(figsize=(2.6 + 2.8 * across, 0.5 + 2.3 * down)), escaped_column_names(view.data)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    rows = view.observed(torch.arange(len(view.rows)))
    for axes, column in zip(grid, chosen, strict=False):
        known = rows[~np.isnan(rows[:, column]), column]
        if len(known):
            axes.axhspan(*np.percentile(known, [5, 95]), color="0.93", zorder=0)
        axes.set_title(names[column], weight="normal", size=10)
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    return figure, list(zip(grid, chosen, strict=False))


@none_if_unavailable
def interpolations(view: LatentView) -> Figure | None:
    """E[x | z] between the posterior means of rows of different labels: on a straight line, and spherical below it.

    None for programs whose model takes labels or conditions, since points between two rows have none.
    """
    if view.takes_labels or view.takes_conditions:
        return None
    firsts = first_of_each_label(view.rows.labels, len(view.rows)).tolist()
    pairs = list(pairwise(firsts))[::2][:PAIRS]
    kinds = ["straight", "spherical"] if view.means.shape[1] > 1 else ["straight"]
    lines_of_z = [interpolate(view.means[i], view.means[j], STEPS - 1, kind) for i, j in pairs for kind in kinds]
    if not lines_of_z:
        return None
    rows = torch.tensor([i for i, _ in pairs for _ in kinds]).repeat_interleave(STEPS)
    decoded = view.decode(torch.cat(lines_of_z), rows).unflatten(0, (len(lines_of_z), STEPS))
    if view.data.image_shape is None:
        return _interpolation_lines(view, pairs, decoded, kinds)
    lines = []
    for i, line in enumerate(decoded):
        pair = torch.tensor(pairs[i // len(kinds)])
        ends = view.to_pixels(view.rows[pair], pair)
        lines.append(torch.cat([ends[:1], view.to_pixels(line), ends[1:]]))
    named = {0: "a row", 1: "decoded", STEPS: "decoded", STEPS + 1: "a row"}
    return _image_sheet(
        lines, kinds * len(pairs), named, view.data.image_shape, "Interpolations: E[x | z] between two rows"
    )


def _interpolation_lines(view: LatentView, pairs: list[tuple[int, int]], decoded: Tensor, kinds: list[str]) -> Figure:
    chosen = _columns_that_change(view, list(decoded))
    figure, panels = _panels(view, chosen)
    at = np.linspace(0, 1, STEPS)
    for axes, column in panels:
        for i, colour in enumerate(style.distinct_colours(len(pairs))):
            for j, kind in enumerate(kinds):
                values = view.in_original_units(decoded[i * len(kinds) + j])[:, column]
                label = f"row {view.source_index(pairs[i][0])} to {view.source_index(pairs[i][1])}" + (
                    f", {kind}" if len(kinds) > 1 else ""
                )
                axes.plot(at, values, color=colour, linestyle="--" if j else "-", linewidth=1.4, label=label)
            known = view.observed(torch.tensor(pairs[i]))[:, column]
            axes.plot([0, 1], known, "o", color=colour, markersize=4, clip_on=False)
        axes.set_xlabel("position between the two rows")
    figure.suptitle("Interpolations: E[x | z] between two rows", x=0.01, ha="left", weight="bold", size=11)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _columns_that_change(view: LatentView, decoded: Sequence[Tensor]) -> list[int]:
    """The columns that decoded lines (n, D) change most, relative to their standard deviation in training rows.

    They are in the table's order; constant columns are left out; `InputError` where that is all of them.
    """
    train = view.data.train
    spreads = spread(torch.from_numpy(observed(train, torch.arange(min(SPREAD_ROWS, len(train))))))
    change = torch.from_numpy(np.stack([np.ptp(view.in_original_units(line), 0) for line in decoded]).max(0)) / spreads
    change[spreads == 0] = -1
    chosen = [k for k in change.argsort(descending=True, stable=True)[:MAX_COLUMNS].tolist() if spreads[k] > 0]
    if not chosen:
        raise InputError("every column is the same in all rows")
    return sorted(chosen)
