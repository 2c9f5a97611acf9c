"""The Laplace approximation where it is exact, where the mode can be seen on a grid, and where Newton alone is lost."""

import math

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae.inference.posterior.laplace import laplace_approximation
from pyro_vae.programs.encode_rows import encode
from pyro_vae.programs.parameters import copy_state
from pyro_vae.programs.sample_rows import sample


def oracle_in(dtype, sites):
    oracle = LinearGaussian(4, 10, sites=sites, loc=0.7, scale=1.3)
    for name in ("W", "b", "m", "s", "posterior_cov"):
        setattr(oracle, name, getattr(oracle, name).to(dtype))
    return oracle, oracle.rows(40).to(dtype) if dtype == torch.float32 else torch.randn(40, 10, dtype=dtype)


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_normal_posterior_is_met_exactly(dtype, sites):
    oracle, x = oracle_in(dtype, sites)
    found = laplace_approximation(oracle, x)
    assert found.mode.dtype == dtype
    assert found.converged.all()
    torch.testing.assert_close(found.mode, oracle.posterior_mean(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.covariance, oracle.posterior_cov.expand(40, 4, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.log_px, oracle.exact(x).double(), rtol=0, atol=1e-4)
    scored = pv.log_evidence(found, x, 30, rows=torch.arange(40))  # every weight is p(x)
    torch.testing.assert_close(scored.elbo, oracle.exact(x).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(scored.log_px, oracle.exact(x).double(), rtol=0, atol=1e-4)


def bent_vae(K, D=30):
    """A decoder that bends, its last weights thrice as wide as they start."""
    net = pv.nets.mlp(K, 10, D)
    with torch.no_grad():
        net[2].weight.mul_(3.0)
    return pv.VAE(
        pv.priors.StandardNormal(K), pv.likelihoods.Bernoulli(net), pv.guides.MeanFieldNormal(pv.nets.mlp(D, 2 * K))
    )


def log_joint(vae, z, x):
    """(M, K), (N, D) → (M, N)."""
    return vae.prior().log_prob(z)[:, None] + vae.likelihood(z[:, None]).log_prob(x)


@pytest.mark.parametrize(("K", "points"), [(1, 8001), (2, 401)])
def test_modes_are_where_a_fine_grid_is_highest_and_the_normals_are_good_proposals(K, points):
    vae = bent_vae(K)
    x = vae.sample(30, seed=1)
    found = laplace_approximation(vae, x, starts=8)
    side = torch.linspace(-4, 4, points)
    grid = torch.cartesian_prod(*[side] * K).reshape(-1, K)
    with torch.no_grad():
        heights = log_joint(vae, grid, x)
        reached = log_joint(vae, found.mode, x).diagonal()
    assert found.converged.all()
    assert (reached >= heights.amax(0) - 1e-4).all()
    assert (found.mode - grid[heights.argmax(0)]).abs().max() < 2 * 8 / points
    exact, scored = pv.exact_evidence(vae, x), pv.log_evidence(found, x, 4000, rows=torch.arange(30))
    assert scored.khat_bad <= 0.1
    assert ((scored.log_px - exact.log_px).abs() < 5 * scored.mc_se + 1e-3).all()
    assert (found.log_px - exact.log_px).abs().mean() < 0.3  # an estimate


class Squared(nn.Module):
    """z ~ N(m, 1), x | z ~ N(z², s²): two modes, and −H no metric for |z| < √(x/3); the guide is where it is told."""

    def __init__(self, m=0.0, s=0.5, start=0.0, spread=1e-30):
        super().__init__()
        self.m, self.s, self.start, self.spread = m, s, start, spread

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.m, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z**2, self.s).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.start, self.spread).expand([1]).to_event(1))


@pytest.mark.parametrize("start", [0.0, 0.05, 6.0])
def test_a_start_on_a_saddle_where_it_is_hollow_or_far_away_reaches_a_mode(start):
    program, x = Squared(start=start), torch.tensor([[1.0], [2.0], [4.0]])
    found = laplace_approximation(program, x, starts=1)
    assert found.converged.all()
    top = x[:, 0] - program.s**2 / 2  # z² there, by hand
    torch.testing.assert_close(found.mode[:, 0] ** 2, top, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.covariance[:, 0, 0], program.s**2 / (4 * top), rtol=1e-3, atol=0)


def test_of_two_modes_several_starts_find_the_higher():
    program, x = Squared(m=0.4, start=-1.0, spread=0.1), torch.linspace(1.0, 4.0, 20)[:, None]
    assert (laplace_approximation(program, x, starts=1).mode < 0).all()
    found = laplace_approximation(program, x, starts=16)
    z = torch.linspace(-3, 3, 60_001)
    heights = dist.Normal(0.4, 1.0).log_prob(z) + dist.Normal(z**2, 0.5).log_prob(x)
    assert (found.mode[:, 0] - z[heights.argmax(1)]).abs().max() < 1e-3


