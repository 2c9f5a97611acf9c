"""Held-out log p(x) of the default fit of a table, of one normal and of the best mixture: five folds, paired.

Results are kept in FOLDER and a finished fold is not run again; the table is printed at the end.
"""

import json
import math
from pathlib import Path

import click
import numpy as np
import torch

import pyro_vae as pv
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

TABLES = ("iris", "wine", "breast_cancer", "diabetes")


def rows_of(name: str) -> np.ndarray:
    from sklearn import datasets

    return np.asarray(getattr(datasets, f"load_{name}")().data, dtype=np.float64)


def fold(name: str, number: int, seed: int) -> dict[str, list[float]]:
    """log p(x) of each held-out row under the three models, nats in original units."""
    from sklearn.model_selection import KFold

    values = rows_of(name)
    train, test = list(KFold(5, shuffle=True, random_state=0).split(values))[number]
    data = pv.load_data(values[train])
    held_out = data.prepare(values[test])
    settings = FitSettings.from_options({}).with_latents_for(data.num_features)
    config: ModelConfig = settings.model
    vae = build_vae(config, choose_likelihood(config, data), data, seed)
    pv.fit(vae, data.train, settings.training, valid=data.valid, seed=seed)
    normal = pv.GaussianMixture(1, data.num_features)
    pv.fit_em(normal, data.train)
    mixture = pv.select_mixture(data.train).mixture
    found = {"default fit": pv.auto_evidence(vae, held_out, 500).log_px}
    found |= {"one normal": normal.log_prob(held_out), "mixture": mixture.log_prob(held_out)}
    return {model: log_px.tolist() for model, log_px in found.items()}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seeds", default=1, help="Seeds of the fit.")
@click.option("--table", "tables", multiple=True, default=TABLES, help="Which tables.")
def main(folder: Path, seeds: int, tables: tuple[str, ...]) -> None:
    """Run what is missing, and print the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    print("| table | one normal | mixture | default fit | on one normal | on the mixture |\n|---|---|---|---|---|---|")
    for name in tables:
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            for number in range(5):
                path = folder / f"{name}-{seed}-{number}.json"
                if not path.exists():
                    path.write_text(json.dumps(fold(name, number, seed)), encoding="utf-8")
                for model, log_px in json.loads(path.read_text(encoding="utf-8")).items():
                    found.setdefault(model, []).extend(log_px)
        rows = {model: np.array(values) for model, values in found.items()}
        means = [f"{rows[model].mean():.2f}" for model in ("one normal", "mixture", "default fit")]
        gains = []
        for model in ("one normal", "mixture"):
            gain = rows["default fit"] - rows[model]
            gains.append(f"{gain.mean():+.2f} ± {gain.std(ddof=1) / math.sqrt(len(gain)):.2f}")
        print(f"| {name} | {' | '.join(means)} | {' | '.join(gains)} |", flush=True)


if __name__ == "__main__":
    main()
