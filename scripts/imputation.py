"""Missing cells of three tables filled by this package and by scikit-learn's imputers, on rows held out.

    OMP_NUM_THREADS=1 python scripts/imputation.py --out results/imputation

One cell in five is removed at random from all rows. Four fifths of the rows fit each imputer; the cells of the others
are filled. RMSE is in standard deviations of the training column; an interval goes from the least to the largest of 19
draws, which covers 90 % of the truth where draws are right. Every setting is a default, or one of scikit-learn's.
Results are kept in FOLDER/TABLE-SEED-METHOD.json, and what is there is not computed again.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

DRAWS, SHARE, SEEDS = 19, 0.2, (0, 1)
TABLES = ("diabetes", "wine", "breast_cancer")
Filled = tuple[Any, Any]  # the best guess (N, D), and draws (M, N, D) or None


def table(name: str) -> pandas.DataFrame:
    """The rows of a table, without its target."""
    import sklearn.datasets

    more = {"scaled": False} if name == "diabetes" else {}
    frame: pandas.DataFrame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True, **more).data
    return frame.rename(columns=lambda column: column.replace(" ", "_").replace("/", "_"))


def by_default_fit(train: pandas.DataFrame, test: pandas.DataFrame, seed: int, folder: Path) -> Filled:
    """`pyro-vae fit` and `pyro-vae impute`, as they are without an option."""
    import pyro_vae as pv
    from pyro_vae.workflows.fit_run import fit_run

    train.to_csv(folder / "train.csv", index=False)
    fit_run(folder / "run", data=str(folder / "train.csv"), seed=seed, missing="mask")
    run = pv.open_run(folder / "run")
    names = [column.name for column in run.schema.modelled]
    long = run.impute(test, num_imputations=DRAWS, seed=seed)
    drawn = long[names].to_numpy(np.float64).reshape(DRAWS, len(test), -1)
    return run.impute(test, method="mean")[names].to_numpy(np.float64), drawn


def _by_density(build: Callable[[int], Any]) -> Callable[..., Filled]:
    def fill(train: pandas.DataFrame, test: pandas.DataFrame, seed: int, folder: Path) -> Filled:
        import pyro_vae as pv
        from pyro_vae.evidence.impute_rows import impute_rows

        center, scale = train.mean().to_numpy(), train.std().to_numpy()
        rows, new = (torch.tensor((part.to_numpy() - center) / scale) for part in (train, test))
        model = build(rows.shape[1])
        pv.fit_em(model, pv.Split("train", rows), seed=seed)
        data = pv.Split("test", new)
        found = [impute_rows(model, data, method="mean").values[0], impute_rows(model, data, DRAWS, seed=seed).values]
        return tuple(values.numpy() * scale + center for values in found)

    return fill


def by_iterative(train: pandas.DataFrame, test: pandas.DataFrame, seed: int, folder: Path) -> Filled:
    """scikit-learn's `IterativeImputer`, whose draws come with `sample_posterior`."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - scikit-learn asks for it
    from sklearn.impute import IterativeImputer

    best = IterativeImputer(random_state=seed, max_iter=30).fit(train.to_numpy())
    drawing = IterativeImputer(random_state=seed, max_iter=30, sample_posterior=True).fit(train.to_numpy())
    drawn = np.stack([drawing.transform(test.to_numpy()) for _ in range(DRAWS)])
    return best.transform(test.to_numpy()), drawn


def by_neighbors(train: pandas.DataFrame, test: pandas.DataFrame, seed: int, folder: Path) -> Filled:
    """scikit-learn's `KNNImputer`, five neighbours of standardized rows; it has no draws."""
    from sklearn.impute import KNNImputer

    center, scale = train.mean().to_numpy(), train.std().to_numpy()
    imputer = KNNImputer().fit((train.to_numpy() - center) / scale)
    return imputer.transform((test.to_numpy() - center) / scale) * scale + center, None


def by_mean(train: pandas.DataFrame, test: pandas.DataFrame, seed: int, folder: Path) -> Filled:
    """The training column's mean."""
    return test.fillna(train.mean()).to_numpy(), None


def _one_normal(num_features: int) -> Any:
    import pyro_vae as pv

    return pv.GaussianMixture(1, num_features)


METHODS: dict[str, Callable[..., Filled]] = {
    "default fit": by_default_fit,
    "one normal": _by_density(_one_normal),
    "IterativeImputer": by_iterative,
    "KNNImputer": by_neighbors,
    "mean": by_mean,
}


def measure(name: str, seed: int, method: str, folder: Path) -> dict[str, Any]:
    """RMSE, coverage and seconds of a method on a table."""
    whole = table(name)
    rng = np.random.default_rng([seed, TABLES.index(name)])
    missing = rng.random(whole.shape) < SHARE
    order = rng.permutation(len(whole))
    held_out, fitted = order[: len(whole) // 5], order[len(whole) // 5 :]
    holed = whole.astype(np.float64).mask(missing)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    train, test = (holed.iloc[rows].reset_index(drop=True) for rows in (fitted, held_out))
    best, drawn = METHODS[method](train, test, seed, folder)
    seconds = time.perf_counter() - began
    truth, cells = whole.iloc[held_out].to_numpy(np.float64), missing[held_out]
    error = ((best - truth) / train.std().to_numpy())[cells]
    coverage = None
    if drawn is not None:
        coverage = float(((truth >= drawn.min(0)) & (truth <= drawn.max(0)))[cells].mean())
    return {"rmse": float(np.sqrt(np.mean(error**2))), "coverage": coverage, "cells": len(error), "seconds": seconds}


def print_table(results: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """The means over seeds, as Markdown."""
    print("| table | imputer | RMSE (standard deviations) | coverage of 90 % intervals | seconds |")
    print("|---|---|---|---|---|")
    for (name, method), found in results.items():
        rmse = [each["rmse"] for each in found]
        cover = [each["coverage"] for each in found if each["coverage"] is not None]
        covered = f"{np.mean(cover):.1%}" if cover else "–"
        seconds = np.mean([each["seconds"] for each in found])
        print(f"| {name} | {method} | {np.mean(rmse):.3f} ± {np.std(rmse):.3f} | {covered} | {seconds:.1f} |")


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/imputation"))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in TABLES:
            for method in METHODS:
                stem = f"{name}-{seed}-{method.replace(' ', '-')}"
                path = options.out / f"{stem}.json"
                if not path.exists():
                    found = measure(name, seed, method, options.out / stem)
                    path.write_text(json.dumps(found), encoding="utf-8")
                    print(f"{stem}: {found}", flush=True)
    for name in TABLES:
        for method in METHODS:
            stems = [f"{name}-{seed}-{method.replace(' ', '-')}" for seed in options.seeds]
            results[name, method] = [
                json.loads((options.out / f"{stem}.json").read_text(encoding="utf-8")) for stem in stems
            ]
    print_table(results)


if __name__ == "__main__":
    main()
