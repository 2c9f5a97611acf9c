"""Products of layers in bfloat16: their error against float64, what stays in float32, and how a fit chooses them."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import HandlersWarning, InputError, PrecisionWarning
from pyro_vae.inference.compile import compiled_elbo
from pyro_vae.inference.compile.reduced_products import LAYERS, ReducedProducts
from pyro_vae.inference.svi import choose_precision as choose
from pyro_vae.inference.svi.callbacks import CallbackBase
from pyro_vae.inference.svi.train_config import TrainConfig

ROUNDING = 2**-8  # of a number to bfloat16, at most
SPATIAL = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}


def arguments(layer):
    """Input, weight and bias of a layer, its further arguments, and those of the same layer in float64."""
    n = SPATIAL.get(layer, 0)
    x = torch.randn(3, 4, *[5] * n) if n else torch.randn(2, 3, 4)
    channels = (4, 6) if layer.__name__.startswith("conv_transpose") else (6, 4)
    return x, torch.randn(*channels, *[3] * n), torch.randn(6), (2,) if n else ()


@pytest.mark.parametrize("layer", sorted(LAYERS, key=lambda each: each.__name__), ids=lambda each: each.__name__)
def test_layers_and_their_gradients_against_float64(layer):
    """A result is within the rounding of its factors and of itself, in terms of the sum of absolute products."""
    torch.manual_seed(0)
    x, weight, bias, more = arguments(layer)
    leaves = [value.requires_grad_() for value in (x, weight, bias)]
    with ReducedProducts():
        reduced = layer(*leaves, *more)
    assert reduced.dtype == torch.float32
    exact = [value.detach().double().requires_grad_() for value in leaves]
    expected = layer(*exact, *more)
    sums = layer(*[value.detach().double().abs() for value in leaves], *more)
    assert float(((reduced.double() - expected).detach().abs() / sums).max()) < 3 * ROUNDING
    assert not torch.equal(reduced, layer(*leaves, *more))
    away = torch.randn_like(reduced)
    found, true = torch.autograd.grad(reduced, leaves, away), torch.autograd.grad(expected, exact, away.double())
    for a, b in zip(found, true, strict=True):
        assert a.dtype == torch.float32
        assert float((a.double() - b).norm() / b.norm()) < ROUNDING
    torch.testing.assert_close(found[2].double(), true[2], rtol=1e-5, atol=1e-5)  # a bias has no product


def test_what_is_no_layer_of_float32_is_unchanged():
    layer, x, matrix = nn.Linear(4, 3).double(), torch.randn(5, 4).double(), torch.randn(4, 4)
    with ReducedProducts():
        assert torch.equal(layer(x), x @ layer.weight.T + layer.bias)
        assert torch.equal(matrix @ matrix, torch.mm(matrix, matrix))
        assert torch.equal(
            F.linear(matrix.bfloat16(), matrix.bfloat16()).float(), matrix.bfloat16() @ matrix.bfloat16().T
        )
    keywords = nn.Linear(4, 3)
    with ReducedProducts():
        found = F.linear(input=matrix, weight=keywords.weight, bias=keywords.bias)
        assert torch.equal(found, keywords(matrix))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4), (4, 4), ()])
def test_a_bias_of_a_linear_layer_broadcasts(shape):
    """As torch's own: one number for each row where there are as many rows as columns, too."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 3), torch.randn(4, 3), torch.randn(shape)
    with ReducedProducts():
        reduced = F.linear(x, weight, bias)
    torch.testing.assert_close(reduced, x @ weight.T + bias, rtol=0.02, atol=0.1)


class Checkpointed(nn.Module):
    """A network whose backward pass runs it again, outside of the guide."""

    def __init__(self):
        super().__init__()
        self.net = pv.nets.mlp(6, 16, 4)

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


def test_what_does_not_run_in_bfloat16_is_told_or_left_in_float32(monkeypatch):
    def vae():
        torch.manual_seed(0)
        likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 16, 6))
        return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(Checkpointed()))

    monkeypatch.setattr(choose, "speed_up", lambda run, device: 9.0)
    plain, auto = vae(), vae()
    pv.fit(plain, rows(), **SETTINGS)
    assert pv.fit(auto, rows(), precision="auto", **SETTINGS).precision == "float32"
    assert torch.equal(weights_of(plain), weights_of(auto))
    with pytest.raises(InputError, match="does not run with precision='bfloat16'"):
        pv.fit(vae(), rows(), precision="bfloat16", **SETTINGS)


