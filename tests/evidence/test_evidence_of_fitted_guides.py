"""Importance sampling with fitted guides, and with the exact posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from torch import nn

import pyro_vae as pv


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Fitted(LinearGaussian):
    """The exact model with a guide that has to be fitted: means linear in x, one covariance for all rows."""

    def __init__(self, K, D):
        super().__init__(K, D)
        self.loc, self.tril = nn.Linear(D, K), nn.Parameter(0.1 * torch.eye(K))
        nn.init.zeros_(self.loc.weight)

    def guide(self, x):
        pyro.module("loc", self.loc)
        raw = pyro.param("tril", self.tril)
        scale_tril = raw.tril(-1) + torch.diag(0.1 * nn.functional.softplus(10 * raw.diagonal()))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.loc(x), scale_tril=scale_tril))


@pytest.mark.parametrize(("K", "epochs"), [(1, 20), (10, 20), (50, 40)])
def test_a_fitted_guide_is_right_where_khat_is_low(double, K, epochs):
    program = Fitted(K, 784)
    pv.fit(program, program.rows(2000, seed=2), epochs=epochs, learning_rate=3e-3, progress="none")
    x = program.rows(100)
    found, exact = pv.log_evidence(program, x, num_samples=2000), program.exact(x)
    good = found.khat < 0.5
    assert good.double().mean() > 0.5
    assert abs((found.log_px - exact)[good].mean().item()) < 0.05
    assert (found.iwae[2000] - found.elbo).min() > 0


@pytest.mark.parametrize("K", [1, 10, 50])
def test_weights_have_no_variance_under_the_exact_posterior(double, K):
    program = LinearGaussian(K, 784, inflate=1.0)
    x = program.rows(10)
    found = pv.log_evidence(program, x, num_samples=100, iwae=(1, 10))
    torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-8)
    assert (found.mc_se < 1e-8).all()
    assert (found.khat == 0).all()
    torch.testing.assert_close(found.iwae[1], found.iwae[10], rtol=0, atol=1e-8)
