"""The VAE's verbs and its start."""

import pytest
import torch

import pyro_vae as pv


def test_verbs_have_the_documented_shapes_and_meanings(tiny_vae):
    vae, x = tiny_vae
    z = vae.encode(x)
    torch.testing.assert_close(z, vae.posterior(x).base_dist.loc)
    torch.testing.assert_close(vae.decode(z), torch.sigmoid(vae.likelihood.net(z)))
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(z))
    assert vae.decode(torch.zeros(4, 5, 2)).shape == (4, 5, 6)
    drawn = vae.sample(9, seed=1)
    assert drawn.shape == (9, 6)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


def test_output_bias_starts_at_the_data_mean_once(tiny_vae):
    vae, _ = tiny_vae
    x = torch.zeros(100, 6)
    x[:30, 0] = 1
    x[:, 5] = 1
    vae.init_from_data(x.mean(0), x)
    bias = vae.likelihood.net[-1].bias
    torch.testing.assert_close(
        torch.sigmoid(bias), torch.tensor([0.3, 1e-3, 1e-3, 1e-3, 1e-3, 0.999]), rtol=1e-4, atol=1e-6
    )
    vae.init_from_data(1 - x.mean(0), x)
    assert torch.sigmoid(bias)[0].item() == pytest.approx(0.3, rel=1e-4), (
        "a second fit goes on; it does not start again"
    )


def test_frozen_parts_are_not_started_anew(tiny_vae):
    vae, x = tiny_vae
    vae.likelihood.requires_grad_(False)
    before = vae.likelihood.net[-1].bias.clone()
    pv.fit(vae, x, epochs=1)
    assert torch.equal(vae.likelihood.net[-1].bias, before)


def test_parts_are_plain_arguments(tiny_vae):
    """Swapping a prior changes the model's density of z by exactly the two priors' difference."""
    import pyro.poutine as poutine

    vae, x = tiny_vae
    other = pv.VAE(pv.priors.Normal([1.0, -1.0], [2.0, 0.5]), vae.likelihood, vae.posterior)
    z = torch.randn(60, 2)
    density = [
        poutine.trace(poutine.condition(program.model, {"z": z})).get_trace(x).log_prob_sum()
        for program in (vae, other)
    ]
    expected = (other.prior().log_prob(z) - vae.prior().log_prob(z)).sum()
    torch.testing.assert_close(density[1] - density[0], expected, rtol=1e-4, atol=1e-3)