def test_where_there_is_no_top_it_says_so():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("upwards", 2 * z[..., 0] ** 2)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    found = laplace_approximation(pv.Program(model, guide), torch.ones(5, 2), steps=5)
    assert not found.converged.any()
    assert found.log_px.isnan().all()
    assert found.covariance.isfinite().all()


def test_a_constrained_latent_has_the_image_of_the_normal():
    """Poisson counts with a Gamma rate: log rate has its mode and curvature by hand, and log p(x) is known."""
    shape, rate, D = 3.0, 2.0, 4

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Gamma(shape, rate))
            pyro.sample("x", dist.Poisson(z[..., None]).expand([*z.shape, D]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.LogNormal(torch.zeros(len(x)), 1.0))

    x = torch.poisson(torch.full((25, D), 1.5))
    found = laplace_approximation(pv.Program(model, guide), x)
    a, b = shape + x.sum(1), rate + D
    torch.testing.assert_close(found.mode[:, 0], torch.log(a / b), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.covariance[:, 0, 0], 1 / a, rtol=1e-4, atol=0)
    exact = shape * math.log(rate) - math.lgamma(shape) + torch.lgamma(a) - a * math.log(b) - torch.lgamma(x + 1).sum(1)
    scored = pv.log_evidence(found, x, 4000, rows=torch.arange(25))
    assert ((scored.log_px - exact).abs() < 5 * scored.mc_se + 1e-3).all()
    mixed = pv.log_evidence(found, x, 4000, rows=torch.arange(25), prior_share=0.1)  # the density of z is known
    assert ((mixed.log_px - exact).abs() < 5 * mixed.mc_se + 1e-3).all()


def test_several_sites_with_bounds_that_depend_on_others_are_one_normal():
    def latents():
        r = pyro.sample("r", dist.Gamma(2.0, 1.0))
        w = pyro.sample("w", dist.Dirichlet(2 * torch.ones(3)))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1 + r[..., None]).to_event(1))
        return torch.cat([z, w, pyro.sample("t", dist.Uniform(-1 - r, 1 + r))[..., None]], -1)

    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(latents(), 0.7).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            latents()

    program = pv.Program(model, guide)
    x = sample(program, 15, num_features=6, seed=2)
    found = laplace_approximation(program, x)
    assert found.mode.shape == (15, 6)
    assert found.converged.all()
    scored = pv.log_evidence(found, x, 4000, rows=torch.arange(15))
    plain = pv.log_evidence(program, x, 60_000, prior_share=1.0)
    apart = (scored.log_px - plain.log_px).abs() / (scored.mc_se.square() + plain.mc_se.square()).sqrt()
    assert apart.max() < 5
    assert scored.mc_se.max() < 0.1
    assert encode(found, x, rows=torch.arange(15)).shape == (15, 7)


def test_rows_are_looked_up_and_the_program_keeps_its_own_places():
    table = example_programs.PerRowGuide(30, torch.randn(5, 2), 0.5)
    x, places = torch.randn(8, 5), torch.arange(20, 28)
    found = laplace_approximation(table, x, rows=places)
    exact = pv.exact_evidence(table, x, rows=places).log_px
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=1e-4)
    some = torch.tensor([7, 0, 3])
    scored = pv.log_evidence(found, x[some], 30, rows=some)
    torch.testing.assert_close(scored.log_px, exact[some], rtol=0, atol=1e-4)
    with pytest.raises(pv.InputError, match="8 rows were approximated; got rows 2 to 8"):
        found.guide(x[:2], rows=torch.tensor([2, 8]))
    with pytest.raises(pv.InputError, match="needs rows"):
        found.guide(x)


def test_a_program_stays_as_it_was_and_bits_repeat(tiny_vae):
    vae, x = tiny_vae
    vae.train()
    before, numbers = copy_state(vae), torch.get_rng_state()
    found = laplace_approximation(vae, x, batch_size=23)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert vae.training
    assert all(torch.equal(before[name], value) for name, value in copy_state(vae).items())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    again, whole = laplace_approximation(vae, x, batch_size=23), laplace_approximation(vae, x)
    assert torch.equal(found.mode, again.mode)
    assert torch.equal(found.log_px, again.log_px)
    torch.testing.assert_close(found.log_px, whole.log_px, rtol=0, atol=1e-4)


def test_what_has_no_mode_for_each_row_is_refused(tiny_vae):
    def discrete(x):
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(c.float()[..., None], 1.0).to_event(1), obs=x)

    def of_guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("c", dist.Categorical(torch.ones(3)))

    def crossed(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 4, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def crossed_guide(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.InputError, match="continuous latents"):
        laplace_approximation(pv.Program(discrete, of_guide), torch.zeros(4, 1))
    with pytest.raises(pv.errors.RowsError, match="mean lies outside"):
        laplace_approximation(example_programs.global_mean(), torch.zeros(4, 1))
    with pytest.raises(pv.InputError, match="a plate other than"):
        laplace_approximation(pv.Program(crossed, crossed_guide), torch.zeros(3, 4))
    with pytest.raises(pv.InputError, match="one or more"):
        laplace_approximation(tiny_vae[0], tiny_vae[1], starts=0)
