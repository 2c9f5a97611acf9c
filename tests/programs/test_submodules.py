"""Parts and functions of a program that are submodules of it: from Python 3.12 on `isinstance` does not see them."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.plots.latent_manifold import prior_grid
from pyro_vae.plots.latent_view import require_program
from pyro_vae.typing import is_program


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


class OfSubmodules(nn.Module):
    """A program whose model, guide and prior are submodules, as a user may write it."""

    def __init__(self):
        super().__init__()
        self.model, self.guide, self.prior = Model(), Guide(), pv.priors.StandardNormal(2)

    def decode(self, z):
        return self.model.loc + z.sum(-1, keepdim=True)


def test_model_and_guide_may_be_submodules():
    program, x = OfSubmodules(), torch.randn(20, 3)
    assert is_program(program)
    assert require_program(program) is program
    pv.fit(program, x, epochs=1)
    assert pv.log_evidence(program, x, num_samples=30).log_px.shape == (20,)


def test_a_prior_and_a_decoder_of_ones_own_have_a_grid():
    assert prior_grid(OfSubmodules()).shape == (20, 20, 2)


def test_what_lacks_a_function_is_no_program():
    assert not is_program(nn.Linear(2, 2))
    assert not is_program(pv.PCA(2))
    assert not is_program(None)
