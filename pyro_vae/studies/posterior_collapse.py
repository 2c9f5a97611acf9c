"""Posterior collapse: how much each latent carries, and what warm-up, free bits and β < 1 change of that, and of
log p(x)."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, load_data
from pyro_vae.diagnostics.latent_usage import LatentUsage, measure_latent_usage
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.json_records import Record
from pyro_vae.models.vae import VAE
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.typing import Program

FitOptions = dict[str, Any]  # keywords of `fit`
SETTINGS = ("bernoulli", "learned", "one")
INACTIVE_KL = 0.01  # nats


@dataclass(frozen=True)
class CollapseResult:
    """One fit of the study: its `remedy`, its `seed`, the usage of its latents, and the evidence of the rows.

    `found` holds ELBO and log p(x) of each row scored, nats, always at β = 1; `epoch` is the one kept, by validation
    ELBO.
    """

    remedy: str
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
        return f"CollapseResult({self.remedy}, seed {self.seed}: {active}, {numbers})"


@dataclass(frozen=True)
class CollapseRow(Record):
    """One fit as a row of the study's table, nats per row.

    Attributes:
        remedy: the remedy's name.
        seed: of the fit.
        active_units: how many latents are used.
        kl: KL(q(z|x) ‖ p(z)).
        elbo: the ELBO at β = 1.
        log_px: log p(x).
        log_px_kind: `lower bound`, since it is importance sampling's.
        gain: how much more log p(x) the remedy has than the fits without one, a mean over seeds.
        gain_se: the standard error of that over seeds; None for one seed.
        seconds: of the fit and its evaluation.
    """

    remedy: str
    seed: int
    active_units: int
    kl: float
    elbo: float
    log_px: float
    log_px_kind: str
    gain: float
    gain_se: float | None
    seconds: float


def remedies(epochs: int) -> dict[str, FitOptions]:
    """Keywords of `fit` by name: none, and what papers advise against posterior collapse.

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


@check_call
def compare_remedies(
    data: Dataset | None = None,
    build: Callable[[Dataset], Program] | None = None,
    fit_options: Mapping[str, FitOptions] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 60,
    split: str = "valid",
    num_samples: int = 500,
) -> list[CollapseResult]:
    r"""The same program trained with several remedies: the KL of its latents, and whether log p(x) gains by it.

    A high KL is no aim of its own: log p(x) says whether it is worth its cost. For each seed every remedy starts at the
    same weights and goes through the same batches. Raises `InputError` for no seed and no remedy.

    Args:
        data: the data set; by default the 8×8 digits, binarized.
        build: makes a program from it; by default `deep_vae`, which collapses there without a remedy.
        fit_options: keywords of `fit` by name; by default those of `remedies`.
        seeds: the seeds of the fits.
        epochs: of each fit.
        split: the rows to score, by importance sampling, a lower bound.
        num_samples: its draws for each row.

    Returns:
        The fits by seed, then remedy.

    >>> options = {"plain": {}, "warm-up": {"kl_warmup": 1}}
    >>> found = compare_remedies(fit_options=options, seeds=[0], epochs=1, num_samples=20)
    >>> [one.remedy for one in found], len(found[0].usage.names), found[0].log_px > found[0].elbo
    (['plain', 'warm-up'], 20, True)
    """
    data = load_data("digits") if data is None else data
    build, fit_options = build or deep_vae, remedies(epochs) if fit_options is None else fit_options
    if not seeds or not fit_options:
        raise InputError(f"expected one seed or more and one remedy or more, got {len(seeds)} and {len(fit_options)}")
    return [
        _fit_and_measure(name, seed, data, build, options, epochs, split, num_samples)
        for seed in seeds
        for name, options in fit_options.items()
    ]


def _fit_and_measure(
    remedy: str,
    seed: int,
    data: Dataset,
    build: Callable[[Dataset], Program],
    options: FitOptions,
    epochs: int,
    split: str,
    num_samples: int,
) -> CollapseResult:
    began = time.perf_counter()
    with seeded(seed):
        program = build(data)
    with warnings.catch_warnings():  # collapse is what is studied
        warnings.simplefilter("ignore", CollapseWarning)
        fitted = fit(program, data, epochs=epochs, seed=seed, progress="none", **options)
    rows = data.split(split)
    evidence = log_evidence(program, rows, num_samples, seed=seed)
    seconds = time.perf_counter() - began
    return CollapseResult(
        remedy, seed, measure_latent_usage(program, rows, seed=seed), evidence, fitted.best_epoch, seconds
    )


def deep_vae(data: Dataset, num_latents: int = 20, scale: float | str = "learned") -> VAE:
    """A VAE of twice two hidden layers, Bernoulli for binarized pixels, else normal.

    Args:
        data: the data set.
        num_latents: the number K of latents.
        scale: of the normal likelihood.

    Returns:
        The VAE.
    """
    K, D, hidden = num_latents, data.num_features, (200, 200)
    net = nets.mlp(K, *hidden, D)
    binary = data.train.measure.binarize != "none"
    likelihood = likelihoods.Bernoulli(net) if binary else likelihoods.Normal(net, scale)
    return VAE(priors.StandardNormal(K), likelihood, guides.MeanFieldNormal(nets.mlp(D, *hidden, 2 * K)))


