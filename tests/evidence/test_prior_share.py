"""Defensive importance sampling: a share of the draws from the prior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_share_of_draws_from_the_prior_does_not_change_the_estimate(double, share):
    program = LinearGaussian(2, 5)
    x = program.rows(40)
    found = pv.log_evidence(program, x, num_samples=20_000, prior_share=share)
    wide = 4 * found.log_px_mc_se + float(found.mc_se.square().mean())  # the second is the bias of the logarithm
    assert abs((found.log_px - program.exact(x)).mean().item()) < wide
    assert math.isnan(found.elbo.mean()) == (share == 1.0)
    assert found.prior_share == share


def test_defensive_weights_are_bounded_and_save_rows_the_guide_misses(double):
    """The guide is 6 of its scales off: its own draws are 3 nats low and k-hat says so; a tenth from the prior mend
    it."""
    program = LinearGaussian(1, 3, noise=0.5)
    right = program.posterior_mean
    program.posterior_mean = lambda x: right(x) + 6 * program.posterior_cov.sqrt()[0]
    program.inflate = 1.0
    x = program.rows(50)
    exact = program.exact(x)
    plain = pv.log_evidence(program, x, num_samples=2000)
    defended = pv.log_evidence(program, x, num_samples=2000, prior_share=0.1)
    assert (exact - plain.log_px).mean() > 2
    assert plain.khat_bad > 0.9
    assert (defended.log_px - exact).abs().mean() < 0.25
    assert abs((defended.log_px - exact).mean()) < 4 * defended.log_px_mc_se + float(defended.mc_se.square().mean())


def test_two_kinds_of_draws_have_their_errors_by_kind(double):
    """200 copies of a row, each with draws of its own: the standard error that each reports is the spread of what they
    find."""
    program = LinearGaussian(1, 3)
    found = pv.log_evidence(program, program.rows(1).expand(200, -1), num_samples=400, prior_share=0.25)
    assert found.mc_se.mean().item() == pytest.approx(found.log_px.std().item(), rel=0.2)


def test_wrong_shares_are_refused(tiny_vae):
    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match=r"from 0 to 1, got 1\.5"):
        pv.log_evidence(vae, x, prior_share=1.5)
    with pytest.raises(pv.InputError, match="num_samples of 4 or more"):
        pv.log_evidence(vae, x, 3, prior_share=0.5)


def test_a_row_far_outside_is_saved_and_not_lost_to_overflow(double):
    """log p(z) − log q(z) is −800 there: exp of its negative is infinite, the weight is not zero."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 1.01, math.sqrt(0.01 / 1.01)))

    x = torch.tensor([[0.0], [40.0], [60.0]])
    exact = dist.Normal(0.0, math.sqrt(1.01)).log_prob(x[:, 0])
    found = pv.log_evidence(pv.Program(model, guide), x, 1000, prior_share=0.1)
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=0.02)
    assert torch.isfinite(found.smoothed).all()


def test_draws_of_the_prior_need_a_guide_with_a_density(double):
    def guide(x):
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))

    exact = LinearGaussian(2, 4)
    program, x = pv.Program(exact.model, guide), exact.rows(5)
    assert torch.isfinite(pv.log_evidence(program, x, 100).log_px).all()
    with pytest.raises(
        pv.InputError, match="its auxiliary u leave it without a density of z alone; take prior_share=0"
    ):
        pv.log_evidence(program, x, 100, prior_share=0.1)
