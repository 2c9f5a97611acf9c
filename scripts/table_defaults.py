"""Held-out log p(x) of the default fit of a table and of what it has to beat: one normal, mixtures. Folds, paired.

Results are kept in FOLDER and a finished fold is not run again; the table is printed at the end. A mixed table has no
density by normals alone: one product of columns stands for one normal there.
"""

import json
import math
from pathlib import Path

import click
import numpy as np
import pandas
import torch

import pyro_vae as pv
from pyro_vae.data import Dataset, Split
from pyro_vae.data.customers import draw_customers
from pyro_vae.options import Value
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

REAL = ("iris", "wine", "breast_cancer", "diabetes")  # of scikit-learn
MIXED = ("customers", "cars", "housing")
NUM_FOLDS = 5
FORMER: dict[str, Value | Path] = {"epochs": 100, "prior": "standard-normal"}


def read_table(name: str) -> pandas.DataFrame:
    """The rows of a table, columns with their types."""
    if name in REAL:
        from sklearn import datasets

        frame: pandas.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).data
        return frame
    if name == "customers":
        return draw_customers(5000, seed=0).drop(columns="churned")
    from mlxtend import data

    if name == "cars":
        columns = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "year", "origin"]
        values, target = data.autompg_data()
        frame = pandas.DataFrame(values[:, :7], columns=columns).assign(mpg=target)
        origins = frame["origin"].map({1.0: "America", 2.0: "Europe", 3.0: "Japan"})
        return frame.assign(cylinders=frame["cylinders"].map("{:.0f} cylinders".format), origin=origins)
    values, target = data.boston_housing_data()
    return pandas.DataFrame(values, columns=[f"x{i}" for i in range(values.shape[1])]).assign(price=target)


def load_fold(frame: pandas.DataFrame, number: int, all_real: bool = False) -> tuple[Dataset, Split]:
    """The training rows as a data set, with validation rows of their own, and the held-out rows."""
    from sklearn.model_selection import KFold

    train, test = list(KFold(NUM_FOLDS, shuffle=True, random_state=0).split(frame))[number]
    kinds, coding = (dict.fromkeys(frame.columns, "real"), "columns") if all_real else (None, "auto")
    data = pv.load_data(frame.iloc[train].reset_index(drop=True), columns=kinds, coding=coding)
    return data, data.prepare(frame.iloc[test].reset_index(drop=True))


def fold(name: str, number: int) -> dict[str, list[float]]:
    """log p(x) of each held-out row under each model, nats in original units."""
    frame = read_table(name)
    data, held_out = load_fold(frame, number)
    found = {}
    for model, given in (("default fit", {}), ("former default", FORMER)):
        settings = FitSettings.from_options(given).with_table_defaults(given, data.num_features, len(data.train))
        vae = build_vae(settings.model, choose_likelihood(settings.model, data), data, number, data.has_missing)
        pv.fit(vae, data.train, settings.training, valid=data.valid, seed=number)
        found[model] = pv.auto_evidence(vae, held_out, 500).log_px
    if data.schema.coding == "columns":
        single: pv.ColumnsMixture | pv.GaussianMixture = pv.ColumnsMixture(1, data.schema)
    else:
        single = pv.GaussianMixture(1, data.num_features)
        mixture = pv.select_mixture(data.train).mixture
        found["mixture"] = mixture.log_prob(held_out)
        coded, coded_rows = load_fold(frame, number, all_real=True)
        found["columns-mixture"] = pv.select_mixture(coded).mixture.log_prob(coded_rows)
    pv.fit_em(single, data.train)
    found["one normal"] = single.log_prob(held_out)
    if data.schema.coding == "columns":
        found["columns-mixture"] = pv.select_mixture(data).mixture.log_prob(held_out)
    return {model: log_px.tolist() for model, log_px in found.items()}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--folds", default=3, help="How many of five folds; each has a seed of its own.")
@click.option("--table", "tables", multiple=True, default=(*REAL, *MIXED), help="Which tables.")
def main(folder: Path, folds: int, tables: tuple[str, ...]) -> None:
    """Run what is missing, and print the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    models = ("one normal", "mixture", "columns-mixture", "former default", "default fit")
    print(f"| table | {' | '.join(models)} | on the best baseline |\n|---|---|---|---|---|---|---|")
    for name in tables:
        found: dict[str, list[float]] = {}
        for number in range(folds):
            path = folder / f"{name}-{number}.json"
            if not path.exists():
                path.write_text(json.dumps(fold(name, number)), encoding="utf-8")
            for model, log_px in json.loads(path.read_text(encoding="utf-8")).items():
                found.setdefault(model, []).extend(log_px)
        rows = {model: np.array(values) for model, values in found.items()}
        means = [f"{rows[model].mean():.2f}" if model in rows else "–" for model in models]
        baselines = [model for model in models[:3] if model in rows]
        best = max(baselines, key=lambda model: rows[model].mean())
        gain = rows["default fit"] - rows[best]
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        print(f"| {name} | {' | '.join(means)} | {gain.mean():+.2f} ± {error:.2f} ({best}) |", flush=True)


if __name__ == "__main__":
    main()
