"""log p(x) against closed forms: paired per row, with the Monte-Carlo error alone as tolerance."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.importance_sampling import chunks, summarize


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


SHAPES = [(K, sites) for K in (1, 5, 20) for sites in (1, 2) if sites <= K]


@pytest.mark.parametrize("loc", [0.0, 3.0])
@pytest.mark.parametrize("D", [40, 784])
@pytest.mark.parametrize(("K", "sites"), SHAPES)
def test_linear_gaussian_equals_its_closed_form(double, K, sites, D, loc):
    program = LinearGaussian(K, D, loc=loc, scale=1.5, sites=sites)
    x = program.rows(50)
    found, exact = pv.log_evidence(program, x, num_samples=2000), program.exact(x)
    bias = (found.log_px - exact).mean().item()
    assert abs(bias) < 0.05
    assert found.log_px_mc_se < 0.02
    assert abs(bias) < 4 * found.log_px_mc_se
    assert (found.khat < 0.5).all()
    # the ELBO is exact log p(x) − KL(q ‖ posterior), known in closed form, and so never above
    assert (exact - found.elbo).mean().item() == pytest.approx(program.kl_to_posterior(), abs=0.003)
    assert (found.elbo < exact).all()


def test_with_the_exact_posterior_as_guide_all_weights_are_equal(double):
    program = LinearGaussian(5, 40, inflate=1.0)
    x = program.rows(20)
    found = pv.log_evidence(program, x, num_samples=50)
    torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.elbo, program.exact(x), rtol=0, atol=1e-9)
    assert found.log_px_mc_se < 1e-7  # the effective number of draws is 50 to rounding
    assert (found.khat == 0).all()
    torch.testing.assert_close(found.ess, torch.full((20,), 50.0))


def test_mean_over_rows_does_not_depend_on_how_they_are_grouped(double):
    """N = 53 rows in chunks of 7 and of 53, with weights that have no noise: a last, smaller chunk must not count
    more."""
    program = LinearGaussian(3, 10, inflate=1.0)
    x = program.rows(53)
    small = pv.log_evidence(program, x, num_samples=11, memory_mib=0.004)
    large = pv.log_evidence(program, x, num_samples=11, memory_mib=256)
    torch.testing.assert_close(small.log_px, large.log_px, rtol=0, atol=1e-9)
    assert small.log_px.mean().item() == pytest.approx(program.exact(x).mean().item(), abs=1e-9)


class FromABank(dist.TorchDistribution):
    """N(loc, 1) whose draws come from a bank of noise (S, N), in order: makes chunked and whole runs draw the same
    numbers."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.real
    has_rsample = True

    def __init__(self, loc, bank, position):
        self.loc, self.bank, self.position = loc, bank, position
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return FromABank(self.loc.expand(batch_shape), self.bank, self.position)

    def rsample(self, sample_shape=()):
        draws = self.batch_shape[0] if len(self.batch_shape) > 1 else 1
        start = self.position[0]
        self.position[0] += draws
        return self.loc + self.bank[start : start + draws].reshape(self.loc.shape)

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value)


def test_seven_draws_in_chunks_of_three_equal_one_chunk(double, monkeypatch):
    """The chunks hold 3, 3 and 1 draws; the trap is to draw nine and divide by seven."""
    from pyro_vae.evidence import importance_sampling
    from pyro_vae.programs.log_weights import LogWeightSampler

    x, bank, position, recording = torch.randn(4, 2), torch.randn(7, 4), [0], [False]

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 2]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):  # trials draw from noise of their own and leave the bank alone
            noise, at = (bank, position) if recording[0] else (torch.randn(64, len(x)), [0])
            pyro.sample("z", FromABank(x.mean(-1), noise, at))

    weigh = LogWeightSampler.__call__

    def banked(self, batch, number, **of):
        recording[0] = True
        result = weigh(self, batch, number, **of)
        recording[0] = False
        return result

    monkeypatch.setattr(LogWeightSampler, "__call__", banked)
    monkeypatch.setattr(LogWeightSampler, "bytes_per_weight", lambda *_: 64)
    found = {}
    for draws in (3, 7):
        position[0] = 0
        monkeypatch.setattr(importance_sampling, "chunks", lambda *_, draws=draws: (4, draws))
        found[draws] = pv.log_evidence(pv.Program(model, guide), x, num_samples=7, seed=None)
        assert position[0] == 7
    z = x.mean(-1) + bank
    prior, likelihood = dist.Normal(0.0, 2.0).log_prob(z), dist.Normal(z[..., None], 1.0).log_prob(x).sum(-1)
    by_hand = prior + likelihood - dist.Normal(x.mean(-1), 1.0).log_prob(z)
    for result in found.values():
        torch.testing.assert_close(result.log_px, torch.logsumexp(by_hand, 0) - math.log(7), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.elbo, by_hand.mean(0), rtol=0, atol=1e-12)
    assert torch.equal(found[3].log_px, found[7].log_px)


