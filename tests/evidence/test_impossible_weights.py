"""Weights that no draw of a density has are refused: rounding has spoiled log q."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import RowsError


class Constant(nn.Module):
    """A network with the same outputs for every row."""

    def __init__(self, *outputs):
        super().__init__()
        self.register_buffer("outputs", torch.tensor(outputs))

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], -1)


def narrow():
    """Two latents of location 40, scales 1e-4 and slope −1.3e6: a float32 latent is rounded by 4 of its scales."""
    guide = pv.guides.FullRankNormal(Constant(40.0, 40.0, -30.0, -30.0, -128.7), 2)
    return pv.VAE(pv.priors.Normal([40.0, 40.0], 100.0), pv.likelihoods.Poisson(Constant(0.0, 0.0)), guide)


@pytest.mark.parametrize(
    "score",
    [
        lambda vae, x: pv.log_evidence(vae, x, num_samples=50),
        lambda vae, x: pv.log_evidence(vae, x, num_samples=50, prior_share=0.5),
        lambda vae, x: pv.auto_evidence(vae, x, 50),
    ],
)
def test_log_q_without_digits_is_refused(score):
    """In float32 log p(x) of counts was 4e5 nats; in float64 it is right."""
    x = torch.ones(5, 2)
    with pytest.raises(RowsError, match=r"rounding has spoiled log q \(take --dtype float64"):
        score(narrow(), x)
    found = score(narrow().double(), x.double())
    exact = 2 * float(dist.Poisson(1.0).log_prob(torch.tensor(1.0)))  # the decoder does not read z
    assert (found.log_px < exact + 0.5).all()


@pytest.mark.parametrize(("loc", "raw"), [(0.0, 0.5413), (30.0, -30.0), (-5.0, 100.0)])
def test_other_guides_are_scored(loc, raw):
    """One that is the prior, a narrow one far from it, and a wide one."""
    guide = pv.guides.MeanFieldNormal(Constant(loc, raw))
    vae = pv.VAE(pv.priors.StandardNormal(1), pv.likelihoods.Poisson(Constant(0.0)), guide)
    found = pv.log_evidence(vae, torch.ones(4, 1), num_samples=2000)
    assert torch.isfinite(found.elbo).all()
    assert (found.log_px < 0).all()
