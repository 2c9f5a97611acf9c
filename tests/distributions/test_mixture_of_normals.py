"""Mixtures of normals in every shape against torch's own, value by value and gradient by gradient."""

import itertools

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions.mixture_of_normals import NormalMixture

C, K = 3, 2
ROWS = ((), (4,), (5, 4))


def reference(loc, scale, logits, value):
    """Torch's mixture of the same components, in float64."""
    components = dist.Normal(loc.double(), scale.double()).to_event(1)
    return torch.distributions.MixtureSameFamily(dist.Categorical(logits=logits.double()), components).log_prob(value)


def parameters(rows, shared):
    torch.manual_seed(0)
    own = () if shared else rows
    return torch.randn(*own, C, K), torch.rand(*own, C, K) + 0.1, torch.randn(*own, C)


@pytest.mark.parametrize(("rows", "points"), [*itertools.product(ROWS, ROWS)])
@pytest.mark.parametrize("kind", ["shared", "of each row", "logits of each row"])
def test_densities_of_every_shape(rows, points, kind):
    loc, scale, logits = parameters(rows, kind != "of each row")
    if kind == "logits of each row":
        logits = torch.randn(*rows, C)
    leaves = [each.requires_grad_() for each in (loc, scale, logits)]
    mixture = NormalMixture(*leaves).expand(rows)
    assert mixture.batch_shape == rows
    value = torch.randn(*points, K)
    found = mixture.log_prob(value)
    wide = (each.expand(rows + sizes) for each, sizes in zip(leaves, ((C, K), (C, K), (C,)), strict=True))
    expected = reference(*wide, value)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    pair = [torch.autograd.grad(total.sum(), leaves) for total in (found, expected)]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_expanding_again_and_narrow_components_far_away():
    loc, scale, logits = parameters((), True)
    mixture = NormalMixture(1e4 + loc, 1e-3 * scale, logits).expand((4,)).expand((5, 4))
    value = mixture.sample()
    assert value.shape == (5, 4, K)
    expected = reference(1e4 + loc, 1e-3 * scale, logits, value.double())
    torch.testing.assert_close(mixture.log_prob(value).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixture.mean, NormalMixture(1e4 + loc, 1e-3 * scale, logits).mean.expand(5, 4, K))


def test_scales_that_broadcast_over_dimensions():
    loc, _, logits = parameters((), True)
    value = torch.randn(7, K)
    for scale in (torch.full((C, 1), 2.0), torch.full((1, 1), 2.0), torch.full((1, K), 2.0)):
        expected = reference(loc, scale.expand(C, K), logits, value)
        torch.testing.assert_close(NormalMixture(loc, scale, logits).log_prob(value).double(), expected)


def test_a_mixture_that_is_kept_follows_its_parameters():
    """In their memory, as an optimizer's step or loaded weights change them; and it can be used in two graphs."""
    loc, scale, logits = parameters((), True)
    scale.requires_grad_()
    mixture, value = NormalMixture(loc, scale, logits).expand((7,)), torch.randn(7, K)
    for factor in (1.0, 3.0):
        with torch.no_grad():
            scale.mul_(factor)
        found = mixture.log_prob(value)
        torch.testing.assert_close(found.double(), reference(loc, scale, logits, value))
        found.sum().backward()
    assert mixture.expand([-1]).batch_shape == (7,)
