"""Coordinate ascent variational inference: the factors of a mean-field guide are set to their optima in turn.

>>> from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
>>> x = torch.randn(100, 2) + torch.tensor([[-1.5], [1.5]]).repeat(50, 1)
>>> mixture = BayesianGaussianMixture(num_components=2, num_features=2, num_rows=100)
>>> fitted = fit_cavi(mixture, x)
>>> fitted.stopped, fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
('tolerance', True)
"""

import math
import time
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.programs.parameters import device_and_dtype
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import Batch, require_mask


@runtime_checkable
class Conjugate(Protocol):
    """A program whose guide has two factors, each with a closed-form optimum given the other."""

    def start(self, x: Tensor, at: Any) -> None: ...
    def update_local(self, x: Tensor) -> None: ...
    def update_global(self, x: Tensor) -> None: ...
    def bound(self, x: Tensor) -> Tensor: ...


@torch.no_grad()
def fit_cavi(
    program: Conjugate,
    x: Dataset | Split | Tensor,
    *,
    epochs: int = 1000,
    tol: float = 1e-8,
    start: Tensor | int | None = 0,
) -> FitResult:
    r"""Maximize the ELBO of a conjugate program by coordinate ascent (CAVI; Attias 1999; Bishop 2006, §10.2).

    Each epoch sets q(c_i) for every row, then q of the globals, each to $\exp E[\log p(x, \cdot)]$ over the other: the
    bound, exact and with all its constants, never falls. `start` is responsibilities (N, C), a seed for k-means, or
    None to continue from the program's parameters (after an SVI fit, say). It ends after `epochs`, or when the bound
    rises by less than `tol` nats per row. x (N, D). Raises `InputError` for rows or settings that cannot be used,
    `DivergedError` where the bound is not finite.
    """
    if not isinstance(program, Conjugate):
        raise InputError(f"a {type(program).__name__} has no factors with an optimum in closed form: use fit")
    if epochs < 1 or not tol >= 0:
        raise InputError(f"expected one epoch or more and a tolerance of 0 or more, got {epochs} and {tol}")
    train = as_split(x, "train")
    require_mask(program, train.mask)
    rows, log_jacobian = train.x.to(*device_and_dtype(program)), float(train.log_jacobian.mean())
    find_plates(program, Batch(rows, rows=torch.arange(len(rows), device=rows.device))).check(rows)
    began = time.perf_counter()
    if start is not None:
        program.start(rows, start)
    history, rise = _ascend(program, rows, log_jacobian, epochs, tol, began)
    stopped = "tolerance" if rise < tol else "epochs"
    still_rising = f"the bound still rose by {rise:.1e} nats per row in the last epoch: give more epochs"
    advice = still_rising if stopped == "epochs" else ""
    return FitResult(history, len(history), stopped, history[-1].seconds, advice)


def _ascend(
    program: Conjugate, rows: Tensor, log_jacobian: float, epochs: int, tol: float, began: float
) -> tuple[list[EpochRecord], float]:
    """The history of the updates, and by how much the bound rose in the last one."""
    history: list[EpochRecord] = []
    previous, rise = -torch.inf, torch.inf
    while len(history) < epochs and not rise < tol:
        program.update_local(rows)
        program.update_global(rows)
        elbo, epoch = float(program.bound(rows)) + log_jacobian, len(history) + 1
        if not math.isfinite(elbo):
            raise DivergedError(f"the bound became {elbo} in epoch {epoch}: standardize the columns")
        previous, rise = elbo, elbo - previous
        history.append(EpochRecord(epoch=epoch, step=epoch, elbo=elbo, seconds=time.perf_counter() - began))
    return history, rise
