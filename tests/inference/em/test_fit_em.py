"""EM of mixtures: the objective never falls, the results are scikit-learn's, and the M-step is a maximum."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters

import pyro_vae as pv
from pyro_vae.errors import InputError
from pyro_vae.models.gaussian_mixture import COVARIANCES
from pyro_vae.programs.parameters import copy_state


def falls(fitted):
    """By how much the objective of all rows fell at worst within a segment, in units of max(1, |value|)."""
    rows = fitted.history
    same = [(a, b) for a, b in itertools.pairwise(rows) if (a["start"], a["segment"]) == (b["start"], b["segment"])]
    return max((a["objective"] - b["objective"]) / max(1.0, abs(a["objective"])) for a, b in same)


USUAL = {"regularization": "inverse-wishart"}
PRIORS = [USUAL, {"prior_rows": 0.5}, {"prior_rows": 0.1, "pooled_rows": 4.0}]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_penalized_likelihood_never_falls(covariance, prior):
    """Random data, random starts, far too many components for some: hundreds of iterations for each setting here,
    thousands over all of them."""
    iterations = 0
    for seed in range(4):
        x = gaussian_clusters(n=120 + 40 * seed, D=1 + seed, C=3, seed=seed, spread=[0.5, 3.0, 50.0, 1e4][seed])
        mixture = pv.GaussianMixture(3 + 4 * seed, 1 + seed, covariance, **prior)
        fitted = pv.fit_em(
            mixture, x, start=["random", "k-means++"][seed % 2], num_starts=3, tolerance=1e-12, epochs=60
        )
        assert falls(fitted) < 1e-9
        iterations += len(fitted.history)
    assert iterations > 300


def test_bits_never_fall_either():
    for seed in range(3):
        mixture = pv.BernoulliMixture(8, 12, prior_rows=[1.0, 0.1, 0.0][seed])
        fitted = pv.fit_em(
            mixture, bernoulli_clusters(seed=seed), start="random", num_starts=4, tolerance=1e-12, epochs=100
        )
        assert falls(fitted) < 1e-9


def theirs_from(mixture, x, **options):
    """scikit-learn's mixture at our parameters."""
    from sklearn.mixture import GaussianMixture

    kind = {"diagonal": "diag"}.get(mixture.covariance, mixture.covariance)
    inverse = torch.linalg.inv(mixture.covariances) if kind in ("full", "tied") else 1 / mixture.covariances
    return GaussianMixture(
        mixture.num_components,
        covariance_type=kind,
        reg_covar=0.0,
        weights_init=mixture.weights.numpy(),
        means_init=mixture.means.numpy(),
        precisions_init=inverse.numpy(),
        **options,
    )


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_without_a_prior_each_step_is_scikit_learns(covariance, steps):
    """From the same start: weights, means, covariances and responsibilities to 1e-6 after 1, 2 and 7 M-steps."""
    x = gaussian_clusters(n=500)
    mixture = pv.GaussianMixture(4, 3, covariance, prior_rows=0)
    pv.fit_em(mixture, x, epochs=1)
    theirs = theirs_from(mixture, x, max_iter=steps, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())
    before = mixture.log_prob(x).mean().item()
    fitted = pv.fit_em(mixture, x, epochs=steps + 1, start="current", tolerance=0)
    assert fitted.history[0]["elbo"] == pytest.approx(before, rel=1e-12)
    np.testing.assert_allclose(mixture.weights, theirs.weights_, atol=1e-6)
    np.testing.assert_allclose(mixture.means, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(mixture.covariances, theirs.covariances_, atol=1e-6)
    np.testing.assert_allclose(mixture.responsibilities(x), theirs.predict_proba(x.numpy()), atol=1e-6)
    assert fitted.history[-1]["elbo"] == pytest.approx(theirs.score(x.numpy()), abs=1e-9)


def pooled_penalty(mixture):
    """−n₀ Σ_c KL(N(0, Ψ) ‖ N(0, Σ_c)) at the Ψ that makes it largest, from torch's divergences."""
    scale = mixture.covariances
    if mixture.covariance == "diagonal":
        scale = scale.diag_embed()
    if mixture.covariance == "spherical":
        scale = scale[:, None, None] * torch.eye(mixture.num_features, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal
    zero = torch.zeros(mixture.num_features, dtype=torch.float64)
    common = normal(zero, torch.linalg.inv(torch.linalg.inv(scale).mean(0)))
    return -mixture.pooled_rows * sum(torch.distributions.kl_divergence(common, normal(zero, one)) for one in scale)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_reg_covar_is_scikit_learns_rule(covariance):
    x = gaussian_clusters(n=300)
    mixture = pv.GaussianMixture(4, 3, covariance, regularization="reg_covar", reg_covar=0.05)
    pv.fit_em(mixture, x, epochs=1)
    theirs = theirs_from(mixture, x, max_iter=3, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.set_params(reg_covar=0.05).fit(x.numpy())
    pv.fit_em(mixture, x, epochs=4, start="current", tolerance=-0.0)
    np.testing.assert_allclose(mixture.covariances, theirs.covariances_, atol=1e-6)
    np.testing.assert_allclose(mixture.means, theirs.means_, atol=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("distance", [3.0, 1e6])
@pytest.mark.parametrize("prior", PRIORS[::2])
def test_the_end_is_a_stationary_point_of_the_penalized_likelihood(covariance, distance, prior):
    """By autograd, in every parameter, with the prior written down anew from its formula."""
    x = gaussian_clusters(n=200, spread=distance)
    mixture = pv.GaussianMixture(3, 3, covariance, **prior)
    pv.fit_em(mixture, x, tolerance=0, epochs=3000)
    n0, variance = mixture.prior_rows, mixture.prior_variance
    C = mixture.num_components
    if mixture._blocks:
        factor = mixture.scale_tril if covariance == "full" else mixture.scale_tril[None]
        expected = torch.cholesky_inverse(factor) @ variance.diag()
        penalty = -n0 / 2 * (2 * torch.linalg.slogdet(factor)[1] + expected.diagonal(dim1=1, dim2=2).sum(1)).sum()
    else:
        wide = (2 * mixture.raw_scale).exp().reshape(C, -1).expand(C, 3)
        penalty = -n0 / 2 * (wide.log() + variance / wide).sum()
    if covariance != "tied":
        penalty = penalty + pooled_penalty(mixture)
    assert mixture.log_prior().item() == pytest.approx(float(penalty.detach()), rel=1e-9, abs=1e-9)
    objective = (mixture.log_density(x).sum() + mixture.log_prior()) / len(x)
    gradients = torch.autograd.grad(objective, [mixture.logits, mixture.loc, mixture.raw_scale])
    scales = [1.0, mixture.covariances.abs().max().sqrt().item(), 1.0]
    for gradient, unit in zip(gradients, scales, strict=True):
        assert gradient.abs().max() * unit < 2e-4


def test_the_prior_toward_a_diagonal_is_an_inverse_wishart():
    """−n₀/2 (log|Σ| + tr ΨΣ⁻¹) is scipy's log-density with ν = n₀ − D − 1 and scale n₀Ψ, but for a constant."""
    from scipy.stats import invwishart

    mixture = pv.GaussianMixture(1, 3, **USUAL)
    pv.fit_em(mixture, gaussian_clusters(), epochs=1)
    found = []
    for seed in range(2):
        root = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mixture.set_covariances((root @ root.T + torch.eye(3))[None])
        df, scale = mixture.prior_rows - 4, mixture.prior_rows * mixture.prior_variance.diag()
        found.append(mixture.log_prior().item() - invwishart.logpdf(mixture.covariances[0].numpy(), df, scale.numpy()))
    assert mixture.prior_rows == 2 * 3 + 3
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_an_empty_component_is_moved_in_a_new_segment():
    """Two components at the same far place: one is moved, the history says so, and the end is as good as without."""
    x = gaussian_clusters(n=400, C=3, spread=10.0)
    mixture = pv.GaussianMixture(3, 3, **USUAL)
    pv.fit_em(mixture, x, epochs=1)
    with torch.no_grad():
        mixture.loc[2] = 1e4
    fitted = pv.fit_em(mixture, x, start="current", tolerance=1e-10)
    assert [row["revived"] for row in fitted.history if row["revived"]] == [1]
    assert fitted.history[-1]["segment"] == 1
    assert falls(fitted) < 1e-9
    other = pv.GaussianMixture(3, 3, **USUAL)
    best = pv.fit_em(other, x, num_starts=3, tolerance=1e-10).history
    assert fitted.history[-1]["elbo"] == pytest.approx(max(row["elbo"] for row in best), abs=1e-3)


def test_the_best_start_is_kept_and_its_last_numbers_are_its_own():
    x = gaussian_clusters(n=200, C=6)
    mixture = pv.GaussianMixture(6, 3, **USUAL)
    fitted = pv.fit_em(mixture, x, num_starts=5, start="random", seed=3)
    best = fitted.history[fitted.best_epoch - 1]
    assert best["objective"] == max(row["objective"] for row in fitted.history)
    assert best["elbo"] == pytest.approx(mixture.log_prob(x).mean().item(), rel=1e-12)
    assert {row["start"] for row in fitted.history} == set(range(5))
    again = pv.GaussianMixture(6, 3, **USUAL)
    torch.manual_seed(99)
    pv.fit_em(again, x, num_starts=5, start="random", seed=3)
    torch.testing.assert_close(copy_state(again), copy_state(mixture), rtol=0, atol=0)


def test_kept_and_fresh_features_give_the_same():
    """With no memory for prepared rows they are made anew in every iteration."""
    x, histories = gaussian_clusters(n=5000), []
    for memory in (1024.0, 0.0):
        mixture = pv.GaussianMixture(4, 3, **USUAL)
        fitted = pv.fit_em(mixture, x, epochs=5, memory_mib=memory)
        histories.append([row["objective"] for row in fitted.history])
    assert histories[0] == histories[1]


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_hard_em_with_one_fixed_scale_is_k_means(start):
    """From the same centres: scikit-learn's Lloyd, centre by centre; and the bound is its inertia, rescaled."""
    from sklearn.cluster import KMeans

    x = gaussian_clusters(n=400)
    mixture = pv.GaussianMixture(4, 3, "spherical", scale=0.5)
    pv.fit_em(mixture, x, epochs=1, hard=True, start=start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = KMeans(4, init=mixture.means.numpy(), n_init=1, algorithm="lloyd", tol=0, max_iter=500).fit(x.numpy())
    fitted = pv.fit_em(mixture, x, hard=True, start="current", tolerance=0, epochs=500)
    np.testing.assert_allclose(mixture.means, theirs.cluster_centers_, atol=1e-9)
    constant = -np.log(4) - 1.5 * np.log(2 * np.pi * 0.25)
    expected = constant - theirs.inertia_ / (2 * 0.25 * len(x))
    assert fitted.history[-1]["elbo"] == pytest.approx(expected, rel=1e-9)
    assert falls(fitted) < 1e-9


def test_k_means_is_the_limit_of_soft_em():
    """As the one shared scale goes to zero, responsibilities go to 0 or 1 and means to k-means', from one start."""
    x = gaussian_clusters(n=400)
    hard = pv.GaussianMixture(4, 3, "spherical", scale=1.0)
    pv.fit_em(hard, x, hard=True, tolerance=0)
    away, unsure = [], []
    for scale in (3.0, 1.0, 0.3, 0.1, 0.03):
        soft = pv.GaussianMixture(4, 3, "spherical", scale=scale)
        pv.fit_em(soft, x, tolerance=1e-12, epochs=2000)
        away.append((soft.means - hard.means).abs().max().item())
        unsure.append((1 - soft.responsibilities(x).amax(1)).mean().item())
    assert unsure == sorted(unsure, reverse=True)
    assert away[0] > 0.1
    assert away[-1] < 1e-3
    assert unsure[-1] < 1e-3


def test_online_em_comes_close_to_em():
    """Held-out log p(x) of lumps that lie apart, within 0.02 nats after four passes in small batches."""
    x = gaussian_clusters(n=6000, spread=6.0)
    batch, online = pv.GaussianMixture(4, 3, **USUAL), pv.GaussianMixture(4, 3, **USUAL)
    pv.fit_em(batch, x[:3000], num_starts=3)
    fitted = pv.fit_em(online, x[:3000], epochs=4, batch_size=50, num_starts=3)
    assert online.log_prob(x[3000:]).mean() > batch.log_prob(x[3000:]).mean() - 0.02
    kept = fitted.history[fitted.best_epoch - 1]
    assert kept["elbo"] == pytest.approx(online.log_prob(x[:3000]).mean().item(), rel=1e-9)
    ppca, exact = pv.PPCA(1, 3), pv.PPCA(1, 3)
    pv.fit_em(ppca, x, epochs=5, batch_size=200)
    pv.fit_closed_form(exact, x)
    assert ppca.log_prob(x).mean() > exact.log_prob(x).mean() - 0.02


def test_random_numbers_of_the_caller_are_untouched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), gaussian_clusters(), epochs=2)
    torch.manual_seed(5)
    mixture = pv.GaussianMixture(2, 3, **USUAL)
    torch.manual_seed(5)
    pv.fit_em(mixture, gaussian_clusters(), epochs=2, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_what_em_cannot_do():
    x = gaussian_clusters()
    with pytest.raises(InputError, match="no exact posterior"):
        pv.fit_em(pv.VAE(print, print, print), x)
    with pytest.raises(InputError, match="3 features"):
        pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), x[:, :2])
    with pytest.raises(InputError, match="NaN"):
        pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), torch.where(x > 3, torch.nan, x))
    with pytest.raises(InputError, match="0 or 1"):
        pv.fit_em(pv.BernoulliMixture(2, 3), x)
    with pytest.raises(InputError, match="as many rows"):
        pv.fit_em(pv.GaussianMixture(400, 3, **USUAL), x)
    with pytest.raises(InputError, match="try one of"):
        pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), x, start="kmeans")
    with pytest.raises(InputError, match="prior_rows above 0"):
        pv.fit_em(pv.GaussianMixture(2, 3, prior_rows=0), torch.ones(50, 3))
    with pytest.raises(InputError, match="one or more"):
        pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), x, epochs=0)
    with pytest.raises(InputError, match="is one start"):
        pv.fit_em(pv.GaussianMixture(2, 3, **USUAL), x, start="current", num_starts=2)
    frozen = pv.GaussianMixture(2, 3, **USUAL)
    frozen.loc.requires_grad_(False)
    with pytest.raises(InputError, match="loc is frozen"):
        pv.fit_em(frozen, x)
    with pytest.raises(InputError, match="3 features"):
        pv.fit_closed_form(pv.PPCA(1, 3), x[:, :2])
    with pytest.raises(InputError, match="NaN"):
        pv.fit_closed_form(pv.PPCA(1, 3), torch.where(x > 3, torch.nan, x))


