"""Densities over a flat, unconstrained space: against the traces they come from, and as densities that integrate to
one."""

import math

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.sample_rows import simulate
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint


def joint_of(program, x):
    batch = Batch(x)
    plates = find_plates(program, batch)
    return UnconstrainedJoint(program, plates, batch), LogWeightSampler(program, plates, batch)


PROGRAMS = {
    "vamp": (example_programs.vamp_vae, 6),
    "hierarchy": (example_programs.Hierarchical, 6),
    "plain functions": (example_programs.plain_functions, 3),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_weights_at_a_draw_are_those_of_traces(name):
    make, D = PROGRAMS[name]
    program, x = make(), (torch.rand(7, D) < 0.5).float()
    with use_param_store(program), torch.no_grad(), pyro.validation_enabled(False):
        joint, weigher = joint_of(program, x)
        with seeded(3):
            u = joint.from_guide()
        with seeded(3):
            weights = weigher(Batch(x), 1)
        point = joint.at(u, guide=True)
        torch.testing.assert_close(point.likelihood, weights.log_likelihood[0])
        torch.testing.assert_close(point.prior - point.guide, weights.log_ratio[0])
        again = joint.at(u, guide=True)  # a guide of one site is kept, and answers the same
        torch.testing.assert_close(again.guide, point.guide)


def constrained(x):
    """A scale, a share and a proportion between 0 and the scale, in one row plate."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Gamma(2.0, 1.5))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        pyro.sample("x", _normal(a - b), obs=x)


def _normal(loc):
    return dist.Normal(loc[..., None], 1.0).to_event(1)


def weighted(x):
    """Proportions of three, two plates deep, beside the plate over rows."""
    with pyro.plate("data", len(x)):
        with pyro.plate("kinds", 2, dim=-2):
            shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([2.0, 1.0, 3.0])))
        pyro.sample("x", _normal(shares[..., 0].sum(-2)), obs=x)


@pytest.mark.parametrize(("model", "dim", "sizes"), [(constrained, 2, {"a": 1, "b": 1}), (weighted, 4, {"shares": 4})])
def test_constrained_latents_keep_a_density_that_integrates_to_one(model, dim, sizes):
    """By importance sampling from a wide normal over u, whose mean weight must be one; the grid does it for two."""
    program, x = pv.Program(model, model_as_guide(model)), torch.zeros(1, 1)
    torch.set_default_dtype(torch.float64)
    try:
        with use_param_store(program), torch.no_grad(), pyro.validation_enabled(False):
            few, _ = joint_of(program, x.double())
            assert few.sizes == sizes
            many = UnconstrainedJoint(program, few.plates, Batch(torch.zeros(400_000, 1)))
            u = 2.5 * torch.randn(400_000, dim)
            log_weights = many.at(u).prior - dist.Normal(0.0, 2.5).log_prob(u).sum(-1)
        weights = log_weights.exp()
        assert weights.mean().item() == pytest.approx(1.0, abs=4 * weights.std().item() / math.sqrt(len(weights)))
        assert weights.std().item() / math.sqrt(len(weights)) < 0.01
    finally:
        torch.set_default_dtype(torch.float32)


def model_as_guide(model):
    def guide(x):
        pyro.poutine.block(model, expose_fn=lambda msg: msg["type"] == "sample" and not msg["is_observed"])(x)

    return guide


def test_rows_and_latents_are_simulated_together():
    """x − E[x | z] has the likelihood's noise, which it would not if z belonged to another row."""
    program = example_programs.Hierarchical()
    with torch.no_grad(), pyro.validation_enabled(False):
        x, latents = simulate(program, Batch(torch.zeros(4000, 6)))
        means = torch.sigmoid(program.decoder(latents["z1"]))
    z = (x - means) / (means * (1 - means)).sqrt()
    assert z.square().mean().item() == pytest.approx(1.0, abs=0.05)
    assert z.mean(0).abs().max().item() < 0.08


def test_discrete_latents_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", _normal(c.float()), obs=x)

    program = pv.Program(model, model_as_guide(model))
    with pytest.raises(pv.InputError, match=r"latent c takes values in .*continuous latents"):
        pv.annealed_evidence(program, torch.zeros(3, 1))
