"""Exact log p(x): each way against another that owes it nothing."""

import itertools
import math

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from sklearn.mixture import GaussianMixture

import pyro_vae as pv
from pyro_vae.evidence import exact_log_px


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("K", "D", "sites"), [(1, 784, 1), (5, 40, 2), (20, 784, 1), (50, 784, 2)])
def test_closed_form_of_linear_gaussian_models(double, K, D, sites):
    program = LinearGaussian(K, D, sites=sites, loc=1.0)
    x = program.rows(20)
    found = pv.exact_evidence(program, x)
    assert (found.method, found.kind, found.log_px_mc_se) == ("closed form", "exact", 0.0)
    torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("K", [1, 2])
def test_grid_agrees_with_the_closed_form(double, monkeypatch, K):
    from pyro_vae.evidence import exact_log_px

    program = LinearGaussian(K, 30, loc=2.0, scale=0.7, noise=0.4)
    x = program.rows(12)
    monkeypatch.setattr(exact_log_px, "_quadratic", lambda joint: None)
    found = pv.exact_evidence(program, x)
    assert found.method == "grid"
    torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-4)
    assert (found.error < 1e-4).all()


def test_grid_over_a_constrained_latent(double):
    """x | s ~ N(0, 1/s), s ~ Gamma: a Student-t, known in closed form."""

    def model(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(3.0, 2.0))
            pyro.sample("x", dist.Normal(torch.zeros(1), s[..., None].rsqrt()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.Gamma(3.5, 2 + x[:, 0] ** 2 / 2))

    x = torch.linspace(-4, 4, 9)[:, None]
    found = pv.exact_evidence(pv.Program(model, guide), x)
    known = dist.StudentT(6.0, 0.0, math.sqrt(2 / 3)).log_prob(x[:, 0])
    assert found.method == "grid"
    torch.testing.assert_close(found.log_px, known, rtol=0, atol=1e-4)


def mixture(weights, means, scales):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[c], scales[c]).to_event(1), obs=x)

    return pv.Program(model, lambda x: None)


def test_finite_mixture_is_summed_as_scikit_learn_does(double):
    """The model leaves its components to enumeration, as a mixture for TraceEnum_ELBO does; the sum needs no guide."""
    x = torch.cat([torch.randn(60, 2), torch.randn(40, 2) + 3])
    fitted = GaussianMixture(3, covariance_type="diag", random_state=0).fit(x.numpy())
    weights, means, variances = (
        torch.from_numpy(value) for value in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    found = pv.exact_evidence(mixture(weights, means, variances.sqrt()), x)
    assert found.method == "sum"
    torch.testing.assert_close(found.log_px, torch.from_numpy(fitted.score_samples(x.numpy())), rtol=0, atol=1e-9)


def test_two_discrete_latents_are_summed_over_their_product(double):
    table = torch.tensor([[0.1, 0.7], [0.4, 0.2], [0.9, 0.5]])
    first, second = torch.tensor([0.2, 0.3, 0.5]), torch.tensor(0.6)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(first))
            b = pyro.sample("b", dist.Bernoulli(second))
            pyro.sample("x", dist.Bernoulli(table[a, b.long()][..., None]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Categorical(torch.ones(3)))
            pyro.sample("b", dist.Bernoulli(0.5))

    found = pv.exact_evidence(pv.Program(model, guide), torch.tensor([[1.0], [0.0]]))
    on = (first[:, None] * torch.stack([1 - second, second]) * table).sum()
    torch.testing.assert_close(found.log_px.exp(), torch.stack([on, 1 - on]))


def test_a_trained_vae_by_grid_lies_above_its_sampled_bound_and_near_it():
    data = pv.load_data("digits")
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2, 60, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(64, 60, 4)),
    )
    pv.fit(vae, data.train, epochs=15, learning_rate=5e-3, progress="none")
    x = data.valid[:60]
    exact, sampled = pv.exact_evidence(vae, x), pv.log_evidence(vae, x, 5000)
    assert exact.method == "grid"
    bias = float((sampled.log_px - exact.log_px).mean())
    assert abs(bias) < 4 * sampled.log_px_mc_se + 1e-3


def test_what_has_no_exact_answer_says_what_to_do(tiny_vae):
    program = example_programs.Hierarchical()
    with pytest.raises(pv.InputError, match=r"its 5 latent dimensions .* use importance sampling or annealing"):
        pv.exact_evidence(program, torch.ones(4, 6))


def test_a_posterior_that_the_grid_misses_is_an_error(double):
    """A spike far narrower than a cell and off its centre; the guide sits on it and says so."""
    spike, width = 0.3137, 1e-5

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((z[..., None] - spike).abs().clamp(max=1e-4), width).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(spike, width).expand([len(x)]))

    with pytest.raises(pv.InputError, match="the grid"):
        pv.exact_evidence(pv.Program(model, guide), torch.zeros(2, 1))


