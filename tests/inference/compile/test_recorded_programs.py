"""Programs that write in place, share, transpose or hide what they hold: fitted by their graph as by the handlers."""

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
from pyro_vae.inference.svi.optimizer import OPTIMIZERS


class Small(nn.Module):
    """x (n, 3) from z (n, 2), with a guide of one layer; `see` says what a subclass does on the way."""

    def __init__(self):
        super().__init__()
        self.weight, self.to_loc = nn.Parameter(torch.randn(3, 2)), nn.Linear(3, 2)

    def mean(self, z):
        return z @ self.weight.t()

    def see(self, x):
        return x

    def model(self, x):
        pyro.module("small", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.to_loc(self.see(x)), 1.0).to_event(1))


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


class Two(Small):
    """Two biases whose gradients are equal; a prior of one of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def mean(self, z):
        return self.a(z) + self.b(z.square())

    def log_prior(self):
        return -50 * (self.a.bias - 1).square().sum()


class WritesCopies(Small):
    """Copies that look like the caller's rows and a parameter, written into."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(2))

    def see(self, x):
        y = x * 1.0
        y -= 0.5
        return y + 0.0

    def mean(self, z):
        shift = self.shift * 1.0
        shift += 0.5
        return super().mean(z + shift)


class FillsZeros(Small):
    """A constant that is written into before something is computed from it."""

    def see(self, x):
        filled = torch.zeros(len(x))
        filled[:] = x[:, 0]
        return x + (filled * 2)[:, None]


class Counts(Small):
    """A buffer written through a view, at every step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def see(self, x):
        if self.training:
            self.seen[0].add_(1.0)
        return x


class Hidden(Small):
    """A layer that Pyro is not told of, which backward reaches all the same."""

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


PROGRAMS = (Small, Transposed, Summed, Two, WritesCopies, FillsZeros, Counts, Hidden)


def both_ways(make, x, **settings):
    """A program fitted by its graph and by the handlers: their states, and the rows afterwards."""
    ends = []
    for compiled in (None, False):
        torch.manual_seed(3)
        program, rows = make(), x.clone()
        options = {"epochs": 10, "batch_size": 20, "learning_rate": 0.02, "schedule": "constant"} | settings
        pv.fit(program, rows, compile=compiled, **options)
        ends.append((program.state_dict(), rows))
    return ends


def assert_same_ends(make, **settings):
    x = torch.randn(60, 3)
    x[40:, 0] += 5
    (state, rows), (true_state, _) = both_ways(make, x, **settings)
    assert torch.equal(rows, x)
    for name, value in true_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {state[name]} {value}")


@pytest.mark.parametrize("settings", [{}, {"clip": 0.1}], ids=str)
@pytest.mark.parametrize("program", PROGRAMS)
def test_thirty_steps_by_the_graph_are_thirty_by_the_handlers(program, settings):
    assert_same_ends(program, **settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("program", [Transposed, Summed, Two])
def test_every_optimizer_reads_the_gradients_as_they_are(program, optimizer):
    assert_same_ends(program, optimizer=optimizer, learning_rate=0.002)


def test_no_two_parameters_share_a_gradient():
    program, elbo, x = Two(), Compiled_ELBO(), torch.randn(8, 3)
    for _ in range(4):
        program.zero_grad()
        elbo.loss_and_grads(program.model, program.guide, x)
    gradients = [parameter.grad for parameter in program.parameters() if parameter.grad is not None]
    places = [gradient.untyped_storage().data_ptr() for gradient in gradients]
    assert len(set(places)) == len(places)
    assert elbo.fallback_reason == ""


def steps_of(elbo, program, x, calls, between=lambda call: None):
    losses = []
    for call in range(calls):
        between(call)
        pyro.set_rng_seed(call)
        program.zero_grad()
        losses.append(float(elbo.loss_and_grads(program.model, program.guide, x)))
    return losses


@pytest.mark.filterwarnings("ignore:weight was not registered in the param store")  # Pyro's own words
def test_what_is_frozen_thawed_or_replaced_is_seen():
    x, ends = torch.randn(8, 3), []
    for elbo in (Compiled_ELBO(), Trace_ELBO()):
        torch.manual_seed(0)
        program = Small()
        program.weight.requires_grad_(False)
        steps_of(elbo, program, x, 6)
        assert program.weight.grad is None
        program.weight.requires_grad_(True)
        steps_of(elbo, program, x, 3)
        ends.append(program.weight.grad)
    torch.testing.assert_close(*ends)


def test_a_param_store_that_is_cleared_or_loaded_is_followed():
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
    "take", [lambda x: 2.0 if max(x.flatten().tolist()) > 9 else 1.0, lambda x: 2.0 if x[0, 0].item() > 9 else 1.0]
)
def test_values_taken_out_are_refused(take):
    class Takes(Small):
        def see(self, x):
            return x * take(x)

    elbo = Compiled_ELBO()
    with pytest.warns(HandlersWarning, match="value"):
        steps_of(elbo, Takes(), torch.randn(8, 3), 3)


def test_a_number_that_changes_is_given_up_after_some_graphs():
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


def test_what_goes_by_epochs_is_seen_at_the_next_epochs_start():
    class Cools(Small):
        temperature = 1.0

        def see(self, x):
            return x * self.temperature

    program = Cools()

    def cool(history):
        program.temperature = 0.5 ** len(history)

    with pytest.warns(HandlersWarning, match="other numbers"):
        pv.fit(program, torch.randn(100, 3), epochs=3, batch_size=10, on_epoch=cool)


def test_a_fused_fit_goes_on_within_rounding(tmp_path):
    x, ends = torch.randn(40, 3), []
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
        ends.append(program.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4)
