"""Importance-weighted bounds and free bits: values and gradients compared with exact ones."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import global_mean, vamp_vae
from oracles import LinearGaussian
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.context_managers import seeded

IW = pv.ImportanceWeighted_ELBO


def gradients(loss, program, x, parameters, seed, weigh=lambda function: function):
    with seeded(seed):
        value = loss.differentiable_loss(weigh(program.model), weigh(program.guide), x)
        return torch.autograd.grad(value, parameters)


def repeated_gradients(loss, program, x, parameters, repeats, copies, weigh=lambda function: function):
    """Independent gradients, one a line, each the mean of those of `copies` batches, which are one call."""
    rows = x.repeat(copies, 1)
    found = [gradients(loss, program, rows, parameters, seed, weigh) for seed in range(repeats)]
    return torch.stack([torch.cat([g.flatten() for g in one]) for one in found]) / copies


class Tempered(poutine.messenger.Messenger):
    """β = 0.3 on latent sites, as a warm-up has it."""

    def _pyro_sample(self, msg):
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * 0.3


class LinearProgram(nn.Module):
    """One latent, x | z ~ N(w z, I) in D dimensions, and a guide N(a·x + b, s) that is not the posterior."""

    def __init__(self, D=3):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -0.5, 0.3][:D], dtype=torch.float64))
        self.a = nn.Parameter(torch.tensor([0.2, -0.2, 0.1][:D], dtype=torch.float64))
        self.log_s = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))

    def model(self, x):
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.a, self.log_s.exp()))


@pytest.mark.parametrize("dreg", [False, True])
@pytest.mark.parametrize("vectorize", [False, True])
def test_one_particle_is_the_elbo(dreg, vectorize, tiny_vae):
    vae, x = tiny_vae
    with seeded(3):
        expected = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    with seeded(3):
        found = IW(1, dreg=dreg, vectorize_particles=vectorize, max_plate_nesting=1).differentiable_loss(
            vae.model, vae.guide, x
        )
    torch.testing.assert_close(found, expected)
    parameters = list(vae.likelihood.parameters()) if dreg else list(vae.parameters())
    # dreg drops the score of q, whose mean is zero: decoder gradients agree draw by draw, the encoder's in the mean
    for a, b in zip(*(torch.autograd.grad(loss, parameters) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_batch_is_the_sum_of_its_rows_and_scales_multiply_after_the_log_sum_exp():
    program, x = LinearProgram(), torch.randn(4, 3, dtype=torch.float64)
    bank = torch.randn(6, 4, dtype=torch.float64)

    class Noise(poutine.messenger.Messenger):
        def __init__(self, rows):
            self.values = iter(bank[:, rows])

        def _pyro_sample(self, msg):
            if msg["name"] == "z" and not msg["done"] and not msg["is_observed"]:
                msg["value"], msg["done"] = msg["fn"].loc + msg["fn"].scale * next(self.values), True

    whole = IW(6).loss(program.model, Noise(slice(None))(program.guide), x)
    separate = sum(IW(6).loss(program.model, Noise(slice(i, i + 1))(program.guide), x[i : i + 1]) for i in range(4))
    assert whole == pytest.approx(separate, rel=1e-12)
    third = poutine.scale(scale=1 / 3)
    with_scale = IW(6).loss(third(program.model), third(Noise(slice(None))(program.guide)), x)
    assert with_scale == pytest.approx(whole / 3, rel=1e-12)


def test_the_bound_rises_with_particles_to_the_exact_value():
    oracle = LinearGaussian(2, 5, inflate=2.0)
    x = oracle.rows(50)
    exact = oracle.exact(x).mean().item()
    bounds, repeated = [], x.repeat(5, 1)
    for S in (1, 2, 5, 20, 100):
        loss = IW(S, vectorize_particles=True)
        with seeded(1):
            draws = torch.tensor([-loss.loss(oracle.model, oracle.guide, repeated) / 250 for _ in range(25)])
        bounds.append((draws.mean().item(), draws.std().item() / 5))
    for (low, se), (high, other) in itertools.pairwise(bounds):
        assert high > low - 2 * math.hypot(se, other)
    assert bounds[0][0] == pytest.approx(exact - oracle.kl_to_posterior(), abs=4 * bounds[0][1])
    assert bounds[-1][0] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("kind", ["linear", "vamp", "two sites", "flow", "beta"])
def test_dreg_has_the_gradient_of_the_bound_in_the_mean(kind):
    """The two estimators' means differ by less than 4 of their standard errors in every one of the parameters."""
    if kind in ("linear", "beta"):
        program, x = LinearProgram(), torch.randn(5, 3, dtype=torch.float64)
    elif kind == "vamp":
        program, x = vamp_vae(K=2, D=4, num_pseudo=3).double(), (torch.rand(5, 4) < 0.5).double()
    elif kind == "flow":
        likelihood = pv.likelihoods.Normal(pv.nets.linear(2, 3), scale=0.7)
        guide = pv.guides.FlowGuide(pv.nets.linear(3, 6), 2, layers=1, hidden=4, num_context=2)
        program, x = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide).double(), torch.randn(2, 3).double()
    else:
        program, x = TwoSites().double(), torch.randn(5, 2, dtype=torch.float64)
    parameters = list(program.parameters())
    found = {}
    for dreg in (False, True):
        loss = IW(4, dreg=dreg, vectorize_particles=True)
        weigh = Tempered() if kind == "beta" else lambda function: function
        flat = repeated_gradients(loss, program, x, parameters, 60, 20, weigh)
        found[dreg] = flat.mean(0), flat.std(0) / len(flat) ** 0.5
    error = torch.hypot(found[False][1], found[True][1])
    worst = ((found[False][0] - found[True][0]).abs() / error.clamp(min=1e-12)).max().item()
    assert worst < 4.5
    # the errors are small compared with the gradients, so that the comparison is informative
    assert error.norm() < 0.1 * found[True][0].norm()


