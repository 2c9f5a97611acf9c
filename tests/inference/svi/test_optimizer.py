"""The optimizer's step, where parameters share a gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pyro_vae as pv
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.train_config import OPTIMIZERS


class TwoBiases(nn.Module):
    """A model whose two biases are added, so that autograd returns one tensor as the gradient of both."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def model(self, x):
        pyro.module("biases", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.first + self.second, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1] / 2, 1.0).to_event(1))


@pytest.mark.parametrize("fit", [pv.fit, pv.fit_mcem])
def test_a_clip_is_the_joint_norm_of_the_step(fit):
    """One step of plain gradient descent at rate one moves all parameters together by the clip, both alike."""
    program, x = TwoBiases(), torch.randn(20, 3) + 5
    more = {"updates": 1} if fit is pv.fit_mcem else {}
    config = pv.TrainConfig(epochs=1, batch_size=20, learning_rate=1.0, optimizer="sgd", schedule="constant", clip=0.1)
    fit(program, x, config, **more)
    moved = torch.cat([program.first.detach(), program.second.detach()])
    assert float(moved.norm()) == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(program.first, program.second)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_many_steps_at_changing_rates_with_a_gradient_left_out(name):
    entry, start = OPTIMIZERS[name], [torch.linspace(-1, 1, 6), torch.ones(2, 3)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizer, own = FusedOptimizer(name, 0.1), entry.load()(theirs, lr=0.1, **entry.fixed)
    optimizer.add_parameters({"first": ours[0], "second": ours[1]})
    for step in range(9):
        optimizer.learning_rate = own.param_groups[0]["lr"] = 0.1 / (1 + step)
        for parameters in (ours, theirs):
            for i, parameter in enumerate(parameters):
                parameter.grad = None if step == 5 and i else (start[i] + step).cos()
        optimizer(ours)
        own.step()
        if step == 6:  # as after a checkpoint
            optimizer.set_state(optimizer.get_state())
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torchs_own_class_and_its_hooks_are_called(name):
    entry, calls = OPTIMIZERS[name], []
    values = torch.linspace(-1, 1, 6)
    ours, theirs = nn.Parameter(values.clone()), nn.Parameter(values.clone())
    optimizer, own = FusedOptimizer(name, 0.1), entry.load()([theirs], lr=0.1, **entry.fixed)
    optimizer.add_parameters({"weights": ours})
    hook = register_optimizer_step_pre_hook(lambda *_: calls.append(1))
    for step in range(3):
        for parameter in (ours, theirs):
            parameter.grad = (values * step).cos()
        optimizer([ours])
        own.step()
    hook.remove()
    assert torch.equal(ours, theirs)
    assert len(calls) == 6
    state = optimizer.get_state()
    again = FusedOptimizer(name, 0.1)
    again.add_parameters({"weights": ours})
    again.set_state(state)
    assert all(torch.equal(value, state[key]) for key, value in again.get_state().items())