def test_layers_inside_a_density_are_not_timed():
    """A flow prior's networks run in log p(z), which no step reduces."""
    found = []

    class Keep(choose.FindLayers):
        def __init__(self):
            super().__init__()
            found.append(self.calls)

    torch.manual_seed(0)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 16, 6))
    vae = pv.VAE(pv.priors.FlowPrior(2, layers=2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(6, 16, 4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "FindLayers", Keep)
        pv.fit(vae, rows(), precision="auto", epochs=1)
    assert [len(calls) for calls in found] == [4]


@pytest.mark.parametrize("first", ["float32", "bfloat16"])
def test_auto_goes_on_with_the_precision_of_a_checkpoint(monkeypatch, tmp_path, first):
    class Stop(CallbackBase):
        def on_epoch(self, fit):
            return len(fit.history) == 3

    other = {"float32": 9.0, "bfloat16": 1.0}  # the clock would choose the other one
    monkeypatch.setattr(choose, "speed_up", lambda run, device: other[first])
    whole, resumed = make_vae(), make_vae()
    pv.fit(whole, rows(), precision=first, **SETTINGS)
    pv.fit(resumed, rows(), precision=first, checkpoint=tmp_path, callbacks=[Stop()], **SETTINGS)
    for _ in range(2):  # the second time no epoch is left
        resumed = make_vae()
        assert pv.fit(resumed, rows(), precision="auto", checkpoint=tmp_path, **SETTINGS).precision == first
        assert torch.equal(weights_of(whole), weights_of(resumed))


def make_vae(hidden=16):
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, hidden, 6))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(6, hidden, 4)))


def rows(n=200):
    torch.manual_seed(1)
    return ((torch.randn(n, 2) @ torch.randn(2, 6)) > 0).float()


SETTINGS = {"epochs": 8, "batch_size": 50, "learning_rate": 0.01}


def weights_of(program):
    return torch.cat([value.detach().flatten() for value in program.state_dict().values()])


def test_a_graph_has_the_bits_of_the_handlers():
    both = []
    for recorded in (None, False):
        vae = make_vae()
        fitted = pv.fit(vae, rows(), precision="bfloat16", compile=recorded, **SETTINGS)
        assert fitted.precision == "bfloat16"
        both.append(weights_of(vae))
    assert torch.equal(*both)
    plain = make_vae()
    assert pv.fit(plain, rows(), **SETTINGS).precision == "float32"
    assert not torch.equal(weights_of(plain), both[0])
    torch.testing.assert_close(weights_of(plain), both[0], rtol=0.05, atol=0.05)


def test_the_graph_is_recorded_with_its_casts(monkeypatch):
    monkeypatch.setattr(compiled_elbo, "MIN_CALLS", 1)
    found = []
    original = compiled_elbo.Compiled_ELBO._record_step

    def keep(self, *args):
        found.append(original(self, *args))
        return found[-1]

    monkeypatch.setattr(compiled_elbo.Compiled_ELBO, "_record_step", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HandlersWarning)
        pv.fit(make_vae(), rows(), valid=rows(50), precision="bfloat16", **SETTINGS)
    types = [
        {node.meta["layout"][2] for node in step.graph.recording.graph.nodes if "layout" in node.meta} for step in found
    ]
    assert [torch.bfloat16 in each for each in types] == [True, False]  # the step, and the validation ELBO


def test_scores_are_in_float32():
    """The validation ELBO of a fit whose learning rate is almost zero is that of a fit in float32."""
    still = SETTINGS | {"learning_rate": 1e-30, "epochs": 2}
    pair = [pv.fit(make_vae(), rows(), valid=rows(60), precision=each, **still) for each in ("float32", "bfloat16")]
    records = [fitted.history[-1] for fitted in pair]
    assert records[0].valid_elbo == records[1].valid_elbo
    assert records[0].valid_kl_apart == records[1].valid_kl_apart
    assert records[0].elbo == pytest.approx(records[1].elbo, abs=0.02)  # the training rows' is that of the steps
    assert records[0].elbo != records[1].elbo


