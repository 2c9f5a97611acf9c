"""Normals of one correlation: the density, its marginals and its conditionals against scipy's, row by row."""

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.distributions.scaled_normal import ScaledMultivariateNormal
from pyro_vae.likelihoods.residual_covariance import shrunk_covariance

D64 = torch.float64
D = 5


@pytest.fixture
def pieces():
    generator = torch.Generator().manual_seed(0)
    loc, scale = (
        torch.randn(6, D, dtype=D64, generator=generator),
        torch.rand(6, D, dtype=D64, generator=generator) + 0.2,
    )
    tril = (
        torch.tril(torch.randn(D, D, dtype=D64, generator=generator), -1)
        + torch.diag(torch.linspace(0.1, 2, D)).double()
    )
    x = torch.randn(6, D, dtype=D64, generator=generator)
    mask = torch.rand(6, D, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    return loc, scale, tril, x, mask


def covariance(scale, tril):
    factor = np.diag(scale) @ tril.numpy()
    return factor @ factor.T


def test_the_density_and_its_marginals_are_scipys(pieces):
    loc, scale, tril, x, mask = pieces
    whole = ScaledMultivariateNormal(loc, scale, tril).log_prob(x)
    some = ScaledMultivariateNormal(loc, scale, tril).observed_log_prob(torch.where(mask, x, 1e6), mask)
    for i in range(6):
        sigma, seen = covariance(scale[i], tril), mask[i].numpy()
        expected = stats.multivariate_normal(loc[i].numpy(), sigma).logpdf(x[i].numpy())
        assert whole[i].item() == pytest.approx(expected, abs=1e-10)
        marginal = 0.0
        if seen.any():
            part = stats.multivariate_normal(loc[i].numpy()[seen], sigma[np.ix_(seen, seen)])
            marginal = part.logpdf(x[i].numpy()[seen])
        assert some[i].item() == pytest.approx(marginal, abs=1e-10)
    batches = ScaledMultivariateNormal(loc.expand(3, 6, D), scale, tril).observed_log_prob(
        torch.where(mask, x, 0.0), mask
    )
    torch.testing.assert_close(batches, some.expand(3, 6))


def test_what_is_missing_given_what_is_not(pieces):
    loc, scale, tril, x, mask = pieces
    given = ScaledMultivariateNormal(loc, scale, tril).condition(torch.where(mask, x, 7.0), mask)
    for i in range(6):
        sigma, seen = covariance(scale[i], tril), mask[i].numpy()
        weights = sigma[np.ix_(~seen, seen)] @ np.linalg.inv(sigma[np.ix_(seen, seen)])
        mean = loc[i].numpy()[~seen] + weights @ (x[i].numpy()[seen] - loc[i].numpy()[seen])
        np.testing.assert_allclose(given.mean[i].numpy()[~seen], mean, atol=1e-9)
        np.testing.assert_array_equal(given.mean[i].numpy()[seen], x[i].numpy()[seen])
        rest = sigma[np.ix_(~seen, ~seen)] - weights @ sigma[np.ix_(seen, ~seen)]
        factor = given.scale[i].numpy()[:, None] * given.tril[i].numpy()
        np.testing.assert_allclose((factor @ factor.T)[np.ix_(~seen, ~seen)], rest, atol=1e-9)
        assert (factor[seen] == 0).all()


def test_draws_have_the_moments(pieces):
    loc, scale, tril, _, _ = pieces
    fn = ScaledMultivariateNormal(loc[0], scale[0], tril)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = fn.sample((200_000,))
    np.testing.assert_allclose(x.mean(0), fn.mean, atol=5 * float(fn.variance.max()) ** 0.5 / 400)
    np.testing.assert_allclose(np.cov(x.T.numpy()), covariance(scale[0], tril), atol=0.1)
    torch.testing.assert_close(fn.variance, torch.from_numpy(np.diag(covariance(scale[0], tril)).copy()))


def test_a_fit_begins_at_a_part_of_one_normal_and_is_recorded():
    """Before the first step log p(x) is that of the normal without its first component; gaps are integrated out."""
    from sklearn.covariance import LedoitWolf

    rows = torch.randn(300, 4, generator=torch.Generator().manual_seed(1)) @ torch.tril(torch.ones(4, 4))
    elbos = []
    for compiled in (None, False):
        torch.manual_seed(0)
        part = pv.likelihoods.MultivariateNormal(pv.nets.mlp(2, 8, 8), 4)
        vae = pv.VAE(pv.priors.StandardNormal(2), part, pv.guides.MeanFieldNormal(pv.nets.mlp(4, 8, 4)))
        vae.init_from_data(rows.mean(0), rows)
        if compiled is None:
            p = part(torch.zeros(1, 2))
            whole = LedoitWolf().fit(rows.double().numpy()).covariance_
            units = np.sqrt(np.outer(np.diag(whole), np.diag(whole)))
            values, vectors = np.linalg.eigh(whole / units)
            sigma = (vectors * values[[0, 1, 2, 2]]) @ vectors.T * units
            factor = p.scale[0, :, None] * part.residual()
            np.testing.assert_allclose((factor @ factor.T).detach().numpy(), sigma, rtol=0.15, atol=0.1)
        elbos.append([epoch.elbo for epoch in pv.fit(vae, rows, epochs=3, compile=compiled).history])
    np.testing.assert_allclose(*elbos, rtol=1e-4)
    table = rows.double().numpy().copy()
    table[::5, 1] = np.nan
    data = pv.load_data(table, missing="mask")
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(8, 8, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), part, guide)
    pv.fit(vae, data.train, valid=data.valid, epochs=2)
    assert pv.log_evidence(vae, data.test, 50).log_px.isfinite().all()


@pytest.mark.parametrize(("rows", "columns", "rank"), [(50, 4, 4), (8, 30, 30), (200, 5, 1), (3, 2, 2), (2, 1, 1)])
def test_the_shrunk_covariance_is_that_of_sklearn(rows, columns, rank):
    from sklearn.covariance import LedoitWolf

    g = np.random.default_rng(0)
    x = g.normal(size=(rows, rank)) @ g.normal(size=(rank, columns)) * 10.0 ** g.integers(-3, 4, columns) + 5
    found = shrunk_covariance(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, LedoitWolf().fit(x).covariance_, rtol=1e-9, atol=1e-14)
    same = shrunk_covariance(torch.ones(5, 3, dtype=torch.float64))
    assert torch.equal(same, torch.zeros(3, 3, dtype=torch.float64))
