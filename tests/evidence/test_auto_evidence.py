"""log p(x) exactly or by mixtures around each row's modes: closed forms, coverage, rows alone and in company."""

import copy
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence import score_blocks, shared_grid
from pyro_vae.evidence.auto_evidence import AutoEvidence, _with_exact, auto_evidence
from pyro_vae.evidence.exact_log_px import Exact


class WrongGuide(LinearGaussian):
    """A linear-Gaussian model whose guide has another width and place than the posterior."""

    def __init__(self, K, width, shift, **more):
        super().__init__(K, 12, **more)
        self.width, self.shift = width, shift

    def guide(self, x):
        sd = self.posterior_cov.diagonal().sqrt()
        loc = self.posterior_mean(x) + self.shift * sd
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, self.width * sd).to_event(1))


GUIDES = {"too wide": (3.0, 0.0), "too narrow": (0.3, 0.0), "shifted": (0.7, 2.0)}


def coverage(found, exact):
    """The share of rows whose 95 % interval holds the exact value."""
    return float(((found.log_px - exact).abs() <= 1.96 * found.mc_se).double().mean())


def assert_unbiased(found, exact):
    """The mean over rows of the estimated densities, each in units of the true one, is one."""
    ratio = torch.exp(found.log_px - exact)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(ratio) ** 0.5 + 1e-5  # float32's rounding


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("K", [1, 5, 20])
def test_intervals_cover_whatever_the_guide_is(K, guide):
    """Copies of a row have draws of their own. A posterior that is normal leaves the Student-t nothing to miss."""
    program = WrongGuide(K, *GUIDES[guide])
    x = program.rows(3).repeat_interleave(100, 0)
    found = auto_evidence(program, x, 400, exact=False)
    exact = program.exact(x).double()
    assert isinstance(found, AutoEvidence)
    assert found.kind == "lower bound"
    assert coverage(found, exact) > 0.9  # 0.95 ± 0.013
    assert (found.log_px - exact).abs().max() < 0.5
    assert_unbiased(found, exact)
    assert found.khat_bad < 0.05


def test_it_is_exact_where_that_is_possible():
    program = LinearGaussian(20, 12)
    found = auto_evidence(program, program.rows(5))
    assert isinstance(found, Exact)
    torch.testing.assert_close(found.log_px, program.exact(program.rows(5)).double(), rtol=0, atol=1e-4)


class Banana:
    """z ~ N(0, I₂), x | z ~ N(z₂ + z₁² − 1, 0.3²): a bent posterior, with a guide that looks at half of it."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z[..., 1] + z[..., 0].square() - 1
            pyro.sample("x", dist.Normal(mean[..., None], 0.3).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.tensor([1.0, 0.0]), 0.4).to_event(1).expand([len(x)]))


class TwoModes:
    """z ~ N(0, I₃), x | z ~ N((|z₁|, z₂), 0.1²): two equal modes, of which the guide knows one."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean = torch.stack([z[..., 0].abs(), z[..., 1]], -1)
            pyro.sample("x", dist.Normal(mean, 0.1).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            loc = torch.stack([x[:, 0], x[:, 1], torch.zeros(len(x))], -1)
            pyro.sample("z", dist.Normal(loc, torch.tensor([0.1, 0.1, 1.0])).to_event(1))


def test_a_bent_posterior_by_the_grid_and_by_draws():
    program, x = pv.Program(Banana().model, Banana().guide), torch.tensor([[0.0], [1.5]]).repeat_interleave(150, 0)
    exact = pv.exact_evidence(program, x[::150]).log_px.repeat_interleave(150)
    found = auto_evidence(program, x, 1000, exact=False)
    assert coverage(found, exact) > 0.9
    assert_unbiased(found, exact)


def test_rows_that_a_shared_grid_leaves_out_are_sampled_and_the_others_stay_exact(monkeypatch):
    """Whether a row is exact depends on its own grid alone, and a mean over both kinds is a lower bound."""
    integrate = shared_grid.SharedGrid.integrate

    def integrate_some(grid):
        log_px, error = integrate(grid)
        log_px[:3], error[:3] = math.nan, math.inf
        return log_px, error

    program, x = pv.Program(Banana().model, Banana().guide), torch.linspace(-1.0, 2.0, 12)[:, None]
    exact = pv.exact_evidence(program, x).log_px
    monkeypatch.setattr(shared_grid.SharedGrid, "integrate", integrate_some)
    monkeypatch.setattr(shared_grid, "MAX_CHEAP_GRIDS", 2)
    found = auto_evidence(program, x, 2000)
    assert (found.kind, found.stages["exact"]) == ("lower bound", 9)
    assert torch.equal(found.log_px[3:], exact[3:])
    assert (found.mc_se[3:] == 0).all()
    assert not found.is_bad[3:].any()
    assert ((found.log_px - exact)[:3].abs() < 5 * found.mc_se[:3]).all()


def test_the_mode_that_the_guide_does_not_know():
    program, x = pv.Program(TwoModes().model, TwoModes().guide), torch.tensor([[1.5, 0.3]]).repeat(100, 1)
    found = auto_evidence(program, x, 1000, exact=False)
    folded = torch.distributions.Normal(0.0, math.sqrt(1.01)).log_prob(torch.tensor(1.5)) + math.log(2)  # both modes
    exact = float(folded + torch.distributions.Normal(0.0, math.sqrt(1.01)).log_prob(torch.tensor(0.3)))
    missed = (found.log_px - exact < -0.4).double().mean()  # by log 2: the other mode is not found
    assert missed < 0.1  # 0.02 of 400
    assert found.log_px.median() == pytest.approx(exact, abs=0.05)
    assert coverage(found, torch.full_like(found.log_px, exact)) > 0.88  # 0.95 ± 0.02


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(4, 16, 30))
    return pv.VAE(pv.priors.StandardNormal(4), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(30, 16, 8)))


