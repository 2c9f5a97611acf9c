"""k-hat: its values, its edges, and ArviZ's numbers."""

import numpy as np
import pytest
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.arviz_compat import psislw
from pyro_vae.evidence.pareto_smoothing import MIN_DRAWS, khat_limit, pareto_smoothed


def test_khat_is_the_shape_of_the_tail():
    """Weights drawn from a Pareto with shape k, so that k-hat must find k: low for light tails, high for heavy ones."""
    rng = np.random.default_rng(0)
    for k in (0.2, 0.5, 0.9):
        weights = rng.random((40, 20_000)) ** -k
        assert pareto_smoothed(np.log(weights))[0].mean() == pytest.approx(k, abs=0.06)


def test_large_weights_count_and_small_ones_do_not():
    """The right tail alone matters: the log weights' sign is not to be lost on the way to ArviZ."""
    log_weights = np.log(np.random.default_rng(0).random((10, 4000)) ** -0.9)
    assert pareto_smoothed(log_weights)[0].mean() > 0.7
    assert pareto_smoothed(-log_weights)[0].mean() < 0.1


def test_khat_predicts_the_error():
    """Over 24 linear models whose guides get worse, k-hat orders |log p(x) − exact| (the script's figure has 84)."""
    from scipy.stats import spearmanr

    found = []
    for K in (1, 2, 5):
        for inflate in (1.2, 1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2):
            program = LinearGaussian(K, 20, inflate=inflate, seed=K)
            x = program.rows(40)
            evidence = pv.log_evidence(program, x, num_samples=400)
            found.append((evidence.khat.mean(), (evidence.log_px - program.exact(x)).abs().mean()))
    assert spearmanr(*zip(*found, strict=True)).statistic > 0.8


def test_edges():
    assert (pareto_smoothed(np.full((3, 100), -7.0))[0] == 0).all(), "equal weights are exact"
    assert np.isnan(pareto_smoothed(np.zeros((2, MIN_DRAWS - 1)))).all()
    assert khat_limit(100) == pytest.approx(0.5)
    assert khat_limit(10**9) == 0.7


def tails(kind, rng, num_samples):
    """Log weights (60, S) of a kind."""
    size = (60, num_samples)
    if kind == "light":
        return rng.normal(size=size)
    if kind == "heavy":
        return -rng.uniform(0.1, 3, (60, 1)) * np.log(rng.random(size)) - 800
    if kind == "bounded":
        return np.log(rng.random(size))
    if kind == "ties":
        return np.round(rng.normal(size=size), 1)
    if kind == "underflow":
        return rng.normal(size=size) * 400
    if kind == "one outlier":
        return np.where(np.arange(num_samples) == 3, 50.0, rng.normal(size=size))
    return rng.normal(size=size) * 1e-3 + 1e4


@pytest.mark.parametrize("num_samples", [25, 26, 60, 200, 1000, 5000])
@pytest.mark.parametrize("kind", ["light", "heavy", "bounded", "ties", "underflow", "one outlier", "nearly equal"])
def test_all_rows_at_once_are_arvizs_one_by_one(kind, num_samples):
    log_weights = tails(kind, np.random.default_rng(num_samples), num_samples)
    khat, smoothed = pareto_smoothed(log_weights)
    normalized, expected = psislw(log_weights.copy())
    np.testing.assert_allclose(khat, expected, rtol=1e-7, atol=1e-9)
    least = log_weights.argmin(1)[:, None]
    mean = np.take_along_axis(log_weights - normalized, least, 1)[:, 0] - np.log(num_samples)
    np.testing.assert_allclose(smoothed, mean, rtol=1e-12, atol=1e-9)