def test_discrete_latents_in_a_plate_within_a_row_are_each_summed_over(double):
    """Three coins a row, k ~ Bernoulli(½), x_j ~ N(3 k_j, 1): rows factorize, so the answer is known."""

    def model(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("parts", 3, dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(3 * k, 1.0), obs=x)

    x = torch.tensor([[0.0, 3.0, 0.0], [3.0, 3.0, 1.0]])
    one = torch.logaddexp(dist.Normal(0.0, 1.0).log_prob(x), dist.Normal(3.0, 1.0).log_prob(x)) - math.log(2)
    found = pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
    assert found.method == "sum"
    torch.testing.assert_close(found.log_px, one.sum(-1))


def drawn_alike(model):
    """A guide that draws the model's latents from their prior."""

    def guide(x):
        pyro.poutine.block(model, expose_fn=lambda msg: msg["type"] == "sample" and not msg["is_observed"])(x)

    return guide


def test_vectors_of_discrete_latents_are_summed_over(double):
    """`Bernoulli.to_event(1)` and one-hot categories, the discrete latents that people write."""
    weight = torch.tensor([1.0, -2.0, 0.5])

    def model(x):
        with pyro.plate("rows", len(x)):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor([0.2, 0.5, 0.7])).to_event(1))
            c = pyro.sample("c", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal((b @ weight + c[..., 1])[..., None], 1.0).to_event(1), obs=x)

    x = torch.randn(4, 1)
    found = pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
    by_hand = torch.full((4,), -math.inf)
    for bits in itertools.product((0.0, 1.0), repeat=3):
        for kind, share in ((0.0, 0.3), (1.0, 0.7)):
            b = torch.tensor(bits)
            prior = dist.Bernoulli(torch.tensor([0.2, 0.5, 0.7])).log_prob(b).sum() + math.log(share)
            by_hand = torch.logaddexp(by_hand, prior + dist.Normal(b @ weight + kind, 1.0).log_prob(x[:, 0]))
    torch.testing.assert_close(found.log_px, by_hand)


def test_the_box_grows_to_where_the_posterior_is(double):
    """A Laplace prior and rows far out in its tail, with a guide that knows nothing of them."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Laplace(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 0.3))

    x = torch.tensor([[0.0], [15.0], [15.0], [30.0]])
    found = pv.exact_evidence(pv.Program(model, guide), x)
    z = torch.linspace(-60, 60, 1_200_001)
    by_hand = dist.Laplace(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x)
    torch.testing.assert_close(found.log_px, by_hand.logsumexp(-1) + math.log(1e-4), rtol=0, atol=2e-4)


@pytest.mark.parametrize("tails", [3.0, 1.0])
def test_heavy_tails_are_held_or_refused(double, tails):
    """A Student-t prior and a likelihood that says nothing: log p(x) is that of the likelihood, or an error."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.StudentT(tails, 0.0, 1.0))
            pyro.sample("x", dist.Normal(0 * z[..., None], 1.0).to_event(1), obs=x)

    x = torch.zeros(3, 1)
    if tails == 1:
        with pytest.raises(pv.InputError, match="their tails are too heavy for a grid"):
            pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
        return
    found = pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
    torch.testing.assert_close(found.log_px, dist.Normal(0.0, 1.0).log_prob(x[:, 0]), rtol=0, atol=5e-4)


def test_guides_outside_of_the_prior_are_said():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.5, 0.5))

    program, x = pv.Program(model, guide), torch.tensor([[0.5], [1.0]])
    for estimate in (pv.annealed_evidence, pv.nuts):
        with pytest.raises(pv.InputError, match="the guide draws z outside the model's support for it"):
            estimate(program, x)
    known = dist.Normal(0.0, 0.5).cdf(x[:, 0]) - dist.Normal(1.0, 0.5).cdf(x[:, 0])
    found = pv.annealed_evidence(program, x, 50, start="prior")
    torch.testing.assert_close(found.log_px.float(), known.log(), rtol=0, atol=0.03)
    torch.testing.assert_close(pv.exact_evidence(program, x).log_px.float(), known.log(), rtol=0, atol=1e-3)


def test_latents_with_too_many_values_are_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(exact_log_px, "MAX_COMBINATIONS", 31)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(5)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(5)).to_event(1))

    with pytest.raises(pv.InputError, match="the latents have 32 values together, too many to sum over"):
        pv.exact_evidence(pv.Program(model, guide), torch.zeros(3, 1))
    monkeypatch.setattr(exact_log_px, "MAX_COMBINATIONS", 32)
    assert pv.exact_evidence(pv.Program(model, guide), torch.zeros(3, 1)).log_px.isfinite().all()
