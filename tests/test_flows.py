"""Flows: log-determinants against autograd, splines against Pyro's, inverses, traced graphs."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.spline import ConditionedSpline
from torch.distributions import ComposeTransform
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.flows import Autoregressive, Couplings, rational_spline

FLOWS = {
    "couplings": lambda: Couplings(4, 3, layers=3),
    "couplings, odd": lambda: Couplings(3, 2, layers=2),
    "couplings, one latent": lambda: Couplings(1, 2, layers=2),
    "autoregressive": lambda: Autoregressive(4, 3, layers=3),
}


def randomized(flow):
    """The flow with random weights in float64, a context for it, and its number of latents."""
    flow = flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    num_context = flow.nets[0][0].in_features - max(flow.num_unchanged, 0) if isinstance(flow, Couplings) else 3
    num_latents = flow.num_unchanged + flow.num_transformed if isinstance(flow, Couplings) else 4
    return flow, torch.randn(num_context, dtype=torch.float64), num_latents


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS.keys())
def test_the_log_determinant_is_that_of_the_jacobian(make):
    flow, context, K = randomized(make())
    for _ in range(5):
        u = 2 * torch.randn(K, dtype=torch.float64)
        layers = ComposeTransform(flow(context))
        z = layers(u)
        jacobian = torch.autograd.functional.jacobian(lambda u: ComposeTransform(flow(context))(u), u)
        torch.testing.assert_close(layers.log_abs_det_jacobian(u, z), torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS.keys())
def test_other_points_are_scored_as_samples_are(make):
    flow, context, K = randomized(make())
    base = dist.Normal(torch.zeros(50, K, dtype=torch.float64), 2.0).to_event(1)  # some points outside the splines
    sampled = dist.TransformedDistribution(base, flow(context.expand(50, -1)))
    z = sampled.rsample()
    fresh = dist.TransformedDistribution(base, flow(context.expand(50, -1)))
    torch.testing.assert_close(fresh.log_prob(z.clone()), sampled.log_prob(z))


def test_couplings_broadcast_points_over_contexts():
    flow, _, K = randomized(Couplings(4, 3, layers=2))
    contexts, points = torch.randn(5, 3).double(), torch.randn(7, K).double()
    base = dist.Normal(torch.zeros(5, K).double(), 1.0).to_event(1)
    together = dist.TransformedDistribution(base, flow(contexts)).log_prob(points[:, None].expand(7, 5, K))
    for c in range(5):
        one = dist.TransformedDistribution(dist.Normal(torch.zeros(K).double(), 1.0).to_event(1), flow(contexts[c]))
        torch.testing.assert_close(together[:, c], torch.stack([one.log_prob(point) for point in points]))


def pyro_spline(x, raw, inverse=False):
    """Pyro's spline of the same raw parameters: images and log slopes."""
    bins = (raw.shape[-1] + 1) // 4
    widths, heights, lambdas, slopes = raw.split([bins, bins, bins, bins - 1], -1)
    slopes = F.softplus(slopes + math.log(math.e - 1))
    knots = F.softmax(widths, -1), F.softmax(heights, -1), slopes, torch.sigmoid(lambdas)
    spline = ConditionedSpline(knots, bound=5.0, order="linear")
    y = spline._inverse(x) if inverse else spline._call(x)
    return y, -spline._cache_log_detJ if inverse else spline._cache_log_detJ


def points_and_raw(spread, dtype):
    """Points on both sides of ±5 and at both, and raw parameters of splines of 8 bins for each."""
    x = 4 * torch.randn(500, 3, dtype=dtype)
    x[0], x[1] = 5.0, -5.0
    return x.requires_grad_(), (spread * torch.randn(500, 3, 31, dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize(
    ("dtype", "spread", "tolerance", "gradient_tolerance"),
    [(torch.float64, 1.0, 1e-10, 1e-8), (torch.float64, 3.0, 1e-10, 1e-6), (torch.float32, 0.1, 1e-5, 1e-4)],
    ids=["float64", "float64, steep", "float32"],
)
def test_splines_are_equal_to_pyros(inverse, dtype, spread, tolerance, gradient_tolerance):
    x, raw = points_and_raw(spread, dtype)
    ours, theirs = rational_spline(x, raw, inverse), pyro_spline(x, raw, inverse)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad((y.sin() + log_slope).sum(), (x, raw)) for y, log_slope in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=gradient_tolerance, atol=gradient_tolerance)


def test_splines_are_equal_to_pyros_at_the_knots():
    _, raw = points_and_raw(1.0, torch.float64)
    for inverse, sizes in ((False, raw[..., :8]), (True, raw[..., 8:16])):
        knots = 10 * (1e-3 + (1 - 8e-3) * sizes.softmax(-1)).cumsum(-1) - 5
        for x in knots.unbind(-1):
            for ours, theirs in zip(rational_spline(x, raw, inverse), pyro_spline(x, raw, inverse), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bins", [2, 5, 8])
def test_a_log_slope_is_equal_to_autograds(bins):
    x, raw = 3 * torch.randn(200, 2, dtype=torch.float64), torch.randn(200, 2, 4 * bins - 1, dtype=torch.float64)
    for inverse in (False, True):
        x.requires_grad_()
        y, log_slope = rational_spline(x, raw, inverse)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0].log(), log_slope)
        back, log_back = rational_spline(y, raw, not inverse)
        torch.testing.assert_close(back, x)
        torch.testing.assert_close(log_back, -log_slope)


