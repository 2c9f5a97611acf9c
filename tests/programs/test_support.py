"""The density of a value outside the support is zero, at its boundary what torch gives, and inside the same bits."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transforms

from pyro_vae.distributions import BernoulliVector, Observed
from pyro_vae.programs.support import (
    inside_support,
    is_constrained,
    is_point_mass,
    never_leaves,
    zero_outside_support,
)

INF = math.inf


def log_prob(fn, value):
    with pyro.validation_enabled(False):
        fn = fn()
        value = torch.as_tensor(value)
        return fn.log_prob(value), zero_outside_support(fn, value, fn.log_prob(value))


OUTSIDE = {
    "exponential": (lambda: dist.Exponential(1.0), -3.0),
    "gamma": (lambda: dist.Gamma(2.0, 1.0), -1.0),
    "half-normal": (lambda: dist.HalfNormal(1.0), -1.0),
    "log-normal": (lambda: dist.LogNormal(0.0, 1.0), -1.0),
    "beta": (lambda: dist.Beta(2.0, 3.0), 1.5),
    "poisson at 2.5": (lambda: dist.Poisson(3.0), 2.5),
    "poisson at -1": (lambda: dist.Poisson(3.0), -1.0),
    "bernoulli": (lambda: dist.Bernoulli(0.3), 0.5),
    "uniform": (lambda: dist.Uniform(0.0, 1.0), 2.0),
    "pareto": (lambda: dist.Pareto(torch.tensor(1.0), torch.tensor(2.0)), 0.5),
    "one of a vector": (lambda: dist.Exponential(torch.ones(2)).to_event(1), [1.0, -1.0]),
    "simplex": (lambda: dist.Dirichlet(torch.ones(2)), [0.7, 0.7]),
    "simplex, negative": (lambda: dist.Dirichlet(torch.ones(2)), [1.2, -0.2]),
    "binary vector": (lambda: BernoulliVector(torch.zeros(2)), [0.5, 1.0]),
    "categorical": (lambda: dist.Binomial(3, 0.5), 4.0),
    "mixture": (
        lambda: dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(torch.tensor([1.0, 2.0]), 1.0)),
        -1.0,
    ),
    "transformed": (
        lambda: dist.TransformedDistribution(dist.Exponential(1.0), [transforms.AffineTransform(1.0, 2.0)]),
        0.0,
    ),
    "exp of a normal": (lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.ExpTransform()]), -1.0),
    "expanded": (lambda: dist.Exponential(1.0).expand_by([2]).to_event(1), [1.0, -1.0]),
    "zero-inflated": (lambda: dist.ZeroInflatedPoisson(torch.tensor(3.0), gate=torch.tensor(0.3)), 2.5),
    "log-normal at 0, where torch has NaN": (lambda: dist.LogNormal(0.0, 1.0), 0.0),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_the_support_the_density_is_zero(name):
    assert log_prob(*OUTSIDE[name])[1].tolist() == -INF


SAME = {
    "exponential at 0": (lambda: dist.Exponential(1.0), 0.0),
    "gamma at 0": (lambda: dist.Gamma(1.0, 1.0), 0.0),
    "log-normal at the smallest float": (lambda: dist.LogNormal(0.0, 1.0), 1e-45),
    "weibull of shape one at 0": (lambda: dist.Weibull(1.0, 1.0), 1e-38),
    "a saturated sigmoid": (lambda: dist.Beta(1.0, 1.0), 1.0),
    "a simplex with rounding": (
        lambda: dist.Dirichlet(torch.ones(500)),
        torch.softmax(torch.linspace(-3, 3, 500), 0) * (1 + 5e-6),
    ),
    "a relaxed pixel": (lambda: BernoulliVector(torch.zeros(2), relaxed=True), [0.5, 1.0]),
    "normal": (lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), [1.0, -1.0]),
    "masked": (lambda: dist.Exponential(torch.ones(2)).mask(torch.tensor([True, False])).to_event(1), [1.0, -1.0]),
    "masked by False": (lambda: dist.Exponential(1.0).mask(False), -1.0),
    "missing values": (lambda: Observed(BernoulliVector(torch.zeros(2)), torch.tensor([True, False])), [1.0, 0.5]),
    "missing reals": (
        lambda: Observed(dist.Gamma(torch.ones(2), 1.0).to_event(1), torch.tensor([True, False])),
        [1.0, -2.0],
    ),
    "delta": (lambda: dist.Delta(torch.tensor(-1.0)), -1.0),
    "Cholesky factor of a correlation": (lambda: dist.LKJCholesky(2), [[1.0, 0.0], [0.6, 0.8]]),
    "NaN stays": (lambda: dist.Gamma(torch.ones(2), 1.0).to_event(1), [1.0, math.nan]),
}


@pytest.mark.parametrize("name", SAME)
def test_elsewhere_no_bit_changes(name):
    before, after = log_prob(*SAME[name])
    assert torch.equal(before, after) or (before.isnan().all() and after.isnan().all())


def test_components_of_a_mixture_have_supports_of_their_own():
    """Half of U(0, 1) and half of a Pareto from 2: each value belongs to one of them."""

    def mixture():
        components = dist.Pareto(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), components)

    with pyro.validation_enabled(False):
        expected = (0.5 * torch.tensor(2.0) * 2.0**-3).log()  # at 2 the first component alone: 2 / z³
        torch.testing.assert_close(log_prob(mixture, 2.0)[1], expected)
        vector = lambda: dist.MixtureSameFamily(  # noqa: E731
            dist.Categorical(torch.ones(2, 2)), dist.Pareto(torch.tensor([[1.0, 3.0]] * 2), torch.tensor(2.0))
        ).to_event(1)
        torch.testing.assert_close(log_prob(vector, [2.0, 2.0])[1], 2 * expected)


def test_a_batch_keeps_its_shape():
    """Values (3, 2, 4) of a distribution of batch (2,) and event (4,)."""
    fn, value = dist.Exponential(torch.ones(2, 4), validate_args=False).to_event(1), torch.ones(3, 2, 4)
    value[1, 0, 2] = -1.0
    found = zero_outside_support(fn, value, fn.log_prob(value))
    assert found.shape == (3, 2)
    assert found.isinf().nonzero().tolist() == [[1, 0]]


def test_log_probability_is_at_most_zero_where_rounding_is_large():
    """Σ x·l − Σ log(1 + e^l) is a difference of two sums near a million: rounding brought it up to half a nat above."""
    logits = 1000 * (1 + 0.3 * torch.rand(64, 784, generator=torch.Generator().manual_seed(0)))
    fn, x = BernoulliVector(logits.expand(5, 64, 784)), torch.ones(64, 784)
    assert fn.log_prob(x).max() > 0.01
    assert zero_outside_support(fn, x, fn.log_prob(x)).max() == 0


PAIRS = [
    (dist.Normal(0.0, 1.0), dist.StudentT(3.0), True),
    (dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0), True),
    (dist.Gamma(1.0, 1.0), dist.LogNormal(0.0, 1.0), True),
    (dist.LogNormal(0.0, 1.0), dist.Gamma(1.0, 1.0), True),  # zero lies on the boundary
    (dist.Gamma(1.0, 1.0), dist.Beta(1.0, 1.0), True),
    (dist.Beta(1.0, 1.0), dist.Gamma(1.0, 1.0), False),
    (dist.Gamma(1.0, 1.0), dist.Normal(0.0, 1.0), False),
    (dist.Dirichlet(torch.ones(3)), dist.Dirichlet(torch.ones(3)), True),
    (dist.Dirichlet(torch.ones(3)), dist.Normal(torch.zeros(3), 1.0).to_event(1), False),
    (dist.Categorical(torch.ones(4)), dist.Categorical(torch.ones(4)), True),
    (dist.Categorical(torch.ones(4)), dist.Categorical(torch.ones(5)), False),
    (dist.Poisson(1.0), dist.Bernoulli(0.5), True),
    (dist.Uniform(0.0, 1.0), dist.Normal(0.0, 1.0), False),
]


@pytest.mark.parametrize(("outer", "inner", "expected"), PAIRS)
def test_which_guides_never_leave_the_support(outer, inner, expected):
    assert never_leaves(outer, inner) is expected


def test_point_masses_also_inside_others():
    delta = dist.Delta(torch.zeros(2))
    assert all(map(is_point_mass, (delta, delta.to_event(1), delta.mask(True).to_event(1), delta.expand_by([3]))))
    assert is_point_mass(dist.TransformedDistribution(delta, [transforms.ExpTransform()]))
    assert is_point_mass(dist.Empirical(torch.zeros(3), torch.zeros(3)))
    assert not is_point_mass(dist.Normal(0.0, 1.0))


def test_unknown_supports_are_not_checked():
    class Odd(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    assert inside_support(Odd(0.0, 1.0), torch.zeros(2)) is None
    assert not is_constrained(Odd(0.0, 1.0))
