"""Looking inside a program: pictures of what its latents do and of what it finds probable, each with words to it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.plots import on_axes, style
from pyro_vae.plots.latent_traversals import interpolations, traversals
from pyro_vae.plots.latent_view import DENSITY_ROWS, Look, require_program, where_possible
from pyro_vae.plots.log_px_extremes import extremes, ordered_samples
from pyro_vae.programs.model_and_guide import ACTIVE_VARIANCE

GRID = 80
CLOUD_SHOWN = 2000
MAX_MARGINALS = 8
MASS = (0.99, 0.9, 0.5)
HOLE = 0.1


@dataclass(frozen=True)
class Picture:
    """A picture with its words: `name` is the file's stem, `caption` says what to look for and what would be bad."""

    name: str
    title: str
    caption: str
    figure: Figure


WORDS = {
    "traversals": (
        "Latent traversals",
        "One row's latents stand still but one, which goes from one end of where the data lie to the other: what "
        "changes is what that latent means. A latent under which nothing changes is not used.",
    ),
    "interpolations": (
        "Interpolations",
        "Decodings on the way from one row to another, in a straight line and along a sphere, where draws of a normal "
        "prior in many dimensions lie. Good: every step is a plausible row. Bad: both rows laid over each other, or "
        "steps that belong to no data at all, where the way leads through a hole.",
    ),
    "usage": (
        "What each latent carries",
        "KL(q ‖ p) is how much a latent says about a row. Latents in grey, whose posterior means hardly vary over the "
        "rows (below the dotted line), say nothing: the posterior has collapsed onto the prior. A few are latents to "
        "spare; if most are, try a KL warm-up, free bits or a smaller likelihood scale.",
    ),
    "aggregate": (
        "Aggregate posterior and prior",
        "New rows are decoded from draws of the prior, but the decoder was trained where the q(z|x) of data lie. Good: "
        "the two cover each other. Bad: holes, likely under the prior and empty of data, whose decodings nothing has "
        "trained; or data where the prior hardly reaches.",
    ),
    "ordered-samples": (
        "Samples by log p(x)",
        "Rows drawn from the model, ordered by the log p(x) it gives them. If the model were right, its draws and the "
        "data would have the same distribution of log p(x); data further left are rows that the model would not draw.",
    ),
    "extremes": (
        "Best and worst rows",
        "The rows that the model finds least and most probable, with their log p(x) in nats. Look among the worst for "
        "mistakes in the data and for kinds of rows not learned. A high log p(x) means usual, or simple.",
    ),
}
IN_TABLES = {
    "traversals": " Each panel is a column in its own units, grey the middle nine tenths of its values.",
    "interpolations": " Each panel is a column in its own units, grey the middle nine tenths of its values; dots are "
    "the two rows.",
    "extremes": " Blue is above the column's mean, orange below it.",
}


def latent_figures(program: Any, data: Dataset, split: Split, log_px: Tensor | None, seed: int = 0) -> list[Picture]:
    r"""Every picture of the inside of a program that it has what it needs for, in the order they are best looked at.

    Traversals, interpolations, KL and activity of each latent, aggregate posterior $\frac1N\sum_i q(z|x_i)$ against
    prior, draws of the model ordered by log p(x), best and worst rows of the split. `log_px` (N,) is what was found of
    the split's rows, nats; without it the last is left out. At most 1,000 rows are encoded. Raises `InputError` where
    `log_px` is of other rows, and for what has no model (principal components).

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)))
    >>> data = pv.load_data("digits")
    >>> [picture.name for picture in latent_figures(vae, data, data.valid, None)]
    ['traversals', 'interpolations', 'usage', 'aggregate', 'ordered-samples']
    """
    require_program(program)
    if log_px is not None and log_px.shape != (len(split),):
        raise InputError(f"log_px is of shape {tuple(log_px.shape)}, and there are {len(split)} rows")
    look = Look(program, data, split, seed)
    with style.figure_style():
        drawn = {
            "traversals": traversals(look),
            "interpolations": interpolations(look),
            "usage": usage_of_latents(look),
            "aggregate": aggregate(look),
            "ordered-samples": ordered_samples(look, log_px),
            "extremes": extremes(look, log_px),
        }
    more = {} if data.image_shape else IN_TABLES
    return [
        Picture(name, WORDS[name][0], WORDS[name][1] + more.get(name, ""), figure)
        for name, figure in drawn.items()
        if figure is not None
    ]