@pytest.mark.parametrize(
    ("ratio", "error", "expected"), [(3.0, 0.001, "bfloat16"), (1.4, 0.001, "float32"), (3.0, 0.05, "float32")]
)
def test_auto_takes_what_is_quicker_and_exact_enough(monkeypatch, ratio, error, expected):
    monkeypatch.setattr(choose, "speed_up", lambda run, device: ratio)
    monkeypatch.setattr(choose, "gradient_error", lambda exact, reduced: error)
    auto, given = make_vae(), make_vae()
    fitted = pv.fit(auto, rows(), precision="auto", **SETTINGS)
    assert fitted.precision == expected
    monkeypatch.undo()
    pv.fit(given, rows(), precision=expected, **SETTINGS)
    assert torch.equal(weights_of(auto), weights_of(given))


def test_a_resumed_fit_keeps_the_choice_and_its_bits(monkeypatch, tmp_path):
    class Stop(CallbackBase):
        def on_epoch(self, fit):
            assert fit.precision == "bfloat16"
            return len(fit.history) == 3

    monkeypatch.setattr(choose, "speed_up", lambda run, device: 3.0)
    whole, resumed = make_vae(), make_vae()
    pv.fit(whole, rows(), precision="auto", **SETTINGS)
    pv.fit(resumed, rows(), precision="auto", checkpoint=tmp_path, callbacks=[Stop()], **SETTINGS)
    monkeypatch.setattr(choose, "speed_up", lambda run, device: 1.0)  # as in a busier hour
    again = make_vae()
    assert pv.fit(again, rows(), precision="auto", checkpoint=tmp_path, **SETTINGS).precision == "bfloat16"
    assert torch.equal(weights_of(whole), weights_of(again))
    pv.fit(make_vae(), rows(), precision="bfloat16", checkpoint=tmp_path, **SETTINGS)
    with pytest.raises(InputError, match="precision was bfloat16, is float32"):
        pv.fit(make_vae(), rows(), checkpoint=tmp_path, **SETTINGS)


class Cancelling(nn.Module):
    """A latent's location is the difference of two large products, which bfloat16 cannot tell apart."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 1)
        with torch.no_grad():
            self.first.weight.fill_(1000.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(-1, 3), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("cancelling", self)
        difference = self.first(x) - 1000.0 * x.sum(-1, keepdim=True)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(difference, 0.1).to_event(1))


def test_a_gradient_that_changes_is_said():
    x = torch.randn(40, 3)
    with pytest.warns(PrecisionWarning, match=r"the first gradient changes by .* % of its norm"):
        fitted = pv.fit(Cancelling(), x, epochs=1, batch_size=40, precision="bfloat16", learning_rate=1e-6)
    assert fitted.precision == "bfloat16"


@pytest.mark.parametrize("setting", ["bfloat16", "auto"])
def test_another_type_of_program(setting):
    vae = make_vae().double()
    if setting == "auto":
        assert pv.fit(vae, rows().double(), precision=setting, **SETTINGS).precision == "float32"
    else:
        with pytest.raises(InputError, match="for programs in float32, and this one is in float64"):
            pv.fit(vae, rows().double(), precision=setting, **SETTINGS)


def test_other_fit_methods_refuse_it():
    with pytest.raises(InputError, match="does not read precision"):
        pv.fit_mcem(make_vae(), rows(), TrainConfig(epochs=1, precision="bfloat16"))
    with pytest.raises(InputError, match="precision"):
        TrainConfig(precision="bf16")


def test_times_are_those_of_the_layers(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0] * 6)  # each call of the layers as they are takes 3, reduced 1
    monkeypatch.setattr(choose.time, "perf_counter", lambda: next(clock))
    layer = nn.Linear(3, 2)
    assert choose.speed_up(lambda mode: mode.around(layer)(torch.ones(4, 3)), torch.device("cpu")) == 3.0
    slow = iter([0.0, 1.0, 10.0, 50.0])
    monkeypatch.setattr(choose.time, "perf_counter", lambda: next(slow))
    assert choose.speed_up(lambda mode: mode.around(layer)(torch.ones(4, 3)), torch.device("cpu")) == 1 / 40
    assert (
        choose.speed_up(lambda mode: mode.around(torch.dot)(torch.ones(3), torch.ones(3)), torch.device("cpu")) == 1.0
    )


def test_images_and_torch_compile():
    torch.manual_seed(0)
    x, decoder = (
        torch.rand(20, 64).round(),
        nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 1, 4, 4), nn.Flatten()),
    )
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)
    )
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(decoder), pv.guides.MeanFieldNormal(encoder))
    fitted = pv.fit(vae, x, epochs=30, batch_size=20, precision="bfloat16", learning_rate=0.01)
    assert fitted.history[-1].elbo > fitted.history[0].elbo
