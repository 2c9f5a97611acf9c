"""The contract of a part: every part in the tables of `part_tables.py` has to pass these tests."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from part_tables import GUIDES, LIKELIHOODS, NETS, PRIORS, WITH_KINKS, D, K, make_guide, make_likelihood
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.distributions import NormalMixture
from pyro_vae.serialization import to_recipe


def line(num_points=4001, reach=9.0):
    """Quadrature points x = sinh t on the real line, far into its tails, and the logs of their weights."""
    t = torch.linspace(-reach, reach, num_points, dtype=torch.float64)
    return torch.sinh(t), torch.log(torch.cosh(t) * (t[1] - t[0]))


def plane(num_points=1201):
    """Quadrature points in K = 2 dimensions, (num_points², 2), and the logs of their weights."""
    x, log_length = line(num_points, reach=6.0)
    return torch.cartesian_prod(x, x), (log_length[:, None] + log_length).flatten()


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_a_density_over_k_latents(name):
    guide = make_guide("mean-field").double()
    part = PRIORS[name](guide).double()
    prior = part()
    assert prior.event_shape == (K,)
    assert prior.batch_shape == ()
    points, log_area = plane(601 if name == "flow" else 1201)
    total = torch.logsumexp(prior.log_prob(points) + log_area, 0)
    tolerance = 2e-4 if name in WITH_KINKS else 1e-6
    torch.testing.assert_close(total, torch.tensor(0.0).double(), atol=tolerance, rtol=0)
    z = prior.sample((50_000,))
    assert prior.support.check(z).all()
    mean_by_quadrature = (prior.log_prob(points) + log_area).exp() @ points
    assert ((z.mean(0) - mean_by_quadrature).abs() < 5 * z.std(0) / 50_000**0.5 + tolerance).all()
    parameters = list(part.parameters())
    if parameters:
        prior.log_prob(z[:100]).sum().backward()
        assert all(parameter.grad is not None for parameter in parameters)


def test_a_vamp_prior_is_the_mixture_of_its_formula():
    guide = make_guide("full-rank").double()
    prior = priors.VampPrior(guide, 5, D).double()
    z = torch.randn(7, K, dtype=torch.float64)
    expected = torch.logsumexp(torch.stack([guide(u[None]).log_prob(z) for u in prior.pseudo]), 0) - math.log(5)
    torch.testing.assert_close(prior().log_prob(z), expected)
    rows = torch.rand(2, D, dtype=torch.float64)
    prior.init_from_data(rows)
    assert torch.equal(prior.pseudo, rows[[0, 1, 0, 1, 0]])


POINTS = {  # quadrature points of one value, and the logs of their weights
    "bernoulli": lambda: (torch.tensor([0.0, 1.0]), 0.0),
    "continuous-bernoulli": lambda: ((torch.arange(20_000) + 0.5) / 20_000, -math.log(20_000)),
    "discretized-logistic": lambda: (torch.arange(16) / 15, 0.0),
    "categorical": lambda: (torch.arange(3.0), 0.0),
    "poisson": lambda: (torch.arange(500.0), 0.0),
    "negative-binomial": lambda: (torch.arange(5000.0), 0.0),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_sums_or_integrates_to_one_at_every_z(name):
    likelihood = make_likelihood(name, size=1).double()(torch.randn(4, K, dtype=torch.float64))
    points, log_length = (value.double() if torch.is_tensor(value) else value for value in POINTS.get(name, line)())
    log_length = log_length[:, None] if torch.is_tensor(log_length) else log_length
    weights = likelihood.log_prob(points[:, None, None]) + log_length
    torch.testing.assert_close(weights.logsumexp(0), torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)
    if name != "categorical":  # which has no mean
        moments = [(weights.exp() * points[:, None] ** power).sum(0) for power in (1, 2)]
        torch.testing.assert_close(likelihood.mean[:, 0], moments[0], rtol=1e-4, atol=1e-5)
        if name != "student-t, learned df":  # whose second moment has too heavy tails for a grid
            torch.testing.assert_close(likelihood.variance[:, 0], moments[1] - moments[0] ** 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_samples_from_its_density_and_can_be_masked(name):
    part = make_likelihood(name).double()
    z = torch.randn(4, K, dtype=torch.float64)
    likelihood = part(z)
    assert likelihood.event_shape == (D,)
    assert likelihood.batch_shape == (4,)
    x = likelihood.sample((20_000,))
    assert likelihood.support.check(x).all()
    if name != "categorical":
        assert ((x.double().mean(0) - likelihood.mean).abs() < 5 * likelihood.variance.sqrt() / 20_000**0.5).all()
    assert likelihood.expand((6, 4)).log_prob(x[0]).shape == (6, 4)
    mask = torch.rand(4, D) < 0.5
    halves = part.masked(z, mask).log_prob(x[0]) + part.masked(z, ~mask).log_prob(x[0])
    torch.testing.assert_close(halves, likelihood.log_prob(x[0]))
    assert part.masked(z, torch.zeros(4, D).bool()).log_prob(x[0]).eq(0).all()
    assert part.masked(z, mask).expand((6, 4)).log_prob(x[0]).shape == (6, 4)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_a_density_for_each_row_with_pathwise_gradients(name):
    part = make_guide(name).double()
    x = torch.randn(3, D, dtype=torch.float64)
    q = part(x)
    assert q.event_shape == (K,)
    assert q.batch_shape == (3,)
    points, log_area = plane(401)
    total = torch.logsumexp(q.log_prob(points[:, None].expand(-1, 3, -1)) + log_area[:, None], 0)
    torch.testing.assert_close(total, torch.zeros(3, dtype=torch.float64), atol=2e-4, rtol=0)
    z = torch.randn(1, K, dtype=torch.float64)
    torch.testing.assert_close(
        part(x[1:]).log_prob(z.expand(2, -1)), q.log_prob(z.expand(3, -1))[1:]
    )  # q of a row does not depend on other rows
    drawn = part(x).rsample((2,))
    (drawn**2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_a_mixture_guides_pathwise_gradient_is_that_of_the_expectation():
    """d/dφ E_q[f(z)] by pathwise samples and by quadrature, for f(z) = sin z1 + z2²."""
    loc = torch.tensor([[-1.0, 0.5], [1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    raw = torch.tensor([[0.5, 0.8], [0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)

    def f(z):
        return torch.sin(z[..., 0]) + z[..., 1] ** 2

    points, log_area = plane(601)
    exact = ((NormalMixture(loc, raw, logits).log_prob(points) + log_area).exp() * f(points)).sum()
    expected_gradients = torch.autograd.grad(exact, [loc, raw, logits])
    S = 100_000
    repeated = NormalMixture(loc.expand(S, 2, 2), raw.expand(S, 2, 2), logits.expand(S, 2))
    found = torch.autograd.grad(f(repeated.rsample()).mean(), [loc, raw, logits])
    for a, b in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("name", NETS)
def test_a_network_maps_the_last_axis_and_every_weight_has_a_gradient(name):
    encoder, decoder = NETS[name]
    for net, inputs, outputs in ((encoder(5), D, 5), (decoder(1), K, D), (decoder(3), K, 3 * D)):
        out = net(torch.randn(2, 3, inputs))
        assert out.shape == (2, 3, outputs)
        out.square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_convolutions_accept_images_of_odd_shapes():
    for height, width in ((28, 20), (7, 9), (5, 5)):
        x = torch.randn(2, height * width)
        for down, up in ((nets.conv, nets.conv_transpose), (nets.resnet, nets.resnet_transpose)):
            h = down((height, width), 3, 4, outputs=2)(x)
            assert up(2, 4, 3, image_shape=(height, width))(h).shape == x.shape


NUM_ROTATED = (6, 6)  # guides and networks that take turns; later ones have combinations of their own


def pairwise(*tables):
    """Combinations that hold every pair of entries of every two tables at least once.

    Each prior meets each likelihood, guides and networks take turns, and pairs that are missing follow. So a new entry
    at the end of its table adds combinations, and changes none.
    """
    num_guides, num_nets = NUM_ROTATED
    rows = [
        (prior, likelihood, tables[2][(i + j) % num_guides], tables[3][(i + 2 * j + j // num_guides) % num_nets])
        for i, prior in enumerate(tables[0])
        for j, likelihood in enumerate(tables[1])
    ]
    for i, j in itertools.combinations(range(4), 2):
        for a, b in itertools.product(tables[i], tables[j]):
            if not any((row[i], row[j]) == (a, b) for row in rows):
                rows.append(tuple(a if k == i else b if k == j else table[0] for k, table in enumerate(tables)))
    return rows


def rows_for(likelihood, num_rows=200):
    """Rows with one common factor, of the type of data that a likelihood is for."""
    signal = torch.randn(num_rows, 1) * torch.tensor([1.0, -1.0, 0.5, 1.0]) + 0.3 * torch.randn(num_rows, D)
    if likelihood == "bernoulli":
        return (signal > 0).float()
    if likelihood == "continuous-bernoulli":
        return torch.sigmoid(6 * signal + 3)
    if likelihood == "discretized-logistic":
        return (torch.sigmoid(signal) * 15).round() / 15
    if likelihood == "categorical":
        return (signal > -0.5).float() + (signal > 0.5).float()
    if likelihood in ("poisson", "negative-binomial"):
        return torch.poisson((signal / 2 + 1).exp())
    return signal


COMBINATIONS = pairwise(list(PRIORS), list(LIKELIHOODS), list(GUIDES), list(NETS))


def test_the_combinations_cover_all_pairs():
    for i, j in itertools.combinations(range(4), 2):
        tables = (PRIORS, LIKELIHOODS, GUIDES, NETS)
        assert {(row[i], row[j]) for row in COMBINATIONS} == set(itertools.product(tables[i], tables[j]))


@pytest.mark.parametrize(("prior", "likelihood", "guide", "net"), COMBINATIONS)
def test_every_pair_of_parts_can_be_fitted_scored_saved_and_loaded(prior, likelihood, guide, net, tmp_path):
    guide_part = make_guide(guide, net)
    if prior == "vamp" and guide == "iaf":
        with pytest.raises(pv.InputError, match="kind='coupling'"):
            PRIORS[prior](guide_part)
        return
    vae = pv.VAE(PRIORS[prior](guide_part), make_likelihood(likelihood, net), guide_part)
    x = rows_for(likelihood)
    x, held_out = x[:120], x[120:]
    before = pv.log_evidence(vae, held_out, num_samples=50).elbo.mean()
    valid = held_out[:20] if net == next(iter(NETS)) else None  # which each part meets
    pv.fit(vae, x, valid=valid, epochs=3, batch_size=20, learning_rate=0.03)
    found = pv.log_evidence(vae, held_out, num_samples=50)  # the same random numbers
    assert found.elbo.mean() > before
    assert found.log_px.mean() >= found.elbo.mean()
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, D)
    pv.save(vae, tmp_path)
    loaded = pv.load(tmp_path)
    assert torch.equal(pv.log_evidence(loaded, held_out, num_samples=50).log_px, found.log_px)
    assert to_recipe(loaded) == to_recipe(vae)


ONE_LATENT = {
    "full-rank": lambda net: guides.FullRankNormal(net(guides.FullRankNormal.outputs(1)), 1),
    "low-rank": lambda net: guides.LowRankNormal(net(guides.LowRankNormal.outputs(1, 1)), 1, rank=1),
    "flow": lambda net: guides.FlowGuide(net(guides.FlowGuide.outputs(1)), 1),
    "mixture": lambda net: guides.MixtureGuide(net(guides.MixtureGuide.outputs(1)), 1),
}


@pytest.mark.parametrize("name", ONE_LATENT)
@pytest.mark.parametrize("prior", [priors.FlowPrior, priors.MixtureOfNormals, priors.StandardNormal])
def test_every_guide_and_prior_works_with_one_latent(name, prior):
    guide = ONE_LATENT[name](lambda outputs: nets.mlp(3, 8, outputs))
    vae = pv.VAE(prior(1), likelihoods.Normal(nets.mlp(1, 8, 3), scale="learned"), guide)
    x = torch.randn(2060, 1) * torch.tensor([1.0, -1.0, 0.5]) + 0.1 * torch.randn(2060, 3)
    fitted = pv.fit(vae, x[:60], valid=x[60:], epochs=4, batch_size=10, learning_rate=0.02)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]


def test_a_per_row_guide_finds_the_exact_posteriors():
    """With one linear-Gaussian latent q_i becomes the posterior of row i, so that the ELBO of each row is log p(x)."""
    decoder = nets.linear(1, 2)
    decoder[0].weight.data, decoder[0].bias.data = torch.tensor([[1.0], [-0.5]]), torch.zeros(2)
    likelihood = likelihoods.Normal(decoder, scale=0.5).requires_grad_(False)
    vae = pv.VAE(priors.StandardNormal(1), likelihood, guides.PerRowNormal(num_rows=40, num_latents=1))
    x = vae.likelihood(torch.randn(40, 1)).sample()
    pv.fit(vae, x, epochs=300, batch_size=20, learning_rate=0.05, num_particles=10)
    found = pv.log_evidence(vae, x, num_samples=500, rows=torch.arange(40))
    W = decoder[0].weight.detach()
    exact = dist.MultivariateNormal(torch.zeros(2), W @ W.T + 0.25 * torch.eye(2)).log_prob(x)
    assert (exact - found.elbo).abs().max() < 0.02
    with pytest.raises(pv.InputError, match="asks for rows"):
        pv.log_evidence(vae, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vae_works_in_the_dtype_it_is_given(dtype, tmp_path):
    vae = pv.VAE(PRIORS["normal"](None), make_likelihood("normal"), make_guide("mean-field"))
    fitted = pv.fit(vae, torch.randn(50, D), epochs=2, dtype=dtype)
    assert {p.dtype for p in vae.parameters()} == {dtype}
    assert vae.encode(torch.randn(2, D)).dtype == dtype
    assert vae.sample(3).dtype == dtype
    assert torch.isfinite(torch.tensor(fitted.history[-1]["elbo"]))
    pv.save(vae, tmp_path)
    assert {p.dtype for p in pv.load(tmp_path).parameters()} == {dtype}


def test_invalid_arguments_raise_input_error():
    iaf = guides.FlowGuide(nets.mlp(D, 7, 8), 2, kind="autoregressive")
    identity = nn.Identity()
    for make, message in [
        (lambda: nets.mlp(3), "at least an input and an output size"),
        (lambda: nets.mlp(3, 0, 2), "each one or more"),
        (lambda: nets.mlp(3, 2, activation="tanhh"), "no activation called 'tanhh'; try one of tanh"),
        (lambda: nets.gated_mlp(3), "at least an input and an output size"),
        (lambda: nets.conv((0, 8), 3, outputs=2), "image_shape is"),
        (lambda: nets.conv((8, 8), outputs=2), "one or more channels"),
        (lambda: nets.resnet((8, 8), 3, outputs=2, activation="x"), "no activation called 'x'"),
        (lambda: nets.conv((8, 8), 3, outputs=2)(torch.zeros(1, 63)), "images of 8×8 was given rows of 63"),
        (lambda: priors.StandardNormal(0), "at least one latent"),
        (lambda: priors.Normal([0.0, 1.0], [1.0, -1.0]), "every scale must be positive"),
        (lambda: priors.Normal([0.0, 1.0], [1.0, 0.0]), "every scale must be positive"),
        (lambda: priors.Laplace([0.0, 1.0], [1.0, 1.0, 1.0]), "loc has 2 values and scale 3"),
        (lambda: priors.MixtureOfNormals(2, 0), "at least one component"),
        (lambda: priors.FlowPrior(2, layers=0), "layers must be one or more"),
        (lambda: priors.VampPrior(iaf, 3, D), "kind='coupling'"),
        (lambda: priors.VampPrior(guides.MaskAwareGuide(iaf), 3, D), "kind='coupling'"),
        (lambda: priors.VampPrior(guides.PerRowNormal(3, 2), 3, D), "cannot take"),
        (lambda: likelihoods.Normal(identity, scale=0.0), "must be positive"),
        (lambda: likelihoods.Normal(identity, scale="leaned"), "one of learned, per-feature, network; got 'leaned'"),
        (lambda: likelihoods.Normal(identity, scale="per-feature"), "give num_features"),
        (lambda: likelihoods.Normal(identity, scale="learned", floor=0.0), "unbounded"),
        (lambda: likelihoods.Normal(nets.mlp(2, 3), scale="network")(torch.zeros(1, 2)), "2D outputs"),
        (lambda: likelihoods.StudentT(identity, df=2.0), "df is a number above 2"),
        (lambda: likelihoods.DiscretizedLogistic(identity, levels=0), "largest stored value"),
        (lambda: likelihoods.Categorical(identity, 1), "two categories"),
        (lambda: likelihoods.Categorical(nets.mlp(2, 4), 3)(torch.zeros(1, 2)), "3 for each value; got 4"),
        (lambda: guides.MeanFieldNormal(nets.mlp(2, 3))(torch.zeros(1, 2)), "needs 2K outputs"),
        (lambda: guides.FullRankNormal(nets.mlp(2, 4), 2)(torch.zeros(1, 2)), r"FullRankNormal.outputs\(2\); got 4"),
        (lambda: guides.LowRankNormal(identity, 2, rank=3), "from 1 to the 2 latents"),
        (lambda: guides.FlowGuide(identity, 2, kind="planar"), "try one of coupling, autoregressive"),
        (lambda: guides.MixtureGuide(identity, 2, num_components=1), "two components or more"),
        (lambda: guides.PerRowNormal(0, 2), "num_rows must be one or more"),
        (lambda: guides.PerRowNormal(3, 2)(torch.zeros(1, D), rows=torch.tensor([3])), "was given rows 3 to 3"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
