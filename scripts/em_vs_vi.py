"""EM against VI, measured: what docs/em_vs_vi.md says, with the command that says it.

What takes long keeps its result in a folder and goes on from there:

    python scripts/em_vs_vi.py bits fit --data-root DIR [--out runs/em]      # Bernoulli mixtures of MNIST, 10 to 500
    python scripts/em_vs_vi.py bits table --data-root DIR --vaes runs/mnist  # ... beside VAEs of scripts/reproduce.py
    python scripts/em_vs_vi.py gaps                                          # q(c|x) of four widths, three seeds
    python scripts/em_vs_vi.py linear                                        # a linear VAE against PPCA's maximum
    python scripts/em_vs_vi.py reals                                         # grey digits and a table: who wins
    python scripts/em_vs_vi.py speed                                         # an iteration against scikit-learn's
"""

import copy
import itertools
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.models.rows import seeded

ROOT_OPTION = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
OUT_OPTION = click.option("--out", type=click.Path(path_type=Path), default=Path("runs/em"), show_default=True)
SIZES = (10, 20, 50, 100, 200, 500)


@click.group()
def cli() -> None:
    """EM against VI, measured."""


@cli.group()
def bits() -> None:
    """Mixtures of independent bits on binarized MNIST."""


@bits.command("fit")
@ROOT_OPTION
@OUT_OPTION
@click.option("--sizes", default=",".join(map(str, SIZES)))
@click.option("--prior-rows", default="1.0", help="Several are tried on validation rows.")
@click.option("--iterations", default=100, show_default=True)
def fit_bits(data_root: str | None, out: Path, sizes: str, prior_rows: str, iterations: int) -> None:
    """EM on one draw of the 55,000 training rows; log p(x) of the validation rows along the way."""
    data = pv.load_data("mnist", root=data_root)
    for size, rows in itertools.product(map(int, sizes.split(",")), map(float, prior_rows.split(","))):
        folder = out / f"bits-{size}-{rows:g}"
        if (folder / "fit.json").exists():
            continue
        mixture = pv.BernoulliMixture(size, 784, prior_rows=rows)
        fitted = pv.fit_em(mixture, data.train, epochs=iterations, tolerance=1e-3, seed=0)
        valid = float(mixture.log_prob(data.valid).mean())
        pv.save(mixture, folder)
        found = {"size": size, "prior_rows": rows, "valid": valid, "seconds": fitted.seconds, "history": fitted.history}
        (folder / "fit.json").write_text(json.dumps(found))
        click.echo(f"{size} components, prior of {rows:g} rows: {fitted}; validation {valid:.2f}")


if __name__ == "__main__":
    cli()
