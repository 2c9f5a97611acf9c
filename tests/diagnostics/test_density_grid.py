"""Densities over a grid against closed forms, exact evidence, and one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Cauchyish
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.diagnostics.density_grid import density_on_grid, rows_like
from pyro_vae.errors import InputError


def mass(plane):
    return float(plane.log_px.exp().sum() * (plane.xx[0, 1] - plane.xx[0, 0]) * (plane.yy[1, 0] - plane.yy[0, 0]))


def points(plane):
    return torch.stack([plane.xx.flatten(), plane.yy.flatten()], 1)


def small_vae(K=2, prior=None):
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(K, 16, 4), scale="network")
    return pv.VAE(
        prior or pv.priors.StandardNormal(K), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(2, 16, 2 * K))
    )


@pytest.mark.parametrize("make", [lambda: pv.PPCA(1, 2), lambda: pv.GaussianMixture(6, 2)])
def test_densities_of_standardized_data_have_mass_one_in_original_units(make):
    data = pv.load_data("pinwheel")
    program = make()
    pv.fit_em(program, data, epochs=20)
    plane = density_on_grid(program, (-8, -9), (9, 8), 200, like=data)
    assert mass(plane) == pytest.approx(1, abs=2e-3)
    expected = program.log_prob(rows_like(points(plane)[:500], data))
    torch.testing.assert_close(plane.log_px.flatten()[:500], expected, atol=1e-12, rtol=0)


def test_y_goes_upwards_and_x_across():
    plane = density_on_grid(pv.PPCA(1, 2), (-1, 2), (1, 5), 4)
    assert plane.xx[0].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert plane.yy[:, 0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("sites", [1, 2])
def test_a_linear_model_is_met_exactly_for_any_prior_and_any_sites(sites):
    """The lattice knows neither N(0, I) nor that there is one site; float32 programs, so 1e-3."""
    model = LinearGaussian(2, 2, sites=sites, loc=1.0, scale=0.7)
    plane = density_on_grid(model, (-3, -4), (4, 3), 30)
    expected = model.exact(points(plane).float()).double().reshape(30, 30)
    torch.testing.assert_close(plane.log_px, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("K", [1, 2])
def test_a_vae_is_met_as_exact_evidence_meets_it(K):
    data = pv.load_data("two-moons")
    vae = small_vae(K)
    pv.fit(vae, data, epochs=5, learning_rate=5e-3)
    plane = density_on_grid(vae, (-4, -4), (5, 4), 40, like=data)
    assert mass(plane) == pytest.approx(1, abs=0.01)
    index = torch.arange(0, 1600, 97)
    exact = pv.exact_evidence(vae, rows_like(points(plane)[index], data))
    torch.testing.assert_close(plane.log_px.flatten()[index], exact.log_px, atol=0.01, rtol=0)


def test_what_no_lattice_holds_is_sampled():
    """Three latents, and a prior whose tails leave the lattice: log p(x) by draws, within their error."""
    three = LinearGaussian(3, 2)
    plane = density_on_grid(three, (-2, -2), (2, 2), 8, num_samples=4000)
    exact = three.exact(points(plane).float()).double().reshape(8, 8)
    assert (plane.log_px - exact).abs().max() < 0.15
    heavy = small_vae(1, Cauchyish(1))
    plane = density_on_grid(heavy, (-2, -2), (2, 2), 8, num_samples=2000)
    again = pv.log_evidence(heavy, points(plane).float(), 20_000, prior_share=0.5, seed=1).log_px.reshape(8, 8)
    assert (plane.log_px - again).abs().max() < 0.3


def test_a_latent_that_counts_is_sampled():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(3 * c[..., None], 1.0).expand([len(x), 2]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.sigmoid(x.sum(1) - 3)))

    plane = density_on_grid(pv.Program(model, guide), (-2, -2), (5, 5), 6, num_samples=4000)
    x = points(plane)
    each = [torch.distributions.Normal(loc, 1.0).log_prob(x).sum(1) for loc in (0.0, 3.0)]
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64).log()
    exact = torch.logaddexp(each[0] + weights[0], each[1] + weights[1]).reshape(6, 6)
    assert (plane.log_px - exact).abs().max() < 0.2


def test_same_seed_same_bits_and_the_callers_numbers_are_left_alone():
    vae = small_vae()
    before = torch.get_rng_state()
    one, two = (density_on_grid(vae, (-1, -1), (1, 1), 5) for _ in range(2))
    assert torch.equal(one.log_px, two.log_px)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_rectangle_is_refused():
    with pytest.raises(InputError, match="rectangle"):
        density_on_grid(small_vae(), (0, 0), (1, 0))
