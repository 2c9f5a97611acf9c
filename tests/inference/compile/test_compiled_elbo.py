"""The compiled step equals the uncompiled one: values, gradients and draws, for every part; the rest falls back."""

import copy
import itertools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, PerRowGuide, global_mean, plain_functions, vamp_vae
from part_tables import GUIDES, LIKELIHOODS, NETS, PRIORS, D, K, make_guide, make_likelihood
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import HandlersWarning, InputError
from pyro_vae.inference.compile.compiled_elbo import Compiled_ELBO
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO
from pyro_vae.inference.objectives.importance_weighted import ImportanceWeighted_ELBO
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.programs.parameters import named_parameters, use_param_store
from pyro_vae.programs.row_inputs import bind_supported_kwargs

B = 12


def rows(likelihood):
    low, high = {"poisson": (0, 5), "negative-binomial": (0, 5), "categorical": (0, 3)}.get(likelihood, (0, 2))
    counted = torch.randint(low, high, (B, D)).float()
    return counted if likelihood in ("bernoulli", "poisson", "negative-binomial", "categorical") else torch.rand(B, D)


def gradients(program, elbo, batches, **row_inputs):
    """For each batch the loss and every gradient, by one ELBO object, from one seed."""
    found = []
    model, guide = bind_supported_kwargs(program.model), bind_supported_kwargs(program.guide)
    with use_param_store(program):
        for seed, x in enumerate(batches):
            pyro.set_rng_seed(seed)
            for parameter in named_parameters(program).values():
                parameter.grad = None
            given = {name: value[seed] for name, value in row_inputs.items()}
            loss = elbo.loss_and_grads(model, guide, x, given)
            grads = {name: parameter.grad for name, parameter in named_parameters(program).items()}
            found.append((float(loss), grads, torch.rand(()).item()))
    return found


def assert_same_steps(program, elbo, batches, rtol=1e-6, **row_inputs):
    twin = copy.deepcopy(program) if isinstance(program, nn.Module) else program
    compiled = Compiled_ELBO(copy.copy(elbo))
    found = gradients(program, compiled, batches, **row_inputs)
    assert compiled.fallback_reason == ""
    assert len(compiled.steps) == 1
    expected = gradients(twin, elbo, batches, **row_inputs)
    for (loss, grads, draw), (true_loss, true_grads, true_draw) in zip(found, expected, strict=True):
        assert loss == pytest.approx(true_loss, rel=1e-5, abs=1e-5)
        assert draw == true_draw  # as many random numbers were taken
        assert grads.keys() == true_grads.keys()
        for name, grad in true_grads.items():
            assert (grad is None) == (grads[name] is None), name
            if grad is not None:
                torch.testing.assert_close(grads[name], grad, rtol=rtol, atol=rtol * float(grad.abs().max()))


UNSUPPORTED = ("iaf", "vamp")  # such a guide cannot score points it did not draw
PAIRS = [pair for pair in itertools.product(GUIDES, PRIORS) if pair != UNSUPPORTED]


@pytest.mark.parametrize(("guide", "prior"), PAIRS)
def test_gradients_of_every_guide_with_every_prior(guide, prior):
    part = make_guide(guide)
    vae = pv.VAE(PRIORS[prior](part), make_likelihood("bernoulli"), part)
    assert_same_steps(vae, Trace_ELBO(), [rows("bernoulli") for _ in range(6)])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_of_every_likelihood(likelihood):
    vae = pv.VAE(pv.priors.StandardNormal(K), make_likelihood(likelihood), make_guide("mean-field"))
    assert_same_steps(vae, Trace_ELBO(), [rows(likelihood) for _ in range(6)])


@pytest.mark.parametrize("net", NETS)
def test_gradients_of_every_network(net):
    vae = pv.VAE(pv.priors.StandardNormal(K), make_likelihood("bernoulli", net), make_guide("mean-field", net))
    assert_same_steps(vae, Trace_ELBO(), [rows("bernoulli") for _ in range(6)])


