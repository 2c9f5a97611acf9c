"""Semi-amortized inference against the best mean-field normal of a linear model, which is known in closed form."""

import copy
import itertools
import math

import pytest
import torch
from pyro import poutine

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.data import Measure, Split
from pyro_vae.guides import SemiAmortizedNormal
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.programs.parameters import use_param_store

K, D, NOISE = 3, 6, 0.5


def linear_vae(**options):
    """x | z ~ N(W z + b, 0.5² I): the posterior's precision is P = I + W'W / 0.5², and P's off-diagonal is not zero."""
    prior, likelihood = pv.priors.StandardNormal(K), pv.likelihoods.Normal(pv.nets.linear(K, D), scale=NOISE)
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    return pv.VAE(prior, likelihood, SemiAmortizedNormal(guide, prior, likelihood, **options))


def binary_vae(prior=None, guide=None, **options):
    guide = guide or pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    prior, likelihood = prior or pv.priors.StandardNormal(K), pv.likelihoods.Bernoulli(pv.nets.mlp(K, 8, D))
    return pv.VAE(prior, likelihood, SemiAmortizedNormal(guide, prior, likelihood, **options))


def binary_rows(n=300):
    z = torch.randn(n, 2)
    return (torch.sigmoid(3 * z @ torch.randn(2, D)) > torch.rand(n, D)).float()


def exact_posterior(vae, x):
    """Mean (N, K) and precision (K, K)."""
    layer = vae.likelihood.net[0]
    precision = torch.eye(K, dtype=x.dtype) + layer.weight.T @ layer.weight / NOISE**2
    return torch.linalg.solve(precision, ((x - layer.bias) @ layer.weight / NOISE**2).T).T, precision


def gap(q, mean, precision):
    """KL(q ‖ posterior) of each row (N,), in closed form."""
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    normal = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return torch.distributions.kl_divergence(normal, posterior)


@pytest.mark.parametrize("num_particles", [3, 5])
def test_many_steps_find_the_best_mean_field_normal_of_every_row(num_particles):
    """Mean and scale agree with μ of the posterior and P_kk^(−1/2) to 1e-6."""
    vae, x = linear_vae(steps=400, step_size=0.3, num_particles=num_particles).double(), 2 * torch.randn(9, D).double()
    with torch.no_grad():
        q = vae.posterior(x)
        mean, precision = exact_posterior(vae, x)
    assert (precision - precision.diag().diag()).abs().max() > 0.3
    torch.testing.assert_close(q.mean, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(q.stddev, precision.diagonal().rsqrt().expand(9, K), atol=1e-6, rtol=0)


def test_one_pair_of_particles_is_close_to_the_best_normal():
    """Each step has other noise, so the result varies about the best normal, within 0.2 σ."""
    vae, x = linear_vae(steps=200, step_size=0.1).double(), 2 * torch.randn(9, D).double()
    with torch.no_grad():
        q = vae.posterior(x)
        mean, precision = exact_posterior(vae, x)
    best = precision.diagonal().rsqrt()
    assert ((q.mean - mean).abs() < 0.2 * best).all()
    assert ((q.stddev / best).log().abs() < 0.2).all()


def test_every_step_increases_the_elbo_of_every_row():
    vae, x = linear_vae(steps=8, step_size=0.3, num_particles=K).double(), 2 * torch.randn(50, D).double()
    semi = vae.posterior
    with torch.no_grad():
        mean, precision = exact_posterior(vae, x)
        noise, gaps = semi.noise, [gap(semi.guide(x), mean, precision)]
        for steps in range(1, 9):
            semi.noise = noise[:steps]
            gaps.append(gap(semi(x), mean, precision))
    for before, after in itertools.pairwise(gaps):
        assert (after < before).all()


@pytest.mark.parametrize("noise", [1.0, 0.01])
@pytest.mark.parametrize("off", [0.0, 0.1])
def test_one_natural_gradient_step_is_equal_to_its_formula(noise, off):
    """One dimension, σ = e^off P^(−1/2), η = 1: μ moves by e^(2 off) of its distance, log σ by (1 − e^(2 off)) / 2."""
    prior, likelihood = pv.priors.StandardNormal(1), pv.likelihoods.Normal(pv.nets.linear(1, 1), scale=noise)
    weight, bias = likelihood.net[0].weight.item(), likelihood.net[0].bias.item()
    precision = 1 + (weight / noise) ** 2
    guide = pv.guides.MeanFieldNormal(pv.nets.linear(1, 2))
    with torch.no_grad():
        guide.net[0].weight.zero_()
        guide.net[0].bias.copy_(torch.tensor([0.0, math.log(math.expm1(math.exp(off) * precision**-0.5 - 1e-4))]))
    semi = SemiAmortizedNormal(guide, prior, likelihood, steps=1, step_size=1.0).double()
    likelihood.double()
    mean = 0.5 * precision**-0.5  # within reach of one step
    q = semi(torch.tensor([[bias + mean * precision * noise**2 / weight]], dtype=torch.float64))
    assert q.mean.item() == pytest.approx(math.exp(2 * off) * mean, rel=1e-4)
    assert q.stddev.log().item() == pytest.approx(
        off - 0.5 * math.log(precision) + 0.5 * (1 - math.exp(2 * off)), abs=1e-4
    )


def test_steps_do_not_diverge_for_a_sharp_likelihood():
    prior, likelihood = pv.priors.StandardNormal(K), pv.likelihoods.Normal(pv.nets.mlp(K, 8, D), scale=1e-3)
    semi = SemiAmortizedNormal(
        pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K)), prior, likelihood, steps=50, step_size=1.0
    )
    q = semi(100 * torch.randn(20, D))
    assert torch.isfinite(q.mean).all()
    assert (q.stddev > 0).all()


