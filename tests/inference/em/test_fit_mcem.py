"""Monte-Carlo EM: a kernel that leaves exact posteriors invariant, and closed-form maxima that it reaches."""

import math

import example_programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae.inference.em.fit_mcem import fit_mcem
from pyro_vae.inference.posterior.hmc import state_at, transition
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import copy_state
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint


@pytest.mark.parametrize("sites", [1, 2])
def test_the_kernel_leaves_the_posterior_invariant(sites):
    """400 chains for each of 5 rows, from the prior: after 40 transitions their moments are the posterior's."""
    oracle, chains = LinearGaussian(3, 8, sites=sites, loc=0.5), 400
    x = oracle.rows(5)
    batch = Batch(x.repeat(chains, 1))
    joint = UnconstrainedJoint(oracle, find_plates(oracle, batch), batch)

    def at(u):
        return state_at(lambda u: [joint.at(u).log_joint], u)

    state = at(joint.from_prior())
    with pyro.validation_enabled(False):
        for _ in range(40):
            state, probability = transition(at, state, torch.ones(1), torch.full_like(state.u, 0.5), 5)
    assert 0.5 < probability.mean() < 0.9  # steps so long that the energy errs, and rejections matter
    u = state.u.unflatten(0, (chains, 5))
    sd = oracle.posterior_cov.diagonal().sqrt()
    assert ((u.mean(0) - oracle.posterior_mean(x)).abs() < 4.5 * sd / math.sqrt(chains)).all()
    away = u - oracle.posterior_mean(x)
    products = torch.einsum("cnj,cnk->cnjk", away, away)
    assert ((products.mean(0) - oracle.posterior_cov).abs() < 4.5 * products.std(0) / math.sqrt(chains)).all()
    found = at(state.u)
    torch.testing.assert_close(state.terms, found.terms)  # the stored terms are those at u
    torch.testing.assert_close(state.gradients, found.gradients)


def test_without_updates_the_chains_run_and_the_step_size_reaches_the_target_acceptance():
    oracle = LinearGaussian(3, 8)
    x = oracle.rows(200)
    for target in (0.6, 0.9):
        history = fit_mcem(oracle, x, epochs=60, batch_size=200, updates=0, target_accept=target).history
        late = torch.tensor([row["acceptance"] for row in history[30:]])
        assert late.mean().item() == pytest.approx(target, abs=0.02)
    entropy = torch.distributions.MultivariateNormal(torch.zeros(3), oracle.posterior_cov).entropy()
    expected = oracle.exact(x).mean() - entropy  # E log p(x, z) under the posterior
    means = torch.tensor([row["log_joint"] for row in history[30:]])
    noise = math.sqrt(3 / 2 / 200 / 5)  # half a chi-square of 3 degrees for each row; 30 epochs are worth 5 at least
    assert means.mean().item() == pytest.approx(expected.item(), abs=4 * noise)


class Biased(LinearGaussian):
    """The oracle with its bias to be learned, and a guide with a parameter that has nothing to do with the model."""

    def __init__(self, K, D):
        super().__init__(K, D)
        self.b = nn.Parameter(torch.zeros(D))
        self.shift = nn.Parameter(torch.ones(K))

    def model(self, x):
        pyro.param("b", self.b)
        super().model(x)

    def guide(self, x):
        pyro.param("shift", self.shift)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.shift, 1.0).expand([len(x), len(self.m)]).to_event(1))


def test_a_bias_reaches_its_closed_form_maximum():
    """The likelihood is highest at the mean of x, whatever W and σ."""
    program = Biased(2, 4)
    x = LinearGaussian(2, 4).rows(300) + 2.0
    shift = program.shift.detach().clone()
    fit_mcem(program, x, epochs=80, batch_size=300, optimizer="adam", learning_rate=0.05, schedule="cosine")
    assert (program.b - x.mean(0)).abs().max() < 0.07  # as one E-step's draws leave it: 2 × |W| sd(z | x) / √300
    assert torch.equal(program.shift, shift)


def test_probabilistic_pca_comes_near_the_optimum_of_its_eigenvalues():
    K, D, N = 2, 6, 400
    x = torch.randn(N, K) @ torch.randn(K, D) + torch.randn(D) + 0.6 * torch.randn(N, D)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    rest = values[K:].mean()
    optimum = -0.5 * (D * math.log(2 * math.pi) + values[:K].log().sum() + (D - K) * rest.log() + D)
    vae = pv.VAE(
        pv.priors.StandardNormal(K),
        pv.likelihoods.Normal(pv.nets.mlp(K, D), scale="learned"),
        pv.guides.MeanFieldNormal(pv.nets.mlp(D, 2 * K)),
    )
    before, encoder = pv.exact_evidence(vae, x).log_px.mean(), copy_state(vae.posterior)
    fit_mcem(vae, x, epochs=60, batch_size=200, learning_rate=0.2)
    exact = pv.exact_evidence(vae, x)
    assert exact.method == "closed form"
    assert before < optimum - 1
    assert optimum - 0.1 < exact.log_px.mean() < optimum + 1e-4
    assert all(torch.equal(encoder[name], value) for name, value in copy_state(vae.posterior).items())


