"""log p(x | z) of all rows at shared points: against the program's own traces, and refused where a row matters."""

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.context_managers import evaluating
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.shared_latents import SharedLatents
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint


def find_and_compare(program, batch):
    """The matrix that was found, and the largest difference from the program's own density of each row and point."""
    with use_param_store(program), evaluating(program), torch.no_grad(), pyro.validation_enabled(False):
        plates = find_plates(program, batch)
        if (shared := SharedLatents.find(program, plates, batch)) is None:
            return None, None
        u = torch.cat([shared.joint.from_guide(), shared.joint.from_prior()])[:9]
        found, n = shared.at(u), len(batch.x)
        every = UnconstrainedJoint(program, plates, batch.take(torch.arange(n).repeat_interleave(len(u))))
        known = every.at(u.repeat(n, 1))
        difference = (found.log_joint - known.log_joint.reshape(n, -1)).abs().max()
        some = torch.tensor([n - 1, 0])
        torch.testing.assert_close(shared.at(u, some).likelihood, found.likelihood[some])
    return shared, float(difference)


def vae(likelihood, outputs=5, K=2, D=5, mask_aware=False):
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(2 * D if mask_aware else D, 8, 2 * K))
    guide = pv.guides.MaskAwareGuide(guide) if mask_aware else guide
    return pv.VAE(pv.priors.StandardNormal(K), likelihood(pv.nets.mlp(K, 8, outputs)), guide)


COUNTS, REALS = torch.tensor([[0.0, 1, 0, 2, 1]] * 7), torch.randn(7, 5)
L = pv.likelihoods
LIKELIHOODS = {
    "bernoulli": (lambda: vae(L.Bernoulli), (REALS > 0).float(), True),
    "relaxed": (lambda: vae(lambda net: L.Bernoulli(net, relaxed=True)), torch.rand(7, 5), True),
    "continuous bernoulli": (lambda: vae(L.ContinuousBernoulli), torch.rand(7, 5), True),
    "normal": (lambda: vae(lambda net: L.Normal(net, 0.1)), REALS, True),
    "normal, scale by the network": (lambda: vae(lambda net: L.Normal(net, "network"), 10), REALS, True),
    "normal, a scale each": (lambda: vae(lambda net: L.Normal(net, "per-feature", 5)), REALS, True),
    "student-t": (lambda: vae(lambda net: L.StudentT(net, "learned")), REALS, False),
    "grey levels": (lambda: vae(L.DiscretizedLogistic), torch.arange(35).reshape(7, 5) / 255, False),
    "categorical": (lambda: vae(lambda net: L.Categorical(net, 3), 15), COUNTS, True),
    "poisson": (lambda: vae(L.Poisson), COUNTS, True),
    "negative binomial": (lambda: vae(lambda net: L.NegativeBinomial(net, 5)), COUNTS, True),
}


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "with gaps"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_at_every_pair(name, gaps):
    make, x, is_product = LIKELIHOODS[name]
    program = make()
    mask = None
    if gaps:
        mask = torch.rand(7, 5) < 0.6
        x = torch.where(mask, x, 0.0)
    shared, difference = find_and_compare(program, Batch(x, mask=mask))
    assert shared.is_product == is_product
    assert difference < 2e-4


def two_sites(x):
    """A vector of reals and one-hot categories, two latents of one dimension each, the second scaled by the first."""
    with pyro.plate("rows", len(x), dim=-2):
        a = pyro.sample("a", dist.Gamma(torch.ones(1), 1.0))
        with pyro.plate("parts", 1, dim=-1):
            b = pyro.sample("b", dist.Normal(0.0, a))
        pyro.sample("x", dist.Normal(torch.cat([a, b], -1)[:, None], 0.5).to_event(1), obs=x[:, None, :2])
        logits = torch.stack([a, b, a * b], -1)
        pyro.sample("kind", dist.OneHotCategorical(logits=logits), obs=x[:, None, 2:])


