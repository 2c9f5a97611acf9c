"""Mixtures fitted to rows with gaps: marginal densities, steps that never fall, maxima, and imputing for comparison."""

import itertools
import math

import numpy as np
import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters
from scipy.special import logsumexp
from scipy.stats import bernoulli, multivariate_normal

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.models.covariance_forms import COVARIANCES

GIVEN = {"prior_rows": 0.5, "pooled_rows": 1.0}


def with_gaps(x, share=0.2, seed=0):
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(missing, math.nan, x.float().double())  # a split holds float32


def masked_split(x):
    """Rows whose NaN are missing values; in a plain tensor they are an error."""
    return Split("train", x, Measure())


def full(mixture):
    """Each component's covariance, (C, D, D)."""
    C, D, scale = mixture.num_components, mixture.num_features, mixture.covariances
    if mixture.covariance == "spherical":
        return scale[:, None, None] * torch.eye(D, dtype=scale.dtype)
    return scale.diag_embed() if mixture.covariance == "diagonal" else scale.expand(C, D, D)


def marginal(mixture, row):
    """log p of the observed values of a row by scipy."""
    seen = ~np.isnan(row)
    each = [
        math.log(weight)
        + (multivariate_normal(mean[seen], scale[seen][:, seen]).logpdf(row[seen]) if seen.any() else 0)
        for weight, mean, scale in zip(
            mixture.weights.numpy(), mixture.means.numpy(), full(mixture).numpy(), strict=True
        )
    ]
    return logsumexp(each)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_density_is_that_of_the_observed_values(covariance):
    x = with_gaps(gaussian_clusters(n=60), 0.4)
    x[0] = math.nan  # a row without any value
    mixture = pv.GaussianMixture(3, 3, covariance, **GIVEN)
    pv.fit_em(mixture, masked_split(x), epochs=3)
    expected = torch.tensor([marginal(mixture, row) for row in x.numpy()])
    torch.testing.assert_close(mixture.log_prob(masked_split(x)), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(mixture.responsibilities(masked_split(x))[0], mixture.weights)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_objective_never_falls_and_ends_at_a_maximum(covariance):
    x = with_gaps(gaussian_clusters(n=150, spread=3.0), 0.3)
    mixture = pv.GaussianMixture(3, 3, covariance, **GIVEN)
    fitted = pv.fit_em(mixture, masked_split(x), tolerance=0, epochs=3000)
    rows = [row for row in fitted.history if row["segment"] == fitted.history[-1]["segment"]]
    assert max(a["objective"] - b["objective"] for a, b in itertools.pairwise(rows)) < 1e-9
    objective = (mixture.log_density(x).sum() + mixture.log_prior()) / len(x)
    gradients = torch.autograd.grad(objective, [mixture.logits, mixture.loc, mixture.raw_scale])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-4


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_blocks_with_and_without_gaps_add_up(covariance, monkeypatch):
    """Statistics of complete rows are about the centre, or about each mean where features lose digits."""
    x = gaussian_clusters(n=200)
    x[:40] = with_gaps(x[:40], 0.5)
    for distance in (1.0, 1e7):
        found = []
        for size in (50, 1000):
            monkeypatch.setattr(pv.GaussianMixture, "block_rows", size)
            mixture = pv.GaussianMixture(3, 3, covariance, **GIVEN)
            pv.fit_em(mixture, masked_split(distance * x), epochs=5)
            found.append(mixture)
        torch.testing.assert_close(found[0].covariances, found[1].covariances, rtol=1e-5, atol=0)
        torch.testing.assert_close(found[0].means, found[1].means, rtol=1e-5, atol=1e-5 * distance)


def test_bits_with_gaps():
    x = with_gaps(bernoulli_clusters(), 0.3)
    mixture = pv.BernoulliMixture(3, x.shape[1])
    fitted = pv.fit_em(mixture, masked_split(x), tolerance=0, epochs=500)
    assert max(a["objective"] - b["objective"] for a, b in itertools.pairwise(fitted.history)) < 1e-9
    values = x.numpy()
    each = [
        math.log(weight) + np.nansum(bernoulli(mean).logpmf(np.nan_to_num(values)) + 0 * values, 1)
        for weight, mean in zip(mixture.weights.numpy(), mixture.means.numpy(), strict=True)
    ]
    np.testing.assert_allclose(mixture.log_prob(masked_split(x)).numpy(), logsumexp(each, axis=0), atol=1e-9)
    objective = (mixture.log_density(x).sum() + mixture.log_prior()) / len(x)
    gradients = torch.autograd.grad(objective, [mixture.logits, mixture.logits_of_bits])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-4


def test_gaps_cost_less_than_imputed_means():
    """A fifth of the cells empty: held-out rows lose less than half of what filling with means loses."""
    x, rest = gaussian_clusters(n=600, seed=1), gaussian_clusters(n=600, seed=1)[300:]
    x, scores = x[:300], {}
    gaps = with_gaps(x)
    filled = torch.where(gaps.isnan(), gaps.nanmean(0), gaps)
    for name, rows in {"complete": x, "gaps": gaps, "filled": filled}.items():
        mixture = pv.GaussianMixture(4, 3, regularization="inverse-wishart")
        pv.fit_em(mixture, masked_split(rows), num_starts=3)
        scores[name] = float(mixture.log_prob(rest).mean())
    assert scores["complete"] - scores["gaps"] < 0.6 * (scores["complete"] - scores["filled"])


def test_a_column_without_values():
    x = gaussian_clusters(n=50)
    x[:, 1] = math.nan
    with pytest.raises(InputError, match="column 1 has no value in any row"):
        pv.fit_em(pv.GaussianMixture(2, 3), masked_split(x))