def test_budget_bounds_the_chunk_whatever_s_and_n():
    for num_samples in (1, 7, 1000, 1_000_000):
        for num_rows in (1, 100, 10_000_000):
            rows, draws = chunks(num_samples, num_rows, 20_000, 64)
            assert 1 <= rows <= num_rows
            assert 1 <= draws <= num_samples
            assert rows * draws * 20_000 <= 64 * 2**20 or rows * draws == 1
            assert rows * num_samples * 64 <= 64 * 2**20 or rows == 1


def test_summary_against_plain_formulas(double):
    likelihood, ratio = torch.randn(40, 3), torch.randn(40, 3)
    summary = summarize(likelihood, ratio, [1, 10])
    weights = torch.exp(likelihood + ratio)
    torch.testing.assert_close(summary["log_px"], weights.mean(0).log())
    torch.testing.assert_close(summary["elbo"], (likelihood + ratio).mean(0))
    torch.testing.assert_close(summary["elbo"], summary["reconstruction"] - summary["kl"])
    torch.testing.assert_close(summary["iwae 1"], summary["elbo"])
    torch.testing.assert_close(summary["iwae 10"], weights.reshape(4, 10, 3).mean(1).log().mean(0))
    torch.testing.assert_close(summary["ess"], weights.sum(0) ** 2 / weights.square().sum(0))
    relative = weights.std(0) / weights.mean(0) / math.sqrt(40)
    torch.testing.assert_close(summary["mc_se"], relative)


def test_iwae_bounds_rise_with_the_number_of_draws(tiny_vae):
    vae, x = tiny_vae
    found = pv.log_evidence(vae, x, num_samples=2000, iwae=(1, 5, 50))
    values = [found.iwae[k].mean().item() for k in (1, 5, 50, 2000)]
    assert values == sorted(values)
    assert found.iwae[1].mean().item() == pytest.approx(found.elbo.mean().item(), abs=1e-9)


def test_a_global_latent_is_refused_with_the_remedy():
    def model(x):
        loc = pyro.sample("shared_mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("shared_mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.errors.RowsError, match=r"shared_mean lies outside: put it inside \(with pyro.plate"):
        pv.log_evidence(pv.Program(model, guide), torch.randn(5, 1))


def test_a_program_that_takes_no_second_axis_is_weighed_draw_by_draw(double):
    """`z[:, 0]` means another thing once draws stand in front; the answer must not."""
    exact = LinearGaussian(2, 6)

    class OneAxis(LinearGaussian):
        def model(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(self.m, self.s).to_event(1))
                loc = z[:, 0, None] * self.W[:, 0] + z[:, 1, None] * self.W[:, 1] + self.b
                pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    program = OneAxis(2, 6)
    x = exact.rows(30)
    found = pv.log_evidence(program, x, num_samples=2000)
    assert abs((found.log_px - exact.exact(x)).mean().item()) < 4 * found.log_px_mc_se


def test_scales_are_left_out_and_masks_count(double):
    """β-scaling and subsampling belong to an objective; a mask belongs to the model."""
    plain = LinearGaussian(2, 4, inflate=1.0)

    class Scaled(LinearGaussian):
        def model(self, x):
            with pyro.poutine.scale(scale=0.3):
                super().model(x)

    x = plain.rows(8)
    torch.testing.assert_close(
        pv.log_evidence(Scaled(2, 4, inflate=1.0), x, num_samples=30).log_px, plain.exact(x), rtol=0, atol=1e-9
    )

    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=torch.tensor(False)):
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert (pv.log_evidence(pv.Program(model, guide), x, num_samples=5).log_px == 0).all()


