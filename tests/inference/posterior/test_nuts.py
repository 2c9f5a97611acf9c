"""A posterior bent like a banana: a flow's ELBO comes to the exact log p(x) of a grid where mean-field cannot."""

import math

import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, nets
from pyro_vae.inference.posterior.nuts import Posterior


class Bent(nn.Module):
    """p(x|z) = N(x; z2 + z1²/2, 0.3²), without parameters."""

    def forward(self, z):
        return dist.Normal((z[..., 1] + z[..., 0].square() / 2)[..., None], 0.3).to_event(1)


def test_a_flow_bends_where_mean_field_cannot():
    prior = pv.priors.StandardNormal(2)
    parts = {
        "mean-field": guides.MeanFieldNormal(nets.mlp(1, 32, guides.MeanFieldNormal.outputs(2))),
        "flow": guides.FlowGuide(nets.mlp(1, 32, guides.FlowGuide.outputs(2)), 2, layers=2, hidden=32),
    }
    source = pv.VAE(prior, Bent(), parts["mean-field"])
    train, x = source.sample(1000, seed=0), source.sample(100, seed=1)
    side = torch.linspace(-6, 6, 601)
    z = torch.cartesian_prod(side, side)
    log_joint = prior().log_prob(z) + Bent()(z).log_prob(x[:, None])
    exact = torch.logsumexp(log_joint, 1) + 2 * math.log(side[1] - side[0])
    gaps = {}
    for name, guide in parts.items():
        vae = pv.VAE(prior, Bent(), guide)
        pv.fit(vae, train, epochs=60, batch_size=200, num_particles=4, clip=1.0)
        gaps[name] = (exact - pv.log_evidence(vae, x, num_samples=500).elbo).mean().item()
    assert gaps["mean-field"] > 0.4
    assert -0.01 < gaps["flow"] < 0.1


def posterior(rhat=1.009, ess=201.0, divergences=0):
    draws = torch.zeros(2, 5, 3, 1)
    return Posterior(draws, draws[0], torch.full((3, 1), rhat), torch.full((3, 1), ess), divergences, ("z",))


def test_what_is_trusted_and_what_is_said():
    assert posterior().trusted
    assert not posterior(rhat=1.01).trusted
    assert not posterior(ess=200.0).trusted  # a hundred for each of two chains
    assert not posterior(divergences=1).trusted
    assert "3 rows, 1 latents, 2 chains of 5: r-hat up to 1.009, ESS from 201, 0 divergences" in repr(posterior())
