"""What products in bfloat16 cost: validation ELBO and seconds of fits by float32 and bfloat16, for three priors.

Each fit is kept in FOLDER as NAME.json and is not run again; the table is printed at the end. A processor that has no
products in bfloat16 takes many times as long for them: `--emulate` rounds factors and results of float32 products to
bfloat16 instead, which gives the same numbers up to the order of sums, and says nothing about time.

    python scripts/reduced_precision.py FOLDER --emulate
    python scripts/reduced_precision.py FOLDER --data mnist-5k --epochs 5 --emulate
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, write_json
from pyro_vae.inference.compile import reduced_products
from pyro_vae.options import Value
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

PRIORS = ("standard-normal", "vamp", "flow")
PRECISIONS = ("float32", "bfloat16")
LATENTS = 20


def rounded(value: Tensor) -> Tensor:
    """A tensor rounded to bfloat16; its gradient is rounded too."""
    return value.to(torch.bfloat16).to(torch.float32)


def emulated_layer(
    func: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: object
) -> Tensor:
    """What `reduced_layer` gives, by a product in float32 of rounded factors."""
    result = rounded(func(rounded(input), rounded(weight), None, *args))
    return result if bias is None else result + bias.view(-1, *[1] * (weight.dim() - 2))


def fit(data: str, prior: str, precision: str, seed: int, epochs: int) -> dict[str, object]:
    """The best and the last validation ELBO of a fit, nats per row, and its seconds."""
    given: dict[str, Value | Path] = {"prior": prior, "precision": precision, "seed": seed, "epochs": epochs}
    settings, rows = FitSettings.from_options(given | {"latent_dim": LATENTS}), pv.load_data(data)
    vae = build_vae(settings.model, choose_likelihood(settings.model, rows), rows, seed)
    fitted = pv.fit(vae, rows, settings.training, progress="none")
    best, last = fitted.history[fitted.best_epoch - 1], fitted.history[-1]
    return {"best": best.valid_elbo, "last": last.valid_elbo, "seconds": fitted.seconds, "precision": fitted.precision}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", default="mnist")
@click.option("--epochs", default=20)
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2))
@click.option("--prior", "priors", multiple=True, default=PRIORS)
@click.option("--emulate", is_flag=True, help="Round factors and results of products in float32.")
def main(folder: Path, data: str, epochs: int, seeds: list[int], priors: list[str], emulate: bool) -> None:
    """Run what is missing, and print the table."""
    if emulate:
        reduced_products._any_layer = emulated_layer
    folder.mkdir(parents=True, exist_ok=True)
    print("| prior | seed | float32 | bfloat16 | difference | time ÷ float32 |")
    print("|---|---:|---:|---:|---:|---:|")
    differences: list[float] = []
    for prior in priors:
        for seed in seeds:
            found = []
            for precision in PRECISIONS:
                path = folder / f"{data}-{epochs}-{prior}-{seed}-{precision}{'-emulated' * emulate}.json"
                if not path.exists():
                    print(path.stem, file=sys.stderr, flush=True)
                    write_json(path, fit(data, prior, precision, seed, epochs))
                found.append(read_json(path))
            exact, reduced = found
            differences.append(reduced["best"] - exact["best"])
            ratio = "" if emulate else f"{reduced['seconds'] / exact['seconds']:.2f}"
            values = f"{exact['best']:.2f} | {reduced['best']:.2f} | {differences[-1]:+.2f}"
            print(f"| {prior} | {seed} | {values} | {ratio} |", flush=True)
    print(f"\nmedian difference {median(differences):+.3f}, largest {max(map(abs, differences)):.3f} nats per row")


if __name__ == "__main__":
    main()
