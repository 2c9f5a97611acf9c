"""The ranks of exchangeable draws: exact p-values, bands, and what calibration finds in a faulty guide."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import LOC, NOISE, W, linear_vae
from scipy.stats import binom, kstest, norm

import pyro_vae as pv
from pyro_vae.diagnostics.checks.calibration import (
    calibration_verdicts,
    reference_points,
    simulate_posteriors,
)
from pyro_vae.diagnostics.checks.rank_tests import RankTest, rank_all

COV = torch.linalg.inv(torch.eye(2) + W.T @ W / NOISE**2)


class Posterior(torch.nn.Module):
    """The posterior of `linear_vae`, but for a shift and a factor of its spread."""

    def __init__(self, shift=0.0, factor=1.0):
        super().__init__()
        self.shift, self.factor = shift, factor

    def forward(self, x):
        mean = (x - LOC) @ W @ COV / NOISE**2 + self.shift * COV.diagonal().sqrt()
        return dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(COV) * self.factor)


class Prior(torch.nn.Module):
    """A guide that is the prior, whatever it sees."""

    def forward(self, x):
        return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)


def exchangeable(draws, simulations, quantities, seed):
    return np.random.default_rng(seed).normal(size=(draws, simulations, quantities))


def test_ranks_are_those_of_scipy_and_ties_are_in_random_order():
    values = exchangeable(9, 7, 3, 0)
    expected = values.argsort(0).argsort(0)
    assert np.array_equal(rank_all(values, np.random.default_rng(1)), expected)
    tied = rank_all(np.zeros((10, 5000)), np.random.default_rng(1))
    assert np.bincount(tied[0], minlength=10) / 5000 == pytest.approx(np.full(10, 0.1), abs=0.02)


def test_the_p_value_of_exchangeable_draws_is_uniform_though_quantities_depend_on_each_other():
    found = []
    for seed in range(150):
        first = exchangeable(10, 40, 1, seed)
        values = np.concatenate([first, first + 0.1 * exchangeable(10, 40, 1, seed + 1000), -first], 2)
        generator = np.random.default_rng(seed)
        found.append(RankTest(rank_all(values, generator), generator, num_shuffles=99).p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert min(found) >= 0.01


def test_the_scores_are_the_smallest_binomial_tail_and_the_band_is_where_they_stay_below_the_limit():
    values = exchangeable(8, 30, 2, 3)
    generator = np.random.default_rng(0)
    ranks = rank_all(values, generator)
    test = RankTest(ranks, generator, num_shuffles=99)
    for quantity in range(2):
        tails = []
        for bound in range(1, 8):
            count, p = int((ranks[0, :, quantity] < bound).sum()), bound / 8
            tails += [binom.cdf(count, 30, p), binom.sf(count - 1, 30, p)]
        assert test.scores[quantity] == pytest.approx(-np.log(min(tails)), rel=1e-9)
    low, high = test.band
    inside = ((test.distribution >= low - 1e-12) & (test.distribution <= high + 1e-12)).all(1)
    assert inside.tolist() == (test.scores <= test.limit).tolist()


@pytest.mark.parametrize(
    ("guide", "found", "not_found"),
    [
        (Posterior(), "", "guide joint coverage"),
        (Posterior(factor=0.7), "guide joint coverage", ""),
        (Posterior(factor=1.5), "guide joint coverage", ""),
        (Posterior(shift=0.3), "guide", ""),
        (Prior(), "joint", "guide"),
    ],
    ids=["right", "too narrow", "too wide", "shifted", "the prior"],
)
def test_what_is_found_in_a_guide(guide, found, not_found):
    program = linear_vae(guide)
    simulations = simulate_posteriors(program, torch_rows(), 800, 59, seed=2)
    verdicts = {verdict.name: verdict for verdict in calibration_verdicts(simulations, seed=2)}
    for name in found.split():
        assert verdicts[name].p_value <= 0.003, name
    for name in not_found.split():
        assert verdicts[name].p_value > 0.01, name


def torch_rows():
    return pv.data.as_split(torch.zeros(50, 4), "check")


def test_the_latents_verdict_says_how_far_the_posterior_is_from_the_guide():
    simulations = simulate_posteriors(linear_vae(Posterior(shift=-0.5, factor=0.5)), torch_rows(), 4000, 59, seed=0)
    verdict = calibration_verdicts(simulations)[0]
    words = verdict.findings[0].name
    shift, ratio = float(words.split("by ")[1].split()[0]), float(words.split("and ")[1].split()[0])
    assert shift == pytest.approx(1.0, abs=0.1)  # half a standard deviation of the posterior is one of the guide's
    assert ratio == pytest.approx(2.0, rel=0.05)
    covered = norm.cdf((1.645 - 1) / 2) - norm.cdf((-1.645 - 1) / 2)
    assert verdict.findings[0].rows == pytest.approx(covered, abs=0.02)


def test_coverage_of_uniform_ranks_is_their_probability_however_few_draws():
    for draws in (10, 60):
        generator = np.random.default_rng(0)
        test = RankTest(rank_all(exchangeable(draws, 20_000, 1, 0), generator), generator, num_shuffles=9)
        assert test.coverage(0.9) == pytest.approx([0.9], abs=0.01)


def test_a_guide_without_the_posteriors_correlation_passes_ranks_of_single_latents_alone():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.3).to_event(1), obs=x)

    precision = torch.eye(2) + torch.ones(2, 2) / 0.09
    covariance = torch.linalg.inv(precision)

    def guide(x):
        with pyro.plate("rows", len(x)):
            mean = x / 0.09 @ torch.ones(1, 2) @ covariance
            pyro.sample("z", dist.Normal(mean, covariance.diagonal().sqrt()).to_event(1))

    found = simulate_posteriors(pv.Program(model, guide), pv.data.as_split(torch.zeros(9, 1), "check"), 800, 59, seed=0)
    p_values = {verdict.name: verdict.p_value for verdict in calibration_verdicts(found)}
    assert p_values["guide"] > 0.01
    assert max(p_values["joint"], p_values["coverage"]) <= 0.003


def test_simulations_are_draws_of_the_model_with_their_densities():
    program = linear_vae(Posterior())
    found = simulate_posteriors(program, torch_rows(), 3000, 9, seed=0)
    assert found.u.shape == (10, 3000, 2)
    assert found.names == ("z[0]", "z[1]")
    residual = torch.from_numpy(found.x) - torch.from_numpy(found.u[0]) @ W.T.double() - LOC
    assert residual.std().item() == pytest.approx(NOISE, rel=0.02)
    z, x = torch.from_numpy(found.u), torch.from_numpy(found.x)
    exact = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Normal(z @ W.T.double() + LOC, NOISE).log_prob(x).sum(-1)
    assert np.abs(found.log_joint - exact.numpy()).max() < 1e-3


def test_a_program_whose_draws_cannot_be_vectorized_has_the_same_ranks():
    """A model that reads the number of rows: draws come one at a time."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            assert z.dim() == 1
            pyro.sample("x", dist.Normal(z[:, None].expand(len(x), 2), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) / 3, (1 / 3) ** 0.5))

    found = simulate_posteriors(pv.Program(model, guide), pv.data.as_split(torch.zeros(9, 2), "check"), 300, 19, seed=0)
    assert found.u.shape == (20, 300, 1)
    assert min(verdict.p_value for verdict in calibration_verdicts(found)) > 0.01


def test_reference_points_depend_on_x_and_have_the_scale_of_the_latents():
    generator = np.random.default_rng(0)
    x, u = generator.normal(size=(500, 6)) * 100, generator.normal(size=(500, 2)) * [1.0, 5.0] + 3.0
    points = reference_points(x, u, np.random.default_rng(1))
    assert points.std(0) == pytest.approx(u.std(0))
    assert points.mean(0) == pytest.approx(u.mean(0))
    assert np.array_equal(points, reference_points(x, u, np.random.default_rng(1)))
    assert not np.allclose(points[0], points[1])


def test_the_p_values_of_a_guide_that_is_the_posterior_are_uniform():
    program = linear_vae(Posterior())
    found = [
        [each.p_value for each in calibration_verdicts(simulate_posteriors(program, torch_rows(), 60, 19, seed), seed)]
        for seed in range(25)
    ]
    for name, p_values in zip(("guide", "joint", "coverage"), zip(*found, strict=True), strict=True):
        assert kstest(p_values, "uniform").pvalue > 0.005, name
