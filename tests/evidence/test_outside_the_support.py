"""Guides that draw outside the prior's support, and observed values outside their own: every estimator has the truth.

Truths: for x = 0 and the likelihood N(z, 1), log ∫_0^∞ p(z) N(0; z, 1) dz is ½ + log Φ(−1) with p = Exponential(1), and
½ + log(φ(1) − Φ(−1)) with p = Gamma(2, 1).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv

X = torch.zeros(1, 1)
STANDARD = torch.distributions.Normal(0.0, 1.0)
TAIL = float(STANDARD.cdf(torch.tensor(-1.0, dtype=torch.float64)))
EXPONENTIAL = 0.5 + math.log(TAIL)
GAMMA = 0.5 + math.log(math.exp(-0.5) / math.sqrt(2 * math.pi) - TAIL)


def program(prior, shift, with_normal=False):
    """z ~ prior, x ~ N(z, 1), guide N(x + shift, 1); with a second latent that x does not depend on."""

    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("free", dist.Normal(0.0, 1.0)) if with_normal else 0.0
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[..., None] + 0 * torch.as_tensor(scale)[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if with_normal:
                pyro.sample("free", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Normal(x[:, 0] + shift, 1.0))

    return pv.Program(model, guide)


CASES = {
    "exponential": (dist.Exponential(1.0), -1.0, EXPONENTIAL),
    "gamma": (dist.Gamma(2.0, 1.0), 1.0, GAMMA),
}


def test_the_truths_are_those_of_the_issue():
    assert pytest.approx(-1.3410, abs=1e-4) == EXPONENTIAL
    assert pytest.approx(-1.9851, abs=1e-4) == GAMMA


@pytest.mark.parametrize("with_normal", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_importance_sampling(name, with_normal):
    """0.500 and NaN before: the formula of the inside was evaluated outside."""
    prior, shift, truth = CASES[name]
    own = program(prior, shift, with_normal)
    for share in (0.0, 0.3):
        found = pv.log_evidence(own, X, 20_000, prior_share=share)
        assert found.log_px.item() == pytest.approx(truth, abs=4 * found.mc_se.item())
        assert found.mc_se.item() < 0.05
    outside = float(STANDARD.cdf(torch.tensor(-shift)))
    found = pv.log_evidence(own, X, 20_000)
    assert found.outside_share.item() == pytest.approx(outside, abs=0.02)
    assert found.elbo.item() == -math.inf
    assert found.khat.item() < 0.5
    assert not found.reasons
    assert pv.score(own, X, torch.zeros(19, 1), num_samples=20_000).found.log_px.item() == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("with_normal", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_exact_annealed_and_around_modes(name, with_normal):
    prior, shift, truth = CASES[name]
    own = program(prior, shift, with_normal)
    assert pv.exact_evidence(own, X).log_px.item() == pytest.approx(truth, abs=1e-3)
    annealed = pv.annealed_evidence(own, X, 100, num_chains=200, start="prior")
    assert annealed.log_px.item() == pytest.approx(truth, abs=0.05)
    at_modes = pv.laplace_approximation(own, X)
    sampled = pv.log_evidence(at_modes, X, 20_000, rows=torch.arange(1), prior_share=0.1)
    assert sampled.log_px.item() == pytest.approx(truth, abs=0.05)
    (row,) = pv.compare({"own": own}, pv.load_data(torch.zeros(30, 1).numpy(), standardize=False).valid)
    assert row.log_px == pytest.approx(truth, abs=0.02)
    with pytest.raises(pv.InputError, match=r"the guide draws z outside .* start from the prior"):
        pv.annealed_evidence(own, X, 10)


def test_draws_that_break_the_likelihood_have_no_weight():
    """N(0, scale = z) has no density for z < 0, where the prior's is zero too: no NaN may come from it."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(3.0, 3.0))
            pyro.sample("y", dist.Normal(0.0, z))
            pyro.sample("x", dist.Normal(torch.zeros(1), z[..., None]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 + 0 * x[:, 0], 0.6))
            pyro.sample("y", dist.Normal(0 * x[:, 0], 1.0))

    x, grid = torch.tensor([[0.3]]), torch.linspace(1e-4, 20, 200_000, dtype=torch.float64)
    joint = dist.Gamma(3.0, 3.0).log_prob(grid) + dist.Normal(0.0, grid).log_prob(torch.tensor(0.3))
    truth = float((joint.exp().sum() * (grid[1] - grid[0])).log())
    found = pv.log_evidence(pv.Program(model, guide), x, 50_000)
    assert found.log_px.item() == pytest.approx(truth, abs=max(5 * found.mc_se.item(), 0.02))


