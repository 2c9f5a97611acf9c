"""Programs as people write them that are none of Pyro's examples: each against an independent number, or refused in
words that say what is wrong."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger
from pyro.infer.reparam import LocScaleReparam

import pyro_vae as pv
from pyro_vae.errors import RowsError


def rows(n, columns, seed=0):
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_rows", [4, 5, 6])
def test_a_plate_of_as_many_elements_as_rows_is_another(num_rows):
    """A global latent in it was taken for one of the rows where the guide has parameters for each row."""

    def model(x):
        with pyro.plate("components", 5):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w.mean(-1, keepdim=True), 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1), obs=x)

    program, x = pv.Program(model, AutoNormal(model)), rows(num_rows, 3)
    pv.fit(program, x, batch_size=num_rows, epochs=5)
    assert program.encode(x).shape == (num_rows, 1)
    for verb in (pv.log_evidence, pv.exact_evidence, pv.auto_evidence):
        with pytest.raises(RowsError, match="w lies outside"):
            verb(program, x)


def test_masks_that_differ_in_a_later_row_are_refused():
    """Only the first eight rows were looked at."""

    def model(x, flag):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=flag):
                y = pyro.sample("y", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal((z + torch.where(flag, y, 0.0))[..., None], 0.5).to_event(1), obs=x)

    def guide(x, flag):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0] * 0.5, 1.0))
            with poutine.mask(mask=torch.ones_like(flag)):
                pyro.sample("y", dist.Normal(z, 1.0))

    flag = torch.arange(12) < 9
    with pytest.raises(pv.InputError, match="mask y differently"):
        pv.log_evidence(pv.Program(model, guide), pv.Split("test", rows(12, 1), inputs={"flag": flag}))


def test_reparametrized_latents_are_no_columns_of_x():
    def plain(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(1.0, 2.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1), obs=x)

    model = poutine.reparam(plain, config={"z": LocScaleReparam(0.0)})
    program, x = pv.Program(model, AutoNormal(model)), rows(12, 3)
    pv.fit(program, x, batch_size=12, epochs=5)
    assert program.reconstruct(x).shape == (12, 3)
    assert program.sample(7).shape == (7, 3)
    exact = dist.MultivariateNormal(torch.ones(3), 4 * torch.ones(3, 3) + 0.25 * torch.eye(3)).log_prob(x)
    assert (pv.exact_evidence(program, x).log_px - exact).abs().max() < 1e-4


def test_one_mean_for_all_columns_is_of_every_column():
    """A distribution of one value, observed at three, drew and reconstructed one column."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x.sum(-1), 0.5))

    program, x = pv.Program(model, guide), rows(40, 3)
    pv.fit(program, x, epochs=1)
    assert program.reconstruct(x).shape == (40, 3)
    drawn = program.sample(4000, seed=0)
    assert drawn.shape == (4000, 3)
    covariance = torch.ones(3, 3) + 0.25 * torch.eye(3)  # columns differ by their own noise
    assert (torch.cov(drawn.T) - covariance).abs().max() < 0.1


def test_handlers_that_are_no_guides_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    with pytest.raises(pv.InputError, match="AutoNormalMessenger is a handler of the model"):
        pv.Program(model, AutoNormalMessenger(model))


def test_a_model_with_a_value_of_its_own_for_each_row():
    """It runs for all rows, from every verb, and for no other number."""
    own, x = torch.linspace(-1, 1, 12), rows(12, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(own, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.7))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x[:, 0], 0.8))

    program = pv.Program(model, guide)
    pv.fit(program, x, batch_size=12, epochs=2)
    exact = dist.Normal(own, 1.25**0.5).log_prob(x[:, 0])
    assert (pv.log_evidence(program, x, 4000).log_px - exact).abs().max() < 0.1
    assert (pv.exact_evidence(program, x).log_px - exact).abs().max() < 1e-4
    assert (pv.auto_evidence(program, x, exact=False).log_px - exact).abs().max() < 0.1
    assert program.encode(x).shape == (12, 1)
    with pytest.raises(RowsError, match=r"the model does not run for 5 rows(.|\n)*inputs="):
        pv.log_evidence(program, x[:5])


def test_a_plate_that_subsamples_in_the_model_is_named():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index, 0])

    with pytest.raises(RowsError, match="takes 5 of the 20 rows at hand"):
        pv.fit(pv.Program(model, AutoNormal(model)), rows(20, 1), batch_size=20, epochs=1)


def test_a_required_mask_is_true_where_nothing_is_missing():
    def model(x, mask):
        assert mask.shape == x.shape
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).expand(x.shape).mask(mask).to_event(1), obs=x)

    def guide(x, mask):
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x.sum(-1), 0.5))

    program, x = pv.Program(model, guide), rows(20, 2)
    pv.fit(program, x, epochs=1)
    exact = dist.MultivariateNormal(torch.zeros(2), torch.ones(2, 2) + 0.25 * torch.eye(2)).log_prob(x)
    assert (pv.exact_evidence(program, x).log_px - exact).abs().max() < 1e-4


def test_what_needs_no_guide_needs_none_of_its_inputs():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x)

    def guide(x, labels):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] + labels, 0.5))

    program, x = pv.Program(model, guide), rows(9, 1)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x[:, 0])
    assert (pv.exact_evidence(program, x).log_px - exact).abs().max() < 1e-4
    assert (pv.laplace_approximation(program, x).log_px - exact).abs().max() < 1e-4
    with pytest.raises(pv.InputError, match="asks for labels"):
        pv.log_evidence(program, x)


def test_discrete_latents_beside_an_autoguide():
    """The prior that stands in for the guide draws them: its density of the others alone is not known."""

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(torch.tensor([-1.0, 1.0])[k], 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])

    program, x = pv.Program(model, AutoNormal(poutine.block(model, expose=["z"]))), rows(12, 1)
    pv.fit(program, x, batch_size=12, epochs=2)
    each = dist.Normal(torch.tensor([-1.0, 1.0]), 1.25**0.5).log_prob(x)
    exact = torch.logsumexp(each + torch.tensor([0.3, 0.7]).log(), -1)
    assert (pv.auto_evidence(program, x, 5000).log_px - exact).abs().max() < 0.1
    pv.fit(program, x, batch_size=12, epochs=200, learning_rate=0.05)
    assert (pv.log_evidence(program, x, 4000).log_px - exact).abs().max() < 0.3
