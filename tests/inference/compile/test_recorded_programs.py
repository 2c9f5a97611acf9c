"""Programs that write in place, share, transpose or hide parameters: compiled fits equal uncompiled ones."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import HandlersWarning
from pyro_vae.inference.compile.compiled_elbo import Compiled_ELBO
from pyro_vae.inference.svi.train_config import OPTIMIZERS


class Small(nn.Module):
    """x (n, 3) from z (n, 2), with a guide of one layer; `encoder_input` is what a subclass changes."""

    def __init__(self):
        super().__init__()
        self.weight, self.to_loc = nn.Parameter(torch.randn(3, 2)), nn.Linear(3, 2)

    def mean(self, z):
        return z @ self.weight.t()

    def encoder_input(self, x):
        return x

    def model(self, x):
        pyro.module("small", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.to_loc(self.encoder_input(x)), 1.0).to_event(1))


class Transposed(Small):
    """A gradient whose layout is not its parameter's."""

    def __init__(self):
        super().__init__()
        self.masked = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("mask", (torch.rand(3, 2) < 0.7).float())

    def mean(self, z):
        return nn.functional.linear(z, self.mask * self.masked.t())


class Summed(Small):
    """A gradient that is one number, repeated without memory of its own."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(5))

    def mean(self, z):
        return super().mean(z) + self.theta.sum()


class TwoBiases(Small):
    """TwoBiases biases whose gradients are equal; a prior of one of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def mean(self, z):
        return self.a(z) + self.b(z.square())

    def log_prior(self):
        return -50 * (self.a.bias - 1).square().sum()


class WritesCopies(Small):
    """Writes into copies that equal the caller's rows and a parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(2))

    def encoder_input(self, x):
        y = x * 1.0
        y -= 0.5
        return y + 0.0

    def mean(self, z):
        shift = self.shift * 1.0
        shift += 0.5
        return super().mean(z + shift)


class FillsZeros(Small):
    """A constant that is written into before something is computed from it."""

    def encoder_input(self, x):
        filled = torch.zeros(len(x))
        filled[:] = x[:, 0]
        return x + (filled * 2)[:, None]


class Counts(Small):
    """A buffer written through a view, at every step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2))

    def encoder_input(self, x):
        if self.training:
            self.count[0].add_(1.0)
        return x


