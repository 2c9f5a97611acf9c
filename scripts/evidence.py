"""Accuracy of the evidence: annealing against importance sampling on MNIST, the parts of the gap, and three figures.

The runs are those of `scripts/reproduce.py fit`. Slow results are stored in the run's folder:

    python scripts/evidence.py annealed --data-root DIR [--runs runs/mnist] [--arms plain,vamp] [--split test]
    python scripts/evidence.py gaps --data-root DIR        # approximation and amortization, mean-field and flow guide
    python scripts/evidence.py khat                        # docs/images/khat.png
    python scripts/evidence.py posterior                   # docs/images/nuts.png
    python scripts/evidence.py prior-or-guide              # docs/images/prior_or_guide.png
    python scripts/evidence.py speed --data-root DIR       # 10,000 rows × S = 5,000, and the decoder's products
"""

import itertools
import json
import math
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.plots.style import BLUE, COLOURS, ORANGE, RED, figure_style
from pyro_vae.programs.sample_rows import sample

ROOT_OPTION = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
RUNS_OPTION = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
SPLIT_OPTION = click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)


def chosen(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.group()
def cli() -> None:
    """Measure the accuracy and the speed of estimates of log p(x)."""


@cli.command()
@RUNS_OPTION
@ROOT_OPTION
@SPLIT_OPTION
@click.option("--arms", default="plain,mixture,vamp,flow-prior,full-rank,flow-guide", callback=chosen)
@click.option("--rows", default=500, show_default=True, help="The first rows of the split, this number of them.")
@click.option(
    "--simulated", default=100, show_default=True, help="Rows simulated from each model for two-sided bounds."
)
@click.option("--num-samples", default=5000, show_default=True)
@click.option("--temperatures", default=300, show_default=True)
def annealed(
    runs: Path,
    data_root: str | None,
    split: str,
    arms: list[str],
    rows: int,
    simulated: int,
    num_samples: int,
    temperatures: int,
) -> None:
    """log p(x) of the same rows by importance sampling and by annealing, and two-sided bounds on simulated rows."""
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    records = {}
    for arm in arms:
        kept = runs / f"{arm}-0" / f"annealed-{split}-{rows}-{num_samples}-{temperatures}.json"
        if not kept.exists():
            record = sample_and_anneal(pv.load(runs / f"{arm}-0"), x, simulated, num_samples, temperatures)
            kept.write_text(json.dumps(record, indent=1), encoding="utf-8")
        records[arm] = json.loads(kept.read_text("utf-8"))
    click.echo(
        "| model | ELBO | IS | smoothed | k-hat bad | AIS | AIS − IS, paired | gain on the first, AIS "
        "| sandwich, simulated | IS below its top |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    first = next(iter(records.values()))
    for arm, r in records.items():
        gain = torch.tensor(r["ais_rows"]) - torch.tensor(first["ais_rows"])
        gained = "" if r is first else f"{gain.mean():+.2f} ± {gain.std() / math.sqrt(len(gain)):.2f}"
        click.echo(
            f"| {arm} | {r['elbo']:.2f} | {r['is']:.2f} ± {r['is_mc_se']:.3f} | {r['smoothed']:.2f} "
            f"| {r['khat_bad']:.0%} | {r['ais']:.2f} ± {r['ais_mc_se']:.3f} | {r['apart']:+.2f} ± {r['apart_se']:.2f} "
            f"| {gained} | {r['gap']:.2f} ± {r['gap_se']:.2f} | {r['is_below']:.2f} |"
        )


def sample_and_anneal(vae: Any, x: Tensor, simulated: int, num_samples: int, temperatures: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_chains": 16, "num_leapfrog": 5}
    began = time.perf_counter()
    sampled = pv.log_evidence(vae, x, num_samples)
    middle = time.perf_counter()
    annealed = pv.annealed_evidence(vae, x, temperatures, **settings)
    end = time.perf_counter()
    sandwich = pv.bidirectional(vae, simulated, temperatures, num_features=x.shape[1], **settings)
    on_simulated = pv.log_evidence(vae, sandwich.x, num_samples)
    apart = annealed.log_px - sampled.log_px
    return {
        "elbo": float(sampled.elbo.mean()),
        "is": float(sampled.log_px.mean()),
        "is_mc_se": sampled.log_px_mc_se,
        "smoothed": float(sampled.smoothed.mean()),
        "khat_bad": sampled.khat_bad,
        "ais": float(annealed.log_px.mean()),
        "ais_mc_se": annealed.log_px_mc_se,
        "ais_ess": float(annealed.ess.mean()),
        "acceptance": float(annealed.acceptance.mean()),
        "apart": float(apart.mean()),
        "apart_se": float(apart.std() / math.sqrt(len(apart))),
        "higher_in": float((apart > 0).double().mean()),
        "gap": sandwich.gap,
        "gap_se": sandwich.gap_se,
        "is_below": float((sandwich.upper.log_px - on_simulated.log_px).mean()),
        "is_rows": sampled.log_px.tolist(),
        "ais_rows": annealed.log_px.tolist(),
        "is_seconds": middle - began,
        "ais_seconds": end - middle,
    }


@cli.command()
@RUNS_OPTION
@ROOT_OPTION
@click.option("--arms", default="plain,flow-guide", callback=chosen)
@click.option(
    "--rows",
    default=100,
    show_default=True,
    help="The first rows of the training rows and of the split, this number of each.",
)
@click.option("--steps", default=600, show_default=True)
@click.option("--temperatures", default=300, show_default=True)
@SPLIT_OPTION
def gaps(
    runs: Path, data_root: str | None, arms: list[str], rows: int, steps: int, temperatures: int, split: str
) -> None:
    """Approximation and amortization gap (Cremer et al.): due to the guide's family, and due to its network."""
    data = pv.load_data("mnist", root=data_root)
    click.echo("| guide | rows | log p(x), AIS | best ELBO in the family | ELBO | approximation | amortization |")
    click.echo("|---|---|---|---|---|---|---|")
    for arm in arms:
        vae = pv.load(runs / f"{arm}-0")
        assert isinstance(vae, pv.VAE)
        assert isinstance(vae.posterior, pv.guides.MeanFieldNormal)
        for name in ("train", split):
            x = data.split(name)[:rows]
            log_px = pv.annealed_evidence(vae, x, temperatures, num_chains=16)
            found = pv.diagnostics.inference_gaps(
                vae, x, log_px, outputs_of=vae.posterior.net, steps=steps, learning_rate=0.03
            )
            columns = (log_px.log_px, found.best_elbo, found.elbo)
            apart = (found.approximation, found.amortization)
            click.echo(
                f"| {arm} | {name} | "
                + " | ".join(f"{column.mean():.2f}" for column in columns)
                + " | "
                + " | ".join(f"{gap.mean():.2f} ± {gap.std() / math.sqrt(rows):.2f}" for gap in apart)
                + " |"
            )


class Linear:
    """A linear-Gaussian program, z ~ N(0, I), x = Wz + noise.

    Its guide is the exact posterior with its covariance times `width` and its mean shifted by `shift` posterior
    standard deviations in each dimension.
    """

    def __init__(self, K: int, D: int, width: float, shift: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.W = torch.randn(D, K, generator=generator) / math.sqrt(K)
        self.covariance = torch.linalg.inv(torch.eye(K) + self.W.T @ self.W)
        self.gain = self.covariance @ self.W.T
        self.off = shift * self.covariance.diagonal().sqrt()
        self.width = width

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.W.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ self.gain.T + self.off
            pyro.sample("z", dist.MultivariateNormal(loc, self.width * self.covariance))

    def program(self) -> Any:
        return pv.Program(self.model, self.guide)


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images/khat.png"), show_default=True)
@click.option("--rows", default=100, show_default=True)
@click.option("--num-samples", default=1000, show_default=True)
def khat(out: Path, rows: int, num_samples: int) -> None:
    """k-hat against the error of the estimate, over linear models of increasing difficulty and over rows of a trained
    VAE."""
    points = []
    for K in (1, 2, 5, 10):
        for width in (1.2, 1.0, 0.8, 0.6, 0.45, 0.3, 0.2):
            for shift in (0.1, 0.5, 1.0):
                program = Linear(K, 50, width, shift, seed=K).program()
                x = sample(program, rows, num_features=50, seed=1)
                found = pv.log_evidence(program, x, num_samples)
                error = (found.log_px - pv.exact_evidence(program, x).log_px).abs()
                points.append((K, float(found.khat.mean()), float(error.mean())))
                click.echo(
                    f"K = {K}, width {width}, shift {shift}: k-hat {points[-1][1]:.2f}, {error.mean():.3f}", err=True
                )
    vae, valid = default_vae()
    x = valid[: 2 * rows]
    found, exact = pv.log_evidence(vae, x, num_samples), pv.exact_evidence(vae, x)
    error = (found.log_px - exact.log_px).abs()
    rank = [spearman([p[1] for p in points], [p[2] for p in points]), spearman(found.khat, error)]
    bad = found.khat > khat_limit(num_samples)
    click.echo(
        f"Spearman: {rank[0]:.2f} over {len(points)} linear models, {rank[1]:.2f} over {len(x)} rows of a VAE; there "
        f"exact {exact.log_px.mean():.2f}, sampled {found.log_px.mean():.2f}, median error "
        f"{error[~bad].median():.3f} where k-hat is good, "
        f"{error[bad].median():.3f} where it is bad ({float(bad.double().mean()):.0%})"
    )
    with figure_style():
        figure = Figure(figsize=(9.5, 3.8))
        left, right = figure.subplots(1, 2)
        for K, colour in zip((1, 2, 5, 10), COLOURS, strict=False):
            some = np.array([p[1:] for p in points if p[0] == K])
            left.scatter(some[:, 0], some[:, 1], s=22, color=colour, label=f"K = {K}")
        right.scatter(found.khat, error.clamp(min=1e-5), s=12, color=BLUE, alpha=0.7, linewidths=0)
        for axes, title, r in (
            (left, "Linear models (closed form)", rank[0]),
            (right, "A VAE's rows (grid)", rank[1]),
        ):
            axes.axvline(khat_limit(num_samples), color="0.6", linewidth=1, linestyle=":")
            axes.set(yscale="log", xlabel="k-hat", ylabel="|error of log p(x)|, nats", title=title)
            axes.set_title(f"Spearman {r:.2f}", loc="right", fontsize=9, fontweight="normal")
        left.legend(loc="lower right")
        figure.savefig(out, dpi=150)


def default_vae() -> tuple[pv.VAE, Tensor]:
    """The VAE that `pyro-vae fit` trains, and its validation rows."""
    data = pv.load_data("mnist-5k")
    with seeded(0):
        guide = pv.guides.MeanFieldNormal(pv.nets.mlp(784, 500, 4))
        vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 500, 784)), guide)
    pv.fit(vae, data.train, valid=data.valid, epochs=100, learning_rate=5e-3, progress="none")
    return vae, data.valid.x


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images/nuts.png"), show_default=True)
def posterior(out: Path) -> None:
    """p(z | x) by NUTS and q(z | x), for rows of the default VAE whose k-hat is low, medium and high."""
    vae, x = default_vae()
    order = pv.log_evidence(vae, x).khat.argsort()
    chosen_rows = order[[len(x) // 10, len(x) // 2, 9 * len(x) // 10]]
    found = pv.nuts(vae, x[chosen_rows])
    click.echo(f"{found!r}, trusted: {found.trusted}")
    pv.plots.plot_posterior(found).savefig(out, dpi=150)


def spearman(first: Any, second: Any) -> float:
    return float(spearmanr(np.asarray(first), np.asarray(second)).statistic)


@cli.command("prior-or-guide")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/images/prior_or_guide.png"), show_default=True
)
@click.option("--repeats", default=10, show_default=True)
def prior_or_guide(out: Path, repeats: int) -> None:
    """Error of log p(x) from draws of the prior and of q against the number of draws (a claim of note 000)."""
    sizes = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
    figure = Figure(figsize=(9.5, 3.6))
    with figure_style():
        for axes, K in zip(figure.subplots(1, 2, sharey=True), (2, 10), strict=True):
            program = Linear(K, 50, 1.5, 0.5, seed=0).program()
            x = sample(program, 50, num_features=50, seed=1)
            exact = pv.exact_evidence(program, x).log_px
            shares = {"prior": (1.0, RED), "q": (0.0, BLUE), "q and a tenth prior": (0.1, ORANGE)}
            for name, (share, colour) in shares.items():
                used = [S for S in sizes if share in (0, 1) or S >= 10]
                errors = []
                for S in used:
                    found = [pv.log_evidence(program, x, S, prior_share=share, seed=s).log_px for s in range(repeats)]
                    errors.append(float((torch.stack(found) - exact).square().mean().sqrt()))
                click.echo(f"K = {K}, {name}: " + ", ".join(f"{S}: {e:.3f}" for S, e in zip(used, errors, strict=True)))
                axes.plot(used, errors, "o-", markersize=4, color=colour, label=f"draws from {name}")
            axes.set(xscale="log", yscale="log", xlabel="draws S", title=f"{K} latent dimensions")
        figure.axes[0].set_ylabel("error of log p(x), nats (root mean square)")
        figure.axes[0].legend()
        figure.savefig(out, dpi=150)


@cli.command()
@RUNS_OPTION
@ROOT_OPTION
@SPLIT_OPTION
@click.option("--rows", default=10_000, show_default=True)
@click.option("--num-samples", default=5000, show_default=True)
def speed(runs: Path, data_root: str | None, split: str, rows: int, num_samples: int) -> None:
    """Score many rows by importance sampling, and time the decoder's products alone before, between and after."""
    vae = pv.load(runs / "plain-0")
    assert isinstance(vae, pv.VAE)
    assert isinstance(vae.likelihood, torch.nn.Module)
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    weights = [w.detach().T.contiguous() for name, w in vae.likelihood.named_parameters() if w.dim() == 2]

    def products(count: int) -> float:
        """Seconds of the decoder's products for this many draws, in blocks that fit the cache."""
        at_once, began = 8192, time.perf_counter()
        for _ in range(count // at_once):
            h = torch.randn(at_once, weights[0].shape[0])
            for w in weights:
                h = h @ w
        return (time.perf_counter() - began) * count / (count // at_once * at_once)

    parts = x.split(math.ceil(len(x) / 10))
    products(100_000)
    bare, ours = [products(len(x) * num_samples // 50)], []
    for part in parts:
        began = time.perf_counter()
        found = pv.log_evidence(vae, part, num_samples)
        ours.append(time.perf_counter() - began)
        bare.append(products(len(x) * num_samples // 50))
        click.echo(f"{found!r} {ours[-1]:.1f} s, products {5 * bare[-1]:.1f} s", err=True)
    floor = [5 * (a + b) / 2 for a, b in itertools.pairwise(bare)]
    ratios = [mine / bound for mine, bound in zip(ours, floor, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    click.echo(
        f"{len(x)} rows × S = {num_samples}: {sum(ours):.0f} s; products {sum(floor):.0f} s; "
        f"ratio {sum(ours) / sum(floor):.2f}, by tenths {min(ratios):.2f} to {max(ratios):.2f}, "
        f"median {statistics.median(ratios):.2f}; peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    cli()