def test_frozen_parameters_stay_and_bits_repeat(tiny_vae):
    vae, x = tiny_vae
    start, numbers = copy_state(vae), torch.get_rng_state()
    vae.likelihood.net[0].weight.requires_grad_(False)
    vae.likelihood.net[2].weight.grad = torch.full((6, 8), 1e6)  # the caller's, and no part of this

    def fitted(**settings):
        vae.load_state_dict(start)
        history = fit_mcem(vae, x, epochs=3, batch_size=25, valid=x[:10], **settings).history
        return copy_state(vae), [{key: value for key, value in row.items() if key != "seconds"} for row in history]

    (first, history), (again, the_same), (other, _) = fitted(), fitted(), fitted(seed=1)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert history == the_same
    assert all(torch.equal(first[name], again[name]) for name in first)
    moved = {name for name in first if not torch.equal(first[name], start[name])} - {"started"}
    assert moved == {"likelihood.net.0.bias", "likelihood.net.2.weight", "likelihood.net.2.bias"}
    assert any(not torch.equal(first[name], other[name]) for name in moved)
    assert not vae.training


def test_the_history_has_fits_columns_and_no_bound(tiny_vae):
    vae, x = tiny_vae
    epochs = []
    fitted = fit_mcem(vae, x, valid=x[:7], epochs=2, on_epoch=lambda rows: epochs.append(len(rows)))
    row = fitted.history[-1]
    usual = pv.fit(vae, x, valid=x[:7], epochs=1).history[0]
    assert row.keys() - usual.keys() == {"log_joint", "valid_log_joint", "acceptance", "step_size"}
    assert usual.keys() <= row.keys()
    assert {row[name] for name in ("elbo", "reconstruction", "kl", "valid_elbo", "beta", "active_units")} == {None}
    assert row["log_joint"] < 0
    assert row["valid_log_joint"] < 0
    assert 0 < row["acceptance"] <= 1
    assert (fitted.best_epoch, fitted.stopped, epochs) == (2, "epochs", [1, 2])
    assert "nan" in repr(fitted)
    assert fit_mcem(vae, x, epochs=1).history[0]["valid_log_joint"] is None


def test_log_joints_are_those_of_the_columns_in_their_own_units():
    torch.manual_seed(0)
    train = pv.load_data(torch.randn(300, 3).numpy() * [1.0, 20.0, 0.3]).train
    rows = [fit_mcem(LinearGaussian(2, 3), x, valid=x, epochs=1, updates=0).history[0] for x in (train, train.x)]
    jacobian = train.log_jacobian.mean().item()
    assert abs(jacobian) > 1
    for name in ("log_joint", "valid_log_joint"):
        assert rows[0][name] - rows[1][name] == pytest.approx(jacobian, abs=1e-4)


def test_pictures_are_drawn_afresh_and_the_likelihood_starts_at_their_mean():
    data = pv.load_data("digits")
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 20, 64)), guide)
    fitted = fit_mcem(vae, data, epochs=20, batch_size=300, learning_rate=0.3)
    assert vae.num_features == 64
    assert vae.started
    assert fitted.history[-1]["valid_log_joint"] is not None
    found = pv.log_evidence(vae, data.valid, 500, prior_share=1.0).log_px.mean()
    mean = data.train.mean.clamp(0.001, 0.999)
    assert found > dist.Bernoulli(mean).log_prob(data.valid.x).sum(1).mean() + 1


def test_constrained_latents_labels_and_plain_functions_are_fitted():
    """Poisson counts with a Gamma rate of known shape: E x = shape / rate at the maximum of the likelihood."""

    def model(x):
        rate = pyro.param("rate", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Gamma(3.0, rate))
            pyro.sample("x", dist.Poisson(z[..., None]).expand([*z.shape, 5]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.LogNormal(pyro.param("loc", torch.tensor(0.0)), torch.ones(len(x))))

    program = pv.Program(model, guide)
    x = torch.poisson(torch.distributions.Gamma(3.0, 2.0).sample((300, 1)).expand(300, 5))
    fit_mcem(program, x, epochs=30, batch_size=100, optimizer="adam", learning_rate=0.05, schedule="cosine")
    state = copy_state(program)
    assert state["pyro.param/rate"].exp().item() == pytest.approx(3.0 / x.mean().item(), rel=0.02)
    assert state["pyro.param/loc"] == 0

    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 3, 8, 6))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(6 + 3, 8, 4))
    vae = pv.ConditionalVAE(pv.priors.StandardNormal(2), likelihood, guide, num_labels=3)
    fit_mcem(vae, (torch.rand(30, 6) < 0.5).float(), epochs=1, labels=torch.arange(30) % 3)


def test_a_fit_that_diverges_keeps_the_last_good_weights(tiny_vae):
    vae, x = tiny_vae
    with pytest.raises(pv.DivergedError, match="the weights of epoch 0 were kept"):
        fit_mcem(vae, x, epochs=3, optimizer="sgd", learning_rate=1e38)
    assert all(value.isfinite().all() for value in copy_state(vae).values())


def test_what_cannot_be_fitted_is_refused(tiny_vae):
    def discrete(x):
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(pyro.param("p", torch.ones(3))))
            pyro.sample("x", dist.Normal(c.float()[..., None], 1.0).to_event(1), obs=x)

    def of_guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("c", dist.Categorical(torch.ones(3)))

    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match="continuous latents"):
        fit_mcem(pv.Program(discrete, of_guide), torch.zeros(4, 1), epochs=1)
    with pytest.raises(pv.errors.RowsError, match="mean lies outside"):
        fit_mcem(example_programs.global_mean(), torch.zeros(4, 1), epochs=1)
    with pytest.raises(pv.InputError, match="gradient in no trainable parameter"):
        fit_mcem(LinearGaussian(2, 3), torch.zeros(4, 3), epochs=1)
    with pytest.raises(pv.InputError, match="target_accept between 0 and 1"):
        fit_mcem(vae, x, epochs=1, target_accept=1.0)
