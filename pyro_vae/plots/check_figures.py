"""The pictures of a check: statistics beside their replicates, ranks with simultaneous bands, rows beside draws."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.verdicts import Finding, Verdict
from pyro_vae.plots import style

SHOWN = 12  # statistics of a picture
Curves = Mapping[str, Array]


def check_figure(verdict: Verdict) -> Figure | None:
    """The picture of a verdict; None where it has none.

    Args:
        verdict: a verdict of `diagnostics.check`.

    Returns:
        The figure.
    """
    if "distribution" in verdict.curves:
        return _figure(lambda axes: draw_ranks(axes, verdict.curves))
    if "model" in verdict.curves:
        return pictures_figure(verdict.curves)
    if verdict.name in ("columns", "pairs", "pictures", "statistics") and verdict.findings:
        shown = [finding for finding in verdict.findings if np.isfinite(finding.z)][:SHOWN]
        return _figure(lambda axes: draw_findings(axes, shown), height=0.9 + 0.3 * len(shown))
    if verdict.name == "aggregate" and verdict.curves:
        return _figure(lambda axes: draw_codes(axes, verdict.curves), height=4.2)
    if "draws" in verdict.curves:
        words = "classifier's probability that it is a row" if verdict.name == "classifier" else "log p(x), nats"
        return _figure(lambda axes: draw_histograms(axes, verdict.curves, words))
    return None


def _figure(draw: Callable[[Axes], None], height: float = 3.2) -> Figure:
    with style.figure_style():
        figure = Figure(figsize=(6.4, height), layout="constrained")
        draw(figure.add_subplot())
    return figure


def pictures_figure(curves: Curves) -> Figure:
    """The mean picture of rows, that of the model, and their difference.

    Args:
        curves: `rows` and `model`, pictures (height, width), in colour the channels first.

    Returns:
        The figure.
    """
    rows, model = (each.mean(0) if each.ndim == 3 else each for each in (curves["rows"], curves["model"]))
    low, high = min(rows.min(), model.min()), max(rows.max(), model.max())
    largest = max(float(np.abs(rows - model).max()), 1e-12)
    with style.figure_style():
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, picture, words in zip(panels, (rows, model), ("rows", "model"), strict=False):
            axes.imshow(picture, cmap="gray_r", vmin=low, vmax=high)
            axes.set_title(words)
        shown = panels[2].imshow(rows - model, cmap="RdBu", vmin=-largest, vmax=largest)
        panels[2].set_title("rows − model")
        figure.colorbar(shown, ax=panels[2], shrink=0.8)
        for axes in panels:
            axes.set_axis_off()
    return figure


def draw_findings(axes: Axes, findings: list[Finding]) -> None:
    """Differences of statistics from the model in standard errors, significant ones in colour.

    Args:
        axes: where to draw.
        findings: the statistics, from the top.
    """
    places = np.arange(len(findings))[::-1]
    z = np.clip([finding.z for finding in findings], -30, 30)
    colours = [style.RED if finding.is_significant else "0.6" for finding in findings]
    axes.hlines(places, 0, z, colors=colours, linewidth=2)
    axes.scatter(z, places, c=colours, s=28, zorder=3)
    axes.axvspan(-1.96, 1.96, color="0.92", zorder=0)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(places, [style.escape_mathtext(finding.name) for finding in findings])
    axes.set_xlabel("(rows − model) / standard error", loc="right")  # of a narrow axis too


def draw_ranks(axes: Axes, curves: Curves) -> None:
    """Empirical distribution functions of ranks less the uniform one, with their simultaneous 95 % band.

    Args:
        axes: where to draw.
        curves: `fractions` (L,), `distribution` (T, L), `low` and `high` (L,).
    """
    fractions = curves["fractions"]
    axes.fill_between(fractions, curves["low"] - fractions, curves["high"] - fractions, color="0.9", zorder=0)
    deviations = curves["distribution"] - fractions
    outside = np.any((curves["distribution"] < curves["low"]) | (curves["distribution"] > curves["high"]), axis=1)
    for deviation, is_outside in zip(deviations, outside.tolist(), strict=True):
        axes.plot(fractions, deviation, color=style.RED if is_outside else style.BLUE, linewidth=1.2)
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("rank among the guide's draws, as a fraction")
    axes.set_ylabel("distribution − uniform")
    axes.set_title("Grey: where 95 of 100 right guides stay everywhere", fontweight="normal", fontsize=9)


def draw_histograms(axes: Axes, curves: Curves, words: str) -> None:
    """Two histograms, of rows and of draws.

    Args:
        axes: where to draw.
        curves: `rows` (n,) and `draws` (m,).
        words: what is on the axis.
    """
    low, high = np.quantile(np.concatenate([curves["rows"], curves["draws"]]), [0.005, 0.995])
    bins = np.linspace(low, high if high > low else low + 1, 40)
    for name, colour in (("draws", style.ORANGE), ("rows", style.BLUE)):
        values = np.clip(curves[name], bins[0], bins[-1])
        axes.hist(values, bins=list(bins), density=True, histtype="stepfilled", alpha=0.35, color=colour)
        axes.hist(values, bins=list(bins), density=True, histtype="step", color=colour, label=name)
    axes.legend()
    axes.set_yticks([])
    axes.set_xlabel(words)


def draw_codes(axes: Axes, curves: Curves) -> None:
    """The first two latents of rows and of the prior, as points.

    Args:
        axes: where to draw.
        curves: `rows` (n, 2) and `draws` (n, 2), or (n, 1).
    """
    if curves["rows"].shape[1] < 2:
        draw_histograms(axes, {name: curves[name][:, 0] for name in ("rows", "draws")}, "latent 1")
        return
    for name, colour, words in (("draws", style.ORANGE, "prior"), ("rows", style.BLUE, "rows, by q(z|x)")):
        axes.scatter(curves[name][:, 0], curves[name][:, 1], s=6, color=colour, alpha=0.5, label=words, linewidths=0)
    axes.legend()
    axes.set_xlabel("latent 1")
    axes.set_ylabel("latent 2")
    axes.set_aspect("equal", "datalim")
