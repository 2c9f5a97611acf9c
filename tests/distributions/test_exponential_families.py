"""log p(x | θ) by matrix products: against the distributions' own densities, scipy's, and the limits of rounding."""

import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from pyro_vae.distributions import BernoulliVector, LogisticBins
from pyro_vae.distributions.exponential_families import Elements, exponential_form

N, S, E, C = 5, 7, 3, 4


def uniform(*shape, low=0.2, high=0.8):
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


def counts(high=6):
    return torch.randint(0, high, (N, E)).double()


FAMILIES = {
    "bernoulli": lambda: (dist.Bernoulli(logits=uniform(S, E)), counts(2)),
    "bernoulli by probabilities": lambda: (dist.Bernoulli(uniform(S, E)), counts(2)),
    "bernoulli vector": lambda: (BernoulliVector(uniform(S, E, low=-30, high=30)), counts(2)),
    "relaxed bernoulli": lambda: (BernoulliVector(uniform(S, E), relaxed=True), uniform(N, E)),
    "continuous bernoulli": lambda: (dist.ContinuousBernoulli(logits=uniform(S, E, low=-9, high=9)), uniform(N, E)),
    "normal": lambda: (dist.Normal(uniform(S, E), uniform(S, E)), uniform(N, E)),
    "normal of one scale": lambda: (dist.Normal(uniform(S, E), 0.3), uniform(N, E)),
    "log-normal": lambda: (dist.LogNormal(uniform(S, E), uniform(S, E)), uniform(N, E)),
    "poisson": lambda: (dist.Poisson(uniform(S, E)), counts()),
    "geometric": lambda: (dist.Geometric(uniform(S, E)), counts()),
    "binomial": lambda: (dist.Binomial(7, logits=uniform(S, E)), counts()),
    "negative binomial": lambda: (dist.NegativeBinomial(uniform(E), logits=uniform(S, E)), counts()),
    "exponential": lambda: (dist.Exponential(uniform(S, E)), uniform(N, E)),
    "gamma": lambda: (dist.Gamma(uniform(S, E), uniform(S, E)), uniform(N, E)),
    "chi2": lambda: (dist.Chi2(uniform(S, E)), uniform(N, E)),
    "beta": lambda: (dist.Beta(uniform(S, E), uniform(S, E)), uniform(N, E)),
    "categorical": lambda: (dist.Categorical(logits=uniform(S, E, C)), counts(C)),
    "one-hot": lambda: (
        dist.OneHotCategorical(logits=uniform(S, E, C)),
        torch.eye(C, dtype=torch.float64)[counts(C).long()],
    ),
}


def by_value(fn, x):
    """The density of each value, (N, S, E)."""
    if isinstance(fn, BernoulliVector):
        fn = dist.Bernoulli(logits=fn.logits, validate_args=False)
    return fn.log_prob(x[:, None])


def form_of(fn, x, mask=None):
    return exponential_form(fn, Elements(x, lambda parameter: parameter.double(), mask))


@pytest.mark.parametrize("name", FAMILIES)
def test_products_are_the_density(name):
    fn, x = FAMILIES[name]()
    mask = torch.rand(N, E) < 0.6
    known = by_value(fn, x)
    torch.testing.assert_close(form_of(fn, x).log_prob(), known.sum(-1), rtol=0, atol=1e-10)
    observed = torch.where(mask[:, None], known, 0.0).sum(-1)
    torch.testing.assert_close(form_of(fn, x, mask).log_prob(), observed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_values_outside_the_support_have_no_density(name):
    fn, x = FAMILIES[name]()
    if name.startswith("normal"):
        return
    x[1] = -0.5
    found = form_of(fn, x).log_prob()
    assert (found[1] == -torch.inf).all()
    assert found[[0, 2, 3, 4]].isfinite().all()
    masked = torch.ones(N, E, dtype=torch.bool)
    masked[1] = False
    assert (form_of(fn, x, masked).log_prob()[1] == 0).all()


@pytest.mark.parametrize("name", ["binomial", "negative binomial"])
def test_total_counts_that_differ_between_points_are_no_family(name):
    fn, x = FAMILIES[name]()
    assert form_of(type(fn)(counts().sum() + torch.arange(S * E).reshape(S, E), logits=fn.logits), x) is None


def test_others_are_no_family():
    for fn in (dist.StudentT(3.0, torch.zeros(S, E)), dist.Laplace(torch.zeros(S, E), 1.0)):
        assert form_of(fn, uniform(N, E)) is None
    assert form_of(LogisticBins(torch.zeros(S, E), torch.ones(S, E), 255), uniform(N, E)) is None


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_normal_far_from_zero_keeps_its_digits(ratio, offset):
    """Values of size ratio · σ: spread that wide, or all that far from zero."""
    sigma = 1e-2 * uniform(S, E, low=0.5, high=1.0)
    center = offset * ratio * 1e-2
    x, loc = (center + (1.0 if offset else ratio) * 1e-2 * torch.randn(n, E, dtype=torch.float64) for n in (N, S))
    known = scipy.stats.norm.logpdf(x[:, None].numpy(), loc.numpy(), sigma.numpy()).sum(-1)
    found = form_of(dist.Normal(loc, sigma), x).log_prob()
    torch.testing.assert_close(found, torch.from_numpy(known), rtol=1e-13, atol=1e-7 if ratio <= 1e4 else 1e-3)


def test_continuous_bernoulli_near_one_half_and_far_from_it():
    """The normalizer log ∫ exp(l x) dx, by quadrature."""
    logits = torch.tensor([[-60.0, -1e-2, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1e-2, 60.0]]).double().T
    nodes, weights = (torch.from_numpy(part) for part in scipy.special.roots_legendre(200))
    known = torch.logsumexp(logits * (nodes + 1) / 2 + (weights / 2).log(), 1)
    form = form_of(dist.ContinuousBernoulli(logits=logits), torch.zeros(1, 1).double())
    torch.testing.assert_close(form.log_normalizer[:, 0], known, rtol=0, atol=1e-12)


def test_certain_zeros_and_ones_are_no_nan():
    logits = torch.tensor([[-torch.inf], [torch.inf]]).double()
    x = torch.tensor([[0.0], [1.0]]).double()
    found = form_of(dist.Categorical(logits=torch.cat([logits, -logits], -1).nan_to_num(neginf=-1e4, posinf=0)), x)
    assert not found.log_prob().isnan().any()
    rates = form_of(dist.Poisson(torch.tensor([[0.0], [1.0]]).double()), x).log_prob()
    assert rates[0, 0] == 0
    assert rates[1, 0] < -1e90
