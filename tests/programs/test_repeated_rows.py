"""log p(x, u) at several points of each row: under a plate, and with rows repeated, as at one point at a time."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.repeated_rows import joint_at_draws
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint

D, N, S = 5, 4, 6


def two_sites():
    """A positive latent, and two that depend on it."""
    net, encoder = pv.nets.mlp(3, 8, D), pv.nets.mlp(D, 8, 3)

    def model(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            z = pyro.sample("z", dist.Normal(a[..., None].expand(*a.shape, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(torch.cat([a[..., None], z], -1)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            out = encoder(x)
            pyro.sample("a", dist.LogNormal(out[..., 0], 0.3))
            pyro.sample("z", dist.Normal(out[..., 1:], 1.0).to_event(1))

    return pv.Program(model, guide)


def another_plate():
    """Three latents in a plate of their own, to the right of the plate over rows."""
    net, encoder = pv.nets.mlp(3, 8, D), pv.nets.mlp(D, 8, 3)

    def model(x):
        with pyro.plate("rows", len(x), dim=-2):
            with pyro.plate("latents", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z)[..., None, :], 1.0).to_event(1), obs=x[:, None])

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("latents", 3, dim=-1):
            pyro.sample("z", dist.Normal(encoder(x), 1.0))

    return pv.Program(model, guide)


@pytest.mark.parametrize("make", [two_sites, another_plate])
@pytest.mark.parametrize("vectorized", [True, False])
def test_several_points_have_the_densities_of_one_at_a_time(make, vectorized):
    program, batch = make(), Batch(torch.randn(N, D))
    with torch.no_grad(), pyro.validation_enabled(False):
        plates = find_plates(program, batch)
        one, several = (
            UnconstrainedJoint(program, plates, batch),
            joint_at_draws(UnconstrainedJoint(program, plates, batch), batch, S, vectorized=vectorized),
        )
        for u in (several.from_guide(), several.from_prior()):
            assert u.shape == (S, N, one.dim)
            found = several.at(u, guide=True)
            for draw in range(S):
                expected = one.at(u[draw], guide=True)
                for name in ("likelihood", "prior", "guide"):
                    torch.testing.assert_close(getattr(found, name)[draw], getattr(expected, name))


def test_a_draw_of_the_latents_runs_no_decoder():
    calls = []
    net = pv.nets.mlp(2, 8, D)
    net.register_forward_hook(lambda *_: calls.append(1))
    vae = pv.VAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(net), pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 4))
    )
    batch = Batch((torch.rand(N, D) < 0.5).float())
    with torch.no_grad():
        joint = UnconstrainedJoint(vae, find_plates(vae, batch), batch, draws=S)
        calls.clear()
        u = joint.from_prior(), joint.from_guide()
        assert not calls
        joint.at(u[0])
        assert len(calls) == 1