@where_possible
def usage_of_latents(look: Look) -> Figure | None:
    """Bars of each latent's KL and of the variance of its posterior means, the most used first.

    Where prior and guide have no KL for each dimension, the bars are the sites'.
    """
    found, order = look.usage, look.order
    active, names = found.active[order].numpy(), [look.name(k) for k in order]
    figure = Figure(figsize=(min(13.0, max(6.5, 3 + 0.5 * len(order))), 3.6))
    left, right = figure.subplots(1, 2)
    kl = found.kl_apart
    if kl is None:
        sites = {name: float(nats.sum()) for name, nats in found.kl.items()}
        on_axes.bars(left, np.array(list(sites.values())), list(sites), np.full(len(sites), True))
    else:
        on_axes.bars(left, kl[order].numpy(), names, active)
    total = sum(float(nats.sum()) for nats in found.kl.values())
    left.set_ylabel("nats per row")
    style.title(left, "KL(q(z|x) ‖ p(z))", f"{total:.2f} nats per row in all")
    on_axes.bars(right, found.variance[order].clamp(min=1e-6).numpy(), names, active)
    top = max(1.5 * float(found.variance.max()), 5 * ACTIVE_VARIANCE)
    right.set(yscale="log", ylim=(1e-3 if active.all() else 1e-6, top))
    right.axhline(ACTIVE_VARIANCE, color=style.RED, linestyle=":", linewidth=1.4)
    style.title(
        right, "Variance of posterior means", f"{active.sum()} of {len(active)} above {ACTIVE_VARIANCE}: active"
    )
    return figure


@where_possible
def aggregate(look: Look) -> Figure | None:
    """The aggregate posterior against the prior: as densities for one site of two latents, else by draws of both."""
    if look.cloud.shape[1] == 2 and len(look.found[2]) == 1:
        return _in_the_plane(look)
    if look.cloud.shape[1] == 1:
        figure = Figure(figsize=(6, 3.4))
        axes = figure.subplots()
        on_axes.over(axes, look.cloud[:, 0].numpy(), look.prior[:, 0].numpy())
        axes.set(xlabel=look.name(0), ylabel="density")
        style.title(axes, "Aggregate posterior and prior")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure
    return _pair_and_margins(look)


def _in_the_plane(look: Look) -> Figure:
    """Both densities on a grid, and how much of the prior's mass lies in holes."""
    both = torch.cat([look.cloud, look.prior]).double()
    low, high = both.quantile(0.001, 0), both.quantile(0.999, 0)
    room = 0.08 * (high - low)
    x, y = (torch.linspace(float(a), float(b), GRID) for a, b in zip(low - room, high + room, strict=True))
    xx, yy = torch.meshgrid(x, y, indexing="xy")
    posterior, prior = look.densities(torch.stack([xx, yy], -1).reshape(-1, 2))
    share = float(prior[posterior < HOLE * prior].sum() / prior.sum())
    figure = Figure(figsize=(5.6, 5.4))
    axes = figure.subplots()
    on_axes.density_and_contours(
        axes, x.numpy(), y.numpy(), posterior.reshape(GRID, GRID).numpy(), prior.reshape(GRID, GRID).numpy(), MASS, HOLE
    )
    axes.set(xlabel=look.name(0), ylabel=look.name(1))
    num = min(DENSITY_ROWS, len(look.rows))
    note = f"{num} rows; {share:.0%} of the prior's mass lies in holes, where q is below p(z)/10"
    style.title(axes, "Aggregate posterior (shaded) and prior (lines)", note)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return figure


def _pair_and_margins(look: Look) -> Figure:
    """Draws of both in the two most used latents, and for some latents one by one."""
    a, b = look.order[:2]
    shown = look.order[:MAX_MARGINALS]
    across = -(-len(shown) // 2)
    figure = Figure(figsize=(5.2 + 1.9 * across, 4.4))
    halves: Any = figure.subfigures(1, 2, width_ratios=[4.4, 1.9 * across])
    left, right = halves
    axes = left.subplots()
    for points, colour, name in ((look.prior, "0.7", "prior"), (look.cloud, style.BLUE, "aggregate posterior")):
        axes.scatter(*points[:CLOUD_SHOWN, [a, b]].T.numpy(), s=4, color=colour, alpha=0.6, linewidths=0, label=name)
    axes.set(xlabel=look.name(a), ylabel=look.name(b))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, markerscale=3)
    left.suptitle("Aggregate posterior and prior", x=0.01, ha="left", weight="bold", size=11)
    right.suptitle("Each latent alone: prior as a line", x=0.01, ha="left", weight="bold", size=11)
    grid = right.subplots(2, across, squeeze=False).flatten()
    for axes, k in zip(grid, shown, strict=False):
        on_axes.over(axes, look.cloud[:, k].numpy(), look.prior[:, k].numpy())
        axes.set(yticks=[])
        axes.spines["left"].set_visible(False)
        axes.set_title(f"{look.name(k)}  sd {look.cloud[:, k].std():.2f}", weight="normal", size=10)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    return figure
