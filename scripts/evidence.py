"""What the evidence is worth: annealing against importance sampling on MNIST, where gaps come from, and two figures.

The runs are those of `scripts/reproduce.py fit`. What takes long keeps its result in the run's folder:

    python scripts/evidence.py annealed --data-root DIR [--runs runs/mnist] [--arms plain,vamp] [--split test]
    python scripts/evidence.py speed --data-root DIR       # 10,000 rows × S = 5,000 against the decoder's bare products
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
import torch
from torch import Tensor

import pyro_vae as pv

ROOT_OPTION = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
RUNS_OPTION = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
SPLIT_OPTION = click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)


def chosen(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.group()
def cli() -> None:
    """What the evidence is worth, measured."""


@cli.command()
@RUNS_OPTION
@ROOT_OPTION
@SPLIT_OPTION
@click.option("--arms", default="plain,mixture,vamp,flow-prior,full-rank,flow-guide", callback=chosen)
@click.option("--rows", default=500, show_default=True, help="The first so many of the split.")
@click.option("--simulated", default=100, show_default=True, help="Rows drawn from each model for the sandwich.")
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
    """The same rows by importance sampling and by annealing, and how far apart the two bounds on simulated rows are."""
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    records = []
    for arm in arms:
        kept = runs / f"{arm}-0" / f"annealed-{split}-{rows}-{num_samples}-{temperatures}.json"
        if not kept.exists():
            record = both_ways(pv.load(runs / f"{arm}-0"), x, simulated, num_samples, temperatures)
            kept.write_text(json.dumps({"arm": arm} | record, indent=1))
        records.append(json.loads(kept.read_text()))
    click.echo(
        "| model | ELBO | IS | smoothed | k-hat bad | AIS | AIS − IS, paired "
        "| sandwich, simulated | IS below its top |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for r in records:
        click.echo(
            f"| {r['arm']} | {r['elbo']:.2f} | {r['is']:.2f} ± {r['is_mc_se']:.3f} | {r['smoothed']:.2f} "
            f"| {r['khat_bad']:.0%} | {r['ais']:.2f} ± {r['ais_mc_se']:.3f} | {r['apart']:+.2f} ± {r['apart_se']:.2f} "
            f"| {r['gap']:.2f} ± {r['gap_se']:.2f} | {r['is_below']:.2f} |"
        )


def both_ways(vae: Any, x: Tensor, simulated: int, num_samples: int, temperatures: int) -> dict[str, Any]:
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
        "is_seconds": middle - began,
        "ais_seconds": end - middle,
    }


@cli.command()
@RUNS_OPTION
@ROOT_OPTION
@SPLIT_OPTION
@click.option("--rows", default=10_000, show_default=True)
@click.option("--num-samples", default=5000, show_default=True)
def speed(runs: Path, data_root: str | None, split: str, rows: int, num_samples: int) -> None:
    """Score many rows by importance sampling, and time the decoder's products alone before, between and after."""
    vae = pv.load(runs / "plain-0")
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    weights = [w.detach().T.contiguous() for name, w in vae.likelihood.named_parameters() if w.dim() == 2]

    def products(count: int) -> float:
        """Seconds of the decoder's products for so many draws, by blocks that suit the cache."""
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
