"""EM for linear-Gaussian models: PPCA and factor analysis against closed forms and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from cluster_rows import gaussian_clusters

import pyro_vae as pv


def falls(fitted):
    """By how much the objective of all rows fell at worst within a segment, in units of max(1, |value|)."""
    rows = fitted.history
    same = [(a, b) for a, b in itertools.pairwise(rows) if (a["start"], a["segment"]) == (b["start"], b["segment"])]
    return max((a["objective"] - b["objective"]) / max(1.0, abs(a["objective"])) for a, b in same)


def test_ppca_reaches_its_closed_form():
    """log p(x), covariance and subspace, to 1e-5; and never falls."""
    from oracles import factor_rows as rows

    x = rows()
    em, exact = pv.PPCA(2, 5), pv.PPCA(2, 5)
    fitted = pv.fit_em(em, x, tolerance=0, epochs=3000)
    pv.fit_closed_form(exact, x)
    assert falls(fitted) < 1e-9
    torch.testing.assert_close(em.log_prob(x), exact.log_prob(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(em.weight @ em.weight.T, exact.weight @ exact.weight.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(em.scale, exact.scale, rtol=0, atol=1e-5)
    assert fitted.history[-1]["elbo"] <= exact.log_prob(x).mean().item() + 1e-12


@pytest.mark.parametrize("start", ["random", "current"])
def test_the_mean_is_learned_wherever_it_starts(start):
    """20,000 rows in two alternating classes, of which a systematic sample would see one; and from far away."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 3, generator=g, dtype=torch.float64) + 10
    x[::2] += 5
    em, exact = pv.PPCA(1, 3), pv.PPCA(1, 3)
    pv.fit_em(em, x, start=start, tolerance=0, epochs=500)
    pv.fit_closed_form(exact, x)
    torch.testing.assert_close(em.loc, x.mean(0), rtol=0, atol=1e-4)
    assert em.log_prob(x).mean() > exact.log_prob(x).mean() - 1e-5


def test_factor_analysis_is_scikit_learns():
    from oracles import factor_rows as rows
    from sklearn.decomposition import FactorAnalysis

    x = rows(n=1000)
    factors = pv.FactorAnalysis(2, 5)
    fitted = pv.fit_em(factors, x, tolerance=0, epochs=3000)
    theirs = FactorAnalysis(2, tol=1e-12, max_iter=10_000, svd_method="lapack").fit(x.numpy())
    assert falls(fitted) < 1e-9
    assert fitted.history[-1]["elbo"] == pytest.approx(theirs.score(x.numpy()), abs=1e-5)
    np.testing.assert_allclose(factors.scale.detach() ** 2, theirs.noise_variance_, atol=1e-3)


def test_a_column_that_can_be_met_exactly_stays_finite():
    """Two equal columns: the likelihood has no maximum, and the noise stops at its floor."""
    x = gaussian_clusters(n=300)
    x = torch.cat([x, x[:, :1]], 1)
    fitted = pv.fit_em(pv.FactorAnalysis(2, 4), x, tolerance=0, epochs=500)
    assert np.isfinite(fitted.history[-1]["elbo"])
    assert falls(fitted) < 1e-9
