"""Plates of a program: global latents, subsampling, row plates and deterministic sites."""

import contextlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import (
    global_mean,
    global_mean_posterior,
    plain_functions,
)

import pyro_vae as pv
from pyro_vae.programs.parameters import named_parameters


def test_a_global_latent_is_fitted_at_its_right_weight():
    """Local sites count N/B times: in minibatches of 8 the posterior of the shared mean must be as narrow as for all 64
    rows."""
    x = torch.randn(64, 1) + 2
    program = global_mean()
    pv.fit(program, x, epochs=400, batch_size=8, learning_rate=0.02, schedule="cosine")
    mean, deviation = global_mean_posterior(x)
    learned = named_parameters(program)
    assert learned["pyro.param/loc"].item() == pytest.approx(mean, abs=0.05)
    assert learned["pyro.param/scale"].exp().item() == pytest.approx(deviation, rel=0.15)
    with pytest.raises(pv.errors.RowsError, match="mean lies outside"):
        pv.log_evidence(program, x)


def test_a_pyro_plate_that_subsamples_weighs_the_same():
    """`pyro.plate("data", N, subsample_size=len(x))` scales by N/B itself; the fit must not do so again."""
    x = torch.randn(64, 1) + 2
    results = []
    for subsampled in (False, True):

        def model(x, num_rows, subsampled=subsampled):
            mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
            size, subsample = (num_rows, torch.arange(len(x))) if subsampled else (len(x), None)
            with pyro.plate("data", size, subsample=subsample):
                pyro.sample("x", dist.Normal(mean, 1.0).expand([1]).to_event(1), obs=x)

        def guide(x):
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

        fitted = pv.fit(pv.Program(model, guide), x, epochs=3, batch_size=8)
        results.append([row["elbo"] for row in fitted.history])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_missing_guide_site_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((z + w)[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.InputError, match="the model draws w, which the guide does not"):
        pv.log_evidence(pv.Program(model, guide), torch.randn(5, 1))


def mixture_of_means(num_rows, with_components_plate):
    """A global latent inside a plate of its own, which has the same dimension as the plate over rows."""

    def model(x):
        with contextlib.ExitStack() as stack:
            if with_components_plate:
                stack.enter_context(pyro.plate("components", 1))
            mean = pyro.sample(
                "mean", dist.Normal(torch.zeros(1), 3.0) if with_components_plate else dist.Normal(0.0, 3.0)
            )
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean.sum(), 1.0).expand([1]).to_event(1), obs=x)

    def guide(x):
        loc, scale = (
            pyro.param("loc", torch.tensor(0.0)),
            pyro.param("scale", torch.tensor(1.0), dist.constraints.positive),
        )
        with contextlib.ExitStack() as stack:
            if with_components_plate:
                stack.enter_context(pyro.plate("components", 1))
            pyro.sample("mean", dist.Normal(loc, scale).expand([1] if with_components_plate else []))

    return pv.Program(model, guide)


def test_a_global_latent_in_a_plate_of_the_same_dimension_is_still_global():
    x = torch.randn(64, 1) + 2
    first, second = (pv.fit(mixture_of_means(64, plate), x, epochs=3, batch_size=8).history for plate in (False, True))
    assert [row["elbo"] for row in first] == pytest.approx([row["elbo"] for row in second], rel=1e-5)


def test_a_program_without_a_row_plate_is_not_fitted_in_batches():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(mean, 1.0).expand(x.shape).to_event(2), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

    x = torch.randn(64, 1) + 2
    with pytest.raises(pv.errors.RowsError, match="held-out rows have no ELBO"):
        pv.fit(pv.Program(model, guide), x, valid=x, batch_size=64)
    with pytest.raises(pv.errors.RowsError, match=r"no plate over rows .*batch_size=64"):
        pv.fit(pv.Program(model, guide), x, batch_size=8)
    program = pv.Program(model, guide)
    pv.fit(program, x, batch_size=64, epochs=800, learning_rate=0.1, schedule="cosine")
    mean, deviation = global_mean_posterior(x)
    assert named_parameters(program)["pyro.param/loc"].item() == pytest.approx(mean, abs=0.1)
    assert named_parameters(program)["pyro.param/scale"].exp().item() == pytest.approx(deviation, rel=0.2)


def test_a_guide_site_the_model_does_not_have_is_refused():
    program = plain_functions()

    def guide(x):
        program._guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("stray", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.InputError, match="the guide draws stray, which is no latent of the model"):
        pv.log_evidence(pv.Program(program._model, guide), torch.randn(5, 3))


def test_particles_are_vectorized_only_where_that_gives_the_same():
    """`z[:, 0]` agrees with anything while W is zero: the trial must not be fooled by how training starts."""

    class OneAxis(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.zeros(3))
            self.to_z = pv.nets.mlp(3, 4)

        def model(self, x):
            pyro.param("W", self.W)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z[:, 0, None] * self.W, 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("to_z", self.to_z)
            loc, raw = self.to_z(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, torch.nn.functional.softplus(raw)).to_event(1))

    x = torch.randn(400, 1) * torch.tensor([3.0, -3.0, 3.0]) + torch.randn(400, 3)
    elbos = []
    for particles in (1, 4):
        torch.manual_seed(0)
        program = OneAxis()
        elbos.append(pv.fit(program, x, epochs=40, learning_rate=0.02, num_particles=particles).history[-1]["elbo"])
    assert elbos[1] == pytest.approx(elbos[0], abs=0.3)


def test_deterministic_sites_are_not_drawn_again():
    """`pyro.deterministic` marks a site as observed, yet it is no observation: draws keep their shape and their law."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            twice = pyro.deterministic("twice", 2 * z, event_dim=1)
            pyro.sample("x", dist.Normal(twice, 1e-3).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    drawn = pv.Program(model, guide).sample(4000, seed=0)
    assert drawn.shape == (4000, 1)
    assert abs(drawn.std() - 2) < 5 * 2 / (2 * 4000) ** 0.5


def test_a_program_that_needs_some_rows_is_of_any_larger_number():
    """It cannot run on two rows, and its plate is found on one row fewer."""

    def centred(x):
        assert len(x) > 5
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(x.shape), 1.0).to_event(1), obs=x - x.mean(0))

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x[:, :1], 1.0).to_event(1))

    program = pv.Program(centred, guide)
    pv.fit(program, torch.randn(40, 3), epochs=1, batch_size=10)
    assert pv.log_evidence(program, torch.randn(30, 3), 20).log_px.shape == (30,)
