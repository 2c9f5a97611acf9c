"""Every part of the registry against 120 digits, over its range; and single densities that were wrong once."""

import math

import density_tables
import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import likelihoods, registry
from pyro_vae.distributions import BernoulliVector, LogisticBins
from pyro_vae.distributions.exponential_families import Elements, exponential_form
from pyro_vae.distributions.stable_densities import ContinuousBernoulli, LogRatePoisson, NegativeBinomial, StudentT

CASES = [
    (kind, case, dtype)
    for kind, table in density_tables.KINDS.items()
    for cases in table.values()
    for case in cases
    for dtype in (torch.float32, torch.float64)
    if case.log_prob is not None or dtype == torch.float32
]


@pytest.mark.parametrize(
    ("kind", "case", "dtype"), CASES, ids=[f"{kind} {case.covers} {str(dtype)[6:]}" for kind, case, dtype in CASES]
)
def test_a_density_and_its_gradient_are_true_over_the_range(kind, case, dtype):
    found = density_tables.evaluate(case, dtype)
    assert found.share <= 1, found
    assert found.gradient <= 1, found


def test_the_tables_hold_every_part_of_the_registry():
    assert {kind: set(table) for kind, table in density_tables.KINDS.items()} == {
        kind: {entry.name for entry in registry.KINDS[kind].values() if entry.path.startswith("pyro_vae.")}
        for kind in density_tables.KINDS
    }


