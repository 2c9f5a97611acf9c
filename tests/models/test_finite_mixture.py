"""Mixtures: density, responsibilities and the Pyro program against torch's, scikit-learn's and sums over all rows."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae.errors import InputError
from pyro_vae.models.gaussian_mixture import COVARIANCES


def spread_out(covariance, C=4, D=3, distance=3.0, seed=0):
    """A mixture with parameters of its own, and rows from it."""
    g = torch.Generator().manual_seed(seed)
    mixture = pv.GaussianMixture(C, D, covariance)
    root = torch.randn(C, D, D, generator=g, dtype=torch.float64) / 2 + torch.eye(D, dtype=torch.float64)
    full = root @ root.mT
    shape = {
        "full": full,
        "tied": full[0],
        "diagonal": full.diagonal(dim1=1, dim2=2),
        "spherical": full[:, 0, 0],
    }[covariance]
    with torch.no_grad():
        mixture.loc.copy_(distance * torch.randn(C, D, generator=g, dtype=torch.float64))
        mixture.logits.copy_(torch.randn(C, generator=g, dtype=torch.float64))
    mixture.set_covariances(shape)
    pyro.set_rng_seed(seed)
    return mixture, mixture.sample(200)


def as_torch(mixture):
    """The same mixture by torch's own distributions."""
    C, D, covariances = mixture.num_components, mixture.num_features, mixture.covariances
    full = {
        "full": covariances,
        "tied": covariances.expand(C, D, D) if mixture.covariance == "tied" else None,
        "diagonal": covariances.diag_embed() if mixture.covariance == "diagonal" else None,
        "spherical": torch.eye(D) * covariances.reshape(-1, 1, 1) if mixture.covariance == "spherical" else None,
    }[mixture.covariance]
    parts = torch.distributions.MultivariateNormal(mixture.means, covariance_matrix=full.double())
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), parts)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("distance", "trusted"), [(3.0, True), (1e7, False)])
def test_log_prob_is_torchs(covariance, distance, trusted):
    """Whether the features are trusted or each component is solved for."""
    mixture, x = spread_out(covariance, distance=distance)
    assert (mixture.table() is not None) == trusted
    torch.testing.assert_close(mixture.log_prob(x), as_torch(mixture).log_prob(x), rtol=1e-9, atol=1e-9)


def test_features_agree_with_the_direct_form_just_before_they_are_given_up():
    """The largest distance at which features are still trusted: 1e-6 relative, row by row."""
    for distance in torch.logspace(1, 4, 40).tolist():
        mixture, x = spread_out("full", distance=distance)
        if mixture.table() is None:
            break
        found, exact = mixture.log_density(x), as_torch(mixture).log_prob(x)
        assert ((found - exact).abs() / exact.abs().clamp(min=1)).max() < 1e-6
    assert 5 < distance < 5000


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_criteria_and_responsibilities_are_scikit_learns(covariance):
    from sklearn.mixture import GaussianMixture

    mixture, x = spread_out(covariance)
    theirs = GaussianMixture(4, covariance_type={"diagonal": "diag"}.get(covariance, covariance), reg_covar=0.0)
    theirs.means_, theirs.weights_ = mixture.means.numpy(), mixture.weights.numpy()
    theirs.covariances_ = mixture.covariances.numpy()
    if covariance in ("full", "tied"):
        root = torch.linalg.cholesky(torch.linalg.inv(mixture.covariances))
        theirs.precisions_cholesky_ = root.numpy()
    else:
        theirs.precisions_cholesky_ = mixture.covariances.rsqrt().numpy()
    assert mixture.bic(x) == pytest.approx(theirs.bic(x.numpy()), rel=1e-9)
    assert mixture.aic(x) == pytest.approx(theirs.aic(x.numpy()), rel=1e-9)
    expected = torch.from_numpy(theirs.predict_proba(x.numpy()))
    torch.testing.assert_close(mixture.responsibilities(x), expected, rtol=0, atol=1e-9)
    assert torch.equal(mixture.predict(x), expected.argmax(1))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_samples_have_the_components_moments(covariance):
    """Means and variances of 40,000 draws of one component within 5 standard errors."""
    mixture, _ = spread_out(covariance)
    n = 40_000
    drawn = mixture.draw(torch.full((n,), 2)).detach()
    expected = as_torch(mixture).component_distribution
    cov = expected.covariance_matrix[2]
    assert ((drawn.mean(0) - mixture.means[2]).abs() < 5 * (cov.diagonal() / n).sqrt()).all()
    found = torch.cov(drawn.T)
    error = ((cov.diagonal()[:, None] * cov.diagonal() + cov.square()) / n).sqrt()
    assert ((found - cov).abs() < 5 * error).all()


def test_bits_sum_to_one():
    mixture = pv.BernoulliMixture(3, 5)
    with torch.no_grad():
        mixture.logits_of_bits.copy_(torch.randn(3, 5))
        mixture.logits.copy_(torch.randn(3))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    assert mixture.log_prob(every).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)
    bits = torch.distributions.Bernoulli(mixture.means[:, None])
    joint = bits.log_prob(every.double()).sum(-1) + mixture.weights.log()[:, None]
    torch.testing.assert_close(mixture.responsibilities(every), joint.softmax(0).T)
    drawn = mixture.sample(20_000)
    mean = mixture.weights @ mixture.means
    assert ((drawn.mean(0) - mean).abs() < 5 * (mean * (1 - mean) / 20_000).sqrt()).all()


