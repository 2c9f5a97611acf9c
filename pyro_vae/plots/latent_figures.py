"""The figures of a program's latents and of its log p(x), each with a caption."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.plots.latent_traversals import interpolations, traversals
from pyro_vae.plots.latent_view import DENSITY_ROWS, LatentView, none_if_unavailable, require_program
from pyro_vae.plots.log_px_extremes import extremes, samples_by_log_px
from pyro_vae.programs.encode_rows import ACTIVE_VARIANCE

GRID = 80
MAX_POINTS = 2000
MAX_MARGINALS = 8
MASS = (0.99, 0.9, 0.5)
HOLE = 0.1


@dataclass(frozen=True)
class LatentFigure:
    """A figure with its caption: `name` is the stem of its file, `caption` says what is good and what is bad."""

    name: str
    title: str
    caption: str
    figure: Figure


CAPTIONS = {
    "traversals": (
        "Latent traversals",
        "One latent varies over the range of the data while the others stay at one row's values: what changes is what "
        "that latent means. A latent under which nothing changes is not used.",
    ),
    "interpolations": (
        "Interpolations",
        "Decodings between two rows, along a straight line and along a sphere, where draws of a normal prior in many "
        "dimensions lie. Good: every step is a plausible row. Bad: both rows superimposed, or steps unlike any data, "
        "where the line passes through a hole.",
    ),
    "usage": (
        "Usage of each latent",
        "KL(q ‖ p) is how much information a latent has about a row. Latents in grey are inactive: their posterior "
        "means hardly vary over the rows (below the dotted line), the posterior has collapsed onto the prior. If most "
        "are inactive, try a KL warm-up, free bits or a smaller likelihood scale.",
    ),
    "aggregate": (
        "Aggregate posterior and prior",
        "New rows are decoded from draws of the prior, but the decoder was trained where the q(z|x) of data lie. Good: "
        "the two cover each other. Bad: holes, which are likely under the prior but have no data, so that the decoder "
        "was not trained there; or data where the prior has little mass.",
    ),
    "ordered-samples": (
        "Samples by log p(x)",
        "Rows drawn from the model, ordered by the log p(x) it gives them. If the model were right, its draws and the "
        "data would have the same distribution of log p(x); data further left are rows that the model would not draw.",
    ),
    "extremes": (
        "Best and worst rows",
        "The least and the most probable rows under the model, with their log p(x) in nats. Check the worst for "
        "mistakes in the data and for kinds of rows not learned. A high log p(x) means usual, or simple.",
    ),
}
TABLE_CAPTIONS = {
    "traversals": " Each panel is a column in its own units, grey the middle nine tenths of its values.",
    "interpolations": " Each panel is a column in its own units, grey the middle nine tenths of its values; dots are "
    "the two rows.",
    "extremes": " Blue is above the column's mean, orange below it.",
}


@check_call
def draw_latent_figures(
    program: object, data: Dataset, split: Split, log_px: Tensor | None, seed: int = 0
) -> list[LatentFigure]:
    r"""Every latent figure that a program allows, in the order to read them.

    Traversals, interpolations, KL and activity of each latent, aggregate posterior $\frac1N\sum_i q(z|x_i)$ against
    prior, draws of the model ordered by log p(x), best and worst rows of the split. At most 1,000 rows are encoded.
    Raises `InputError` where `log_px` has another length, and for an object without a model (principal components).

    Args:
        program: the fitted program.
        data: its data set.
        split: the rows to show.
        log_px: their log p(x) (N,), nats; without it the best and worst rows are left out.
        seed: of all draws.

    Returns:
        The figures with their captions.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)))
    >>> data = pv.load_data("digits")
    >>> [picture.name for picture in draw_latent_figures(vae, data, data.valid, None)]
    ['traversals', 'interpolations', 'usage', 'aggregate', 'ordered-samples']
    """
    program = require_program(program)
    if log_px is not None and log_px.shape != (len(split),):
        raise InputError(f"log_px is of shape {tuple(log_px.shape)}, and there are {len(split)} rows")
    view = LatentView(program, data, split, seed)
    with style.figure_style():
        drawn = {
            "traversals": traversals(view),
            "interpolations": interpolations(view),
            "usage": latent_usage_bars(view),
            "aggregate": aggregate(view),
            "ordered-samples": samples_by_log_px(view, log_px),
            "extremes": extremes(view, log_px),
        }
    more = {} if data.image_shape else TABLE_CAPTIONS
    return [
        LatentFigure(name, CAPTIONS[name][0], CAPTIONS[name][1] + more.get(name, ""), figure)
        for name, figure in drawn.items()
        if figure is not None
    ]


@none_if_unavailable
def latent_usage_bars(view: LatentView) -> Figure | None:
    """Bars of each latent's KL and of the variance of its posterior means, the most used first.

    Where prior and guide have no KL for each dimension, the bars are the sites'.
    """
    found, order = view.latent_usage, view.order
    active, names = found.active[order].numpy(), [view.name(k) for k in order]
    figure = Figure(figsize=(min(13.0, max(6.5, 3 + 0.5 * len(order))), 3.6))
    left, right = figure.subplots(1, 2)
    kl = found.kl_apart
    if kl is None:
        sites = {name: float(nats.sum()) for name, nats in found.kl.items()}
        draw_on_axes.bars(left, np.array(list(sites.values())), list(sites), np.full(len(sites), True))
    else:
        draw_on_axes.bars(left, kl[order].numpy(), names, active)
    total = sum(float(nats.sum()) for nats in found.kl.values())
    left.set_ylabel("nats per row")
    style.title(left, "KL(q(z|x) ‖ p(z))", f"{total:.2f} nats per row in total")
    draw_on_axes.bars(right, found.variance[order].clamp(min=1e-6).numpy(), names, active)
    top = max(1.5 * float(found.variance.max()), 5 * ACTIVE_VARIANCE)
    right.set(yscale="log", ylim=(1e-3 if active.all() else 1e-6, top))
    right.axhline(ACTIVE_VARIANCE, color=style.RED, linestyle=":", linewidth=1.4)
    style.title(
        right, "Variance of posterior means", f"{active.sum()} of {len(active)} above {ACTIVE_VARIANCE}: active"
    )
    return figure


@none_if_unavailable
def aggregate(view: LatentView) -> Figure | None:
    """The aggregate posterior against the prior: as densities for one site of two latents, else by draws of both."""
    if view.posterior_draws.shape[1] == 2 and len(view.guide_sites[2]) == 1:
        return _densities_in_plane(view)
    if view.posterior_draws.shape[1] == 1:
        figure = Figure(figsize=(6, 3.4))
        axes = figure.subplots()
        draw_on_axes.prior_and_posterior_histograms(
            axes, view.posterior_draws[:, 0].numpy(), view.prior_draws[:, 0].numpy()
        )
        axes.set(xlabel=view.name(0), ylabel="density")
        style.title(axes, "Aggregate posterior and prior")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure
    return _draws_and_marginals(view)


def _densities_in_plane(view: LatentView) -> Figure:
    """Both densities on a grid, and the share of the prior's mass in holes."""
    both = torch.cat([view.posterior_draws, view.prior_draws]).double()
    low, high = both.quantile(0.001, 0), both.quantile(0.999, 0)
    room = 0.08 * (high - low)
    x, y = (torch.linspace(float(a), float(b), GRID) for a, b in zip(low - room, high + room, strict=True))
    xx, yy = torch.meshgrid(x, y, indexing="xy")
    posterior, prior = view.densities(torch.stack([xx, yy], -1).reshape(-1, 2))
    share = float(prior[posterior < HOLE * prior].sum() / prior.sum())
    figure = Figure(figsize=(5.6, 5.4))
    axes = figure.subplots()
    draw_on_axes.density_and_contours(
        axes, x.numpy(), y.numpy(), posterior.reshape(GRID, GRID).numpy(), prior.reshape(GRID, GRID).numpy(), MASS, HOLE
    )
    axes.set(xlabel=view.name(0), ylabel=view.name(1))
    num = min(DENSITY_ROWS, len(view.rows))
    note = f"{num} rows; {share:.0%} of the prior's mass lies in holes, where q is below p(z)/10"
    style.title(axes, "Aggregate posterior (shaded) and prior (lines)", note)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return figure


