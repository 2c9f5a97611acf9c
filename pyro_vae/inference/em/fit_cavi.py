"""Coordinate ascent variational inference: the factors of a mean-field guide are set to their optima in turn.

>>> from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
>>> x = torch.randn(100, 2) + torch.tensor([[-1.5], [1.5]]).repeat(50, 1)
>>> mixture = BayesianGaussianMixture(num_components=2, num_features=2, num_rows=100)
>>> fitted = fit_cavi(mixture, x)
>>> fitted.stopped, fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
('tolerance', True)
"""

import inspect
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.em.acceleration import ExtrapolatedSteps
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.inference.svi.callbacks import Callback, Callbacks, OnEpoch, RunningFit
from pyro_vae.inference.svi.progress import Style, all_callbacks
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import device_and_dtype, named_parameters
from pyro_vae.programs.program_defaults import set_fitted_measure
from pyro_vae.programs.row_inputs import Batch, require_mask
from pyro_vae.typing import Conjugate, Program

GivenWeights = dict[str, Tensor]  # the keyword `weights`, where rows have some


@check_call
@torch.no_grad()
def fit_cavi(
    program: Program,
    x: RowsGiven,
    *,
    epochs: int = 1000,
    tol: float = 1e-8,
    start: Tensor | int | None = 0,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    progress: Style = "none",
) -> FitResult:
    r"""Maximize the ELBO of a conjugate program by coordinate ascent (CAVI; Attias 1999; Bishop 2006, §10.2).

    Each epoch sets q(c_i) for every row, then q of the globals, each to $\exp E[\log p(x, \cdot)]$ over the other: the
    bound, exact and with all its constants, never falls. The globals' factors are extrapolated after each third epoch
    (`Squarem`), and the step is taken back where the bound falls. Raises `InputError` for rows or settings that cannot
    be used, `DivergedError` where the bound is not finite.

    Args:
        program: a `Conjugate` program, whose factors have an optimum in closed form, fitted in place.
        x: the training rows (N, D), all of which each update reads; the weights of a split multiply a row's terms.
        epochs: updates of all factors, at most.
        tol: the fit ends when the bound rises by less, nats per row.
        start: responsibilities (N, C), a seed for k-means, or None to continue from the program's parameters (after an
            SVI fit, say).
        callbacks: called at the start, after each epoch and at the end (`Callback`).
        on_epoch: a plain function, called with the history after each epoch.
        progress: as in `fit`.

    Returns:
        The history of the bound, nats per row.
    """
    if not isinstance(program, Conjugate):
        raise InputError(f"a {type(program).__name__} has no factors with an optimum in closed form: use fit")
    if epochs < 1 or not tol >= 0:
        raise InputError(f"expected one epoch or more and a tolerance of 0 or more, got {epochs} and {tol}")
    train = as_split(x, "train")
    set_fitted_measure(program, train.measure)
    require_mask(program, train.mask)
    rows, log_jacobian = train.x.to(*device_and_dtype(program)), weighted_mean(train.log_jacobian, train.weights)
    given = _given_weights(program, train)
    find_plates(program, Batch(rows, rows=torch.arange(len(rows), device=rows.device))).check(rows)
    began = time.perf_counter()
    if start is not None:
        program.start(rows, start, **given)
    fit = RunningFit(program, epochs)
    with Callbacks(fit, all_callbacks(callbacks, on_epoch, progress)).running() as called:
        rise = _ascend(program, rows, given, log_jacobian, tol, began, called)
        fit.stopped = "callback" if fit.stop else "tolerance" if rise < tol else "epochs"
    still_rising = f"the bound still rose by {rise:.1e} nats per row in the last epoch: give more epochs"
    advice = still_rising if fit.stopped == "epochs" else ""
    return FitResult(fit.history, len(fit.history), fit.stopped, fit.history[-1].seconds, advice)


def _given_weights(program: Conjugate, train: Split) -> GivenWeights:
    """The rows' weights as the program's methods take them, none where all rows count alike."""
    weights = train.relative_weights
    if weights is None:
        return {}
    if "weights" not in inspect.signature(program.update_global).parameters:
        raise InputError(f"a {type(program).__name__} takes no weights of rows in update_global: leave them out")
    return {"weights": weights.to(device_and_dtype(program).device)}


def _ascend(
    program: Conjugate,
    rows: Tensor,
    given: GivenWeights,
    log_jacobian: float,
    tol: float,
    began: float,
    callbacks: Callbacks,
) -> float:
    """Update until the tolerance, the last epoch or a callback ends it: by how much the bound rose in the end."""
    fit, previous, rise = callbacks.fit, -torch.inf, torch.inf
    program.update_local(rows)
    steps = ExtrapolatedSteps(_update_global(program, rows, given))
    while len(fit.history) < fit.epochs and not rise < tol and not fit.stop:
        if fit.history:
            steps.extrapolate()
            steps.evaluate(lambda: _update_local(program, rows, given), float)
            program.update_global(rows, **given)
        steps.lowest = float(program.bound(rows, **given))
        elbo, epoch = steps.lowest + log_jacobian, len(fit.history) + 1
        if not math.isfinite(elbo):
            raise DivergedError(f"the bound became {elbo} in epoch {epoch}: standardize the columns")
        if steps.is_cycle_complete:
            previous, rise = elbo, elbo - previous
        fit.history.append(EpochRecord(epoch=epoch, step=epoch, elbo=elbo, seconds=time.perf_counter() - began))
        callbacks.epoch()
    return rise


def _update_local(program: Conjugate, rows: Tensor, given: GivenWeights) -> Tensor:
    """The bound after an update of q(c) for every row."""
    program.update_local(rows)
    return program.bound(rows, **given)


def _update_global(program: Conjugate, rows: Tensor, given: GivenWeights) -> list[Tensor]:
    """Update q of the globals: the parameters that changed."""
    before = {name: value.clone() for name, value in named_parameters(program).items()}
    program.update_global(rows, **given)
    return [value for name, value in named_parameters(program).items() if not torch.equal(value, before[name])]
