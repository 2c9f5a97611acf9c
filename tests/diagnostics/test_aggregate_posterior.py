"""The aggregate posterior against quadrature, closed forms and loops."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, PerRowGuide, plain_functions, vamp_vae
from oracles import LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae.diagnostics.aggregate_posterior import aggregate, log_aggregate
from pyro_vae.diagnostics.latent_codes import sample_codes, sample_prior_codes


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def by_quadrature(means, scale, prior_loc=0.0, prior_scale=1.0):
    """KL(q̄ ‖ p), I and the mean KL for normals N(μ_i, scale²) in one dimension."""
    at = torch.linspace(-15, 15, 20_001)
    log_q = torch.distributions.Normal(means[:, None], scale).log_prob(at)
    log_p = torch.distributions.Normal(prior_loc, prior_scale).log_prob(at)
    log_mix = log_q.logsumexp(0) - math.log(len(means))
    marginal = torch.trapezoid(log_mix.exp() * (log_mix - log_p), at)
    information = torch.trapezoid(log_q.exp() * (log_q - log_mix), at).mean()
    kl = torch.trapezoid(log_q.exp() * (log_q - log_p), at).mean()
    return float(marginal), float(information), float(kl)


def check(found, marginal, information, kl):
    """Within 5 of the Monte-Carlo errors that are said."""
    assert abs(found.marginal_kl - marginal) < 5 * found.marginal_kl_mc_se
    assert abs(found.mutual_information - information) < 5 * found.mutual_information_mc_se
    assert abs(found.kl - kl) < 5 * found.kl_mc_se
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl, abs=1e-9)
    assert found.mutual_information <= math.log(found.num_rows)


@pytest.mark.parametrize("num_rows", [2, 30])
def test_few_rows_of_a_linear_model_agree_with_quadrature(num_rows):
    exact = LinearGaussian(1, 4, loc=0.5, scale=1.3)
    x = 1.5 * exact.rows(num_rows)
    scale = float((exact.inflate * exact.posterior_cov).sqrt())
    expected = by_quadrature(exact.posterior_mean(x)[:, 0], scale, 0.5, 1.3)
    check(aggregate(exact, x, 4000), *expected)


def test_with_its_own_rows_and_posterior_the_aggregate_is_the_prior():
    """q̄ = p as N grows and I is that of a linear channel, ½ log det(prior) / det(posterior)."""
    exact = LinearGaussian(2, 5, inflate=1.0)
    found = aggregate(exact, exact.rows(3000), 2000)
    information = -0.5 * float(torch.logdet(exact.posterior_cov))
    assert abs(found.mutual_information - information) < 5 * found.mutual_information_mc_se
    assert abs(found.marginal_kl) < 0.03


def test_several_sites_weigh_as_one():
    """The same guide drawn in two halves, the second given the first."""
    for K in (2, 3):
        one, two = LinearGaussian(K, 6), LinearGaussian(K, 6, sites=2)
        x, z = one.rows(20), torch.randn(7, K)
        torch.testing.assert_close(log_aggregate(two, x, z), log_aggregate(one, x, z))
        mean, cov = one.posterior_mean(x), one.inflate * one.posterior_cov
        q = torch.distributions.MultivariateNormal(mean, cov)
        expected = q.log_prob(z[:, None]).logsumexp(1) - math.log(20)
        torch.testing.assert_close(log_aggregate(one, x, z), expected)
        a, b = aggregate(one, x, 4000), aggregate(two, x, 4000)
        assert abs(a.marginal_kl - b.marginal_kl) < 5 * math.hypot(a.marginal_kl_mc_se, b.marginal_kl_mc_se)


class OneAtATime(nn.Module):
    """A normal guide that takes its rows in no other shape: draws side by side do not work, rows repeated do."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            assert z.dim() == 2
            pyro.sample("x", dist.Normal(z.reshape(len(x), 2), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.4).to_event(1))


def test_a_program_that_takes_one_draw_at_a_time_gives_the_same():
    x, z = torch.randn(50, 2), torch.randn(9, 2)
    expected = dist.Normal(0.8 * x, 0.4).to_event(1).log_prob(z[:, None]).logsumexp(1) - math.log(50)
    torch.testing.assert_close(log_aggregate(OneAtATime(), x, z), expected)
    exact = aggregate(OneAtATime(), x, 500)
    assert 0 < exact.mutual_information < math.log(50)


