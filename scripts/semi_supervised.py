"""Accuracy with 5 % of the labels: the semi-supervised VAE, logistic regression, nearest neighbours, and both on codes.

    OMP_NUM_THREADS=1 python scripts/semi_supervised.py --out results/semi_supervised

Every method sees the same rows and the same labels, which a seed chooses. Logistic regression and the neighbours are
fitted to the labelled rows, their settings by cross-validation on these; "on codes of a VAE" is the same on the
posterior means of a VAE of all training rows (M1). The settings of the VAEs are those of `CASES`, chosen by the
accuracy on validation rows; a fit keeps its last epoch. Results are lines of OUT/accuracy.jsonl, and what is there is
not run again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.atomic_write import append_json_line, read_json_lines
from pyro_vae.models.semi_supervised_vae import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.class_labels import training_labels

SHARE = 0.05
Accuracies = dict[str, float]  # by the name of a split
# data set, binarize: likelihood, K, hidden, epochs, learning rate, classification_weight
CASES: dict[tuple[str, str], tuple[str, int, int, int, float, float]] = {
    ("digits", "stochastic"): ("bernoulli", 10, 200, 40, 3e-3, 1.0),
    ("digits", "none"): ("normal", 5, 200, 30, 3e-3, 1.0),
    ("mnist-5k", "stochastic"): ("bernoulli", 10, 128, 20, 4e-3, 10.0),
}


def _config(case: tuple[str, str], **settings: float | bool) -> ModelConfig:
    likelihood, latents, hidden, *_ = CASES[case]
    options = {"hidden": (hidden,)} | ({"scale": "learned"} if likelihood == "normal" else {})
    return ModelConfig(likelihood=likelihood, latent_dim=latents, options=options, **settings)  # type: ignore[arg-type]  # checked there


def _fitted(case: tuple[str, str], config: ModelConfig, data: pv.Dataset, labels: Tensor | None, seed: int) -> VAE:
    _, _, _, epochs, rate, _ = CASES[case]
    vae = build_vae(config, choose_likelihood(config, data), data, seed)
    pv.fit(vae, data.train, labels=labels, epochs=epochs, learning_rate=rate, seed=seed)
    return vae


def _scores(data: pv.Dataset, predict: Callable[[Tensor], Tensor]) -> Accuracies:
    splits = {split.name: split for split in (data.valid, data.test)}
    return {
        name: float(torch.eq(predict(s.x), torch.as_tensor(s.labels)).double().mean()) for name, s in splits.items()
    }


def semi_supervised(case: tuple[str, str], data: pv.Dataset, labels: Tensor, seed: int, weight: float) -> Accuracies:
    """The M2 model of all training rows, whose labels are known in part."""
    vae = _fitted(case, _config(case, semi_supervised=True, classification_weight=weight), data, labels, seed)
    assert isinstance(vae, SemiSupervisedVAE)
    return _scores(data, vae.predict)


def on_labelled_rows(
    name: str, data: pv.Dataset, labels: Tensor, encode: Callable[[Tensor], Tensor] = lambda x: x
) -> Accuracies:
    """A classifier of scikit-learn on the labelled rows alone, its settings by cross-validation on them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier

    grids = {
        "logistic regression": (LogisticRegression(max_iter=2000), {"C": np.logspace(-3, 2, 11)}),
        "nearest neighbours": (
            KNeighborsClassifier(),
            {"n_neighbors": [1, 3, 5, 7, 9], "weights": ["uniform", "distance"]},
        ),
    }
    known = labels >= 0
    x, y = encode(data.train.x[known]).numpy(), labels[known].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer rows than folds, and of iterations
        search = GridSearchCV(*grids[name], cv=StratifiedKFold(5, shuffle=True, random_state=0)).fit(x, y)
    return _scores(data, lambda rows: torch.from_numpy(search.predict(encode(rows).numpy())))


def run_case(case: tuple[str, str], method: str, seed: int, weight: float) -> Accuracies:
    """The accuracies of a method on validation and test rows."""
    data = pv.load_data(case[0], binarize=case[1])
    labels = training_labels(ModelConfig(semi_supervised=True, labelled_share=SHARE), data, seed)
    assert labels is not None
    if method == "semi-supervised VAE":
        return semi_supervised(case, data, labels, seed, weight)
    if method not in CODES:
        return on_labelled_rows(method, data, labels)
    vae = _fitted(case, _config(case), data, None, seed)
    return on_labelled_rows(method.removesuffix(" on codes of a VAE"), data, labels, lambda x: vae.encode(x))


METHODS = ("logistic regression", "nearest neighbours", "semi-supervised VAE")
CODES = ("logistic regression on codes of a VAE", "nearest neighbours on codes of a VAE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="The folder of results.")
    parser.add_argument(
        "--seed", type=int, action="append", help="Of the labels that are kept and of the fits; 0 to 2."
    )
    parser.add_argument("--method", action="append", choices=(*METHODS, *CODES), help="By default all.")
    parser.add_argument("--case", type=int, action="append", help="Numbers of cases; by default all.")
    parser.add_argument("--weight", type=float, action="append", help="classification_weight, in place of the case's.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "accuracy.jsonl"
    cases = [case for number, case in enumerate(CASES) if args.case is None or number in args.case]
    for case in cases:
        for seed in args.seed or range(3):
            for method in args.method or (*METHODS, *CODES):
                for weight in args.weight or [CASES[case][-1]] if method == "semi-supervised VAE" else [0.0]:
                    key = {"data": case[0], "binarize": case[1], "method": method, "weight": weight, "seed": seed}
                    if any(key.items() <= line.items() for line in _lines(path)):
                        continue
                    began = time.perf_counter()
                    found = run_case(case, method, seed, weight)
                    line = key | found | {"seconds": round(time.perf_counter() - began, 1)}
                    append_json_line(path, line)
                    print(json.dumps(line), flush=True)
    print_table(_lines(path))


def _lines(path: Path) -> list[dict[str, object]]:
    return list(read_json_lines(path)) if path.exists() else []


def print_table(lines: list[dict[str, object]]) -> None:
    """Means and standard deviations over seeds, in per cent."""
    print("| data | pixels | method | weight | validation | test |\n|---|---|---|---|---|---|")
    names = ("data", "binarize", "method", "weight")
    for key in dict.fromkeys(tuple(line[name] for name in names) for line in lines):
        own = [line for line in lines if tuple(line[name] for name in names) == key]
        cells = [_cell([float(str(line[split])) for line in own]) for split in ("valid", "test")]
        print(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")


def _cell(values: list[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
