"""Posterior collapse: how much each latent carries, and what warm-up, free bits and β < 1 change of that, and of
log p(x)."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.data import Dataset, Split, load_data
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.evidence.importance import Evidence, log_evidence
from pyro_vae.evidence.logpx import Scored, rows_to_score
from pyro_vae.inference.elbos import FreeBits_ELBO
from pyro_vae.inference.objective import Terms
from pyro_vae.inference.svi import fit
from pyro_vae.models.program import ACTIVE_VARIANCE, encode, parameters_of
from pyro_vae.models.rows import Layout, evaluating, sample_sites, seeded, traces_of
from pyro_vae.models.vae import VAE

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Usage:
    """How much each latent of a program carries on some rows.

    `kl` holds E_q[log q − log p] of each latent site in nats per row, (K,) where prior and guide have independent
    dimensions, else one number (1,). `variance` (K,) is that of the posterior means over rows and `names` (K,) the
    latents', sites side by side.
    """

    kl: dict[str, Tensor]
    variance: Tensor
    names: tuple[str, ...]

    @property
    def kl_apart(self) -> Tensor | None:
        """The KL of each of the K latents, nats per row; None where some site has no KL for each dimension."""
        kl = torch.cat(list(self.kl.values()))
        return kl if len(kl) == len(self.names) else None

    @property
    def active(self) -> Tensor:
        """Which latents are used, (K,): their posterior means vary over rows by more than 0.01."""
        return self.variance > ACTIVE_VARIANCE

    @property
    def order(self) -> Tensor:
        """The latents' places, (K,), the most used first: by KL, or by variance where there is none for each."""
        return (self.variance if self.kl_apart is None else self.kl_apart).argsort(descending=True, stable=True)

    def __repr__(self) -> str:
        total = sum(float(kl.sum()) for kl in self.kl.values())
        return f"Usage({int(self.active.sum())} of {len(self.names)} latents active, KL {total:.2f} nats per row)"


def usage(program: Any, data: Dataset | Split | Tensor, *, num_samples: int = 10, seed: int = 0) -> Usage:
    r"""KL and variance of posterior means for each latent of a program, on rows (a data set's test rows).

    $\mathrm{KL}_k = \frac1N \sum_i E_{q(z|x_i)}[\log q(z_k|x_i) - \log p(z_k)]$ from `num_samples` draws for each row,
    and $\mathrm{Var}_i\, E_q[z_k|x_i]$ from two estimates of the means (Burda et al., arXiv:1509.00519). A latent that
    has collapsed has neither. Raises `InputError` where the guide draws no latent for each row.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> found = usage(vae, (torch.rand(30, 5) < 0.5).float())
    >>> found.names, found.kl["z"].shape, found.variance.shape
    (('z[0]', 'z[1]'), torch.Size([2]), torch.Size([2]))
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be one or more, got {num_samples}")
    split, places = rows_to_score(data, None, None)
    with torch.no_grad(), parameters_of(program), seeded(seed), evaluating(program):
        scored = Scored(program, split, places)
        terms = Terms(scored.layout, len(split))
        terms.reset(apart=True)
        encoded: list[tuple[Tensor, Tensor]] = []
        for batch in scored.batches(ROWS_AT_ONCE):
            encoded.append((encode(program, batch.x, **batch.extras), encode(program, batch.x, **batch.extras)))
            for _ in range(num_samples):
                model, guide = traces_of(program, batch)
                terms.add(model, guide, draws=num_samples)
    first, second = (torch.cat(means).double().cpu() for means in zip(*encoded, strict=True))
    variance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    found = terms.apart_means()
    if found is None:
        raise InputError("latents that are summed out by enumeration have no draws to take a KL from")
    drawn = {name: site for name, site in sample_sites(guide).items() if scored.layout.row_frame(site)}
    sites = {name: site for name, site in drawn.items() if not site["infer"].get("is_auxiliary")}
    kl = {name: torch.as_tensor(found[name], dtype=torch.float64).reshape(-1) for name in sites if name in found}
    return Usage(kl, variance, latent_names(scored.layout, sites))


def latent_names(layout: Layout, sites: Mapping[str, Any]) -> tuple[str, ...]:
    """A name for each latent of the guide's sites, side by side: `z[0]`, `z[1]`, …, or `z` alone."""
    sizes = {name: layout.rows_first(site, site["value"]).shape[1] for name, site in sites.items()}
    return tuple(f"{name}[{k}]" if size > 1 else name for name, size in sizes.items() for k in range(size))


@dataclass(frozen=True)
class Collapsed:
    """One fit of the study: the `way` it was trained, its `seed`, what its latents carry, and what the rows get.

    `found` holds ELBO and log p(x) of each row scored, nats, always at β = 1; `epoch` is the one kept, by validation
    ELBO.
    """

    way: str
    seed: int
    usage: Usage
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
        return f"Collapsed({self.way}, seed {self.seed}: {active}, {numbers})"


def ways_out(epochs: int) -> dict[str, dict[str, Any]]:
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
) -> list[Collapsed]:
    r"""The same program trained several ways: what its latents then carry, and whether log p(x) gains by it.

    A high KL is no aim of its own: log p(x) says whether what the latents carry is worth its price. `data` are the
    8×8 digits, binarized, by default; `build` makes a program from them, by default `deep_vae`, which collapses there
    when trained plainly; `ways` are keywords of `fit` by name (`ways_out`). For each of the `seeds` every way starts at
    the same weights and goes through the same batches. Scored are the rows of `split`, by importance sampling with
    `num_samples` draws, a lower bound. Records by seed, then way. Raises `InputError` for no seed and no way.

    >>> found = collapse(ways={"plain": {}, "warm-up": {"kl_warmup": 1}}, seeds=[0], epochs=1, num_samples=20)
    >>> [one.way for one in found], len(found[0].usage.names), found[0].log_px > found[0].elbo
    (['plain', 'warm-up'], 20, True)
    """
    data = load_data("digits") if data is None else data
    build, ways = build or deep_vae, ways_out(epochs) if ways is None else ways
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
            found.append(Collapsed(way, seed, usage(program, rows, seed=seed), evidence, fitted.best_epoch, seconds))
    return found


def deep_vae(data: Dataset, num_latents: int = 20, scale: float | str = "learned") -> VAE:
    """A VAE of twice two hidden layers, Bernoulli for binarized pixels, else normal with a `scale`."""
    K, D, hidden = num_latents, data.num_features, (200, 200)
    net = nets.mlp(K, *hidden, D)
    binary = data.train.measure.binarize != "none"
    likelihood = likelihoods.Bernoulli(net) if binary else likelihoods.Normal(net, scale)
    return VAE(priors.StandardNormal(K), likelihood, guides.MeanFieldNormal(nets.mlp(D, *hidden, 2 * K)))


def over_plain(found: Sequence[Collapsed], way: str, plain: str = "plain") -> tuple[float, float]:
    """How much more log p(x) a way has than the plain one, nats per row: mean and standard error over seeds (NaN for
    one), each seed's two fits paired."""
    at = {(one.way, one.seed): one.log_px for one in found}
    gains = torch.tensor([at[way, seed] - at[plain, seed] for name, seed in at if name == way], dtype=torch.float64)
    return float(gains.mean()), float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.nan
