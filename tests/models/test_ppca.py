"""PPCA and factor analysis against scikit-learn, torch's normal and the Pyro program's own traces."""

import pytest
import torch
from oracles import factor_rows
from sklearn.decomposition import PCA

import pyro_vae as pv
from pyro_vae.errors import InputError

MODELS = {"ppca": lambda: pv.PPCA(2, 5), "factor analysis": lambda: pv.FactorAnalysis(2, 5)}


def marginal(model):
    covariance = model.weight @ model.weight.T + model.scale.square().diag()
    return torch.distributions.MultivariateNormal(model.loc.detach(), covariance_matrix=covariance.detach())


@pytest.mark.parametrize("name", MODELS)
def test_density_and_posterior_are_the_normals(name):
    """log p(x) is torch's normal; with the posterior as guide every weight equals it; the posterior is conditioning."""
    model, x = MODELS[name](), factor_rows()
    pv.fit_em(model, x, epochs=3)
    exact = marginal(model).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), exact, rtol=1e-10, atol=1e-10)
    found = pv.log_evidence(model, x, num_samples=4)
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.elbo, exact, rtol=0, atol=1e-9)
    assert pv.exact_evidence(model, x).method == "the program's own"
    closed = pv.exact_evidence(pv.Program(lambda x: model.model(x), lambda x: model.guide(x)), x)
    assert closed.method == "closed form"
    torch.testing.assert_close(closed.log_px, exact, rtol=0, atol=1e-8)
    gain = model.weight.T @ torch.linalg.inv(marginal(model).covariance_matrix)
    torch.testing.assert_close(model.transform(x), (x - model.loc) @ gain.T)
    torch.testing.assert_close(model.encode(x), model.transform(x))
    covariance = torch.eye(2) - gain @ model.weight
    torch.testing.assert_close(model.posterior(x).covariance_matrix[0], covariance)


@pytest.mark.parametrize("name", MODELS)
def test_samples_and_saving(name, tmp_path):
    model, x = MODELS[name](), factor_rows()
    pv.fit_em(model, x, epochs=20)
    drawn = model.sample(40_000, seed=0).detach()
    covariance = marginal(model).covariance_matrix
    error = ((covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()) / 40_000).sqrt()
    assert ((torch.cov(drawn.T) - covariance).abs() < 5 * error).all()
    pv.save(model, tmp_path)
    assert torch.equal(pv.load(tmp_path).log_prob(x), model.log_prob(x))


def test_the_closed_form_is_scikit_learns():
    model, x = pv.PPCA(2, 5), factor_rows()
    fitted = pv.fit_closed_form(model, x)
    theirs = PCA(2).fit(x.numpy())
    n = len(x)  # scikit-learn divides the covariance by N − 1
    with torch.no_grad():
        covariance = marginal(model).covariance_matrix * n / (n - 1)
    torch.testing.assert_close(covariance, torch.from_numpy(theirs.get_covariance()))
    assert fitted.history[0]["elbo"] == pytest.approx(theirs.score(x.numpy()), abs=1e-4)
    assert fitted.history[0]["elbo"] > theirs.score(x.numpy())
    angles = torch.linalg.svdvals(torch.linalg.qr(model.weight)[0].T @ torch.from_numpy(theirs.components_).T)
    assert (1 - angles).abs().max() < 1e-12


def test_free_parameters():
    """D + DK + noise, less the K(K − 1)/2 of a rotation; a full covariance has D + D(D + 1)/2."""
    assert pv.PPCA(2, 5).num_free == 5 + 10 - 1 + 1
    assert pv.FactorAnalysis(2, 5).num_free == 5 + 10 - 1 + 5
    assert pv.PPCA(4, 5).num_free == 5 + 5 * 6 // 2


def test_settings_that_cannot_be():
    with pytest.raises(InputError, match="1 to 4 latents"):
        pv.PPCA(5, 5)
    with pytest.raises(InputError, match="closed form"):
        pv.fit_closed_form(pv.FactorAnalysis(2, 5), factor_rows())
