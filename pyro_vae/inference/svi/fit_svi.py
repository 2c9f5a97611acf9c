r"""Fits a program by stochastic variational inference: Pyro's `SVI` with one of its ELBOs.

The objective of a batch of B of the N rows is the ELBO per row,
$\frac1B \sum_i E_{q(z|x_i)}[\log p(x_i|z) + \beta (\log p(z) - \log q(z|x_i))]$; reported numbers have β = 1.
To a program with a method `log_prior()`, a prior of its parameters in nats, 1/N of that is added in the objective
(MAP), and to no reported number. Parameters with `requires_grad_(False)` stay as they are. The validation ELBO uses the
same random numbers every epoch.

A step is recorded once as a plain graph and runs without Pyro's handlers where the program allows it
(`Compiled_ELBO`); `compile=True` compiles the graph by `torch.compile` too, `compile=False` keeps the handlers.

In a script that `torchrun` started, `batch_size` is that of all processes together: each takes its shard of every
batch, all end with the same weights, and rank 0 alone writes, reports and calls `on_epoch`.

>>> import torch, pyro_vae as pv
>>> _ = torch.manual_seed(0)
>>> likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(1, 3)), pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
>>> vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide)
>>> fitted = pv.fit(vae, torch.randn(200, 3), epochs=3, learning_rate=0.01)
>>> len(fitted.history), fitted.history[2]["elbo"] > fitted.history[0]["elbo"]
(3, True)
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.distributed import is_launched_distributed, local_cuda_device, process_group
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.inference.fit_result import EpochRecord, FitResult
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
    on_epoch: Callable[[list[EpochRecord]], object] | None = None,
    progress: Style = "auto",
) -> FitResult:
    r"""Maximize the ELBO of a program, $\frac1N \sum_i E_{q(z|x_i)}[\log p(x_i, z) - \log q(z|x_i)]$, by SVI.

    `program` is any object with `model(x)` and `guide(x)`. It is trained in place, and ends with the weights of the
    epoch with the best validation ELBO where there are validation rows (`valid`, or those of a data set), else of the
    last epoch. `patience` ends the fit after that many epochs without a better one, counted after the warm-up. `beta`
    weighs log q − log p(z) in the objective, rising from zero over `kl_warmup` epochs; reported numbers have β = 1.
    `schedule` is constant, cosine or one-cycle over all steps; `loss` is any of Pyro's trace ELBOs
    (`Trace_ELBO(num_particles)` by default). `compile`: see `Compiled_ELBO`. `on_epoch` is called with the history
    after each epoch. From `checkpoint`, a folder that keeps the fit's state, an interrupted fit resumes, with the same
    bits as without the interruption (with `compile=True` up to rounding). The same seed on the same machine gives the
    same bits; the caller's random generators are not changed. Shapes: x (N, D), `labels` (N,).

    Raises `InputError` for unusable settings or rows, `DivergedError` when the objective is no longer finite (the
    program then has the last good weights), `RankLostError` when another process has ended. Warns (`CollapseWarning`)
    where most latents are inactive.
    """
    settings = TrainConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, optimizer=optimizer, schedule=schedule,
        clip=clip, beta=beta, kl_warmup=kl_warmup, num_particles=num_particles, patience=patience, seed=seed,
        compile=compile,
    )  # fmt: skip
    if loss is not None and num_particles != 1:
        raise InputError("an objective has its own number of particles: give num_particles to the loss, not to fit")
    train, held_out = _splits(data, valid, settings)
    group = process_group()
    target = _convert(program, train[:1], None if device is None else pick_device(device), dtype)
    with use_param_store(program), seeded(seed):
        trainer = Trainer(program, train, held_out, settings, loss, labels, target, group)
        fitted = trainer.fit(None if checkpoint is None else Path(checkpoint) / CHECKPOINT, on_epoch, progress)
    if fitted.advice and group.is_main:
        warnings.warn(fitted.advice, CollapseWarning, stacklevel=2)
    return fitted


def _splits(
    data: Dataset | Split | Tensor, valid: Split | Tensor | None, settings: TrainConfig
) -> tuple[Split, Split | None]:
    """The training rows and the validation rows, if any; `InputError` for `patience` without validation rows."""
    train = as_split(data, "train")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    if settings.patience and held_out is None:
        raise InputError("patience watches the validation ELBO, so it needs validation rows: give valid=…")
    return train, held_out


def _convert(program: Any, like: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> DeviceAndDtype:
    """Convert a program's parameters and buffers; return the device and dtype that its rows then need."""
    if isinstance(program, nn.Module):
        program.to(device=device, dtype=dtype)
    for parameter in named_parameters(program).values():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return device_and_dtype(program, like=like[:0].to(device=device, dtype=dtype))


def pick_device(name: str) -> torch.device:
    """The device `auto` (an accelerator, else the CPU), `cpu`, `cuda` or `mps`; `InputError` where it is absent.

    Where `torchrun` started several processes on a machine, each gets another CUDA device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available.get(name.split(":")[0], False):
        names = ", ".join(kind for kind, is_available in available.items() if is_available)
        raise InputError(f"device {name!r} is not available here; available: {names}")
    return local_cuda_device() if name == "cuda" and is_launched_distributed() else torch.device(name)
