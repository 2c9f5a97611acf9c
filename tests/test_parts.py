"""The contract of a part, by table: a new part adds one row here and passes everything below."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import recipes
from pyro_vae.likelihoods import BernoulliVector

K, D = 2, 3
PRIORS = {
    "standard-normal": lambda: pv.priors.StandardNormal(K),
    "normal": lambda: pv.priors.Normal([0.5, -1.0], [2.0, 0.3]),
    "normal, one number": lambda: pv.priors.Normal(0.5, [2.0, 0.3]),
}
LIKELIHOODS = {
    "bernoulli": lambda: pv.likelihoods.Bernoulli(pv.nets.mlp(K, 7, D)),
    "normal": lambda: pv.likelihoods.Normal(pv.nets.mlp(K, 7, D), scale=0.4),
}
GUIDES = {"mean-field": lambda: pv.guides.MeanFieldNormal(pv.nets.mlp(D, 7, 2 * K))}
NETS = {
    "mlp": lambda: pv.nets.mlp(4, 7, 5),
    "deep": lambda: pv.nets.mlp(4, 7, 6, 5, activation="relu"),
    "linear": lambda: pv.nets.mlp(4, 5),
}


def table(rows):
    return pytest.mark.parametrize("make", rows.values(), ids=rows.keys())


def grid(low, high, steps, dims):
    """Points of a regular grid (steps^dims, dims) and the log of a cell's volume."""
    axis = torch.linspace(low, high, steps, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    return points, dims * torch.log(axis[1] - axis[0])


@table(PRIORS)
def test_a_prior_is_a_density_over_k_latents(make):
    prior = make().double()()
    assert prior.event_shape == (K,)
    assert prior.batch_shape == ()
    points, log_cell = grid(-12, 12, 1201, K)
    torch.testing.assert_close(
        torch.logsumexp(prior.log_prob(points), 0) + log_cell, torch.tensor(0.0).double(), atol=1e-6, rtol=0
    )
    z = prior.rsample((50_000,))
    assert prior.support.check(z).all()
    assert ((z.mean(0) - prior.mean).abs() < 5 * z.std(0) / 50_000**0.5).all()


@table(LIKELIHOODS)
def test_a_likelihood_sums_or_integrates_to_one_at_every_z(make):
    likelihood = make().double()(torch.randn(4, K, dtype=torch.float64))
    assert likelihood.event_shape == (D,)
    assert likelihood.batch_shape == (4,)
    if likelihood.support.is_discrete:
        points, log_cell = torch.tensor(list(itertools.product([0.0, 1.0], repeat=D)), dtype=torch.float64), 0.0
    else:
        points, log_cell = grid(-4, 4, 121, D)
    total = torch.logsumexp(likelihood.log_prob(points[:, None]), 0) + log_cell
    torch.testing.assert_close(total, torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)
    x = likelihood.sample((20_000,))
    assert likelihood.support.check(x).all()
    assert ((x.mean(0) - likelihood.mean).abs() < 5 * likelihood.variance.sqrt() / 20_000**0.5).all()
    assert likelihood.expand((6, 4)).log_prob(x[0]).shape == (6, 4)


@table(GUIDES)
def test_a_guide_gives_each_row_a_density_and_a_path_for_gradients(make):
    part = make().double()
    x = torch.randn(3, D, dtype=torch.float64)
    q = part(x)
    assert q.event_shape == (K,)
    assert q.batch_shape == (3,)
    points, log_cell = grid(-15, 15, 1501, K)
    total = torch.logsumexp(q.log_prob(points[:, None]), 0) + log_cell
    torch.testing.assert_close(total, torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(part(x[1:]).mean, q.mean[1:])  # a row's q is its own
    (q.rsample() ** 2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@table(NETS)
def test_a_network_maps_the_last_axis_and_every_weight_matters(make):
    net = make()
    out = net(torch.randn(2, 3, 4))
    assert out.shape == (2, 3, 5)
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


ALL_PAIRS = list(itertools.product(PRIORS, LIKELIHOODS, GUIDES))


@pytest.mark.parametrize(("prior", "likelihood", "guide"), ALL_PAIRS)
def test_every_combination_trains_scores_saves_and_loads(prior, likelihood, guide, tmp_path):
    vae = pv.VAE(PRIORS[prior](), LIKELIHOODS[likelihood](), GUIDES[guide]())
    signal = torch.randn(300, 1)
    x = signal * torch.tensor([1.0, -1.0, 0.5]) + 0.3 * torch.randn(300, D)
    x = (x > 0).float() if likelihood == "bernoulli" else x
    fitted = pv.fit(vae, x[:200], valid=x[200:], epochs=15, batch_size=20, learning_rate=0.01)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]
    found = pv.log_evidence(vae, x[200:], num_samples=50)
    assert found.log_px.mean() >= found.elbo.mean()
    pv.save(vae, tmp_path)
    loaded = pv.load(tmp_path)
    assert torch.equal(pv.log_evidence(loaded, x[200:], num_samples=50).log_px, found.log_px)
    assert recipes.describe(loaded) == recipes.describe(vae)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vae_works_in_the_dtype_it_is_given(dtype, tmp_path):
    vae = pv.VAE(PRIORS["normal"](), LIKELIHOODS["normal"](), GUIDES["mean-field"]())
    fitted = pv.fit(vae, torch.randn(50, D), epochs=2, dtype=dtype)
    assert {p.dtype for p in vae.parameters()} == {dtype}
    assert vae.encode(torch.randn(2, D)).dtype == dtype
    assert vae.sample(3).dtype == dtype
    assert torch.isfinite(torch.tensor(fitted.history[-1]["elbo"]))
    pv.save(vae, tmp_path)
    assert {p.dtype for p in pv.load(tmp_path).parameters()} == {dtype}


def test_bernoulli_vector_is_pyros_bernoulli():
    logits = torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(5, D) < 0.5).double()
    ours, pyros = BernoulliVector(logits), dist.Bernoulli(logits=logits).to_event(1)
    torch.testing.assert_close(ours.log_prob(x), pyros.log_prob(x))
    torch.testing.assert_close(ours.mean, pyros.mean)
    torch.testing.assert_close(ours.variance, pyros.variance)
    gradients = [torch.autograd.grad(d.log_prob(x).sum(), logits)[0] for d in (ours, pyros)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="support"):
        BernoulliVector(logits, validate_args=True).log_prob(x * 0.5)
    extreme = BernoulliVector(torch.tensor([[1e4, -1e4]])).log_prob(torch.tensor([[1.0, 0.0]]))
    assert extreme.item() == 0.0


def test_wrong_arguments_are_named():
    for make, message in [
        (lambda: pv.nets.mlp(3), "at least an input and an output size"),
        (lambda: pv.nets.mlp(3, 0, 2), "each one or more"),
        (lambda: pv.nets.mlp(3, 2, activation="tanhh"), "no activation called 'tanhh'; try one of tanh"),
        (lambda: pv.priors.StandardNormal(0), "at least one latent"),
        (lambda: pv.priors.Normal([0.0, 1.0], [1.0, -1.0]), "every value must be positive"),
        (lambda: pv.priors.Normal([0.0, 1.0], [1.0, 1.0, 1.0]), "loc has 2 values and scale 3"),
        (lambda: pv.likelihoods.Normal(nn.Identity(), scale=0.0), "must be positive"),
        (lambda: pv.guides.MeanFieldNormal(pv.nets.mlp(2, 3))(torch.zeros(1, 2)), "needs 2K outputs"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
