"""Densities of q and the prior that figures show, against closed forms; holes between them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from figure_checks import Given, build_vae, look_at, words

import pyro_vae as pv
from pyro_vae.plots.latent_figures import aggregate, draw_latent_figures
from pyro_vae.plots.latent_traversals import interpolations


def test_densities_are_the_mixture_of_the_rows_and_the_prior():
    vae = build_vae(2, 64, pv.priors.Normal([1.0, 0.0], [0.5, 2.0]))
    view, points = look_at(vae), 2 * torch.randn(30, 2)
    posterior, prior = view.densities(points)
    with torch.no_grad():
        q = [vae.posterior(x[None]).log_prob(points).exp() for x in view.rows.x]
        torch.testing.assert_close(posterior, torch.stack(q).mean(0).double(), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(prior, vae.prior().log_prob(points).exp().double())


def test_a_prior_that_depends_on_the_row_is_averaged_too():
    def model(x, labels):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(labels[:, None].float().expand(-1, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 64]).to_event(1), obs=x)

    def guide(x, labels):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    view, points = look_at(pv.Program(model, guide)), torch.randn(9, 2)
    _, prior = view.densities(points)
    each = dist.Normal(view.rows.labels[:, None, None].float().expand(-1, 9, 2), 1.0).to_event(1).log_prob(points)
    torch.testing.assert_close(prior, each.exp().mean(0).double(), rtol=1e-4, atol=1e-9)
    assert interpolations(view) is None  # halfway between two labels there is none


def plated(kind):
    """Two latents of which each row has its own: side by side in a plate, as a column of two, or as a vector."""
    rows = -2 if kind == "plate" else -1

    def model(x):
        with pyro.plate("data", len(x), dim=rows):
            if kind == "plate":
                with pyro.plate("k", 2, dim=-1):
                    z = pyro.sample("z", dist.Normal(1.0, 2.0))
                pyro.sample(
                    "x", dist.Normal(z.mean(-1)[..., None, None].expand(-1, 1, 64), 1.0).to_event(1), obs=x[:, None]
                )
                return
            shape = (2, 1) if kind == "column" else (2,)
            z = pyro.sample("z", dist.Normal(torch.ones(shape), 2.0).to_event(len(shape)))
            loc = z.flatten(-len(shape)).mean(-1, keepdim=True) if kind == "column" else z.mean(-1, keepdim=True)
            pyro.sample("x", dist.Normal(loc.expand(*loc.shape[:-1], 64), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = x[:, 20:22] - x[:, 40:42]
        with pyro.plate("data", len(x), dim=rows):
            if kind == "plate":
                with pyro.plate("k", 2, dim=-1):
                    pyro.sample("z", dist.Normal(loc, 0.5))
            else:
                loc = loc[..., None] if kind == "column" else loc
                pyro.sample("z", dist.Normal(loc, 0.5).to_event(loc.dim() - 1))

    return pv.Program(model, guide)


@pytest.mark.parametrize("kind", ["vector", "plate", "column"])
def test_densities_of_latents_of_any_shape(kind):
    view, points = look_at(plated(kind)), 2 * torch.randn(300, 2)
    posterior, prior = view.densities(points)
    x = view.rows.x
    q = dist.Normal(x[:, 20:22] - x[:, 40:42], 0.5).to_event(1).log_prob(points[:, None]).exp().mean(1)
    torch.testing.assert_close(posterior, q.double(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(
        prior, dist.Normal(torch.ones(2), 2.0).to_event(1).log_prob(points).exp().double(), rtol=1e-4, atol=1e-9
    )
    data, split = view.data, view.split
    found = [picture.name for picture in draw_latent_figures(view.program, data, split, torch.randn(len(split)))]
    assert "aggregate" in found


@pytest.mark.parametrize(("loc", "scale", "share"), [(0.0, 1.0, "0%"), (4.0, 0.01, "100%"), (0.0, 0.5, None)])
def test_holes_are_where_the_prior_is_and_the_data_are_not(loc, scale, share):
    """For q = N(0, ¼ I): q < p/10 where r² > (2/3)(log 4 + log 10), of which the prior has exp(−r²/2) = 29%."""
    view = look_at(build_vae(2, 64, guide=Given([loc, 0.0], [scale, scale])))
    figure = aggregate(view)
    note = words(figure)[0]
    assert note.endswith("of the prior's mass lies in holes, where q is below p(z)/10")
    found = note.removeprefix("40 rows; ").split(" ")[0]
    if share is None:
        assert abs(int(found.rstrip("%")) - 100 * np.exp(-(np.log(4) + np.log(10)) / 3)) < 1.5
    else:
        assert found == share