def test_a_row_has_the_same_number_alone_and_in_company(vae):
    x = (torch.rand(150, 30, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    every = auto_evidence(vae, x, 200)
    first = auto_evidence(vae, x[:7], 200)
    little = auto_evidence(vae, x, 200, memory_mib=0.2)
    changed = x.clone()
    changed[1:] = 1 - x[1:]
    others = auto_evidence(vae, changed, 200)
    torch.testing.assert_close(first.log_px, every.log_px[:7], rtol=0, atol=1e-3)
    torch.testing.assert_close(little.log_px, every.log_px, rtol=0, atol=1e-3)
    torch.testing.assert_close(others.log_px[:1], every.log_px[:1], rtol=0, atol=1e-3)
    assert (auto_evidence(vae, x, 200, seed=1).log_px != every.log_px).all()


def test_in_float64_a_row_has_the_same_number_to_1e_8_and_the_same_stage(vae):
    double = copy.deepcopy(vae).double()
    x = (torch.rand(150, 30, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    every = auto_evidence(double, x, 200)
    for found, rows in (
        (auto_evidence(double, x[:7], 200), slice(7)),
        (auto_evidence(double, x, 200, memory_mib=0.2), slice(None)),
        (auto_evidence(double, x[:100], 200, memory_mib=1.0), slice(100)),
    ):
        torch.testing.assert_close(found.log_px, every.log_px[rows], rtol=0, atol=1e-8)
        assert found.stage == every.stage[rows]


def test_a_guide_by_rejection_is_drawn_one_row_a_call():
    """The numbers that a Gamma sampler takes from the stream depend on its parameters."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Gamma(0.3 + x, 2.0).to_event(1))

    program, x = pv.Program(model, guide), torch.tensor([[0.0, 1.0, 4.0], [2.0, 0.0, 0.0], [9.0, 1.0, 3.0]])
    found = auto_evidence(program, x, 2000, exact=False)
    alone = auto_evidence(program, x[:1], 2000, exact=False)
    torch.testing.assert_close(alone.log_px, found.log_px[:1], rtol=0, atol=1e-3)
    negative_binomial = torch.distributions.NegativeBinomial(2.0, probs=torch.tensor(0.5))  # Gamma(2, 1) rates
    exact = negative_binomial.log_prob(x).sum(-1).double()
    assert ((found.log_px - exact).abs() < 4 * found.mc_se + 1e-4).all()


def test_rows_that_the_first_mode_does_not_hold_are_annealed(vae, monkeypatch):
    """Every row is sent on: annealing agrees with the draws of the mixture."""
    x = (torch.rand(20, 30, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    drawn = auto_evidence(vae, x, 2000)
    monkeypatch.setattr(score_blocks, "_is_bad", lambda log_weights: torch.ones(log_weights.shape[1], dtype=torch.bool))
    annealed = auto_evidence(vae, x, 200)
    assert annealed.stages == {"annealing": 20}
    assert annealed.khat.isnan().all()
    assert annealed.khat_bad == 0
    difference = annealed.log_px - drawn.log_px
    assert (difference.abs() < 4 * annealed.mc_se.hypot(drawn.mc_se) + 1e-3).all()


def test_discrete_latents_fall_back_to_the_guides_draws():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(k.float(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    program, x = pv.Program(model, guide), torch.randn(4, 1)
    torch.testing.assert_close(auto_evidence(program, x).log_px, pv.log_evidence(program, x).log_px)


def test_a_row_of_density_zero_is_said_and_the_others_stay():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.tanh(), 1.0).to_event(1), obs=x[:, :3])
            pyro.sample("waiting", dist.Exponential(1.0), obs=x[:, 3])

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, :3] / 2, 0.8).to_event(1))

    program, x = pv.Program(model, guide), torch.rand(12, 4)
    every = auto_evidence(program, x, 300)
    x[5, 3] = -3.0
    with pytest.warns(pv.errors.ZeroDensityWarning, match=r"rows 5\b.*waiting"):
        found = auto_evidence(program, x, 300)
    others = torch.arange(12) != 5
    assert found.log_px[5] == -math.inf
    torch.testing.assert_close(found.log_px[others], every.log_px[others], rtol=0, atol=1e-3)
    assert found.stages == {"modes": 11, "density zero": 1}
    assert found.khat_bad == every.khat_bad == 0


def test_the_reasons_of_rows_with_and_without_an_exact_value_are_their_own(vae):
    x = torch.rand(3, 30).round()
    found = replace(auto_evidence(vae, x, 8, exact=False), reasons={0: "sampled", 1: "sampled too"})
    error, zero = torch.tensor([math.inf, 0.0, 0.0]).double(), torch.zeros(3).double()
    reasons = {0: "not resolved", 2: "outside"}
    about = {"measure": found.measure, "method": "grid", "reasons": reasons}
    known = Exact(log_px=zero - 7.0, mc_se=zero, error=error, **about)
    merged = _with_exact(found, known)
    assert merged.reasons == {0: "sampled", 2: "outside"}
    assert merged.log_px.tolist() == [found.log_px[0], -7.0, -7.0]
    assert merged.stage == (found.stage[0], "exact", "exact")