def test_draws_of_the_prior_outside_a_narrower_guide():
    """The guide's density is zero there: such draws keep p(x|z) / α, and no weight is infinite."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Exponential(1.0 + 0 * x[:, 0]))

    found = pv.log_evidence(pv.Program(model, guide), X, 40_000, prior_share=0.5)
    assert found.log_px.item() == pytest.approx(dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.0)).item(), abs=0.03)


def two_sites(second=lambda: dist.Exponential(1.0)):
    """a ~ N(z, 1) and b of a distribution of its own, both columns of x; the guide is the exact posterior."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("b", second(), obs=x[:, 1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.5**0.5))

    return pv.Program(model, guide)


ESTIMATORS = {
    "importance sampling": pv.log_evidence,
    "exact": pv.exact_evidence,
    "annealed": lambda program, x: pv.annealed_evidence(program, x, 10),
}
SECOND = {
    "exponential": (lambda: dist.Exponential(1.0), 1.0, -3.0),
    "poisson": (lambda: dist.Poisson(2.0), 2.0, 2.5),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", SECOND)
def test_observed_values_outside_their_support(estimator, name):
    """+1.734 and −2.73 before, from exact_evidence too."""
    second, good, bad = SECOND[name]
    x = torch.tensor([[0.5, good], [0.5, bad], [-1.0, good]])
    with pytest.warns(pv.errors.ZeroDensityWarning, match=r"1 of 3 rows have density zero \(rows 1\).*site 'b'"):
        found = ESTIMATORS[estimator](two_sites(second), x)
    truth = dist.Normal(0.0, 2**0.5).log_prob(x[:, 0]) + second().log_prob(torch.tensor(good))
    truth[1] = -math.inf
    torch.testing.assert_close(found.log_px.float(), truth, rtol=0, atol=1e-4)
    assert "outside the support" in found.reasons[1]
    assert found.reasons.keys() == {1}
    assert "1 of 3 rows have density zero" in found.without_number
    assert found.log_px_mean == -math.inf


def test_a_whole_column_outside_is_refused():
    x = torch.tensor([[0.5, -3.0], [0.5, -2.0]])
    for estimator in ESTIMATORS.values():
        with pytest.raises(pv.InputError, match=r"site 'b' lies outside .* in all 2 rows"):
            estimator(two_sites(), x)


def test_where_rows_cannot_be_left_out_they_are_refused():
    x = torch.tensor([[0.5, 1.0], [0.5, -2.0]])
    for call in (pv.to_inference_data, pv.diagnostics.aggregate, pv.laplace_approximation):
        with pytest.raises(pv.InputError, match="site 'b' lies outside"):
            call(two_sites(), x)


def test_masked_values_do_not_count():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
            with pyro.poutine.mask(mask=x[:, 1] > 0):
                pyro.sample("b", dist.Exponential(1.0), obs=x[:, 1])

    found = pv.exact_evidence(pv.Program(model, two_sites().guide.__self__._guide), torch.tensor([[0.5, -3.0]]))
    expected = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.5)).item()
    assert found.log_px.item() == pytest.approx(expected, abs=1e-4)


def test_a_site_that_observes_a_function_of_x():
    """log x under a normal: the support is that of the value, not of x."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Exponential(torch.ones(1)).to_event(1).mask(True), obs=x - 2 + 0 * z[..., None])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x[:, 0], 1.0))

    x = torch.tensor([[3.0], [1.0]])
    with pytest.warns(pv.errors.ZeroDensityWarning, match="site 'y'"):
        found = pv.log_evidence(pv.Program(model, guide), x, 100)
    assert found.log_px.tolist() == [-1.0, -math.inf]


def test_a_support_that_depends_on_the_latent_is_checked_for_each_draw():
    """x ~ U(0, z), z ~ U(0, 1): p(x) = −log x. No row is outside for every z."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Uniform(0.0, z), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0))

    x = torch.tensor([[0.2], [0.6]])
    found = pv.log_evidence(pv.Program(model, guide), x, 40_000)
    torch.testing.assert_close(found.log_px.float(), (-x[:, 0].log()).log(), rtol=0, atol=0.05)
