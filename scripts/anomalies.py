"""Held-out digits as anomalies: train without one digit, and test whether log p(x) detects it.

Ten times on `mnist-5k`, which comes with a dependency: a VAE, a Gaussian mixture on principal components and PCA's
reconstruction error are fitted to the training rows of nine digits, and the test rows of all ten are ranked. AUROC is
the chance that a row of the digit left out is ranked as more anomalous than one of the others; 0.5 is chance.

    python scripts/anomalies.py [--digits 0,1,2,3,4,5,6,7,8,9] [--num-samples 500] [--json]
"""

import json
from typing import Any

import click
import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from torch import Tensor

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.data import Split

K, H, D = 20, 500, 784
COMPONENTS, KEPT = 20, 50  # of the mixture and of PCA, set in advance


def without(split: Split, digit: int) -> Split:
    assert split.labels is not None
    kept = split.labels != digit
    return Split(split.name, split.stored[kept], split.measure, split.labels[kept], split.image_shape)


def build_vae(seed: int) -> pv.VAE:
    with seeded(seed):
        guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, H, 2 * K))
        return pv.VAE(pv.priors.StandardNormal(K), pv.likelihoods.Bernoulli(pv.nets.mlp(K, H, D)), guide)


def anomaly_scores(train: Split, valid: Split, x: Tensor, num_samples: int) -> dict[str, np.ndarray]:
    """Anomaly score of each row by each method fitted to the training rows; higher is more anomalous."""
    vae = build_vae(0)
    pv.fit(vae, train, valid=valid, epochs=50, learning_rate=5e-3, progress="none")
    found = pv.log_evidence(vae, x, num_samples, prior_share=0.1)
    rows = train.x.numpy()
    mixture = make_pipeline(PCA(KEPT, random_state=0), GaussianMixture(COMPONENTS, reg_covar=1e-3, random_state=0)).fit(
        rows
    )
    pca = PCA(KEPT, random_state=0).fit(rows)
    back = pca.inverse_transform(pca.transform(x.numpy()))
    sum_of_pixels = x.sum(1).numpy()
    return {
        "VAE, −log p(x)": -found.log_px.numpy(),
        "VAE, −ELBO": -found.elbo.numpy(),
        "mixture on PCA": -mixture.score_samples(x.numpy()),
        "PCA error": ((x.numpy() - back) ** 2).sum(1),
        "sum of pixels": sum_of_pixels,
    }


def listed(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    return [int(digit) for digit in value.split(",")]


@click.command()
@click.option("--digits", default="0,1,2,3,4,5,6,7,8,9", callback=listed, show_default=True)
@click.option("--num-samples", default=500, show_default=True)
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(digits: list[int], num_samples: int, split: str, as_json: bool) -> None:
    data = pv.load_data("mnist-5k")
    judged = data.split(split)
    assert judged.labels is not None
    records: list[dict[str, Any]] = []
    for digit in digits:
        group = anomaly_scores(without(data.train, digit), without(data.valid, digit), judged.x, num_samples)
        truth = (judged.labels == digit).numpy()
        records.append({"digit": digit} | {name: float(roc_auc_score(truth, value)) for name, value in group.items()})
        click.echo(json.dumps(records[-1]), err=True)
    if as_json:
        click.echo(json.dumps({"rows": records}))
        return
    names = [name for name in records[0] if name != "digit"]
    click.echo(f"| digit left out | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for record in records:
        click.echo(f"| {record['digit']} | " + " | ".join(f"{record[name]:.2f}" for name in names) + " |")
    means = {name: float(np.mean([record[name] for record in records])) for name in names}
    click.echo("| mean | " + " | ".join(f"{means[name]:.2f}" for name in names) + " |")


if __name__ == "__main__":
    main()
