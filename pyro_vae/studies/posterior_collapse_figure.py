"""The figure of posterior collapse: what each latent carries under each way of training, and what log p(x) gains."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pyro_vae.errors import InputError
from pyro_vae.show import plots
from pyro_vae.study.collapse import Collapsed, over_plain

NOTHING = 0.01


def plot_collapse(found: Sequence[Collapsed], plain: str = "plain") -> Figure:
    """The KL of each latent, the most used first, one panel for each way, and the way's numbers in words.

    Bars are means over seeds and dots the seeds; a grey bar carries less than 0.01 nats. Raises `InputError` where
    there is nothing to draw, or latents without a KL for each.

    >>> from pyro_vae.study.collapse import collapse
    >>> found = collapse(ways={"plain": {}, "warm-up": {"kl_warmup": 1}}, seeds=[0], epochs=1, num_samples=10)
    >>> [axes.get_title(loc="left") for axes in plot_collapse(found).axes]
    ['plain', 'warm-up']
    """
    ways = list(dict.fromkeys(one.way for one in found))
    if not ways or any(one.usage.kl_apart is None for one in found):
        raise InputError("expected one fit or more of programs with a KL for each latent")
    with plots.style():
        figure = Figure(figsize=(0.8 + 2.6 * len(ways), 3.6))
        panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
        for axes, way in zip(panels, ways, strict=True):
            fits = [one for one in found if one.way == way]
            kl = np.stack([np.sort(one.usage.kl_apart.numpy())[::-1] for one in fits if one.usage.kl_apart is not None])
            at = np.arange(kl.shape[1])
            plots.bars(axes, kl.mean(0), [""] * len(at), kl.mean(0) > NOTHING)
            for line in kl:
                axes.plot(at, line, "o", color=plots.DARK, markersize=1.8, markeredgewidth=0)
            axes.set(xticks=[], xlabel=f"{len(at)} latents, sorted")
            axes.set_title(way, pad=46)
            axes.text(0, 1.03, _words(fits, found, plain), transform=axes.transAxes, va="bottom", fontsize=9)
        panels[0].set_ylabel("KL, nats per row")
    return figure


def _words(fits: Sequence[Collapsed], found: Sequence[Collapsed], plain: str) -> str:
    """log p(x) and what it gains on the plain way, paired by seed; the bound and the sum of the KL."""
    log_px, elbo, kl = (np.mean([getattr(one, name) for one in fits]) for name in ("log_px", "elbo", "kl"))
    gain = ""
    if fits[0].way != plain and any(one.way == plain for one in found):
        more, se = over_plain(found, fits[0].way, plain)
        gain = f"  ({more:+.2f}" + ("" if math.isnan(se) else f" ± {se:.2f}") + ")"
    return f"log p(x) {log_px:.2f}{gain}\nELBO {elbo:.2f}\nKL {kl:.2f}".replace("-", "−")
