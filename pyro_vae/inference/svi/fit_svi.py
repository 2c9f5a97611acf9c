"""Fit a program by stochastic variational inference: Pyro's `SVI` and `Trace_ELBO`, and what surrounds them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.context import seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.distributed import is_launched_distributed, local_cuda_device, process_group
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.svi.checkpoint import CHECKPOINT
from pyro_vae.inference.svi.progress import Style
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.trainer import Trainer
from pyro_vae.programs.parameters import DeviceAndDtype, device_and_dtype, named_parameters, use_param_store


def fit(
    program: Any,
    data: Dataset | Split | Tensor,
    *,
    valid: Split | Tensor | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    learning_rate: float = 5e-3,
    optimizer: str = "adam",
    schedule: str = "one-cycle",
    clip: float | None = None,
    beta: float = 1.0,
    kl_warmup: float = 0.0,
    num_particles: int = 1,
    patience: int | None = None,
    loss: ELBO | None = None,
    seed: int = 0,
    compile: bool | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    labels: Tensor | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: Style = "auto",
) -> FitResult:
    r"""Climb the ELBO of a program, $\frac1N \sum_i E_{q(z|x_i)}[\log p(x_i, z) - \log q(z|x_i)]$, by `pyro.infer.SVI`.

    `program` is any object with `model(x)` and `guide(x)`; it is trained in place and ends with the weights of the
    best epoch: by the validation ELBO where there are validation rows (`valid`, or those of a data set), else the
    last. `patience` ends the fit after so many epochs without a better validation ELBO, counted after the warm-up.
    The validation ELBO uses the same random numbers every epoch. `beta` weighs log q − log p(z) in the objective,
    rising from zero over `kl_warmup` epochs; what is reported is always β = 1. `schedule` is constant, cosine or
    one-cycle over all steps; `loss` any of Pyro's trace ELBOs (`Trace_ELBO(num_particles)` by default). Parameters
    with `requires_grad_(False)` stay as they are. To a program with a method `log_prior()`, a prior of its
    parameters in nats, 1/N of that is added in the objective (MAP), and to no reported number. Same seed, same
    machine, same bits, and the caller's random numbers are untouched.

    `checkpoint` is a folder: the fit's state is kept there and a fit that finds one goes on from it, to the same bits
    as one never interrupted (with `compile=True` to rounding). `on_epoch` is called with the history after each epoch.
    A step is recorded once as a plain graph and runs without Pyro's handlers where the program allows it
    (`Compiled_ELBO`); `compile=True` hands the graph to `torch.compile` too, `compile=False` keeps the handlers.

    In a script that `torchrun` started, `batch_size` is that of all processes together: each takes its part of every
    batch, all end with the same weights, and rank 0 alone writes, reports and calls `on_epoch`. Shapes: x (N, D),
    `labels` (N,).

    Raises `InputError` for settings or rows that cannot be used, `DivergedError` when the objective is no longer
    finite: the program then holds the last good weights; `RankLostError` when another process has ended. Warns
    (`CollapseWarning`) where most latents carry nothing.

    >>> import pyro_vae as pv
    >>> _ = torch.manual_seed(0)
    >>> likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(1, 3)), pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
    >>> vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide)
    >>> fitted = pv.fit(vae, torch.randn(200, 3), epochs=3, learning_rate=0.01)
    >>> len(fitted.history), fitted.history[2]["elbo"] > fitted.history[0]["elbo"]
    (3, True)
    """
    settings = TrainConfig(
        epochs,
        batch_size,
        learning_rate,
        optimizer,
        schedule,
        clip,
        beta,
        kl_warmup,
        num_particles,
        patience,
        seed,
        compile,
    )
    settings.check()
    if loss is not None and num_particles != 1:
        raise InputError("an objective has its own number of particles: give num_particles to the loss, not to fit")
    train = as_split(data, "train")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    if patience is not None and held_out is None:
        raise InputError("patience watches the validation ELBO, so it needs validation rows: give valid=…")
    group = process_group()
    target = _move(program, train[:1], None if device is None else pick_device(device), dtype)
    with use_param_store(program), seeded(seed):
        trainer = Trainer(program, train, held_out, settings, loss, labels, target, group)
        fitted = trainer.fit(None if checkpoint is None else Path(checkpoint) / CHECKPOINT, on_epoch, progress)
    if fitted.advice and group.is_main:
        warnings.warn(fitted.advice, CollapseWarning, stacklevel=2)
    return fitted


def _move(program: Any, like: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> DeviceAndDtype:
    """Convert a program's parameters and buffers; return the device and dtype that its rows then need."""
    if isinstance(program, nn.Module):
        program.to(device=device, dtype=dtype)
    for parameter in named_parameters(program).values():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return device_and_dtype(program, like=like[:0].to(device=device, dtype=dtype))


def pick_device(name: str) -> torch.device:
    """The device `auto` (an accelerator, else the CPU), `cpu`, `cuda` or `mps`; `InputError` where it is absent.

    Of several processes that `torchrun` started on a machine, each gets a CUDA device of its own.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present.get(name.split(":")[0], False):
        here = ", ".join(kind for kind, there in present.items() if there)
        raise InputError(f"device {name!r} is not available here; available: {here}")
    return local_cuda_device() if name == "cuda" and is_launched_distributed() else torch.device(name)
