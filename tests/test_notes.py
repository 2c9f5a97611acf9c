"""Where the study notes err, the package states it right; each test here is the proof of one row of `docs/notes.md`."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv


def test_kl_is_zero_when_both_agree_and_can_be_below_one():
    prior = pv.priors.StandardNormal(3)()
    assert kl_divergence(prior, prior).item() == 0
    near = dist.Normal(torch.full((3,), 0.1), torch.full((3,), 0.9)).to_event(1)
    assert 0 < kl_divergence(near, prior).item() < 1


def test_a_draw_is_the_mean_plus_scale_times_noise():
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
    q = guide(torch.ones(200_000, 3))
    z = q.rsample()
    scale = q.base_dist.scale[0].item()
    assert scale != pytest.approx(scale**2, rel=0.05)
    assert z.std().item() == pytest.approx(scale, rel=0.01)


def test_kl_to_the_standard_normal_has_the_square_of_the_mean():
    loc, scale = torch.tensor([0.5, -2.0]), torch.tensor([0.3, 0.7])
    covariance = torch.diag(scale**2)
    right = 0.5 * (covariance.trace() + loc @ loc - 2 - covariance.logdet())
    wrong = 0.5 * (covariance.trace() + loc @ covariance.inverse() @ loc - 2 - covariance.logdet())
    found = kl_divergence(dist.Normal(loc, scale).to_event(1), pv.priors.StandardNormal(2)())
    assert found.item() == pytest.approx(right.item(), rel=1e-6)
    assert abs(found.item() - wrong.item()) > 1


def test_the_elbo_is_log_p_minus_log_q_and_so_below_log_px(tiny_vae):
    vae, x = tiny_vae
    found = pv.log_evidence(vae, x, num_samples=500)
    assert (found.elbo < found.log_px).all()
    assert found.elbo.mean() < 0, "minus the ELBO would be positive for binary rows"


def test_one_draw_for_each_row_is_unbiased_for_that_rows_term(tiny_vae):
    """Two different averages: over draws for one row, and over rows. The first has each row's own target."""
    vae, x = tiny_vae
    x = x[:5]
    many = pv.log_evidence(vae, x, num_samples=20_000, seed=0)
    single = torch.stack([pv.log_evidence(vae, x, num_samples=1, seed=s).elbo for s in range(1, 500)])
    error = single.std(0) / math.sqrt(len(single))
    assert ((single.mean(0) - many.elbo).abs() < 4.5 * error).all()
    assert many.elbo.std() > 10 * error.max(), (
        "the rows' terms differ: the mean over rows is no estimate of any of them"
    )


def test_reconstruction_is_squared_error_only_up_to_the_scale_that_weighs_the_kl():
    net, z, x = pv.nets.mlp(2, 4), torch.randn(6, 2), torch.randn(6, 4)
    for scale in (0.1, 1.0, 3.0):
        log_likelihood = pv.likelihoods.Normal(net, scale=scale)(z).log_prob(x)
        squared = (x - net(z)).square().sum(-1)
        constant = -4 * (math.log(scale) + 0.5 * math.log(2 * math.pi))
        torch.testing.assert_close(log_likelihood, -squared / (2 * scale**2) + constant, rtol=1e-4, atol=1e-3)


def test_a_scale_is_a_standard_deviation_everywhere():
    prior = pv.priors.Normal([0.0], [3.0])()
    assert prior.log_prob(torch.zeros(1)).item() == pytest.approx(-math.log(3) - 0.5 * math.log(2 * math.pi), rel=1e-6)
    assert prior.variance.item() == pytest.approx(9.0)