def test_continuous_bernoulli_of_saturated_pixels():
    """784 ones at a constant logit of 20: torch's clamped normalizer gives 2,170.88."""
    part = likelihoods.ContinuousBernoulli(nn.Identity())
    found = part(torch.full((784,), 20.0)).log_prob(torch.ones(784))
    assert float(found) == pytest.approx(float(784 * mp.log(20 / (1 - mp.exp(-20)))), abs=1e-3)
    assert float(found) == pytest.approx(2348.654, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_moments_and_quantiles(dtype):
    logits = torch.tensor([-1e4, -90.0, -20.0, -1.0, -0.2, -1e-5, 0.0, 1e-3, 0.24, 0.26, 7.0, 20.0, 200.0], dtype=dtype)
    fn = ContinuousBernoulli(logits=logits)
    exact = [mp.mpf(float(logit)) for logit in logits]
    mean = [1 / (1 - mp.exp(-a)) - 1 / a if a else mp.mpf(1) / 2 for a in exact]
    variance = [1 / a**2 - 1 / (4 * mp.sinh(a / 2) ** 2) if a else mp.mpf(1) / 12 for a in exact]
    torch.testing.assert_close(fn.mean, torch.tensor(list(map(float, mean)), dtype=dtype), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fn.variance, torch.tensor(list(map(float, variance)), dtype=dtype), rtol=1e-4, atol=0)
    for u in (0.0, 1e-3, 0.3, 0.999, 1.0):
        share = [mp.expm1(a * mp.mpf(u)) / mp.expm1(a) if a else mp.mpf(u) for a in exact]
        expected = torch.tensor(list(map(float, share)), dtype=dtype)
        torch.testing.assert_close(fn.cdf(torch.tensor(u, dtype=dtype)), expected, rtol=1e-4, atol=1e-6)
        back = fn.cdf(fn.icdf(torch.tensor(u, dtype=dtype)))[1:]  # at −1e4 rounding moves a quantile
        torch.testing.assert_close(back, torch.full_like(back, u), rtol=0, atol=1e-4)
    expected = [-(a * m - (mp.log(mp.expm1(a) / a) if a else 0)) for a, m in zip(exact, mean, strict=True)]
    torch.testing.assert_close(
        fn.entropy(), torch.tensor(list(map(float, expected)), dtype=dtype), rtol=1e-4, atol=1e-4
    )
    draws = fn.expand((20_000, len(logits))).sample()
    assert ((draws.mean(0) - fn.mean).abs() <= 5 * fn.variance.sqrt() / 20_000**0.5 + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("relaxed", [False, True])
def test_bernoulli_gradients_and_values_agree_with_and_without_gradients(dtype, relaxed):
    logits = torch.randn(40, 7, dtype=dtype) * 3
    x = torch.rand(40, 7, dtype=dtype) if relaxed else (torch.rand(40, 7) < 0.5).to(dtype)
    fn = BernoulliVector(logits, relaxed)
    with torch.no_grad():
        without = fn.log_prob(x)
    torch.testing.assert_close(without, fn.log_prob(x), rtol=1e-5, atol=1e-5)
    wide = BernoulliVector(logits, relaxed)
    with torch.no_grad():
        torch.testing.assert_close(wide.log_prob(x.expand(3, 40, 7)), without.expand(3, 40), rtol=1e-6, atol=1e-6)


def test_several_draws_of_a_row_at_large_logits():
    """As two sums 0.75 nats off, or above 0."""
    torch.manual_seed(0)
    x = (torch.rand(8, 784) < 0.5).float()
    logits = 1e4 * torch.randn(50, 8, 784).abs() * (2 * x - 1)
    with torch.no_grad():
        found, true = (BernoulliVector(values).log_prob(x.to(values.dtype)) for values in (logits, logits.double()))
    torch.testing.assert_close(found.double(), true, rtol=1e-4, atol=1e-3)
    assert (found <= 0).all()


def test_grey_levels_far_from_their_location_keep_the_width_of_a_level():
    found = LogisticBins(torch.tensor(-1e4), torch.tensor(1e4), 255).log_prob(torch.tensor(17 / 255))
    a = (mp.mpf(17) / 255 + mp.mpf(10) ** 4) / mp.mpf(10) ** 4
    density = -a - 2 * mp.log1p(mp.exp(-a)) - mp.log(255) - mp.log(mp.mpf(10) ** 4)
    assert float(found) == pytest.approx(float(density), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "pyros", "x"),
    [
        (
            StudentT(torch.tensor(4.0), torch.zeros(3, 2), torch.tensor([0.5, 2.0])),
            dist.StudentT(torch.tensor(4.0), torch.zeros(3, 2), torch.tensor([0.5, 2.0])),
            torch.randn(3, 2),
        ),
        (LogRatePoisson(torch.zeros(3, 2)), dist.Poisson(torch.ones(3, 2)), torch.ones(3, 2)),
        (
            NegativeBinomial(torch.tensor([1.0, 3.0]), torch.zeros(3, 2)),
            dist.NegativeBinomial(torch.tensor([1.0, 3.0]), logits=torch.zeros(3, 2)),
            torch.ones(3, 2),
        ),
    ],
    ids=["student-t", "poisson", "negative-binomial"],
)
def test_expanded_distributions_are_pyros(ours, pyros, x):
    assert ours.expand((5, 3, 2)).log_prob(x).shape == (5, 3, 2)
    torch.testing.assert_close(ours.expand((5, 3, 2)).log_prob(x), pyros.expand((5, 3, 2)).log_prob(x))
    torch.testing.assert_close(ours.mean, pyros.mean)
    torch.testing.assert_close(ours.variance, pyros.variance)
    assert ours.expand((5, 3, 2)).sample().shape == (5, 3, 2)


def test_the_form_by_products_takes_log_rates():
    log_rates = torch.tensor([[1e6], [2e6]]).log()
    x = torch.tensor([[1e6], [1.5e6]], dtype=torch.float64)
    form = exponential_form(LogRatePoisson(log_rates), Elements(x, lambda parameter: parameter.double()))
    expected = LogRatePoisson(log_rates.double()).log_prob(x[:, None]).sum(-1)
    torch.testing.assert_close(form.log_prob(), expected, rtol=0, atol=1e-6)


def test_counts_have_large_rates():
    """Means above e²⁰ are reached, and their gradient is not zero."""
    log_rate = torch.tensor([math.log(2e9)], requires_grad=True)
    fn = likelihoods.Poisson(nn.Identity())(log_rate)
    assert fn.mean.item() == pytest.approx(2e9, rel=1e-5)
    fn.log_prob(torch.tensor([1e9])).backward()
    assert log_rate.grad.item() == pytest.approx(-1e9, rel=1e-5)