def gain_over_baseline(found: Sequence[CollapseResult], remedy: str, plain: str = "plain") -> tuple[float, float]:
    """How much more log p(x) a remedy has than the baseline, each seed's two fits paired.

    Args:
        found: the fits.
        remedy: the remedy's name.
        plain: the baseline's name.

    Returns:
        Mean and standard error over seeds, nats per row; the error is NaN for one seed.
    """
    at = {(one.remedy, one.seed): one.log_px for one in found}
    gains = torch.tensor(
        [at[remedy, seed] - at[plain, seed] for name, seed in at if name == remedy], dtype=torch.float64
    )
    return float(gains.mean()), float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.nan


@check_call
def plot_collapse(found: Sequence[CollapseResult], plain: str = "plain") -> Figure:
    """The KL of each latent, the most used first, one panel for each remedy, and the remedy's numbers in words.

    Bars are means over seeds and dots the seeds; a grey bar is below 0.01 nats. Raises `InputError` where there is
    nothing to draw, or latents without a KL for each.

    Args:
        found: the fits.
        plain: the name of the baseline.

    Returns:
        The figure.

    >>> options = {"plain": {}, "warm-up": {"kl_warmup": 1}}
    >>> found = compare_remedies(fit_options=options, seeds=[0], epochs=1, num_samples=10)
    >>> [axes.get_title(loc="left") for axes in plot_collapse(found).axes]
    ['plain', 'warm-up']
    """
    fit_options = list(dict.fromkeys(one.remedy for one in found))
    if not fit_options or any(one.usage.kl_apart is None for one in found):
        raise InputError("expected one fit or more of programs with a KL for each latent")
    with style.figure_style():
        figure = Figure(figsize=(0.8 + 2.6 * len(fit_options), 3.6))
        panels = figure.subplots(1, len(fit_options), sharey=True, squeeze=False)[0]
        for axes, remedy in zip(panels, fit_options, strict=True):
            fits = [one for one in found if one.remedy == remedy]
            kl = np.stack([np.sort(one.usage.kl_apart.numpy())[::-1] for one in fits if one.usage.kl_apart is not None])
            at = np.arange(kl.shape[1])
            draw_on_axes.bars(axes, kl.mean(0), [""] * len(at), kl.mean(0) > INACTIVE_KL)
            for line in kl:
                axes.plot(at, line, "o", color=style.DARK, markersize=1.8, markeredgewidth=0)
            axes.set(xticks=[], xlabel=f"{len(at)} latents, sorted")
            axes.set_title(remedy, pad=46)
            axes.text(0, 1.03, _words(fits, found, plain), transform=axes.transAxes, va="bottom", fontsize=9)
        panels[0].set_ylabel("KL, nats per row")
    return figure


def _words(fits: Sequence[CollapseResult], found: Sequence[CollapseResult], plain: str) -> str:
    """log p(x) and what it gains on the plain remedy, paired by seed; the bound and the sum of the KL."""
    log_px, elbo, kl = np.mean([(one.log_px, one.elbo, one.kl) for one in fits], axis=0)
    gain = ""
    if fits[0].remedy != plain and any(one.remedy == plain for one in found):
        more, se = gain_over_baseline(found, fits[0].remedy, plain)
        gain = f"  ({more:+.2f}" + ("" if math.isnan(se) else f" ± {se:.2f}") + ")"
    return f"log p(x) {log_px:.2f}{gain}\nELBO {elbo:.2f}\nKL {kl:.2f}".replace("-", "−")


def run_posterior_collapse(
    folder: Path,
    *,
    setting: str = "bernoulli",
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 60,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[list[CollapseRow], Path]:
    """The study on 8 × 8 digits.

    Args:
        folder: where the figure is written.
        setting: `bernoulli` (drawn bits), `learned` (grey levels under a normal of learned scale) or `one` (under a
            normal of scale one).
        seeds: the seeds of the fits.
        epochs: of each fit.
        log: called with each line of the log.

    Returns:
        A record of each fit with its gain over the plain one, and the figure's file.
    """
    if setting not in SETTINGS:
        raise InputError(f"no setting called {setting!r}; try one of {', '.join(SETTINGS)}")
    data = None if setting == "bernoulli" else load_data("digits", binarize="none", dequantize=True)
    build = (lambda data: deep_vae(data, scale=1.0)) if setting == "one" else None
    log(f"{len(remedies(epochs))} remedies, {len(seeds)} seeds, {epochs} epochs each")
    found = compare_remedies(data, build, seeds=seeds, epochs=epochs)
    path = folder / "posterior_collapse.png"
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"backend": "agg"}):
        style.save_figure(plot_collapse(found), path)
    return [_record(one, found) for one in found], path


def _record(one: CollapseResult, found: Sequence[CollapseResult]) -> CollapseRow:
    gain, se = gain_over_baseline(found, one.remedy)
    return CollapseRow(
        remedy=one.remedy,
        seed=one.seed,
        active_units=int(one.usage.active.sum()),
        kl=one.kl,
        elbo=one.elbo,
        log_px=one.log_px,
        log_px_kind=one.found.kind,
        gain=gain,
        gain_se=se if math.isfinite(se) else None,
        seconds=one.seconds,
    )