def test_standardizing_changes_no_reported_density(double):
    """A density of x/10 carries the Jacobian: in original units it is the same number."""
    from pyro_vae.data import Measure, Split

    program = LinearGaussian(2, 3, inflate=1.0)
    x = program.rows(10)
    stretched = Split("test", x * 10 + 7, Measure(shift=(7.0,) * 3, scale=(10.0,) * 3))
    found = pv.log_evidence(program, stretched, num_samples=30)
    torch.testing.assert_close(found.log_px, program.exact(x) - 3 * math.log(10), rtol=0, atol=1e-6)


def test_relaxed_pixels_say_so():
    vae = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Bernoulli(pv.nets.mlp(1, 3), relaxed=True),
        pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2)),
    )
    assert "not a density" in pv.log_evidence(vae, torch.full((2, 3), 0.5), num_samples=5).measure
    strict = pv.VAE(vae.prior, pv.likelihoods.Bernoulli(vae.likelihood.net), vae.posterior)
    with pytest.raises(pv.InputError, match=r"found 0.5 to 0.5, expected 0 or 1; binarize"):
        pv.log_evidence(strict, torch.full((2, 3), 0.5), num_samples=5)


def test_a_normal_density_at_zeros_and_ones_is_not_called_a_probability():
    data = pv.load_data("digits")
    vae = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.mlp(1, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(64, 2)),
    )
    assert "no probability of pictures" in pv.log_evidence(vae, data.test, num_samples=3).measure


def test_one_draw_has_no_monte_carlo_error_to_speak_of(tiny_vae):
    vae, x = tiny_vae
    found = pv.log_evidence(vae, x, num_samples=1)
    assert math.isnan(found.log_px_mc_se)
    assert found.khat_bad is None


def test_smoothed_is_the_mean_of_arvizs_weights(double):
    import arviz

    log_weights = 1.5 * torch.randn(500, 4)
    summary = summarize(log_weights, torch.zeros(500, 4))
    smoothed, khat = arviz.psislw(log_weights.T.numpy())
    torch.testing.assert_close(summary["khat"], torch.as_tensor(khat))
    # the weights outside the tail are as they were: their ratio to the smoothed, normalized ones is the smoothed sum
    lowest = log_weights.argmin(0)
    for row in range(4):
        total = log_weights[lowest[row], row] - smoothed[row, lowest[row]]
        assert summary["smoothed"][row].item() == pytest.approx(float(total) - math.log(500), abs=1e-9)
    assert ((summary["smoothed"] - 1.125).abs() < 0.5).all()  # log E[exp(1.5 z)]


def test_intervals_cover(double):
    """200 small problems of 20 rows, S from 50 to 400: log p(x) ± 1.96 `log_px_mc_se` holds the exact mean 90 to 98
    times in a hundred, where k-hat is below 0.5."""
    covered, counted = 0, 0
    for seed in range(200):
        program = LinearGaussian(1 + seed % 3, 6, seed=seed, inflate=1.1 + 0.4 * (seed % 4))
        x = program.rows(20, seed=seed)
        found = pv.log_evidence(program, x, num_samples=(50, 100, 200, 400)[seed % 4], seed=seed)
        if (found.khat < 0.5).all():
            counted += 1
            covered += abs((found.log_px - program.exact(x)).mean().item()) < 1.96 * found.log_px_mc_se
    assert counted >= 150
    assert 0.90 <= covered / counted <= 0.98


def test_rows_and_labels_are_one_for_each_row(tiny_vae):
    vae, x = tiny_vae
    for estimate in (pv.log_evidence, pv.exact_evidence, pv.annealed_evidence):
        with pytest.raises(pv.InputError, match="one for each of the 60 rows of x, got 3 labels"):
            estimate(vae, x, labels=torch.zeros(3))


def test_khat_is_that_of_the_positive_weights():
    """Zeros count in the mean alone; a row with too few positive weights, or with NaN, has no k-hat."""
    from pyro_vae.evidence.pareto_smoothing import pareto_smoothed

    log_weights = np.random.default_rng(0).standard_normal((4, 100))
    log_weights[0] = -np.inf
    log_weights[1, 3] = np.nan
    log_weights[2, 5] = -np.inf
    khat, smoothed = pareto_smoothed(log_weights)
    assert np.isnan(khat[:2]).all()
    assert np.isnan(smoothed[:2]).all()
    positive = np.delete(log_weights[2], 5)
    alone_khat, alone_smoothed = pareto_smoothed(positive[None])
    assert khat[2] == alone_khat[0]
    assert smoothed[2] == pytest.approx(alone_smoothed[0] + np.log(99 / 100), abs=1e-12)
    assert np.isfinite([khat[3], smoothed[3]]).all()