def test_outside_a_spline_is_the_identity_and_its_gradients_finite():
    x = torch.tensor([[-1e30, -5.1, 5.1], [7.0, 1e4, torch.inf]], requires_grad=True)
    raw = (30 * torch.randn(2, 3, 31)).requires_grad_()
    for inverse in (False, True):
        y, log_slope = rational_spline(x, raw, inverse)
        assert torch.equal(y, x)
        assert not log_slope.any()
        of_x, of_raw = torch.autograd.grad(y.sum() + log_slope.sum(), (x, raw))
        assert bool((of_x == 1).all())
        assert not of_raw.any()


def test_splines_of_any_parameters_are_finite():
    x, raw = 4 * torch.randn(2000, 3), 30 * torch.randn(2000, 3, 31)
    x.requires_grad_(), raw.requires_grad_()
    for inverse in (False, True):
        y, log_slope = rational_spline(x, raw, inverse)
        gradients = torch.autograd.grad(y.sum() + log_slope.sum(), (x, raw))
        assert all(bool(found.isfinite().all()) for found in (y, log_slope, *gradients))


def test_saved_weights_keep_their_names_and_meaning():
    flow, context, _ = randomized(Couplings(5, 3, layers=2))
    assert list(flow.state_dict()) == [
        f"nets.{layer}.{i}.{what}" for layer in (0, 1) for i in (0, 2) for what in ("weight", "bias")
    ]
    u = 2 * torch.randn(50, 5, dtype=torch.float64)
    layers = ComposeTransform(flow(context.expand(50, -1)))
    z = layers(u)
    expected, log_det = u, torch.zeros(50, dtype=torch.float64)
    for i, net in enumerate(flow.nets):
        expected = expected.flip(-1) if i else expected
        raw = net(torch.cat([expected[:, :2], context.expand(50, -1)], -1)).unflatten(-1, (3, 31))
        y, log_slope = pyro_spline(expected[:, 2:], raw)
        expected, log_det = torch.cat([expected[:, :2], y], -1), log_det + log_slope.sum(-1)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layers.log_abs_det_jacobian(u, z), log_det, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("K", [1, 4])
def test_each_network_runs_once_to_sample_and_score(K):
    flow, calls = Couplings(K, 2, layers=3), []
    for net in flow.nets:
        net.register_forward_hook(lambda *_: calls.append(1))

    def transformed():
        return dist.TransformedDistribution(dist.Normal(torch.zeros(6, K), 1.0).to_event(1), flow(torch.zeros(6, 2)))

    sampled = transformed()
    z = sampled.rsample()
    sampled.log_prob(z)
    assert len(calls) == 3
    transformed().log_prob(z)
    assert len(calls) == 6
    layer = flow(torch.zeros(6, 2))[-1]
    u = layer.inv(z)
    assert layer(u) is z
    assert len(calls) == 7


@pytest.mark.parametrize("make", [FLOWS["couplings, odd"], FLOWS["couplings, one latent"]], ids=["three", "one"])
def test_a_traced_graph_is_equal_to_the_flow_on_other_noise(make):
    flow, context, K = randomized(make())

    def sample_and_score(scale):
        base = dist.Normal(torch.zeros(40, K, dtype=torch.float64), 1.0, validate_args=False).to_event(1)
        q = dist.TransformedDistribution(base, flow(context.expand(40, -1)), validate_args=False)
        z = q.rsample()
        return z, q.log_prob(z), q.log_prob(scale * z)

    graph = make_fx(sample_and_score)(torch.tensor(1.0).double())
    for seed in range(3):
        scale = torch.tensor(5.0).double()  # many points outside the splines
        torch.manual_seed(seed)
        traced = graph(scale)
        torch.manual_seed(seed)
        torch.testing.assert_close(traced, sample_and_score(scale))


def test_invalid_flow_arguments_raise_input_error():
    for make, message in [
        (lambda: Autoregressive(1, 2), "two latents or more"),
        (lambda: Couplings(0), "num_latents must be one or more"),
        (lambda: Couplings(2, layers=0), "layers must be one or more"),
        (lambda: Couplings(2, bins=1), "two bins or more"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
