"""Held-out log p(x) of mixtures of normals by EM: this package at its defaults against scikit-learn at its best.

scikit-learn's `reg_covar` is chosen on the test rows, which is more than anybody is given. Each cell is stored and not
computed again:

    python scripts/mixtures.py heldout [--tables iris,wine] [--out runs/mixtures]
    python scripts/mixtures.py gaps                        # a table with a fifth of its cells empty
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import sklearn.datasets
import torch
from sklearn.mixture import GaussianMixture

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, write_json
from pyro_vae.data import Measure, Split

REG_COVAR = (1e-6, 1e-4, 1e-2, 1e-1)
COMPONENTS = (1, 2, 3, 5)
STARTS, SPLITS, TRAINING_SHARE = 10, 10, 0.7


def generated() -> np.ndarray:
    """600 rows of a mixture of three normals in eight dimensions with full covariances."""
    generator = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        root = generator.normal(size=(8, 8)) * generator.uniform(0.2, 1.5, size=8)
        parts.append(generator.normal(size=(200, 8)) @ root.T + 3 * generator.normal(size=8))
    return np.concatenate(parts)


def mlxtend_table(name: str) -> np.ndarray:
    import mlxtend.data

    x, y = getattr(mlxtend.data, f"{name}_data")()
    table = np.column_stack([x, y]).astype(float)
    return table[:, ~np.isnan(table).all(0)]  # auto-mpg's last column is empty


TABLES: dict[str, Callable[[], np.ndarray]] = {
    "iris": lambda: sklearn.datasets.load_iris().data,
    "wine": lambda: sklearn.datasets.load_wine().data,
    "diabetes": lambda: sklearn.datasets.load_diabetes().data,
    "breast cancer": lambda: sklearn.datasets.load_breast_cancer().data,
    "auto-mpg": lambda: mlxtend_table("autompg"),
    "boston": lambda: mlxtend_table("boston_housing"),
    "generated": generated,
    "digits": lambda: sklearn.datasets.load_digits().data,
}


def random_split(table: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardized training and test rows; columns that are constant among the training rows are dropped."""
    order = np.random.default_rng(seed).permutation(len(table))
    first = int(TRAINING_SHARE * len(table))
    train, test = table[order[:first]], table[order[first:]]
    used = train.std(0) > 0
    mean, scale = train[:, used].mean(0), train[:, used].std(0)
    return (train[:, used] - mean) / scale, (test[:, used] - mean) / scale


def names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.group()
def cli() -> None:
    """Measure the mixture baseline."""


def theirs(train: np.ndarray, test: np.ndarray, components: int) -> dict[str, float]:
    """scikit-learn's held-out log p(x) at each `reg_covar`."""
    scores = {}
    for reg_covar in REG_COVAR:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = GaussianMixture(components, n_init=STARTS, reg_covar=reg_covar, random_state=0).fit(train)
        scores[f"{reg_covar:g}"] = float(fitted.score(test))
    return scores


def ours(train: np.ndarray, test: np.ndarray, components: int) -> dict[str, Any]:
    """The package's, at its defaults."""
    began, mixture = time.perf_counter(), pv.GaussianMixture(components, train.shape[1])
    fitted = pv.fit_em(mixture, torch.from_numpy(train), num_starts=STARTS)
    return {
        "score": float(mixture.log_prob(torch.from_numpy(test)).mean()),
        "seconds": time.perf_counter() - began,
        "epochs": len(fitted.history),
        "mixture": mixture.extra_repr(),
    }


def stored(path: Path, compute: Callable[[], Any]) -> Any:
    """A result from its file, computed and written where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, compute())
    return read_json(path)


@cli.command()
@click.option("--tables", default=",".join(TABLES), callback=names)
@click.option("--splits", default=SPLITS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/mixtures"), show_default=True)
def heldout(tables: list[str], splits: int, out: Path) -> None:
    """Held-out nats a row: each table and number of components, the mean of random splits."""
    click.echo("| table | components | scikit-learn, 1e-6 | its best on test rows | ours | behind its best |")
    click.echo("|---|---|---|---|---|---|")
    for name in tables:
        table = TABLES[name]()
        for components in COMPONENTS:
            cells = []
            for seed in range(splits):
                train, test = random_split(table, seed)
                cell = out / name.replace(" ", "-") / f"{components}-{seed}"
                reference = stored(cell.with_suffix(".sklearn.json"), lambda: theirs(train, test, components))  # noqa: B023
                found = stored(cell.with_suffix(".json"), lambda: ours(train, test, components))  # noqa: B023
                cells.append((reference["1e-06"], max(reference.values()), found["score"]))
            first, best, mine = np.mean(cells, axis=0)
            click.echo(f"| {name} | {components} | {first:.2f} | {best:.2f} | {mine:.2f} | {best - mine:+.2f} |")


@cli.command()
@click.option("--tables", default="iris,wine,diabetes,auto-mpg", callback=names)
@click.option("--splits", default=SPLITS, show_default=True)
@click.option("--share", default=0.2, show_default=True, help="Of the training cells that are emptied.")
@click.option("--components", default=2, show_default=True)
def gaps(tables: list[str], splits: int, share: float, components: int) -> None:
    """Held-out nats a row after a fit to complete rows, to rows with gaps, and to rows filled with column means."""
    click.echo("| table | complete | gaps | filled with means |\n|---|---|---|---|")
    for name in tables:
        scores = []
        for seed in range(splits):
            train, test = (torch.from_numpy(rows) for rows in random_split(TABLES[name](), seed))
            missing = torch.rand(train.shape, generator=torch.Generator().manual_seed(seed)) < share
            empty = torch.where(missing, torch.nan, train)
            kinds = [train, empty, torch.where(missing, empty.nanmean(0), train)]
            fitted = [pv.GaussianMixture(components, train.shape[1]) for _ in kinds]
            for mixture, rows in zip(fitted, kinds, strict=True):
                pv.fit_em(mixture, Split("train", rows, Measure()), num_starts=3)
            scores.append([float(mixture.log_prob(test).mean()) for mixture in fitted])
        click.echo(f"| {name} | " + " | ".join(f"{score:.2f}" for score in np.mean(scores, axis=0)) + " |")


if __name__ == "__main__":
    cli()
