"""Samples of default fits beside the rows of three tables, and beside those of a Gaussian copula and of TVAE.

    python3 -m venv judges && judges/bin/pip install "sdv==2.0.0" "ctgan==0.12.1" "sdmetrics==0.32.0"
    judges/bin/pip install --no-deps "ISLP==0.6.0"    # whose table of wages is read, and nothing else
    OMP_NUM_THREADS=1 python scripts/sample_quality.py --judges-python judges/bin/python --out results/sample_quality

The judges and the rivals have an environment of their own: scripts/sample_quality_rivals.py runs in it, and files go
between the two. Tables: `customers`, with 5,000 more rows of the generator held out; the cars of mlxtend's
`autompg_data`, and the wages of ISLP, of which three fifths are the file that is fitted, a fifth is held out to judge
by, and a fifth is what `new-rows` are drawn from. Every method is at its defaults and sees the rows that the default
fit of the file takes as its training rows; the fit also takes its validation rows, to keep the best epoch. `copies` are
training rows, each as often. Results are lines of FOLDER/results.jsonl; what is there is not computed again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

import pyro_vae as pv
from pyro_vae.data.customers import customers, draw_customers
from pyro_vae.run_folder import WEIGHTS
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.read_run import Run

NUM, TOLD_APART, SEEDS = 5000, 600, (0, 1, 2)  # samples; rows of the classifier; seeds
TABLES = ("customers", "cars", "wages")
RIVAL_METHODS = ("gaussian-copula", "tvae")
METHODS = ("pyro_vae", *RIVAL_METHODS, "copies", "new-rows")
RIVALS = Path(__file__).with_name("sample_quality_rivals.py")
Record = dict[str, Any]


@dataclass(frozen=True)
class Judges:
    """The other environment: its Python runs scripts/sample_quality_rivals.py."""

    python: Path

    def __call__(self, *arguments: object) -> Record:
        """What the script prints, a JSON object on its last line."""
        done = subprocess.run(
            [self.python, RIVALS, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8"
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
        found: Record = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}
        return found


def cars() -> pandas.DataFrame:
    """392 cars; their origin as text."""
    from mlxtend.data import autompg_data

    values, mpg = autompg_data()
    names = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "year", "origin"]
    frame = pandas.DataFrame(values[:, :7], columns=names).assign(mpg=mpg)
    whole = ["cylinders", "horsepower", "weight", "year"]
    return frame.astype(dict.fromkeys(whole, int)).assign(
        origin=frame["origin"].map({1: "America", 2: "Europe", 3: "Japan"})
    )


def prepare(name: str, seed: int, folder: Path, judges: Judges) -> Run:
    """The run of a default fit, and the files of training rows, of rows held out and of new rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "customers":
        table = customers(None, seed).values
        held_out = [draw_customers(NUM, 100 + 2 * seed), draw_customers(NUM, 101 + 2 * seed)]
        data, label = "customers", "churned"
    else:
        if name == "wages":
            judges("table", folder / "whole.csv")
        whole = cars() if name == "cars" else pandas.read_csv(folder / "whole.csv")
        order = np.random.default_rng([seed, len(whole)]).permutation(len(whole))
        table, *held_out = (whole.iloc[part] for part in np.split(order, [len(whole) * 3 // 5, len(whole) * 4 // 5]))
        table.to_csv(folder / "table.csv", index=False)
        data, label = str(folder / "table.csv"), None
    if not (folder / "run" / WEIGHTS).exists():
        shutil.rmtree(folder / "run", ignore_errors=True)  # of a fit that was interrupted
        began = time.process_time()
        fit_run(folder / "run", data=data, label=label, seed=seed)
        seconds = {"fit": time.process_time() - began}
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    run = pv.open_run(folder / "run")
    kinds = {column.name: column.kind for column in run.schema.modelled}
    (folder / "columns.json").write_text(json.dumps(kinds), encoding="utf-8")
    index = run.data().train.index
    assert index is not None
    for stem, rows in (("training", table.iloc[index.numpy()]), ("rows", held_out[0]), ("new", held_out[1])):
        rows[list(kinds)].to_csv(folder / f"{stem}.csv", index=False)
    return run


def draw(methods: list[str], run: Run, seed: int, folder: Path, judges: Judges) -> Record:
    """Write the 5,000 samples of each method to FOLDER/METHOD.csv; the seconds of fitting and drawing."""
    path = folder / "seconds.json"
    seconds: Record = json.loads(path.read_text(encoding="utf-8"))
    for method in methods:
        if method in seconds:
            continue
        if method in RIVAL_METHODS:
            seconds |= judges("draw", folder, NUM, seed, method)
        elif method == "pyro_vae":
            began = time.process_time()
            run.sample(NUM, seed=seed).to_csv(folder / "pyro_vae.csv", index=False)
            seconds[method] = seconds["fit"] + time.process_time() - began
        else:
            source = pandas.read_csv(folder / ("training.csv" if method == "copies" else "new.csv"))
            rng = np.random.default_rng(seed)
            order = np.concatenate([rng.permutation(len(source)) for _ in range(-(-NUM // len(source)))])
            source.iloc[order[:NUM]].to_csv(folder / f"{method}.csv", index=False)
            seconds[method] = 0.0
        path.write_text(json.dumps(seconds), encoding="utf-8")
    return seconds


def measure(method: str, run: Run, folder: Path) -> Record:
    """Our numbers of the samples in FOLDER/METHOD.csv."""
    rows, samples, training = (pandas.read_csv(folder / f"{stem}.csv") for stem in ("rows", method, "training"))
    found = pv.diagnostics.compare_samples(rows, samples, training, schema=run.schema)
    assert found.nearest is not None
    told_apart = pv.diagnostics.two_sample(run.prepare(samples).x, run.prepare(rows), num_rows=TOLD_APART)
    columns = found.columns.set_index("column")
    return {
        "columns": found.column_distance(),
        "pairs": found.pair_difference(),
        "auc": told_apart.auc,
        "nearer_share": found.nearest.nearer_share,
        "nearest": found.nearest.table.T.to_dict(),
        "by_column": columns["samples"].to_dict(),
        "outside": columns["outside"].to_dict(),
        "by_pair": found.pairs.to_dict("records"),
    }


def measure_table(name: str, seed: int, methods: list[str], folder: Path, judges: Judges) -> Iterator[Record]:
    """A record for each method on a table."""
    run = prepare(name, seed, folder, judges)
    seconds = draw(methods, run, seed, folder, judges)
    scores = judges("judge", folder, *methods)
    for method in methods:
        about = {"table": name, "seed": seed, "method": method, "seconds": seconds[method]}
        yield about | measure(method, run, folder) | scores[method]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judges-python", type=Path, default=Path(sys.executable), help="Python of the judges.")
    parser.add_argument("--out", type=Path, default=Path("results/sample_quality"))
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    judges = Judges(options.judges_python)
    for seed in options.seeds:
        for name in options.tables:
            done = {record["method"] for record in records if (record["table"], record["seed"]) == (name, seed)}
            if missing := [method for method in METHODS if method not in done]:
                for record in measure_table(name, seed, missing, options.out / f"{name}-{seed}", judges):
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
                    records.append(record)
    for name in options.tables:
        print_tables(name, [record for record in records if record["table"] == name])


SCORES: dict[str, Callable[[Record], float]] = {
    "columns": lambda r: r["columns"],
    "pairs": lambda r: r["pairs"],
    "AUC": lambda r: r["auc"],
    "nearer share": lambda r: r["nearer_share"],
    "distance, 5 %": lambda r: r["nearest"]["samples"]["5 %"],
    "median": lambda r: r["nearest"]["samples"]["median"],
    "equal": lambda r: r["nearest"]["samples"]["equal"],
    "shapes": lambda r: r["shapes"],
    "pair trends": lambda r: r["pair_trends"],
    "overfitting protection": lambda r: r["overfitting_protection"],
    "new rows": lambda r: r["new_rows"],
    "seconds": lambda r: r["seconds"],
}


def print_tables(name: str, records: list[Record]) -> None:
    """The scores of each method, means over seeds, and the distance of each column, as Markdown."""
    by_method = {method: [r for r in records if r["method"] == method] for method in METHODS}
    by_method = {method: found for method, found in by_method.items() if found}
    print(f"\n## {name}\n\n| method | {' | '.join(SCORES)} |\n|{'---|' * (len(SCORES) + 1)}")
    for method, found in by_method.items():
        cells = [f"{np.mean([score(r) for r in found]):.3f}" for score in SCORES.values()]
        print(f"| {method} ({len(found)}) | {' | '.join(cells)} |")
    distances = [r["nearest"]["rows"] for r in records]
    if distances:
        low, median, equal = (np.mean([each[key] for each in distances]) for key in ("5 %", "median", "equal"))
        print(f"\nRows held out to the nearest training row: 5 % {low:.3f}, median {median:.3f}, equal {equal:.3f}\n")
        columns = list(records[0]["by_column"])
        print(f"| method | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for method, found in by_method.items():
        cells = [f"{np.mean([r['by_column'][column] for r in found]):.3f}" for column in columns]
        print(f"| {method} | {' | '.join(cells)} |")
        outside = [f"{np.mean([r['outside'][column] for r in found]):.1%}" for column in columns]
        print(f"| {method}, outside | {' | '.join(outside)} |")


if __name__ == "__main__":
    main()