def masked(x):
    """One mask of rows by Pyro's handler, one of values by the distribution, and a factor of z."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(True).to_event(1))
        with pyro.poutine.mask(mask=x[:, 0] > 0):
            values = dist.Poisson(torch.cat([z, z[:, :1]], -1).exp()).mask(x < 2).to_event(1)
            pyro.sample("x", values, obs=x)
            pyro.factor("factor", -z.square().sum(-1))


def masked_latent(x):
    with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=x[:, 0] > 0):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(z[:, :1].exp()).to_event(1), obs=x[:, :1])


def vectors(x):
    """A normal with correlated values, whose density does not factorize."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(z, torch.eye(3) + 0.5), obs=x)


def drawn_alike(model):
    return lambda x: pyro.poutine.block(model, expose_fn=lambda m: m["type"] == "sample" and not m["is_observed"])(x)


@pytest.mark.parametrize("model", [two_sites, vectors])
def test_programs_of_several_sites(model):
    x = torch.cat([torch.randn(6, 2), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]], 1)
    x = x[:, :3] if model is vectors else x
    shared, difference = find_and_compare(pv.Program(model, drawn_alike(model)), Batch(x))
    assert shared.is_product == (model is two_sites)
    assert difference < 1e-4


def test_masks_of_rows_and_values():
    """Masks of the likelihood do not make the prior depend on the row; a masked prior has no density to integrate."""
    x = torch.tensor([[0.0, 1, 2], [1, 0, 3], [1, 1, 1], [2, 0, 0]])
    for rows in (x, x[1:]):
        shared, difference = find_and_compare(pv.Program(masked, drawn_alike(masked)), Batch(rows))
        assert shared is not None
        assert difference < 1e-4
        with pytest.raises(pv.InputError, match="z has a mask"):
            find_and_compare(pv.Program(masked_latent, drawn_alike(masked_latent)), Batch(rows))


def test_linear_gaussian_far_from_zero():
    program = LinearGaussian(2, 30, loc=5.0, noise=1e-3)
    program.b = program.b + 10
    shared, _ = find_and_compare(program, Batch(program.rows(20)))
    assert shared is not None


def conditional(x, labels):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + labels.float(), 1.0), obs=x[:, 0])


def prior_of_label(x, labels):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(labels.float(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def autoregressive(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.cat([torch.zeros(len(x), 1), x[:, :-1]], 1)
        pyro.sample("x", dist.Normal(z[:, None] + 0.5 * before, 1.0).to_event(1), obs=x)


def own_scale(x, rows):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0 + rows.float()), obs=x[:, 0])


def own_count(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Binomial(x.sum(-1).long(), logits=z), obs=x[:, 0])


def observed_of_latent(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0] - z)


def standard_guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    "model", [conditional, prior_of_label, autoregressive, own_scale, own_count, observed_of_latent]
)
def test_what_depends_on_the_row_is_refused(model):
    """Only the last of 40 rows differs from the others in what the likelihood depends on."""
    x = torch.tensor([[1.0, 2.0]] * 39 + [[3.0, 2.0]])
    last = torch.tensor([0] * 39 + [1])
    program = pv.Program(model, standard_guide)
    assert find_and_compare(program, Batch(x, rows=last, labels=last))[0] is None
    if model is not observed_of_latent:
        assert find_and_compare(program, Batch(x[:39], rows=last[:39], labels=last[:39]))[0] is not None


def test_a_guide_of_the_row_and_a_prior_that_borrows_it_are_no_obstacle():
    shared, difference = find_and_compare(example_programs.vamp_vae(), Batch((torch.rand(9, 6) < 0.5).float()))
    assert shared.is_product
    assert difference < 1e-4


def test_points_are_run_in_parts_of_the_memory():
    program, x = LIKELIHOODS["student-t"][0](), LIKELIHOODS["student-t"][1]
    with use_param_store(program), torch.no_grad(), pyro.validation_enabled(False):
        plates = find_plates(program, Batch(x))
        much, little = (SharedLatents.find(program, plates, Batch(x), memory) for memory in (2**26, 2000))
        assert little.points_per_run < 5
        u = torch.randn(50, 2)
        torch.testing.assert_close(little.at(u).log_joint, much.at(u).log_joint)