def test_q_is_a_function_of_each_row_and_uses_no_random_numbers():
    vae, x = binary_vae(), binary_rows(20)
    before = torch.get_rng_state()
    q = vae.posterior(x)
    assert torch.equal(before, torch.get_rng_state())
    again, first_rows = vae.posterior(x), vae.posterior(x[:7])
    with torch.no_grad():
        without_gradients = vae.posterior(x)
    for other, rows in ((again, slice(None)), (without_gradients, slice(None)), (first_rows, slice(7))):
        for a, b in ((other.mean, q.mean[rows]), (other.stddev, q.stddev[rows])):
            torch.testing.assert_close(a, b)
    assert q.mean.requires_grad
    assert not without_gradients.mean.requires_grad


def test_gradients_flow_through_the_steps():
    """To encoder and decoder, and equal to finite differences of the refined normal."""
    vae, x = binary_vae(steps=3, num_particles=2).double(), binary_rows(4).double()
    for parameters in (vae.posterior.guide.parameters(), vae.likelihood.parameters()):
        parameter = next(parameters)
        initial = parameter.detach().clone()

        def refined(value, parameter=parameter):
            with torch.no_grad():
                parameter.copy_(value)
            q = vae.posterior(x)
            return (q.mean.sin() + q.stddev).sum()

        found = torch.autograd.grad(refined(initial), parameter)[0].flatten()
        assert (found != 0).any()
        for i in (0, 5, 11):
            offset = torch.zeros(initial.numel(), dtype=torch.float64)
            offset[i] = 1e-5
            moved = [refined(initial + sign * offset.view_as(initial)).item() for sign in (1, -1)]
            assert found[i].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-6)
        refined(initial)


def test_a_frozen_encoder_gives_q_no_gradient():
    vae, x = binary_vae(), binary_rows(5)
    vae.posterior.guide.requires_grad_(False)
    assert not vae.posterior(x).mean.requires_grad
    pv.fit(vae, x, epochs=1)  # the decoder still has gradients


def test_parameters_are_registered_once():
    vae, x = binary_vae(prior=pv.priors.MixtureOfNormals(K, 2)), binary_rows(5)
    names = [name for name, _ in vae.named_parameters()]
    assert not any(name.startswith(("posterior.shared_parts", "posterior.prior")) for name in names)
    with use_param_store(vae):
        traces = poutine.trace(vae.model).get_trace(x), poutine.trace(vae.guide).get_trace(x)
    registered = [site["value"] for trace in traces for site in trace.nodes.values() if site["type"] == "param"]
    assert len(registered) == len({id(value) for value in registered}) == len(names)


@pytest.mark.parametrize(
    "loss",
    [None, pv.ImportanceWeighted_ELBO(3), ReweightedWakeSleep(3, insomnia=0.5)],
    ids=["elbo", "iwae", "wake-sleep"],
)
def test_fit_improves_and_refining_improves_on_the_encoder(loss):
    """At equal weights, the refined q has a higher ELBO than the proposal by more than 0.05 nats a row."""
    vae, x = binary_vae(), binary_rows()
    fitted = pv.fit(vae, x[:200], valid=x[200:], epochs=8, batch_size=50, learning_rate=0.02, loss=loss)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"] + 0.1
    amortized = pv.VAE(vae.prior, vae.likelihood, vae.posterior.guide)
    refined, proposed = (pv.log_evidence(program, x[200:], num_samples=500) for program in (vae, amortized))
    assert refined.elbo.mean() > proposed.elbo.mean() + 0.05
    torch.testing.assert_close(refined.log_px.mean(), proposed.log_px.mean(), atol=0.05, rtol=0)