ELBOS = {
    "elbo": Trace_ELBO(),
    "three particles": Trace_ELBO(num_particles=3),
    "vectorized": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "analytic": TraceMeanField_ELBO(),
    "iwae": ImportanceWeighted_ELBO(3),
    "dreg": ImportanceWeighted_ELBO(3, dreg=True),
    "free bits": FreeBits_ELBO(0.3, each="dimension"),
    "reweighted wake-sleep": ReweightedWakeSleep(3, insomnia=0.5),
    "wake-sleep": WakeSleep(),
}


@pytest.mark.parametrize("name", ELBOS)
def test_gradients_of_every_elbo(tiny_vae, name):
    vae, x = tiny_vae
    assert_same_steps(vae, ELBOS[name], [x[12 * i : 12 * i + 12] for i in range(5)])


def test_gradients_of_programs_a_user_wrote():
    batches = [torch.rand(B, 6).round() for _ in range(5)]
    assert_same_steps(vamp_vae(), Trace_ELBO(), batches)
    assert_same_steps(Hierarchical(), Trace_ELBO(), batches)
    table = PerRowGuide(60, torch.randn(6, 2), 0.5)
    assert_same_steps(table, Trace_ELBO(), batches, rows=[torch.randperm(60)[:B] for _ in batches])
    for make in (plain_functions, global_mean):
        width = 3 if make is plain_functions else 1
        program = make()
        program.guide(torch.randn(B, width))  # parameters exist; a copy cannot be made of those in a store
        with use_param_store(program):
            pyro.poutine.trace(program.model).get_trace(torch.randn(B, width))
        assert_same_steps(program, Trace_ELBO(), [torch.randn(B, width) for _ in range(5)])


def test_an_enumerated_mixture_runs_uncompiled():
    mixture, x = pv.GaussianMixture(num_components=3, num_features=2), torch.randn(60, 2)
    pv.fit(mixture, x, epochs=3, batch_size=20)  # without a warning: it is known beforehand
    with pytest.raises(InputError, match="TraceEnum_ELBO cannot be compiled"):
        pv.fit(mixture, x, epochs=3, batch_size=20, compile=True)


class Discrete(nn.Module):
    """A latent without a reparameterized sampler: the score function's gradient."""

    def __init__(self):
        super().__init__()
        self.logits, self.to_logits, self.loc = (
            nn.Parameter(torch.randn(3)),
            nn.Linear(2, 3),
            nn.Parameter(torch.randn(3, 2)),
        )

    def model(self, x):
        pyro.module("discrete", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=self.to_logits(x)))


def test_gradients_by_the_score_function():
    assert_same_steps(Discrete(), Trace_ELBO(), [torch.randn(B, 2) for _ in range(5)], rtol=1e-5)


def test_labels_and_masks_are_inputs():
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(6 + 3, 8, 4))
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 3, 8, 6))
    vae = pv.ConditionalVAE(pv.priors.StandardNormal(2), likelihood, guide, num_labels=3)
    batches = [torch.rand(B, 6).round() for _ in range(5)]
    labels, masks = ([torch.randint(0, 3, (B,)) for _ in batches], [torch.rand(B, 6) < 0.7 for _ in batches])
    assert_same_steps(vae, Trace_ELBO(), batches, labels=labels, mask=masks)


def test_draws_are_new_and_changed_parameters_take_effect(tiny_vae):
    vae, x = tiny_vae
    elbo = Compiled_ELBO()
    losses = [float(elbo.loss_and_grads(vae.model, vae.guide, x)) for _ in range(8)]
    assert len(set(losses)) == 8
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
    vae.zero_grad()
    blank = float(elbo.loss_and_grads(vae.model, vae.guide, x))
    assert 60 * 6 * 0.6931 < blank < 60 * 6 * 0.6932 + 60 * 2
    assert next(iter(elbo.steps.values())).calls == 8


def test_a_parameter_frozen_between_epochs_does_not_change(tiny_vae):
    vae, x = tiny_vae

    def freeze(history):
        vae.likelihood.requires_grad_(False)
        kept.append(copy.deepcopy(vae.state_dict()))

    kept = []
    pv.fit(vae, x, epochs=4, batch_size=20, on_epoch=freeze)
    moved = {name for name, value in vae.state_dict().items() if not torch.equal(value, kept[0][name])}
    assert moved == {name for name, _ in vae.posterior.named_parameters(prefix="posterior")}


