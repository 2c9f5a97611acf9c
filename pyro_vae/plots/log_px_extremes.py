"""log p(x) in figures: the model's draws in its order, and the rows with the highest and the lowest."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from pyro_vae.data import Measure, Split
from pyro_vae.data.image_shapes import ImageShape, height_and_width
from pyro_vae.errors import InputError
from pyro_vae.evidence.auto_evidence import auto_evidence
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.display_units import escaped_column_names, spread
from pyro_vae.plots.latent_view import LatentView, none_if_unavailable
from pyro_vae.programs.encode_rows import reconstruct
from pyro_vae.programs.sample_rows import inputs_of_rows, sample

MODEL_DRAWS = 200
EVIDENCE_DRAWS = 200
EXTREMES = 10
MAX_COLUMNS, MAX_WRITTEN_COLUMNS = 40, 8


@none_if_unavailable
def samples_by_log_px(view: LatentView, log_px: Tensor | None = None) -> Figure | None:
    """Draws of the model ordered by log p(x), and the distribution of log p(x) for them and for the split's rows.

    Args:
        view: the program on the rows.
        log_px: log p(x) of the split's rows (N,), nats.

    Returns:
        The figure.
    """
    data, measure = view.data, view.split.measure
    labels = None if view.split.labels is None else view.split.labels[torch.arange(MODEL_DRAWS) % len(view.split)]
    labels = labels if view.takes_labels else None
    inputs = inputs_of_rows(view.split, MODEL_DRAWS)
    row_inputs = {"labels": labels, **inputs}
    drawn = sample(
        view.program, MODEL_DRAWS, num_features=data.num_features, seed=view.seed, row_inputs=row_inputs
    ).cpu()
    if drawn.shape[1] != data.num_features:
        raise InputError("the model observes more than x, or less")
    rows = Split("drawn", drawn, Measure(given=True), labels, inputs=inputs)
    found = auto_evidence(view.program, rows, EVIDENCE_DRAWS, seed=view.seed).log_px
    found = found + float(measure.log_jacobian.sum())
    order = found.argsort(descending=True)
    best, worst = order[:EXTREMES], order[-EXTREMES:]
    known = None if log_px is None or view.split.mask is not None else log_px.double().cpu().numpy()
    if data.image_shape:
        figure = Figure(figsize=(8.5, 5.6))
        above, *below = figure.subplots(3, 1, height_ratios=[2, 1, 1])
        for axes, chosen, name in zip(below, (best, worst), ("most", "least"), strict=True):
            _images_with_log_px(
                axes, [view.to_pixels(drawn[chosen])], found[chosen], data.image_shape, [f"{name}\nprobable"]
            )
    else:
        figure = Figure(figsize=(10, 4.2))
        left, above = figure.subplots(1, 2)
        clouds = {"most probable": drawn[best], "least probable": drawn[worst]}
        _highlighted_scatter(
            left, view.in_original_units(drawn), {name: view.in_original_units(rows) for name, rows in clouds.items()}
        )
        left.set(
            xlabel=escaped_column_names(data)[0], ylabel=[*escaped_column_names(data), "(spread out to be seen)"][1]
        )
        style.title(left, f"{MODEL_DRAWS} draws of the model")
    _log_px_histograms(above, {"draws of the model": found.numpy()} | ({} if known is None else {"rows": known}))
    above.set_xlabel("log p(x), nats")
    style.title(above, "log p(x)")
    return figure


def _images_with_log_px(
    axes: Axes, lines: Sequence[Tensor], log_px: Tensor, shape: ImageShape, names: list[str]
) -> None:
    """Rows of equally many images, the log p(x) of each above it."""
    draw_on_axes.image_grid(axes, torch.cat(list(lines)).numpy(), shape, columns=len(log_px))
    style.label_rows(axes, names, height_and_width(shape)[0])
    above = {i: _signed(value, 0) for i, value in enumerate(log_px.tolist())}
    style.label_columns(axes, above, height_and_width(shape))


@none_if_unavailable
def extremes(view: LatentView, log_px: Tensor | None) -> Figure | None:
    """The rows of the split with the lowest and with the highest log p(x): pictures over their reconstructions, tables
    as values in standard deviations from the columns' means.

    Args:
        view: the program on the rows.
        log_px: log p(x) of the split's rows (N,), nats.

    Returns:
        The figure; None without `log_px`, or for fewer than two rows.
    """
    if log_px is None or len(log_px) < 2:
        return None
    order = log_px.cpu().argsort()
    few = min(EXTREMES, len(order) // 2)
    groups = {"Least probable": order[:few], "Most probable": order.flip(0)[:few]}
    if view.data.image_shape is None:
        return _table_of_extremes(view, log_px.cpu(), groups)
    figure = Figure(figsize=(8.5, 4.6))
    for axes, (name, rows) in zip(figure.subplots(2, 1), groups.items(), strict=True):
        x = view.split[rows]
        again = _reconstruct_or_none(view, x, rows)
        lines = [view.to_pixels(x, rows)] + ([] if again is None else [view.to_pixels(again)])
        _images_with_log_px(axes, lines, log_px[rows], view.data.image_shape, ["x", "E[x | z]"][: len(lines)])
        axes.set_title(f"{name} of {len(order)} rows, log p(x) above", pad=20)
    return figure


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _reconstruct_or_none(view: LatentView, x: Tensor, rows: Tensor) -> Tensor | None:
    try:
        return reconstruct(view.program, x, **view.split.row_inputs(rows)).cpu()
    except InputError:
        return None


def _table_of_extremes(view: LatentView, log_px: Tensor, groups: dict[str, Tensor]) -> Figure:
    split, names = view.split, escaped_column_names(view.data)
    seen = torch.ones_like(split.x, dtype=torch.bool) if split.mask is None else split.mask
    x = torch.where(seen, split.x, torch.nan).double()
    spreads = spread(x)
    standard = torch.where((spreads == 0) & seen, 0.0, (x - x.nanmean(0)) / spreads)
    farthest = standard[groups["Least probable"]].abs().nan_to_num().amax(0).argsort(descending=True, stable=True)
    columns = farthest[:MAX_COLUMNS].sort().values
    few, known = len(columns) <= MAX_WRITTEN_COLUMNS, view.in_original_units(split.x)
    figure = Figure(figsize=(min(12.0, 4.4 + (1.1 if few else 0.3) * len(columns)), 6.2))
    for axes, (name, rows) in zip(figure.subplots(2, 1, sharex=True), groups.items(), strict=True):
        words = [[f"{known[i, c]:.4g}" if seen[i, c] else "" for c in columns] for i in rows] if few else []
        shades = _standardized_table(axes, standard[rows][:, columns].numpy(), [names[int(c)] for c in columns], words)
        axes.set_yticks(
            range(len(rows)), [f"row {view.source_index(int(i))}  {_signed(float(log_px[i]), 1)}" for i in rows]
        )
        axes.set_title(f"{name} of {len(log_px)} rows, with log p(x)")
    figure.colorbar(shades, ax=figure.axes, label="standard deviations from the column's mean", shrink=0.7)
    return figure


def _highlighted_scatter(axes: Axes, rows: np.ndarray, groups: Mapping[str, np.ndarray]) -> Axes:
    """Rows in the plane of their first two columns (one: against their order), some groups of them in colour.

    Args:
        axes: the axes to draw on.
        rows: all rows (N, D).
        groups: two groups of rows (n, D) by name.

    Returns:
        The axes.
    """
    for points, colour, size, name in [
        (rows, "0.75", 8, "others"),
        *[
            (some, colour, 26, name)
            for (name, some), colour in zip(groups.items(), (style.BLUE, style.RED), strict=False)
        ],
    ]:
        across = points[:, 0]
        up = points[:, 1] if points.shape[1] > 1 else np.linspace(0, 1, len(points))
        axes.scatter(across, up, s=size, color=colour, linewidths=0, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return axes


def _log_px_histograms(axes: Axes, values: Mapping[str, np.ndarray]) -> Axes:
    """Histograms on one axis, the first in blue and filled, the second in orange; the lowest 1% at the edge.

    Args:
        axes: the axes to draw on.
        values: one or two samples of log p(x) (n,) by name, nats.

    Returns:
        The axes.
    """
    low = min(float(np.percentile(some, 1)) for some in values.values())
    high = max(float(some.max()) for some in values.values())
    bins = np.linspace(low, high + 1e-9, 40).tolist()
    for (name, some), colour in zip(values.items(), (style.BLUE, style.ORANGE), strict=False):
        axes.hist(some.clip(low), bins=bins, density=True, color=colour, alpha=0.45, label=f"{len(some)} {name}")
    axes.set(yticks=[], ylim=(0, 1.35 * axes.get_ylim()[1]))
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", ncols=2)
    return axes


def _standardized_table(
    axes: Axes, values: np.ndarray, names: Sequence[str], cell_texts: Sequence[Sequence[str]] = (), most: float = 4.0
) -> AxesImage:
    """A table in standard deviations: orange below the mean, blue above it, white where missing.

    Args:
        axes: the axes to draw on.
        values: the table (n, D), NaN where a value is missing.
        names: the D columns' names.
        cell_texts: what is written into the cells.
        most: the standard deviations of the darkest shade.

    Returns:
        The shades, for a colour bar.
    """
    colours = LinearSegmentedColormap.from_list("pyro_vae_signed", [style.ORANGE, "#FFFFFF", style.BLUE])
    shades = axes.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    upright = len(names) > 8 or max(map(len, names)) > 14
    axes.set_xticks(np.arange(len(names)), names, rotation=90 if upright else 0)
    for i, line in enumerate(cell_texts):
        for j, word in enumerate(line):
            axes.text(j, i, word, ha="center", va="center", fontsize=8, color=style.DARK)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return shades
