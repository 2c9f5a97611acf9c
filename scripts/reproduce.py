"""Fit one VAE on MNIST with one part swapped at a time, three seeds, and compare log p(x) row by row.

Every arm trains 784-500-20-500-784, tanh, Bernoulli pixels binarized anew each epoch, with `fit`'s defaults; only the
named part differs. Runs are stored in a folder, and interrupted ones are resumed:

    python scripts/reproduce.py fit --data-root DIR [--arms plain,vamp] [--seeds 0,1,2] [--epochs 20] [--out runs/mnist]
    python scripts/reproduce.py score --data-root DIR [--split valid] [--rows 1000]      # test once, at the end
    python scripts/reproduce.py table [--split valid] [--rows 1000]        # Markdown, with paired standard errors
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import pyro_vae as pv
from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.atomic_write import write_json_lines
from pyro_vae.context_managers import seeded
from pyro_vae.evidence.auto_evidence import AutoEvidence
from pyro_vae.run_folder import METRICS, WEIGHTS

K, D, H = 20, 784, 500
Part = Any


def mean_field() -> Part:
    return guides.MeanFieldNormal(nets.mlp(D, H, 2 * K))


def full_rank() -> Part:
    return guides.FullRankNormal(nets.mlp(D, H, guides.FullRankNormal.outputs(K)), K)


def flow() -> Part:
    return guides.FlowGuide(nets.mlp(D, H, guides.FlowGuide.outputs(K)), K)


def standard(guide: Part) -> Part:
    return priors.StandardNormal(K)


RATES = {"flow-prior": 2e-3}  # at fit's own 5e-3 training diverges from epoch 5 on (validation rows, two seeds)
ARMS: dict[str, tuple[str, Callable[[], Part], Callable[[Part], Part]]] = {  # name: (in words, guide, prior)
    "plain": ("standard normal prior, mean-field guide", mean_field, standard),
    "mixture": ("mixture prior, 50 components", mean_field, lambda guide: priors.MixtureOfNormals(K, 50)),
    "vamp": ("VampPrior, 100 pseudo-inputs", mean_field, lambda guide: priors.VampPrior(guide, 100, D)),
    "flow-prior": ("flow prior, 4 couplings", mean_field, lambda guide: priors.FlowPrior(K)),
    "full-rank": ("full-rank guide", full_rank, standard),
    "flow-guide": ("flow guide, 4 couplings", flow, standard),
}


def build_vae(arm: str, seed: int) -> pv.VAE:
    _, make_guide, make_prior = ARMS[arm]
    with seeded(seed):
        guide = make_guide()
        return pv.VAE(make_prior(guide), likelihoods.Bernoulli(nets.mlp(K, H, D)), guide)


def chosen(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


ARM_OPTION = click.option("--arms", default=",".join(ARMS), callback=chosen, help="Models, separated by commas.")
SEED_OPTION = click.option("--seeds", default="0,1,2", callback=chosen, help="Seeds, separated by commas.")
OUT_OPTION = click.option("--out", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
ROOT_OPTION = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
ROWS_OPTION = click.option("--rows", default=1000, show_default=True, help="The first rows of the split.")
SPLIT_OPTION = click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)


@click.group()
def cli() -> None:
    """One VAE on MNIST, one part swapped at a time."""


@cli.command()
@ARM_OPTION
@SEED_OPTION
@OUT_OPTION
@ROOT_OPTION
@click.option("--epochs", default=20, show_default=True)
def fit(arms: list[str], seeds: list[str], out: Path, data_root: str | None, epochs: int) -> None:
    """Fit the models (arms) that have no weights yet; interrupted fits are resumed."""
    data = pv.load_data("mnist", root=data_root)
    for seed in seeds:
        for arm in arms:
            folder = out / f"{arm}-{seed}"
            if (folder / WEIGHTS).exists():
                continue
            vae = build_vae(arm, int(seed))
            rate = RATES.get(arm, 5e-3)
            fitted = pv.fit(
                vae, data, epochs=epochs, learning_rate=rate, seed=int(seed), checkpoint=folder, progress="none"
            )
            write_json_lines(folder / METRICS, fitted.history)
            pv.save(vae, folder)
            best = fitted.history[fitted.best_epoch - 1]
            click.echo(f"{folder}: validation ELBO {best['valid_elbo']:.2f}, {fitted.seconds:.0f} s")


@cli.command()
@ARM_OPTION
@SEED_OPTION
@OUT_OPTION
@ROOT_OPTION
@SPLIT_OPTION
@ROWS_OPTION
@click.option("--num-samples", default=500, show_default=True)
def score(
    arms: list[str], seeds: list[str], out: Path, data_root: str | None, split: str, rows: int, num_samples: int
) -> None:
    """Score the first rows of a split with every finished run that has no score of them yet, by `auto_evidence`.

    log p(x) and ELBO of each row are kept, and whether its log p(x) is not to be trusted.
    """
    chosen_rows = pv.load_data("mnist", root=data_root).split(split).head(rows)
    for seed in seeds:
        for arm in arms:
            folder = out / f"{arm}-{seed}"
            kept = folder / f"{split}-auto-{rows}-{num_samples}.npy"
            if kept.exists() or not (folder / WEIGHTS).exists():
                continue
            found = pv.auto_evidence(pv.load(folder), chosen_rows, num_samples)
            assert isinstance(found, AutoEvidence)
            with kept.open("wb") as file:
                columns = torch.stack([found.log_px, found.elbo, found.is_bad.double()])
                np.save(file, columns.numpy(), allow_pickle=False)
            click.echo(f"{folder}: {found!r}")


@cli.command()
@OUT_OPTION
@SPLIT_OPTION
@ROWS_OPTION
@click.option("--num-samples", default=500, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def table(out: Path, split: str, rows: int, num_samples: int, as_json: bool) -> None:
    """Each arm's mean over seeds and rows, and its gain on `plain` of the same seed, row by row."""

    def rows_of(arm: str) -> dict[str, np.ndarray]:
        found = sorted(out.glob(f"{arm}-[0-9]*/{split}-auto-{rows}-{num_samples}.npy"))
        return {path.parent.name.rpartition("-")[2]: np.load(path, allow_pickle=False) for path in found}

    plain = rows_of("plain")
    records: list[dict[str, Any]] = []
    for arm, (words, *_) in ARMS.items():
        scores = rows_of(arm)
        both = [seed for seed in scores if seed in plain]
        if not both:
            continue
        seconds = [
            json.loads((out / f"{arm}-{seed}" / METRICS).read_text("utf-8").splitlines()[-1])["seconds"]
            for seed in both
        ]
        gains = [scores[seed][0] - plain[seed][0] for seed in both]
        over_rows = np.mean(gains, axis=0)  # each row's gain, its seeds averaged: rows are what the error is over
        records.append(
            {
                "arm": arm,
                "words": words,
                "seeds": len(both),
                "log_px": float(np.mean([scores[seed][0].mean() for seed in both])),
                "elbo": float(np.mean([scores[seed][1].mean() for seed in both])),
                "khat_bad": float(np.mean([scores[seed][2].mean() for seed in both])),
                "gain": float(over_rows.mean()),
                "gain_se": float(over_rows.std(ddof=1) / math.sqrt(len(over_rows))),
                "gain_by_seed": [float(gain.mean()) for gain in gains],
                "seconds": float(np.median(seconds)),
            }
        )
    if as_json:
        click.echo(json.dumps({"rows": records}))
        return
    click.echo(
        "| part swapped | log p(x) | ELBO | gain on plain, paired | by seed | k-hat bad | fit |\n" + "|---" * 7 + "|"
    )
    for r in records:
        seeds = ", ".join(f"{gain:+.2f}" for gain in r["gain_by_seed"])
        gain = "" if r["arm"] == "plain" else f"{r['gain']:+.2f} ± {r['gain_se']:.3f}"
        click.echo(
            f"| {r['words']} | {r['log_px']:.2f} | {r['elbo']:.2f} | {gain} | {'' if r['arm'] == 'plain' else seeds} "
            f"| {r['khat_bad']:.0%} | {r['seconds']:.0f} s |"
        )


if __name__ == "__main__":
    cli()