class BatchNormalized(nn.Module):
    """Batch normalization and dropout: a module with buffers and random draws of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)


def test_running_means_change_once_a_step():
    def vae():
        torch.manual_seed(1)
        likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6))
        return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(BatchNormalized()))

    batches = [torch.rand(B, 6).round() for _ in range(7)]
    one, other = vae(), vae()
    gradients(one, Compiled_ELBO(), batches)
    gradients(other, Trace_ELBO(), batches)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name)
    assert_same_steps(vae(), Trace_ELBO(), batches)


UNTRACEABLE = {
    "an if on a value": (lambda x, calls: 1.0 if x.sum() > 0 else 2.0, "asks for the value"),
    "a mask as an index": (lambda x, calls: 1.0 + x[x > 0].sum() * 0, "shape depends on values"),
    "a number that changes": (lambda x, calls: 1.0 + len(calls), "differ from call to call"),
    "a number that changes late": (lambda x, calls: 1.0 + (len(calls) > 4), "other numbers"),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_untraceable_programs_run_uncompiled_after_one_warning(name):
    scale_of, message = UNTRACEABLE[name]
    calls, steps = [], []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        steps.append(1)
        loc = pyro.param("loc", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + x.sum(-1), scale_of(x, calls)))
        calls.append(1)

    program, elbo = pv.Program(model, guide), Compiled_ELBO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradients(program, elbo, [torch.randn(5, 2) for _ in range(6)])
    assert [w.category for w in caught] == [HandlersWarning]
    assert message in str(caught[0].message)
    assert message in elbo.fallback_reason


def test_each_shape_is_recorded_once_the_smaller_last_batch_too(tiny_vae, monkeypatch):
    from pyro_vae.inference.compile import compiled_step

    recorded = []
    record = compiled_step.record
    monkeypatch.setattr(compiled_step, "record", lambda *args: recorded.append(args[1].shape) or record(*args))
    vae, x = tiny_vae
    pv.fit(vae, x, epochs=5, batch_size=25)  # 25, 25, 10
    assert recorded == [(25, 6), (25, 6), (10, 6), (10, 6)]  # twice each: the second has to repeat the first


@pytest.mark.parametrize(
    "settings",
    [{}, {"beta": 0.5}, {"kl_warmup": 2.0}, {"num_particles": 3}, {"loss": ImportanceWeighted_ELBO(2)}, {"clip": 0.1}],
    ids=["defaults", "beta", "warm-up", "particles", "importance-weighted", "clip"],
)
def test_a_whole_fit_equals_the_uncompiled_one(tiny_vae, settings):
    vae, x = tiny_vae
    twin = copy.deepcopy(vae)
    options = settings | {"valid": x[:20], "epochs": 4, "batch_size": 25, "progress": "none"}
    one, other = (pv.fit(program, x, compile=compiled, **options) for program, compiled in ((vae, None), (twin, False)))
    for a, b in zip(one.history, other.history, strict=True):
        for name in ("elbo", "reconstruction", "kl", "valid_elbo", "beta"):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    for (name, a), b in zip(vae.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_torch_compile_gives_the_same_steps(tiny_vae):
    """A whole fit with its terms, without a warning: one graph, compiled once."""
    vae, x = tiny_vae
    twin, options = copy.deepcopy(vae), {"epochs": 3, "batch_size": 20, "progress": "none"}
    one, other = pv.fit(vae, x, compile=True, **options), pv.fit(twin, x, compile=False, **options)
    for a, b in zip(one.history, other.history, strict=True):
        for name in ("elbo", "reconstruction", "kl"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    for (name, a), b in zip(vae.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_it_works_with_pyros_svi_and_optimizer(tiny_vae):
    vae, x = tiny_vae
    twin = copy.deepcopy(vae)
    losses = []
    for program, elbo in ((vae, Compiled_ELBO()), (twin, Trace_ELBO())):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        losses.append([svi.step(x) for _ in range(30)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
