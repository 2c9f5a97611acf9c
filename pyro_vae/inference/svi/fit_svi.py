r"""Fits a program by stochastic variational inference: Pyro's `SVI` with one of its ELBOs.

The objective of a batch of B of the N rows is the ELBO per row,
$\frac1B \sum_i E_{q(z|x_i)}[\log p(x_i|z) + \beta (\log p(z) - \log q(z|x_i))]$; reported numbers have β = 1.
Where a split has weights $w_i$, divided by their mean over the training rows, row i's ELBO is multiplied by $w_i$, and
every reported number is a weighted mean; the terms of latents that rows share are not weighted.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven
from pyro_vae.distributed import is_launched_distributed, local_cuda_device, process_group
from pyro_vae.errors import CollapseWarning, InputError
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.svi.callbacks import Callback, OnEpoch
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.progress import Style, all_callbacks
from pyro_vae.inference.svi.svi_method import SVIMethod
from pyro_vae.inference.svi.train_config import TrainConfig, TrainOverrides
from pyro_vae.typing import Program


@check_call
def fit(
    program: Program,
    data: RowsGiven,
    config: TrainConfig | None = None,
    *,
    valid: RowsGiven | None = None,
    loss: ELBO | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    labels: Tensor | None = None,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    progress: Style = "auto",
    **overrides: Unpack[TrainOverrides],
) -> FitResult:
    r"""Maximize the ELBO of a program, $\frac1N \sum_i E_{q(z|x_i)}[\log p(x_i, z) - \log q(z|x_i)]$, by SVI.

    It is trained in place, and ends with the weights of the epoch with the best validation ELBO where there are
    validation rows, else of the last epoch. The same seed on the same machine gives the same bits; the caller's random
    generators are not changed.

    Raises `InputError` for unusable settings or rows, `DivergedError` when the objective is no longer finite (the
    program then has the last good weights), `RankLostError` when another process has ended. Warns (`CollapseWarning`)
    where most latents are inactive.

    Args:
        program: any object with `model(x)` and `guide(x)`.
        data: the training rows x (N, D), or a data set, whose validation rows are used too.
        config: the training settings; by default those of `TrainConfig()`.
        valid: validation rows (M, D), instead of the data set's.
        loss: any of Pyro's trace ELBOs, by default `Trace_ELBO(num_particles)`; it has its own number of particles.
        device: "auto", "cpu", "cuda" or "mps"; by default the program stays where it is.
        dtype: the floating type of weights and rows; by default the program's own.
        labels: labels (N,) of the training rows, for a program that takes them.
        checkpoint: a folder that keeps the fit's state: from it an interrupted fit resumes, with the same bits as
            without the interruption (with `compile=True` up to rounding).
        callbacks: called at the start, after each epoch and at the end (`Callback`).
        on_epoch: a plain function, called with the history after each epoch.
        progress: a bar on a terminal and else nothing ("auto"), "bar", "lines" (one every ten seconds) or "none".
        **overrides: fields of `TrainConfig` that replace those of `config`, such as `epochs=10`.

    Returns:
        The history in nats per row, the best epoch, and why the fit ended.
    """
    settings = TrainConfig.with_overrides(config, overrides, fit)
    if loss is not None and settings.num_particles not in (None, 1):
        raise InputError("an objective has its own number of particles: give num_particles to the loss, not to fit")
    fitted = fit_with(
        SVIMethod(loss),
        program,
        data,
        settings,
        valid=valid,
        device=None if device is None else pick_device(device),
        dtype=dtype,
        labels=labels,
        checkpoint=checkpoint,
        callbacks=all_callbacks(callbacks, on_epoch, progress),
    )
    if fitted.advice and process_group().is_main:
        warnings.warn(fitted.advice, CollapseWarning, stacklevel=2)
    return fitted


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
