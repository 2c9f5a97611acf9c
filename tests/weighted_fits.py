"""Objectives with weights of rows: their value and gradients on one batch."""

from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from row_noise import NoisyVAE
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data import Measure
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO
from pyro_vae.inference.objectives.importance_weighted import ImportanceWeighted_ELBO
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.inference.svi.fit_method import FitTask
from pyro_vae.inference.svi.svi_method import SVIMethod
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.parameters import device_and_dtype, named_parameters, use_param_store
from pyro_vae.typing import Program

COUNTS = torch.tensor([3.0, 1.0, 2.0, 5.0, 1.0], dtype=torch.float64)
X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def split(x: Tensor, weights: Tensor | None = None, name: str = "train", **inputs: Tensor) -> pv.Split:
    return pv.Split(name, x, Measure(given=True), weights=weights, inputs=inputs)


def loss_and_gradients(program: Program, loss: ELBO | None, rows: pv.Split) -> tuple[float, dict[str, Tensor]]:
    """The objective of one batch of all rows, nats per row, and its gradients."""
    pyro.set_rng_seed(0)
    config = TrainConfig(batch_size=len(rows), compile=False)
    with use_param_store(program):
        task = FitTask(program, rows, None, config, None, device_and_dtype(program))
        method = SVIMethod(loss)
        method.prepare(task)
        index = torch.arange(len(task.train))
        batch = task.batch(task.train[index], index)
        for parameter in named_parameters(program).values():
            parameter.grad = None
        value = method.svi.loss_and_grads(method.svi.model, method.svi.guide, *batch.objective_arguments)
    names = named_parameters(program).items()
    return float(value), {name: p.grad for name, p in names if p.grad is not None}


def require_equal(first: tuple[float, dict[str, Tensor]], second: tuple[float, dict[str, Tensor]]) -> None:
    assert first[0] == pytest.approx(second[0], rel=1e-12)
    assert first[1].keys() == second[1].keys()
    assert first[1]
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], rtol=1e-10, atol=1e-12)


def new_vae(**options: bool) -> NoisyVAE:
    torch.manual_seed(0)
    return NoisyVAE(**options)


OBJECTIVES: dict[str, Callable[[], ELBO]] = {
    "elbo": Trace_ELBO,
    "elbo of three draws": lambda: Trace_ELBO(3),
    "analytic": TraceMeanField_ELBO,
    "graph": TraceGraph_ELBO,
    "enumeration, nothing to enumerate": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "free bits of sites": lambda: FreeBits_ELBO(0.1),
    "free bits of dimensions": lambda: FreeBits_ELBO(0.2, each="dimension"),
    "importance weighted": lambda: ImportanceWeighted_ELBO(4),
    "doubly reparameterized": lambda: ImportanceWeighted_ELBO(4, dreg=True),
    "reweighted wake-sleep": lambda: ReweightedWakeSleep(4),
}