class Unregistered(Small):
    """A layer that is not registered with Pyro, and has gradients all the same."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.hidden(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("to_loc", self.to_loc)
        super().guide(x)


PROGRAMS = (Small, Transposed, Summed, TwoBiases, WritesCopies, FillsZeros, Counts, Unregistered)


def fit_compiled_and_uncompiled(program_class, x, **settings):
    """A program fitted compiled and uncompiled: the states, and the rows afterwards."""
    results = []
    for compiled in (None, False):
        torch.manual_seed(3)
        program, rows = program_class(), x.clone()
        options = {"epochs": 10, "batch_size": 20, "learning_rate": 0.02, "schedule": "constant"} | settings
        pv.fit(program, rows, compile=compiled, **options)
        results.append((program.state_dict(), rows))
    return results


def assert_same_results(program_class, **settings):
    x = torch.randn(60, 3)
    x[40:, 0] += 5
    (state, rows), (true_state, _) = fit_compiled_and_uncompiled(program_class, x, **settings)
    assert torch.equal(rows, x)
    for name, value in true_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {state[name]} {value}")


@pytest.mark.parametrize("settings", [{}, {"clip": 0.1}], ids=["defaults", "clip"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_thirty_compiled_steps_equal_thirty_uncompiled_ones(program, settings):
    assert_same_results(program, **settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("program", [Transposed, Summed, TwoBiases])
def test_every_optimizer_supports_the_gradients_of_a_graph(program, optimizer):
    assert_same_results(program, optimizer=optimizer, learning_rate=0.002)


def test_no_two_parameters_share_a_gradient():
    program, elbo, x = TwoBiases(), Compiled_ELBO(), torch.randn(8, 3)
    for _ in range(4):
        program.zero_grad()
        elbo.loss_and_grads(program.model, program.guide, x)
    gradients = [parameter.grad for parameter in program.parameters() if parameter.grad is not None]
    addresses = [gradient.untyped_storage().data_ptr() for gradient in gradients]
    assert len(set(addresses)) == len(addresses)
    assert elbo.fallback_reason == ""


def steps_of(elbo, program, x, calls, between=lambda call: None):
    losses = []
    for call in range(calls):
        between(call)
        pyro.set_rng_seed(call)
        program.zero_grad()
        losses.append(float(elbo.loss_and_grads(program.model, program.guide, x)))
    return losses


@pytest.mark.filterwarnings("ignore:weight was not registered in the param store")  # Pyro's warning
def test_freezing_and_unfreezing_parameters_takes_effect():
    x, results = torch.randn(8, 3), []
    for elbo in (Compiled_ELBO(), Trace_ELBO()):
        torch.manual_seed(0)
        program = Small()
        program.weight.requires_grad_(False)
        steps_of(elbo, program, x, 6)
        assert program.weight.grad is None
        program.weight.requires_grad_(True)
        steps_of(elbo, program, x, 3)
        results.append(program.weight.grad)
    torch.testing.assert_close(*results)


def test_a_cleared_param_store_takes_effect():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pass

    elbo, x = Compiled_ELBO(), torch.full((10,), 3.0)
    for _ in range(2):
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.01}), elbo)
        for _ in range(60):
            svi.step(x)
        assert pyro.param("loc").item() == pytest.approx(3.0, abs=0.05)
    assert elbo.fallback_reason == ""


@pytest.mark.parametrize(
    "scale",
    [lambda x: 2.0 if max(x.flatten().tolist()) > 9 else 1.0, lambda x: 2.0 if x[0, 0].item() > 9 else 1.0],
    ids=["tolist", "item"],
)
def test_conversions_to_python_values_are_refused(scale):
    class ReadsValues(Small):
        def encoder_input(self, x):
            return x * scale(x)

    elbo = Compiled_ELBO()
    with pytest.warns(HandlersWarning, match="value"):
        steps_of(elbo, ReadsValues(), torch.randn(8, 3), 3)


def test_a_number_that_keeps_changing_falls_back_after_some_graphs():
    def model(x, beta):
        loc = pyro.param("loc", torch.tensor(0.2))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    elbo, x = Compiled_ELBO(), torch.randn(10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(40):
            elbo.loss_and_grads(model, lambda x, beta: None, x, 0.5 + step)
    assert [w.category for w in caught] == [HandlersWarning]
    assert "keep changing" in elbo.fallback_reason


def test_other_strides_and_arguments_that_cannot_be_compared():
    program, elbo = Small(), Compiled_ELBO()
    x = torch.randn(8, 3)
    steps_of(elbo, program, x, 5)
    steps_of(elbo, program, torch.randn(3, 8).t(), 5)
    assert elbo.fallback_reason == ""

    def model(x, array):
        program.model(x)

    def guide(x, array):
        program.guide(x)

    with pytest.warns(HandlersWarning, match="cannot tell whether it has changed"):
        elbo.loss_and_grads(model, guide, x, x.numpy())


def test_a_change_between_epochs_is_noticed_at_the_start_of_the_next():
    class Tempered(Small):
        temperature = 1.0

        def encoder_input(self, x):
            return x * self.temperature

    program = Tempered()

    def cool(history):
        program.temperature = 0.5 ** len(history)

    with pytest.warns(HandlersWarning, match="other numbers"):
        pv.fit(program, torch.randn(100, 3), epochs=3, batch_size=10, on_epoch=cool)


def test_a_fused_fit_resumes_up_to_rounding(tmp_path):
    x, results = torch.randn(40, 3), []
    for folder in (None, tmp_path):
        torch.manual_seed(0)
        program = Small()
        if folder:
            half = copy.deepcopy(program)
            stop = iter([None])

            def interrupt(history, stop=stop):
                next(stop)

            with pytest.raises(StopIteration):
                pv.fit(half, x, epochs=4, batch_size=10, compile=True, checkpoint=folder, on_epoch=interrupt)
        pv.fit(program, x, epochs=4, batch_size=10, compile=True, checkpoint=folder)
        results.append(program.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4)
