"""Annealing against closed forms, per row, with the chains' own error as tolerance; bounds from both sides."""

import math

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence import annealing_schedule


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("K", "D", "start", "temperatures"),
    [(1, 784, "guide", 50), (5, 40, "guide", 50), (50, 200, "guide", 80), (5, 40, "prior", 200)],
)
def test_linear_gaussian_within_three_monte_carlo_errors(double, K, D, start, temperatures):
    program = LinearGaussian(K, D, loc=0.5)
    x = program.rows(16)
    found = pv.annealed_evidence(program, x, temperatures, num_chains=16, start=start, memory_mib=1024)
    bias = (found.log_px - program.exact(x)).mean().item()
    assert abs(bias) < 3 * found.log_px_mc_se + 0.5 * float(found.mc_se.square().mean())  # the second is log's own bias
    assert found.log_px_mc_se < (0.02 if start == "guide" else 0.1)
    assert 0.4 < found.acceptance.mean() < 0.95


@pytest.mark.parametrize(("K", "D"), [(1, 784), (50, 200)])
def test_the_sandwich_is_narrow_and_the_exact_value_inside(double, K, D):
    program = LinearGaussian(K, D)
    found = pv.bidirectional(program, 16, 80, num_features=D, memory_mib=1024)
    exact = program.exact(found.x)
    assert abs(found.gap) < 0.5
    below, above = (exact - found.lower.log_px).mean().item(), (found.upper.log_px - exact).mean().item()
    assert below > -3 * found.lower.log_px_mc_se
    assert above > -3 * found.gap_se
    assert math.isnan(found.upper.log_px_mc_se)  # chains of one draw show no error of it
    assert found.lower.kind == "lower bound"
    assert found.upper.kind == "upper bound"


def test_a_short_path_from_the_prior_is_loose_on_both_sides(double):
    """With five temperatures neither bound is any good, and the sandwich says by how much."""
    program = LinearGaussian(10, 100)
    found = pv.bidirectional(program, 30, 5, num_chains=4, start="prior", num_features=100)
    exact = program.exact(found.x)
    assert (exact - found.lower.log_px).mean() > 1.0
    assert (found.upper.log_px - exact).mean() > 1.0
    assert found.gap == pytest.approx(float((found.upper.log_px - found.lower.log_px).mean()))


def test_each_transition_leaves_its_density_as_it_is(double):
    """Draws of the exact posterior, moved at β = 1 with steps large enough that many are refused, stay such draws."""
    from pyro_vae.programs.find_plates import find_plates
    from pyro_vae.programs.row_inputs import Batch

    program = LinearGaussian(3, 8, inflate=1.7)
    x = program.rows(2)
    plates = find_plates(program, Batch(x))
    plan = annealing_schedule.Plan(4, 5000, 3, "guide", 1024)
    with torch.no_grad(), pyro.validation_enabled(False):
        path = annealing_schedule.Path(program, plates, Batch(x), plan)
        posterior = torch.distributions.MultivariateNormal(program.posterior_mean(x), program.posterior_cov)
        joint = path._joint(5000)
        state = path._at(joint, posterior.sample((5000,)).flatten(0, 1))
        for _ in range(5):
            state, chance = path._transition(joint, state, 1.0, torch.full((2,), math.log(0.9)))
    assert 0.2 < chance.mean() < 0.9
    moved = state.u.unflatten(0, (5000, 2)) - program.posterior_mean(x)
    whitened = moved @ torch.linalg.inv(torch.linalg.cholesky(program.posterior_cov)).T
    assert whitened.mean(0).abs().max() < 4 / math.sqrt(5000)
    covariance = torch.einsum("snj,snk->njk", whitened, whitened) / 5000
    assert (covariance - torch.eye(3)).abs().max() < 0.09


def test_it_corrects_a_guide_that_looks_at_one_mode(double):
    """z ~ N(0, 1), x = z² with noise: two modes, and a guide that knows one. Importance sampling finds half."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] ** 2, 0.3).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0].clamp(min=0.01).sqrt(), 0.15))

    program, x = pv.Program(model, guide), torch.full((8, 1), 1.5)
    exact = pv.exact_evidence(program, x).log_px
    sampled = pv.log_evidence(program, x, 500).log_px
    assert (exact - sampled).mean().item() == pytest.approx(math.log(2), abs=0.05)
    annealed = pv.annealed_evidence(program, x, 150, num_chains=32, start="prior")
    assert abs((exact - annealed.log_px).mean().item()) < 0.1
    assert (exact - annealed.log_px).abs().max() < 0.4


@pytest.mark.parametrize("make", [example_programs.vamp_vae, example_programs.Hierarchical])
def test_programs_with_borrowed_and_several_latents(make):
    """Against draws from the prior, which find these shallow posteriors well; guides are as they were born."""
    program, x = make(), (torch.rand(6, 6) < 0.5).float()
    annealed = pv.annealed_evidence(program, x, 60, num_chains=32, start="prior")
    sampled = pv.log_evidence(program, x, 40_000, prior_share=1.0)
    error = math.hypot(annealed.log_px_mc_se, sampled.log_px_mc_se)
    assert abs((annealed.log_px - sampled.log_px).mean().item()) < 4 * error
    assert error < 0.03


def test_chunks_of_rows_cover_all_and_weights_repeat(tiny_vae):
    vae, x = tiny_vae
    small = pv.annealed_evidence(vae, x, 20, num_chains=4, memory_mib=0.1)
    again = pv.annealed_evidence(vae, x, 20, num_chains=4, memory_mib=0.1)
    assert len(small) == len(x)
    assert torch.equal(small.log_px, again.log_px)
    exact = pv.exact_evidence(vae, x)
    assert abs((small.log_px - exact.log_px).mean().item()) < 4 * small.log_px_mc_se + 1e-3


def test_wrong_plans_are_refused(tiny_vae):
    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match="must be positive, got 0"):
        pv.annealed_evidence(vae, x, 0)
    with pytest.raises(pv.InputError, match="not from 'posterior'"):
        pv.annealed_evidence(vae, x, start="posterior")
    with pytest.raises(pv.errors.RowsError, match="mean lies outside"):
        pv.annealed_evidence(example_programs.global_mean(), torch.randn(5, 1))
    with pytest.raises(pv.InputError, match="give num_features"):
        pv.bidirectional(vae, 5)
