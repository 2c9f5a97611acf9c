"""Discrete latents that the guide leaves out, summed inside each weight: closed forms and a grid over z."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

import pyro_vae as pv
from pyro_vae.evidence.auto_evidence import AutoEvidence
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.row_inputs import Batch

WEIGHTS, MEANS = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([-2.0, 0.5, 3.0])
NOISE = 0.5


class Components:
    """k ~ Categorical, z_j | k ~ N(μ_k, 1), x_j | z ~ N(z_j, 0.5²) for K dimensions; the guide draws z alone."""

    def __init__(self, K, mark=True):
        self.K, self.infer = K, {"enumerate": "parallel"} if mark else {}

    def model(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(WEIGHTS), infer=self.infer)
            z = pyro.sample("z", dist.Normal(MEANS[k][..., None].expand(*k.shape, self.K), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.6).to_event(1))

    def exact(self, x):
        each = dist.Normal(MEANS.double(), math.sqrt(1 + NOISE**2)).log_prob(x.double()[..., None]).sum(1)
        return torch.logsumexp(each + WEIGHTS.double().log(), 1)


def program_of(part):
    return pv.Program(part.model, part.guide)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_by_draws_against_the_closed_form(rows):
    part = Components(2)
    x = torch.linspace(-3, 4, rows)[:, None] + torch.tensor([[0.0, 0.7]])
    found = pv.log_evidence(program_of(part), x, 4000)
    assert ((found.log_px - part.exact(x)).abs() < 4 * found.mc_se + 1e-4).all()
    assert (found.elbo <= found.log_px).all()


@pytest.mark.parametrize("K", [1, 2, 4])
def test_exactly_or_around_modes(K):
    part = Components(K)
    x = torch.randn(6, K, generator=torch.Generator().manual_seed(K)) * 2
    found = pv.auto_evidence(program_of(part), x, 2000, exact=False)
    assert isinstance(found, AutoEvidence)
    assert ((found.log_px - part.exact(x)).abs() < 4 * found.mc_se + 1e-4).all()
    assert found.mc_se.max() < 0.05
    if K <= 2:
        exact = pv.exact_evidence(program_of(part), x)
        torch.testing.assert_close(exact.log_px, part.exact(x), rtol=0, atol=1e-3)


def test_by_annealing_and_with_draws_of_the_prior():
    part, x = Components(3), torch.tensor([[0.3, 0.5, -0.2], [3.0, 2.0, 2.5]])
    annealed = pv.annealed_evidence(program_of(part), x, 60, num_chains=40)
    assert ((annealed.log_px - part.exact(x)).abs() < 4 * annealed.mc_se + 1e-3).all()
    mixed = pv.log_evidence(program_of(part), x, 4000, prior_share=0.5)
    assert ((mixed.log_px - part.exact(x)).abs() < 4 * mixed.mc_se + 1e-3).all()


def switches(missing=None):
    """A latent z of the row, and in an inner plate a switch s_t for each of three values: x_t ~ N(z + 2 s_t, 0.5²)."""

    def model(x):
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("values", 3, dim=-1):
                s = pyro.sample("s", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                fn = dist.Normal(z + 2 * s, NOISE)
                pyro.sample("x", fn if missing is None else fn.mask(~missing), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) - 0.6, 0.6))

    return pv.Program(model, guide)


def by_quadrature(row):
    def density(z):
        value = norm.pdf(z)
        for one in row:
            value *= 0.7 * norm.pdf(one, z, NOISE) + 0.3 * norm.pdf(one, z + 2, NOISE)
        return value

    return math.log(integrate.quad(density, -8, 8, epsabs=1e-14, limit=400)[0])


def test_a_switch_for_each_value_in_an_inner_plate():
    x = torch.tensor([[0.1, 2.2, -0.4], [3.0, 0.7, 1.1]])
    truth = torch.tensor([by_quadrature(row) for row in x.double().tolist()], dtype=torch.float64)
    program = switches()
    found = pv.log_evidence(program, x, 5000)
    assert ((found.log_px - truth).abs() < 4 * found.mc_se + 1e-4).all()
    torch.testing.assert_close(pv.exact_evidence(program, x).log_px, truth, rtol=0, atol=1e-3)


def test_masked_values_do_not_count():
    x, missing = torch.tensor([[0.1, 2.2, -0.4]]), torch.tensor([[False, True, False]])
    truth = by_quadrature([0.1, -0.4])
    found = pv.exact_evidence(switches(missing), x)
    assert float(found.log_px) == pytest.approx(truth, abs=1e-3)


def test_draws_are_vectorized_and_repeated_rows_give_the_same():
    program, x = program_of(Components(2)), torch.randn(4, 2)
    plates = find_plates(program, Batch(x))
    assert plates.enumerated == ("k",)
    sampler = LogWeightSampler(program, plates, Batch(x))
    assert sampler.vectorized
    with torch.no_grad():
        vectorized = sampler(Batch(x), 20_000).log_weights
        sampler.vectorized = False
        repeated = sampler(Batch(x), 20_000).log_weights
    difference = torch.logsumexp(vectorized, 0) - torch.logsumexp(repeated, 0)
    assert difference.abs().max() < 0.05


def test_training_sums_it_out_and_then_log_px_is_at_least_the_elbo():
    part = Components(2)
    x = torch.cat([torch.randn(100, 2) - 2, torch.randn(100, 2) + 3])
    net = pv.nets.mlp(2, 8, 4)

    def guide(x):
        pyro.module("net", net)
        loc, scale = net(x).chunk(2, -1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    program = pv.Program(part.model, guide)
    fitted = pv.fit(program, x, epochs=60, learning_rate=0.02, progress="none")
    found = pv.log_evidence(program, x, 500)
    assert found.elbo.mean() == pytest.approx(fitted.history[-1]["elbo"], abs=0.1)
    assert found.log_px.mean() >= found.elbo.mean()
    assert (found.log_px - part.exact(x)).mean().abs() < 0.1


def test_a_support_that_depends_on_it_is_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Uniform(MEANS[k], MEANS[k] + 6.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 0.1))

    with pytest.raises(pv.InputError, match="the support of z depends on a latent that is summed out"):
        pv.annealed_evidence(pv.Program(model, guide), torch.ones(2, 1), 3, start="prior")


def test_codes_need_the_guide_to_draw_every_latent():
    with pytest.raises(pv.errors.RowsError, match="the guide must draw k for a row to have codes of its own"):
        pv.diagnostics.aggregate(program_of(Components(2)), torch.randn(30, 2))
