"""The default learning rate of each part against others: the best validation ELBO of a fit, and how often it restarted.

Each fit is kept in FOLDER as NAME.json and is not run again, so that an interrupted scan goes on; the table is printed
at the end.

    python scripts/learning_rates.py scan
    python scripts/learning_rates.py scan --data mnist --latents 20 --epochs 10
"""

import math
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import torch

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, write_json
from pyro_vae.data import Dataset
from pyro_vae.errors import DivergedError
from pyro_vae.inference.objectives.make_objective import make_objective
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.options import Value
from pyro_vae.programs.row_inputs import probe_batch
from pyro_vae.registry import GUIDES, NETWORKS, PRIORS
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

RATES = (0.001, 0.002, 0.005, 0.01, 0.02)
TOLERANCE = 2.0  # nats that the default may lie below the best rate
PARTS: dict[str, Iterable[str]] = {"prior": PRIORS, "guide": GUIDES, "network": NETWORKS}
FOR_IMAGES = ("conv", "resnet")


@dataclass(frozen=True)
class Fit:
    """One fit of the scan: a part in place of the default one, at a rate."""

    data: str
    kind: str
    part: str
    rate: float
    latents: int | None
    epochs: int

    @property
    def name(self) -> str:
        latents = "" if self.latents is None else f"-{self.latents}"
        return f"{self.data}{latents}-{self.epochs}-{self.kind}-{self.part}-{self.rate:g}"

    def run(self) -> dict[str, object]:
        """The validation ELBO of the best and of the last epoch, nats per row, and all epochs."""
        given: dict[str, Value | Path] = {self.kind: self.part, "learning_rate": self.rate, "epochs": self.epochs}
        given |= {} if self.latents is None else {"latent_dim": self.latents}
        settings, data = FitSettings.from_options(given), load(self.data)
        if data.image_shape is None:
            settings = settings.with_table_defaults({*given, "prior", "epochs"}, data.num_features, len(data.train))
        vae = build_vae(settings.model, choose_likelihood(settings.model, data), data, 0)
        loss = make_objective(settings.objective, vae, probe_batch(data), None)
        try:
            fitted = pv.fit(vae, data, settings.training, loss=loss, progress="none")
        except DivergedError as error:
            return {"best": -math.inf, "last": -math.inf, "error": str(error)}
        best, last = fitted.history[fitted.best_epoch - 1], fitted.history[-1]
        return {"best": best.valid_elbo, "last": last.valid_elbo, "history": [dict(row) for row in fitted.history]}


def default_rate(data: str, latents: int | None) -> float:
    """The learning rate of a fit that names none."""
    settings = FitSettings.from_options({} if latents is None else {"latent_dim": latents})
    settings = settings if load(data).image_shape is None else settings.with_picture_defaults(())
    return settings.training.learning_rate


def load(name: str) -> Dataset:
    """A data set by name, or one of scikit-learn's tables."""
    from sklearn import datasets

    if name in ("iris", "wine", "breast_cancer", "diabetes"):
        return pv.load_data(getattr(datasets, f"load_{name}")().data)
    return pv.load_data(name)


def fits(
    data: str, latents: int | None, epochs: int, rates: Iterable[float], kinds: Iterable[str], parts: Collection[str]
) -> Iterable[Fit]:
    """The fits of a data set, of each part of these kinds that suits it, or of some of them."""
    is_image = load(data).image_shape is not None
    for kind in kinds:
        for entry in PARTS[kind]:
            if (is_image or entry not in FOR_IMAGES) and (not parts or entry in parts):
                yield from (Fit(data, kind, entry, rate, latents, epochs) for rate in rates)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", "names", multiple=True, default=("digits", "iris", "wine", "customers"))
@click.option("--kind", "kinds", multiple=True, default=tuple(PARTS))
@click.option("--part", "parts", multiple=True, help="Some of their parts; by default all.")
@click.option("--rate", "rates", multiple=True, type=float, default=RATES)
@click.option("--latents", type=int, default=None, help="Latents; by default those of the fit.")
@click.option("--epochs", type=int, default=TrainConfig().epochs)
def main(
    folder: Path,
    names: list[str],
    kinds: list[str],
    parts: list[str],
    rates: list[float],
    latents: int | None,
    epochs: int,
) -> None:
    """Run what is missing, and print the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    print("| data | part | " + " | ".join(f"{rate:g}" for rate in rates) + " | default below the best | restarts |")
    print("|---" * (len(rates) + 4) + "|")
    for name in names:
        found: dict[str, dict[float, tuple[float, int]]] = {}
        for fit in fits(name, latents, epochs, rates, kinds, parts):
            path = folder / f"{fit.name}.json"
            if not path.exists():
                print(fit.name, file=sys.stderr, flush=True)
                write_json(path, fit.run())
            result = read_json(path)
            best = -math.inf if result["best"] is None else float(result["best"])
            restarts = max((row.get("restarts", 0) for row in result.get("history", ())), default=0)
            found.setdefault(f"{fit.kind} {fit.part}", {})[fit.rate] = best, restarts
        for part, results in found.items():
            print(as_row(name, part, results, default_rate(name, latents)), flush=True)


def as_row(name: str, part: str, results: dict[float, tuple[float, int]], default: float) -> str:
    numbers = " | ".join(f"{best:.2f}" for best, _ in results.values())
    below = max(best for best, _ in results.values()) - results[default][0] if default in results else math.nan
    mark = " (!)" if below > TOLERANCE else ""
    return f"| {name} | {part} | {numbers} | {below:.2f}{mark} | {sum(count for _, count in results.values())} |"


if __name__ == "__main__":
    main()
