"""Posterior collapse: how much each latent carries, and what warm-up, free bits and β < 1 change of that, and of
log p(x)."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.context import seeded
from pyro_vae.data import Dataset, load_data
from pyro_vae.diagnostics.latent_usage import LatentUsage, latent_usage
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.models.vae import VAE
from pyro_vae.plots import on_axes, style
from pyro_vae.studies.posterior_collapse_figure import NOTHING


@dataclass(frozen=True)
class CollapseResult:
    """One fit of the study: the `way` it was trained, its `seed`, what its latents carry, and what the rows get.

    `found` holds ELBO and log p(x) of each row scored, nats, always at β = 1; `epoch` is the one kept, by validation
    ELBO.
    """

    way: str
    seed: int
    usage: LatentUsage
    found: Evidence
    epoch: int
    seconds: float

    @property
    def kl(self) -> float:
        """KL(q(z|x) ‖ p(z)), nats per row."""
        return float(self.found.kl.mean())

    @property
    def elbo(self) -> float:
        return float(self.found.elbo.mean())

    @property
    def log_px(self) -> float:
        return float(self.found.log_px.mean())

    def __repr__(self) -> str:
        numbers = f"KL {self.kl:.2f}, ELBO {self.elbo:.2f}, log p(x) {self.log_px:.2f} nats per row"
        active = f"{int(self.usage.active.sum())} of {len(self.usage.names)} active"
        return f"CollapseResult({self.way}, seed {self.seed}: {active}, {numbers})"


def remedies(epochs: int) -> dict[str, dict[str, Any]]:
    """Ways to train one and the same VAE: plainly, and as papers advise against collapse; keywords of `fit`.

    KL warm-up over half the epochs (Bowman et al., arXiv:1511.06349; Sønderby et al., arXiv:1602.02282), λ free nats
    for each dimension (Kingma et al., arXiv:1606.04934), and β = ½ (Higgins et al. 2017).
    """
    return {
        "plain": {},
        "KL warm-up": {"kl_warmup": epochs / 2},
        "free bits 0.1": {"loss": FreeBits_ELBO(0.1, each="dimension")},
        "free bits 0.5": {"loss": FreeBits_ELBO(0.5, each="dimension")},
        "β = 0.5": {"beta": 0.5},
    }


def collapse(
    data: Dataset | None = None,
    build: Callable[[Dataset], Any] | None = None,
    ways: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 60,
    split: str = "valid",
    num_samples: int = 500,
) -> list[CollapseResult]:
    r"""The same program trained several ways: what its latents then carry, and whether log p(x) gains by it.

    A high KL is no aim of its own: log p(x) says whether what the latents carry is worth its price. `data` are the
    8×8 digits, binarized, by default; `build` makes a program from them, by default `deep_vae`, which collapses there
    when trained plainly; `ways` are keywords of `fit` by name (`remedies`). For each of the `seeds` every way starts at
    the same weights and goes through the same batches. Scored are the rows of `split`, by importance sampling with
    `num_samples` draws, a lower bound. Records by seed, then way. Raises `InputError` for no seed and no way.

    >>> found = collapse(ways={"plain": {}, "warm-up": {"kl_warmup": 1}}, seeds=[0], epochs=1, num_samples=20)
    >>> [one.way for one in found], len(found[0].usage.names), found[0].log_px > found[0].elbo
    (['plain', 'warm-up'], 20, True)
    """
    data = load_data("digits") if data is None else data
    build, ways = build or deep_vae, remedies(epochs) if ways is None else ways
    if not seeds or not ways:
        raise InputError(f"expected one seed and one way or more, got {len(seeds)} and {len(ways)}")
    found = []
    for seed in seeds:
        for way, options in ways.items():
            began = time.perf_counter()
            with seeded(seed):
                program = build(data)
            with warnings.catch_warnings():  # collapse is what is studied
                warnings.simplefilter("ignore", CollapseWarning)
                fitted = fit(program, data, epochs=epochs, seed=seed, progress="none", **options)
            rows = data.split(split)
            evidence = log_evidence(program, rows, num_samples, seed=seed)
            seconds = time.perf_counter() - began
            found.append(
                CollapseResult(way, seed, latent_usage(program, rows, seed=seed), evidence, fitted.best_epoch, seconds)
            )
    return found


def deep_vae(data: Dataset, num_latents: int = 20, scale: float | str = "learned") -> VAE:
    """A VAE of twice two hidden layers, Bernoulli for binarized pixels, else normal with a `scale`."""
    K, D, hidden = num_latents, data.num_features, (200, 200)
    net = nets.mlp(K, *hidden, D)
    binary = data.train.measure.binarize != "none"
    likelihood = likelihoods.Bernoulli(net) if binary else likelihoods.Normal(net, scale)
    return VAE(priors.StandardNormal(K), likelihood, guides.MeanFieldNormal(nets.mlp(D, *hidden, 2 * K)))


def gain_over_baseline(found: Sequence[CollapseResult], way: str, plain: str = "plain") -> tuple[float, float]:
    """How much more log p(x) a way has than the plain one, nats per row: mean and standard error over seeds (NaN for
    one), each seed's two fits paired."""
    at = {(one.way, one.seed): one.log_px for one in found}
    gains = torch.tensor([at[way, seed] - at[plain, seed] for name, seed in at if name == way], dtype=torch.float64)
    return float(gains.mean()), float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.nan