def mixtures():
    gaussian, x = spread_out("full")
    bits = pv.BernoulliMixture(3, 5)
    return [(gaussian, x), (bits, (torch.rand(50, 5) < 0.4).double())]


@pytest.mark.parametrize("which", [0, 1])
def test_a_program_like_any_other(which, tmp_path):
    """Its guide is the exact posterior, so that every weight is p(x): importance sampling and summing find log_prob."""
    mixture, x = mixtures()[which]
    exact = mixture.log_prob(x)
    sampled = pv.log_evidence(mixture, x, num_samples=5)
    torch.testing.assert_close(sampled.log_px, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(sampled.elbo, exact, rtol=0, atol=1e-9)
    found = pv.exact_evidence(mixture, x)
    assert (found.method, found.kind) == ("the program's own", "exact")
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=0)
    summed = pv.exact_evidence(pv.Program(lambda x: mixture.model(x), lambda x: mixture.guide(x)), x)
    assert summed.method == "sum"
    torch.testing.assert_close(summed.log_px, exact, rtol=0, atol=1e-9)
    pv.save(mixture, tmp_path)
    assert torch.equal(pv.load(tmp_path).log_prob(x), exact)
    assert mixture.encode(x).shape == (len(x), 1)
    assert mixture.sample(7, seed=1).shape == (7, x.shape[1])


@pytest.mark.parametrize("which", [0, 1])
def test_the_enumerated_bound_touches_and_so_does_its_gradient(which):
    """TraceEnum_ELBO with the exact posterior is log p(x), and Fisher's identity makes its gradient that of log
    p(x)."""
    mixture, x = mixtures()[which]
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(mixture.model, mixture.guide, x)
    assert -loss.item() == pytest.approx(mixture.log_prob(x).sum().item(), rel=1e-12)
    gradients = torch.autograd.grad(-loss, list(mixture.parameters()))
    exact = torch.autograd.grad(mixture.log_density(x).sum(), list(mixture.parameters()))
    for ours, theirs in zip(gradients, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_label_summed_out_in_the_model_gives_the_same():
    mixture, x = mixtures()[0]
    program = pv.Program(lambda x: mixture.model(x), lambda x: None)
    assert -TraceEnum_ELBO(max_plate_nesting=1).loss(program.model, program.guide, x) == pytest.approx(
        mixture.log_prob(x).sum().item(), rel=1e-12
    )


def test_standardized_columns_count_their_jacobian():
    data = pv.load_data("seven-normals")
    mixture = pv.GaussianMixture(7, 1)
    pv.fit_em(mixture, data)
    scale = data.test.measure.scale[0]
    torch.testing.assert_close(mixture.log_prob(data.test), mixture.log_prob(data.test.x) - math.log(scale))


def test_rows_that_cannot_be_scored():
    """Another width, or NaN in a plain tensor, are errors; a split's gaps are missing values."""
    mixture, x = spread_out("full")
    with pytest.raises(InputError, match="3 features"):
        mixture.log_prob(x[:, :1])
    gaps = x.float()
    gaps[::2, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        pv.fit_em(mixture, gaps)
    assert math.isfinite(mixture.bic(pv.load_data(gaps, missing="mask").train))


def test_gradients_of_many_labels_stay_small():
    """200 components and 500 rows: no (C, n, C) array, on the way forth or back."""
    import resource

    mixture, x = pv.BernoulliMixture(200, 10), (torch.rand(500, 10) < 0.5).double()
    TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(mixture.model, mixture.guide, x[:10]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(mixture.model, mixture.guide, x).backward()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 100  # one such array has 153 MiB


def test_settings_that_cannot_be():
    with pytest.raises(InputError, match="try one of full"):
        pv.GaussianMixture(2, 2, "diag")
    with pytest.raises(InputError, match="goes with covariance='spherical'"):
        pv.GaussianMixture(2, 2, scale=1.0)
    with pytest.raises(InputError, match="one component"):
        pv.BernoulliMixture(0, 2)
    with pytest.raises(InputError, match="prior_rows"):
        pv.BernoulliMixture(2, 2, prior_rows=-1.0)
    with pytest.raises(InputError, match="singular"):
        pv.GaussianMixture(1, 2).set_covariances(torch.ones(1, 2, 2, dtype=torch.float64))


def test_a_guide_part_stands_in_for_the_posterior():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = pv.nets.mlp(3, 8, 4).double()

        def forward(self, x):
            return dist.Categorical(logits=self.net(x))

    mixture, x = spread_out("full", distance=1.0)
    amortized = pv.GaussianMixture(4, 3, guide=Net())
    amortized.load_state_dict(mixture.state_dict(), strict=False)
    bound = -TraceEnum_ELBO(max_plate_nesting=1).loss(amortized.model, amortized.guide, x)
    exact = as_torch(mixture)
    log_joint = exact.component_distribution.log_prob(x[:, None]) + mixture.weights.log()
    q = amortized.posterior(x).probs.detach()
    kl = (q * (q.log() - log_joint.log_softmax(1))).sum(1)
    torch.testing.assert_close(mixture.log_prob(x) - amortized.elbo(x), kl, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture.elbo(x), mixture.log_prob(x))
    assert mixture.log_prob(x).sum().item() - bound == pytest.approx(kl.sum().item(), rel=1e-9)