def test_blocks_of_rows_and_draws_change_nothing(monkeypatch):
    exact = LinearGaussian(2, 5)
    x, z = exact.rows(23), torch.randn(17, 2)
    whole, points = aggregate(exact, x, 50), log_aggregate(exact, x, z)
    monkeypatch.setattr("pyro_vae.diagnostics.aggregate_posterior.ROWS_PER_BLOCK", 7)
    torch.testing.assert_close(log_aggregate(exact, x, z), points)
    in_blocks = aggregate(exact, x, 50)
    assert in_blocks.marginal_kl == pytest.approx(whole.marginal_kl, abs=1e-12)


def test_any_program_with_a_row_plate_will_do():
    x = (torch.rand(30, 6) < 0.5).double()
    for program in (Hierarchical(), vamp_vae()):
        found = aggregate(program.double(), x, 200)
        assert found.mutual_information <= math.log(30)
        assert math.isfinite(found.kl)
    plain = plain_functions()
    assert aggregate(plain, torch.randn(20, 3), 100).num_rows == 20
    assert sample_codes(plain, torch.randn(20, 3)).shape == (20, 1)
    per_row = PerRowGuide(30, torch.randn(6, 2), 1.0)
    assert aggregate(per_row, x, 100, rows=torch.arange(30)).mutual_information <= math.log(30)


def test_the_same_seed_gives_the_same_and_leaves_the_callers_numbers_alone():
    exact = LinearGaussian(2, 5)
    x = exact.rows(20)
    state = torch.get_rng_state()
    assert aggregate(exact, x, 40) == aggregate(exact, x, 40)
    assert aggregate(exact, x, 40) != aggregate(exact, x, 40, seed=1)
    torch.testing.assert_close(sample_codes(exact, x), sample_codes(exact, x))
    assert torch.equal(state, torch.get_rng_state())


def test_codes_drawn_from_the_guide_and_the_prior_have_their_moments():
    """Within 5 standard errors of 20,000 draws."""
    exact = LinearGaussian(2, 5, loc=3.0, scale=0.7)
    x = exact.rows(1).expand(20_000, -1)
    codes, prior = sample_codes(exact, x), sample_prior_codes(exact, 20_000, like=x)
    mean, cov = exact.posterior_mean(x[:1])[0], exact.inflate * exact.posterior_cov
    assert ((codes.mean(0) - mean).abs() < 5 * (cov.diagonal() / 20_000).sqrt()).all()
    torch.testing.assert_close(codes.T.cov(), cov, rtol=0.05, atol=0.05 * float(cov.max()))
    assert ((prior.mean(0) - 3).abs() < 5 * 0.7 / 20_000**0.5).all()
    assert prior.std(0).tolist() == pytest.approx([0.7, 0.7], rel=0.03)


def test_without_a_density_there_is_no_aggregate_but_there_are_codes():
    autoencoder = pv.Autoencoder(pv.nets.mlp(6, 8, 2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), num_latents=2)
    x = (torch.rand(30, 6) < 0.5).double()
    autoencoder = autoencoder.double()
    for ask in (
        aggregate,
        lambda p, x: log_aggregate(p, x, torch.zeros(1, 2)),
        lambda p, x: sample_prior_codes(p, 3, x),
    ):
        with pytest.raises(pv.InputError, match="no density"):
            ask(autoencoder, x)
    torch.testing.assert_close(sample_codes(autoencoder, x), autoencoder.encode(x))
    with pytest.raises(pv.InputError, match="expected points of 2 latents"):
        log_aggregate(LinearGaussian(2, 5), torch.zeros(3, 5), torch.zeros(3, 3))


def test_prior_codes_are_in_the_guides_order():
    """A guide may draw z2 before z1; p(z1) = N(10, 1), p(z2) = N(0, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("z1", dist.Normal(10.0, 1.0))
            second = pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((first + second)[:, None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("z1", dist.Normal(10.0, 1.0))

    program, x = pv.Program(model, guide), torch.zeros(200, 1)
    prior, drawn = sample_prior_codes(program, 200, like=x), sample_codes(program, x)
    torch.testing.assert_close(prior.mean(0), drawn.mean(0), atol=0.5, rtol=0)
    torch.testing.assert_close(prior.mean(0), torch.tensor([0.0, 10.0]), atol=0.4, rtol=0)