def test_single_precision_goes_the_same_way():
    """Features, online EM and a network q(c|x) in float32."""
    x = gaussian_clusters(n=500).float()
    mixture = pv.GaussianMixture(3, 3, **USUAL).float()
    fitted = pv.fit_em(mixture, x, epochs=20)
    assert mixture.table() is not None
    double = pv.GaussianMixture(3, 3, **USUAL)
    pv.fit_em(double, x, epochs=20)
    assert fitted.history[-1]["elbo"] == pytest.approx(double.log_prob(x).mean().item(), abs=1e-3)
    pv.fit_em(pv.GaussianMixture(3, 3, **USUAL).float(), x, epochs=2, batch_size=100)
    guided = pv.GaussianMixture(3, 3, guide=pv.guides.CategoricalGuide(pv.nets.mlp(3, 8, 3)))
    assert torch.isfinite(torch.tensor(pv.fit(guided, x, epochs=2).history[-1]["elbo"]))


def test_one_row_and_no_spread():
    one = torch.ones(1, 3, dtype=torch.float64)
    for model in (pv.PPCA(1, 3), pv.FactorAnalysis(1, 3), pv.GaussianMixture(1, 3)):
        pv.fit_em(model, one)
        assert torch.isfinite(model.log_prob(one)).all()
    ppca = pv.PPCA(1, 3)
    pv.fit_closed_form(ppca, one)
    assert torch.isfinite(ppca.log_prob(one)).all()
