"""Walks through a latent space: what is decoded as one latent moves, and on the way from one row to another."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.diagnostics.latent_interpolation import interpolate
from pyro_vae.errors import InputError
from pyro_vae.plots import on_axes, style
from pyro_vae.plots.display_units import literal_names, observed, spread
from pyro_vae.plots.fit_figures import one_of_each
from pyro_vae.plots.latent_view import Look, where_possible

MAX_DIMENSIONS = 10
STEPS = 11
PAIRS = 4
MAX_COLUMNS = 6
SPREAD_ROWS = 10_000
MOVES = "E[x | z] as one latent moves, from its 1st to its 99th percentile"


@where_possible
def traversals(look: Look) -> Figure | None:
    """E[x | z] as one latent moves and the others stay at a row's posterior mean: the most used latents, ten at most.

    A latent goes from the 1st to the 99th percentile of the aggregate posterior.
    """
    busy, start = look.order[:MAX_DIMENSIONS], look.means[0]
    low, high = look.cloud.double().quantile(torch.tensor([0.01, 0.99], dtype=torch.float64), 0).to(start)
    ways = torch.stack([_moved(start, k, float(low[k]), float(high[k])) for k in busy])
    flat = ways.flatten(0, 1)
    decoded = look.decode(flat, torch.zeros(len(flat), dtype=torch.long)).unflatten(0, (len(busy), STEPS))
    names = [look.name(k) for k in busy]
    if look.data.image_shape is None:
        return _lines_of_dimensions(look, [ways[i, :, k] for i, k in enumerate(busy)], decoded, names)
    row = look.ink(look.rows[:1], torch.arange(1))
    lines = [torch.cat([row, look.ink(walk)]) for walk in decoded]
    ends = {0: "a row", 1: "1%", STEPS: "99%"}
    return _sheet(lines, names, ends, look.data.image_shape, MOVES)


def _sheet(lines: list[Tensor], names: list[str], ends: dict[int, str], shape: tuple[int, int], title: str) -> Figure:
    """Lines of pictures (n, D) in ink, a name before each, some columns named."""
    height, width = shape
    size = 0.62 / max(height, width)
    figure = Figure(figsize=(1.2 + size * len(lines[0]) * width, 1.0 + size * len(lines) * height))
    axes = on_axes.pictures(figure.subplots(), torch.cat(lines).numpy(), shape, columns=len(lines[0]))
    style.label_rows(axes, names, height)
    style.label_columns(axes, ends, shape)
    axes.set_title(title, pad=22)
    return figure


def _moved(start: Tensor, k: int, low: float, high: float) -> Tensor:
    """Points (steps, K) that differ in latent k alone."""
    z = start.repeat(STEPS, 1)
    z[:, k] = torch.linspace(low, high, STEPS)
    return z


def _lines_of_dimensions(look: Look, at: list[Tensor], decoded: Tensor, names: list[str]) -> Figure:
    """One panel for each column that moves, in the data's units, a line for each latent."""
    chosen = _columns_that_move(look, list(decoded))
    figure, panels = _panels(look, chosen)
    for axes, column in panels:
        for z, walk, name, colour in zip(at, decoded, names, style.distinct_colours(len(at)), strict=True):
            axes.plot(z.numpy(), look.undone(walk)[:, column], color=colour, label=name, linewidth=1.6)
        axes.set_xlabel("the latent's value")
    figure.suptitle(MOVES, x=0.01, ha="left", weight="bold", size=11)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _panels(look: Look, chosen: Sequence[int]) -> tuple[Figure, list[tuple[Any, int]]]:
    """A panel for each column, the middle nine tenths of its known values in grey."""
    across = min(3, len(chosen))
    down = -(-len(chosen) // across)
    figure, names = Figure(figsize=(2.6 + 2.8 * across, 0.5 + 2.3 * down)), literal_names(look.data)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    rows = look.observed(torch.arange(len(look.rows)))
    for axes, column in zip(grid, chosen, strict=False):
        known = rows[~np.isnan(rows[:, column]), column]
        if len(known):
            axes.axhspan(*np.percentile(known, [5, 95]), color="0.93", zorder=0)
        axes.set_title(names[column], weight="normal", size=10)
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    return figure, list(zip(grid, chosen, strict=False))


@where_possible
def interpolations(look: Look) -> Figure | None:
    """E[x | z] on the way between the posterior means of rows of different labels: straight, and spherical below it.

    Nothing for programs whose model asks for labels, which have none halfway.
    """
    if look.takes_labels:
        return None
    firsts = one_of_each(look.rows.labels, len(look.rows)).tolist()
    pairs = list(pairwise(firsts))[::2][:PAIRS]
    kinds = ["straight", "spherical"] if look.means.shape[1] > 1 else ["straight"]
    walks = [interpolate(look.means[i], look.means[j], STEPS - 1, kind) for i, j in pairs for kind in kinds]
    if not walks:
        return None
    rows = torch.tensor([i for i, _ in pairs for _ in kinds]).repeat_interleave(STEPS)
    decoded = look.decode(torch.cat(walks), rows).unflatten(0, (len(walks), STEPS))
    if look.data.image_shape is None:
        return _lines_of_pairs(look, pairs, decoded, kinds)
    lines = []
    for i, walk in enumerate(decoded):
        pair = torch.tensor(pairs[i // len(kinds)])
        ends = look.ink(look.rows[pair], pair)
        lines.append(torch.cat([ends[:1], look.ink(walk), ends[1:]]))
    named = {0: "a row", 1: "decoded", STEPS: "decoded", STEPS + 1: "a row"}
    return _sheet(
        lines, kinds * len(pairs), named, look.data.image_shape, "From one row to another: E[x | z] on the way"
    )


def _lines_of_pairs(look: Look, pairs: list[tuple[int, int]], decoded: Tensor, kinds: list[str]) -> Figure:
    chosen = _columns_that_move(look, list(decoded))
    figure, panels = _panels(look, chosen)
    at = np.linspace(0, 1, STEPS)
    for axes, column in panels:
        for i, colour in enumerate(style.distinct_colours(len(pairs))):
            for j, kind in enumerate(kinds):
                values = look.undone(decoded[i * len(kinds) + j])[:, column]
                label = f"row {look.place(pairs[i][0])} to {look.place(pairs[i][1])}" + (
                    f", {kind}" if len(kinds) > 1 else ""
                )
                axes.plot(at, values, color=colour, linestyle="--" if j else "-", linewidth=1.4, label=label)
            known = look.observed(torch.tensor(pairs[i]))[:, column]
            axes.plot([0, 1], known, "o", color=colour, markersize=4, clip_on=False)
        axes.set_xlabel("share of the way")
    figure.suptitle("From one row to another: E[x | z] on the way", x=0.01, ha="left", weight="bold", size=11)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _columns_that_move(look: Look, decoded: Sequence[Tensor]) -> list[int]:
    """The columns that walks (n, D) move most, as a share of their spread in training rows, in the table's order.

    Columns without a spread are left out; `InputError` where that is all of them.
    """
    train = look.data.train
    spreads = spread(torch.from_numpy(observed(train, torch.arange(min(SPREAD_ROWS, len(train))))))
    moved = torch.from_numpy(np.stack([np.ptp(look.undone(walk), 0) for walk in decoded]).max(0)) / spreads
    moved[spreads == 0] = -1
    chosen = [k for k in moved.argsort(descending=True, stable=True)[:MAX_COLUMNS].tolist() if spreads[k] > 0]
    if not chosen:
        raise InputError("every column is the same in all rows")
    return sorted(chosen)