def test_evidence_of_a_linear_model_is_exact():
    """With S vectorized draws, log p(x) of N(b, W W' + 0.25 I) is estimated within 5 Monte-Carlo standard errors."""
    vae, x = linear_vae(steps=20, num_particles=K).double(), 2 * torch.randn(40, D).double()
    layer = vae.likelihood.net[0]
    cov = layer.weight @ layer.weight.T + NOISE**2 * torch.eye(D).double()
    exact = torch.distributions.MultivariateNormal(layer.bias, cov).log_prob(x).detach()
    found = pv.log_evidence(vae, x, num_samples=2000)
    assert abs((found.log_px - exact).mean()) < 5 * found.log_px_mc_se
    assert found.log_px_mc_se < 0.01


def test_dreg_has_the_gradient_of_the_bound_in_the_mean():
    """The two estimators' means differ by less than 4.5 standard errors, decoder's parameters included."""
    vae, x = binary_vae(steps=2, num_particles=2).double(), binary_rows(3).double()
    parameters = list(vae.parameters())
    found = {}
    for dreg in (False, True):
        loss, draws = pv.ImportanceWeighted_ELBO(3, dreg=dreg, vectorize_particles=True, max_plate_nesting=1), []
        for seed in range(150):
            with seeded(seed):
                value = loss.differentiable_loss(vae.model, vae.guide, x)
            draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
        draws = torch.stack(draws)
        found[dreg] = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    error = torch.hypot(found[False][1], found[True][1])
    assert ((found[False][0] - found[True][0]).abs() < 4.5 * error.clamp(min=1e-9)).all()


@pytest.mark.parametrize("kind", ["normal", "vamp", "flow"])
def test_it_is_saved_and_loaded_with_its_shared_parts(kind, tmp_path):
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    prior = {
        "normal": lambda: pv.priors.StandardNormal(K),
        "vamp": lambda: pv.priors.VampPrior(guide, 4, D),
        "flow": lambda: pv.priors.FlowPrior(K, layers=2, hidden=8),
    }[kind]()
    vae, x = binary_vae(prior, guide, steps=3, num_particles=2), binary_rows(60)
    pv.fit(vae, x, epochs=2)
    pv.save(vae, tmp_path)
    for other in (pv.load(tmp_path), copy.deepcopy(vae)):
        assert other.posterior.shared_parts[0] is other.prior
        assert other.posterior.shared_parts[1] is other.likelihood
        assert torch.equal(other.encode(x), vae.encode(x))
        found, expected = (pv.log_evidence(program, x[:5], num_samples=10).log_px for program in (other, vae))
        assert torch.equal(found, expected)


def test_missing_values_do_not_affect_the_steps():
    """Values at missing entries change nothing; a guide with the mask as input depends on it."""
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(2 * D, 8, 2 * K)))
    for vae in (binary_vae(guide=guide), linear_vae()):
        x, mask = binary_rows(8), torch.rand(8, D) < 0.6
        other = torch.where(mask, x, 1 - x)
        if vae.posterior.accepts_mask:
            assert not torch.equal(vae.encode(x, mask=mask), vae.encode(x))
            continue
        vae.posterior.guide.net[0].weight.data.zero_()  # a proposal that does not depend on x
        torch.testing.assert_close(vae.encode(x, mask=mask), vae.encode(other, mask=mask))
    holes = Split("holes", torch.where(torch.rand(100, D) < 0.2, torch.nan, binary_rows(100)), Measure())
    fitted = pv.fit(binary_vae(guide=guide), holes, epochs=5, learning_rate=0.02)
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]


def test_invalid_guides_and_arguments_raise_input_error():
    full_rank = pv.guides.FullRankNormal(pv.nets.mlp(D, pv.guides.FullRankNormal.outputs(K)), K)
    narrow = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 2))
    for make, message in [
        (lambda: binary_vae(steps=0), "steps must be positive"),
        (lambda: binary_vae(step_size=-0.1), "step_size must be positive"),
        (lambda: binary_vae(guide=full_rank).posterior(binary_rows(2)), "try MeanFieldNormal"),
        (lambda: binary_vae(guide=narrow).posterior(binary_rows(2)), "3 independent dimensions"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
