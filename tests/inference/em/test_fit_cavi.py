"""Coordinate ascent against scikit-learn's variational mixture, which maximizes the same bound."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture as ScikitMixture

import pyro_vae as pv
from pyro_vae.data import Split
from pyro_vae.data.reference_measure import Measure
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture

CENTRES = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]], dtype=torch.float64)


def rows_of(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return CENTRES[torch.arange(n) % 3] + torch.randn(n, 2, generator=g, dtype=torch.float64)


def responsibilities(n, C, seed=0):
    raw = torch.rand(n, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return raw / raw.sum(1, keepdim=True)


class Started(ScikitMixture):
    """scikit-learn's mixture from given responsibilities."""

    def _initialize_parameters(self, X, *args, **kwargs):
        self._initialize(X, self.at)


@pytest.mark.parametrize("C", [3, 4])
def test_it_finds_the_fixed_point_of_scikit_learn(C):
    x = rows_of(300)
    sharp = 0.9 * torch.eye(C, dtype=torch.float64)[torch.arange(300) % 3] + 0.1 * responsibilities(300, C)
    covariance = [[1.5, 0.2], [0.2, 1.0]]
    theirs = Started(
        n_components=C,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.01,
        mean_precision_prior=0.5,
        mean_prior=[0.1, 0.2],
        degrees_of_freedom_prior=3.0,
        covariance_prior=np.array(covariance),
        reg_covar=0.0,
        tol=1e-14,
        max_iter=5000,
    )
    theirs.at = sharp.numpy()
    theirs.fit(x.numpy())
    ours = BayesianGaussianMixture(
        C, 2, 300, weight_concentration=0.01, mean_precision=0.5, mean=[0.1, 0.2], df=3.0, covariance=covariance
    )
    fitted = fit_cavi(ours, x, start=sharp, tol=1e-15, epochs=5000)
    assert fitted.stopped == "tolerance"
    posterior = ours.posterior
    pairs = {
        "means_": ours.means,
        "covariances_": ours.covariances,
        "weights_": ours.weights,
        "weight_concentration_": posterior.concentration,
        "mean_precision_": posterior.mean_precision,
        "degrees_of_freedom_": posterior.df,
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(value.detach().numpy(), getattr(theirs, name), rtol=1e-6, atol=1e-6, err_msg=name)
    new = rows_of(50, seed=3)
    np.testing.assert_allclose(ours.responsibilities(new).numpy(), theirs.predict_proba(new.numpy()), atol=1e-6)
    if C == 4:
        assert ours.weights.min() < 1e-3  # the superfluous component is empty


def test_the_bound_never_falls():
    x = rows_of(200)
    for seed in range(3):
        mixture = BayesianGaussianMixture(4, 2, 200)
        fitted = fit_cavi(mixture, x, start=responsibilities(200, 4, seed), tol=0.0, epochs=200)
        bounds = torch.tensor([row["elbo"] for row in fitted.history], dtype=torch.float64)
        assert (bounds.diff() >= -1e-9 * bounds[1:].abs()).all()
        assert bounds[-1] > bounds[0]


def test_it_is_the_same_every_time_and_goes_on_from_where_it_stands():
    x = rows_of(120)
    whole, parts = BayesianGaussianMixture(3, 2, 120), BayesianGaussianMixture(3, 2, 120)
    fit_cavi(whole, x, epochs=6, tol=0.0, start=3)
    first = fit_cavi(parts, x, epochs=4, tol=0.0, start=3)
    fit_cavi(parts, x, epochs=2, tol=0.0, start=None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert [row["epoch"] for row in first.history] == [1, 2, 3, 4]
    assert first.stopped == "epochs"
    assert "more epochs" in first.advice
    assert "4 epochs" in repr(first)


def test_rows_come_in_every_form_and_their_jacobian_counts():
    x = rows_of(60)
    split = Split("train", x, Measure(shift=(0.5, 1.0), scale=(2.0, 3.0)))
    mixture = BayesianGaussianMixture(2, 2, 60)
    fitted = fit_cavi(mixture, split)
    assert fitted.history[-1]["elbo"] == pytest.approx(mixture.bound(split.x).item() - math.log(6), abs=1e-9)
    assert fitted.history[-1]["kl"] is None
    fitted = fit_cavi(mixture, x.float())
    assert fitted.history[-1]["elbo"] == pytest.approx(mixture.bound(x.float()).item(), abs=1e-12)


def test_what_cannot_be_used_is_refused():
    x = rows_of(30)
    mixture = BayesianGaussianMixture(2, 2, 30)
    for settings in ({"epochs": 0}, {"tol": -1.0}):
        with pytest.raises(pv.InputError, match="expected one epoch"):
            fit_cavi(mixture, x, **settings)
    with pytest.raises(pv.InputError, match="NaN"):
        fit_cavi(mixture, x.clone().fill_(torch.nan))
    gaps = x.clone()
    gaps[0, 0] = torch.nan
    with pytest.raises(pv.InputError, match="missing"):
        fit_cavi(mixture, Split("train", gaps, Measure()))
    with pytest.raises(pv.InputError, match="expected all 30 rows"):
        fit_cavi(mixture, x[:10])
