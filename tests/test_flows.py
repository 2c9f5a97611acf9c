"""Flows: their log-determinants against autograd, their inverses against themselves."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import ComposeTransform

import pyro_vae as pv
from pyro_vae.flows import Autoregressive, Couplings

FLOWS = {
    "couplings": lambda: Couplings(4, 3, layers=3),
    "couplings, odd": lambda: Couplings(3, 2, layers=2),
    "couplings, one latent": lambda: Couplings(1, 2, layers=2),
    "autoregressive": lambda: Autoregressive(4, 3, layers=3),
}


def bent(flow):
    """The flow with weights that bend, in float64, and a context for it."""
    flow = flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    num_context = flow.nets[0][0].in_features - max(flow.kept, 0) if isinstance(flow, Couplings) else 3
    num_latents = flow.kept + flow.bent if isinstance(flow, Couplings) else 4
    return flow, torch.randn(num_context, dtype=torch.float64), num_latents


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS.keys())
def test_the_log_determinant_is_that_of_the_jacobian(make):
    flow, context, K = bent(make())
    for _ in range(5):
        u = 2 * torch.randn(K, dtype=torch.float64)
        layers = ComposeTransform(flow(context))
        z = layers(u)
        jacobian = torch.autograd.functional.jacobian(lambda u: ComposeTransform(flow(context))(u), u)
        torch.testing.assert_close(layers.log_abs_det_jacobian(u, z), torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS.keys())
def test_points_a_flow_did_not_draw_are_scored_as_if_it_had(make):
    flow, context, K = bent(make())
    base = dist.Normal(torch.zeros(50, K, dtype=torch.float64), 2.0).to_event(1)  # some points outside the splines
    drawn = dist.TransformedDistribution(base, flow(context.expand(50, -1)))
    z = drawn.rsample()
    fresh = dist.TransformedDistribution(base, flow(context.expand(50, -1)))
    # Pyro's splines look knots up with a tolerance of 1e-6
    torch.testing.assert_close(fresh.log_prob(z.clone()), drawn.log_prob(z), rtol=1e-5, atol=1e-5)


def test_couplings_broadcast_points_over_contexts():
    flow, _, K = bent(Couplings(4, 3, layers=2))
    contexts, points = torch.randn(5, 3).double(), torch.randn(7, K).double()
    base = dist.Normal(torch.zeros(5, K).double(), 1.0).to_event(1)
    together = dist.TransformedDistribution(base, flow(contexts)).log_prob(points[:, None].expand(7, 5, K))
    for c in range(5):
        one = dist.TransformedDistribution(dist.Normal(torch.zeros(K).double(), 1.0).to_event(1), flow(contexts[c]))
        torch.testing.assert_close(together[:, c], torch.stack([one.log_prob(point) for point in points]))


def test_wrong_flows_are_named():
    for make, message in [
        (lambda: Autoregressive(1, 2), "two latents or more"),
        (lambda: Couplings(0), "num_latents must be one or more"),
        (lambda: Couplings(2, layers=0), "layers must be one or more"),
        (lambda: Couplings(2, bins=1), "two bins or more"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