def plot_collapse(found: Sequence[CollapseResult], plain: str = "plain") -> Figure:
    """The KL of each latent, the most used first, one panel for each way, and the way's numbers in words.

    Bars are means over seeds and dots the seeds; a grey bar carries less than 0.01 nats. Raises `InputError` where
    there is nothing to draw, or latents without a KL for each.

    >>>     >>> found = collapse(ways={"plain": {}, "warm-up": {"kl_warmup": 1}}, seeds=[0], epochs=1, num_samples=10)
    >>> [axes.get_title(loc="left") for axes in plot_collapse(found).axes]
    ['plain', 'warm-up']
    """
    ways = list(dict.fromkeys(one.way for one in found))
    if not ways or any(one.usage.kl_apart is None for one in found):
        raise InputError("expected one fit or more of programs with a KL for each latent")
    with style.figure_style():
        figure = Figure(figsize=(0.8 + 2.6 * len(ways), 3.6))
        panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
        for axes, way in zip(panels, ways, strict=True):
            fits = [one for one in found if one.way == way]
            kl = np.stack([np.sort(one.usage.kl_apart.numpy())[::-1] for one in fits if one.usage.kl_apart is not None])
            at = np.arange(kl.shape[1])
            on_axes.bars(axes, kl.mean(0), [""] * len(at), kl.mean(0) > NOTHING)
            for line in kl:
                axes.plot(at, line, "o", color=style.DARK, markersize=1.8, markeredgewidth=0)
            axes.set(xticks=[], xlabel=f"{len(at)} latents, sorted")
            axes.set_title(way, pad=46)
            axes.text(0, 1.03, _words(fits, found, plain), transform=axes.transAxes, va="bottom", fontsize=9)
        panels[0].set_ylabel("KL, nats per row")
    return figure


def _words(fits: Sequence[CollapseResult], found: Sequence[CollapseResult], plain: str) -> str:
    """log p(x) and what it gains on the plain way, paired by seed; the bound and the sum of the KL."""
    log_px, elbo, kl = (np.mean([getattr(one, name) for one in fits]) for name in ("log_px", "elbo", "kl"))
    gain = ""
    if fits[0].way != plain and any(one.way == plain for one in found):
        more, se = gain_over_baseline(found, fits[0].way, plain)
        gain = f"  ({more:+.2f}" + ("" if math.isnan(se) else f" ± {se:.2f}") + ")"
    return f"log p(x) {log_px:.2f}{gain}\nELBO {elbo:.2f}\nKL {kl:.2f}".replace("-", "−")
