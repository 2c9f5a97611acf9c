"""The distributions of this package against those of Pyro and against decimal arithmetic."""

from decimal import Decimal, getcontext

import pyro.distributions as dist
import pytest
import torch
from part_tables import D

from pyro_vae.distributions import BernoulliVector, LogisticBins


def test_logistic_bins_are_exact_in_their_tails():
    """A difference of sigmoids loses all digits where both are near 0 or 1; compared with 60-digit arithmetic."""
    loc, scale = torch.tensor(0.5), torch.tensor(0.004)
    found = LogisticBins(loc, scale, 255).log_prob(torch.tensor([1.0, 60.0, 127.0, 254.0, 255.0]) / 255)
    getcontext().prec = 60

    def cdf(value):
        return 1 / (1 + (-(Decimal(value) - Decimal("0.5")) / Decimal(float(scale))).exp())

    half, expected = Decimal(1) / 510, []
    for level in (1, 60, 127, 254):
        x = Decimal(level) / 255
        expected.append(float((cdf(x + half) - cdf(x - half)).ln()))
    expected.append(float((1 - cdf(1 - half)).ln()))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_bernoulli_vector_is_equal_to_pyros_bernoulli():
    logits = torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(5, D) < 0.5).double()
    ours, pyros = BernoulliVector(logits), dist.Bernoulli(logits=logits).to_event(1)
    torch.testing.assert_close(ours.log_prob(x), pyros.log_prob(x))
    torch.testing.assert_close(ours.mean, pyros.mean)
    torch.testing.assert_close(ours.variance, pyros.variance)
    gradients = [torch.autograd.grad(d.log_prob(x).sum(), logits)[0] for d in (ours, pyros)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="support"):
        BernoulliVector(logits, validate_args=True).log_prob(x * 0.5)
    extreme = BernoulliVector(torch.tensor([[1e4, -1e4]])).log_prob(torch.tensor([[1.0, 0.0]]))
    assert extreme.item() == 0.0