class TwoSites(nn.Module):
    """z2 given z1 in model and guide, each with its own parameters."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.8, 1.2]))
        self.first, self.second = nn.Linear(2, 2), nn.Linear(3, 2)

    def model(self, x):
        pyro.module("model_of_two", nn.ParameterList([self.w]))
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            z2 = pyro.sample("z2", dist.Normal(torch.sin(z1), 0.7))
            pyro.sample("x", dist.Normal(torch.stack([z1, z2], -1) * self.w, 0.8).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("guide_of_two", nn.ModuleList([self.first, self.second]))
        with pyro.plate("data", len(x)):
            loc, raw = self.first(x).unbind(-1)
            z1 = pyro.sample("z1", dist.Normal(loc, nn.functional.softplus(raw) + 0.3))
            both = torch.cat([x.expand(*z1.shape, 2), z1[..., None]], -1)
            loc, raw = self.second(both).unbind(-1)
            pyro.sample("z2", dist.Normal(loc, nn.functional.softplus(raw) + 0.3))


def test_dreg_supports_a_subsampling_plate():
    x = torch.cat([torch.full((50,), 5.0), torch.full((50,), -5.0)])

    def model():
        with pyro.plate("data", 100, subsample_size=10) as index:
            z = pyro.sample("z", dist.Normal(0.0, 3.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide():
        with pyro.plate("data", 100, subsample_size=10) as index:
            pyro.sample("z", dist.Normal(0.9 * x[index], 1.0))

    found = {}
    for dreg in (False, True):
        with seeded(0):
            found[dreg] = IW(5, dreg=dreg, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)
    assert found[True] == pytest.approx(found[False], rel=1e-5)


def test_dreg_keeps_its_signal_to_noise_ratio_as_particles_grow():
    program, x = LinearProgram(), torch.randn(1, 3, dtype=torch.float64)
    ratios = {}
    for dreg in (False, True):
        for S in (2, 64):
            loss = IW(S, dreg=dreg, vectorize_particles=True)
            grads = repeated_gradients(loss, program, x, [program.a, program.log_s], 40, 20)
            ratios[dreg, S] = (grads.mean(0).abs() / grads.std(0)).mean().item()
    assert ratios[True, 64] > 2 * ratios[False, 64]
    assert ratios[True, 64] > ratios[True, 2]


@pytest.mark.parametrize("dreg", [False, True])
def test_it_works_with_pyros_svi(dreg, tiny_vae):
    vae, x = tiny_vae
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), IW(5, dreg=dreg, vectorize_particles=True))
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 10
    assert svi.evaluate_loss(x) < losses[0]


@pytest.mark.parametrize(
    "loss",
    [IW(5), IW(5, dreg=True), pv.FreeBits_ELBO(0.1), TraceMeanField_ELBO()],
    ids=["iwae", "dreg", "free-bits", "mean-field"],
)
def test_fit_supports_every_objective_with_warm_up_and_batches(loss, tiny_vae):
    vae, x = tiny_vae
    fitted = pv.fit(vae, x, valid=x, epochs=15, batch_size=16, learning_rate=0.02, kl_warmup=3, loss=loss)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]
    elbo = pv.log_evidence(vae, x, num_samples=300).elbo.mean().item()
    best = fitted.history[fitted.best_epoch - 1]["valid_elbo"]
    assert best == pytest.approx(elbo, abs=0.1)  # patience and reports use the ELBO, whatever the objective


def test_the_importance_weighted_objective_is_in_nats_per_row(tiny_vae):
    vae, x = tiny_vae
    from pyro_vae.inference.objectives.elbo_terms import RowWeighted
    from pyro_vae.programs.find_plates import find_plates
    from pyro_vae.programs.row_inputs import Batch

    weigh = RowWeighted(find_plates(vae, Batch(x)), len(x))
    with seeded(0):
        per_row = IW(5).loss(weigh(vae.model), weigh(vae.guide), x)
    with seeded(0):
        assert per_row == pytest.approx(IW(5).loss(vae.model, vae.guide, x) / len(x), rel=1e-5)
    weigh.beta = 0.5  # an exponent on p(z)/q(z) inside the weight
    with seeded(0):
        halved = IW(1).loss(weigh(vae.model), weigh(vae.guide), x)
    with seeded(0):
        assert halved == pytest.approx(Trace_ELBO().loss(weigh(vae.model), weigh(vae.guide), x), rel=1e-5)


def test_free_bits_do_not_penalize_small_kls():
    """q = N(m, s²) against N(0, 1) in two dimensions, one KL below λ and one above: value and gradient by hand."""
    m, s = torch.tensor([0.1, 2.0], requires_grad=True), torch.tensor([0.9, 0.5])
    x = torch.zeros(3, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(m, s).to_event(1))

    kl = (s.square() + m.square() - 1 - 2 * s.log()) / 2
    likelihood = 3 * 2 * -0.5 * math.log(2 * math.pi)
    loss = pv.FreeBits_ELBO(0.3, each="dimension").differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, 3 * (0.3 + kl[1]) - likelihood)
    torch.testing.assert_close(torch.autograd.grad(loss, m)[0], torch.tensor([0.0, 3 * 2.0]))
    by_site = pv.FreeBits_ELBO(100.0).differentiable_loss(model, guide, x)
    torch.testing.assert_close(by_site, torch.tensor(3 * 100.0 - likelihood))
    none = pv.FreeBits_ELBO(0.0, num_particles=3, vectorize_particles=True).differentiable_loss(model, guide, x)
    torch.testing.assert_close(none, TraceMeanField_ELBO().differentiable_loss(model, guide, x))


def test_unsupported_settings_and_programs_raise(tiny_vae):
    vae, x = tiny_vae
    full_rank = pv.guides.FullRankNormal(pv.nets.mlp(6, 5), 2)
    correlated = pv.VAE(vae.prior, vae.likelihood, full_rank)
    iaf = pv.guides.FlowGuide(pv.nets.mlp(6, 8), 2, kind="autoregressive")
    autoregressive = pv.VAE(vae.prior, vae.likelihood, iaf)
    for make, message in [
        (lambda: IW(0), "one or more"),
        (lambda: pv.FreeBits_ELBO(-1.0), "must not be negative"),
        (lambda: pv.FreeBits_ELBO(1.0, each="row"), "'site' or 'dimension'"),
        (lambda: pv.FreeBits_ELBO(1.0, each="dimension").loss(correlated.model, correlated.guide, x), "each='site'"),
        (lambda: IW(3, dreg=True).loss(autoregressive.model, autoregressive.guide, x), "coupling flow"),
        (lambda: pv.fit(global_mean(), torch.randn(20, 1), epochs=1, loss=IW(3)), "inside one plate over rows"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