def _draws_and_marginals(view: LatentView) -> Figure:
    """Draws of both in the two most used latents, and the marginals of some latents."""
    a, b = view.order[:2]
    shown = view.order[:MAX_MARGINALS]
    across = -(-len(shown) // 2)
    figure = Figure(figsize=(5.2 + 1.9 * across, 4.4))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.4, 1.9 * across])[0]
    axes = left.subplots()
    for points, colour, name in (
        (view.prior_draws, "0.7", "prior"),
        (view.posterior_draws, style.BLUE, "aggregate posterior"),
    ):
        axes.scatter(*points[:MAX_POINTS, [a, b]].T.numpy(), s=4, color=colour, alpha=0.6, linewidths=0, label=name)
    axes.set(xlabel=view.name(a), ylabel=view.name(b))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, markerscale=3)
    left.suptitle("Aggregate posterior and prior", x=0.01, ha="left", weight="bold", size=11)
    right.suptitle("Each latent alone: prior as a line", x=0.01, ha="left", weight="bold", size=11)
    grid = right.subplots(2, across, squeeze=False).flatten()
    for axes, k in zip(grid, shown, strict=False):
        draw_on_axes.prior_and_posterior_histograms(
            axes, view.posterior_draws[:, k].numpy(), view.prior_draws[:, k].numpy()
        )
        axes.set(yticks=[])
        axes.spines["left"].set_visible(False)
        axes.set_title(f"{view.name(k)}  sd {view.posterior_draws[:, k].std():.2f}", weight="normal", size=10)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    return figure
