"""Posterior collapse on 8 × 8 digits and its remedies, measured: the figures of docs/notes/weaknesses.md.

    python scripts/collapse.py [--setting bernoulli|learned|one] [--seeds 0,1,2] [--picture docs/images/collapse.png]

bernoulli: drawn bits; learned: grey levels under a normal of learned scale; one: under a normal of scale one. Twenty
latents, two hidden layers of 200, 60 epochs; validation rows, log p(x) by importance sampling with 500 draws.
"""

from pathlib import Path

import click

import pyro_vae as pv
from pyro_vae.studies.posterior_collapse import deep_vae, gain_over_baseline

SETTINGS = ("bernoulli", "learned", "one")


@click.command()
@click.option("--setting", type=click.Choice(SETTINGS), default="bernoulli", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Where to write the figure.")
def main(setting: str, seeds: str, picture: Path | None) -> None:
    numbers = [int(seed) for seed in seeds.split(",")]
    data = None if setting == "bernoulli" else pv.load_data("digits", binarize="none", dequantize=True)
    build = (lambda data: deep_vae(data, scale=1.0)) if setting == "one" else None
    found = pv.collapse(data, build, seeds=numbers)
    for one in found:
        click.echo(str(one))
    for way in dict.fromkeys(one.way for one in found):
        click.echo(f"{way}: {gain_over_baseline(found, way)}")
    if picture is not None:
        pv.plot_collapse(found).savefig(picture)


if __name__ == "__main__":
    main()
