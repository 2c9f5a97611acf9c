"""Fits by the name of a fit method, each with the same budget, and the functions of the methods."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget
from pyro_vae.constructor_args import rebuild_with
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.guides import CategoricalGuide, PerRowCategorical, PerRowNormal, SemiAmortizedNormal
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.inference.em.fit_closed_form import fit_closed_form
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.inference.svi.callbacks import Callback, CallWithHistory
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.svi_method import SVIMethod
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.vae import VAE
from pyro_vae.nets import mlp
from pyro_vae.option_registry import Entry
from pyro_vae.typing import Program

OnEpoch = Callable[[Program, list[EpochRecord]], object]  # called with the program and the history
RWS_PARTICLES = 5


def fit_by_name(
    program: Program, name: str, data: Dataset, budget: Budget, on_epoch: OnEpoch | None = None
) -> tuple[Program, FitResult]:
    """Fit a program by the named method.

    Args:
        program: a new program, trained in place.
        name: a fit method of `FIT_METHODS`; `InputError` where it does not support the program.
        data: its training rows are used.
        budget: what the fit may spend.
        on_epoch: called with the fitted program and the history after each epoch, if the method has epochs.

    Returns:
        The fitted program, which may have another guide, and the fit's result, with the seconds of its start.
    """
    entry = FIT_METHODS[name]
    if not supports(program, name):
        others = ", ".join(other for other in FIT_METHODS if supports(program, other)) or "none"
        raise InputError(f"a {type(program).__name__} cannot be fitted by {name}; try one of {others}")
    import sklearn.cluster  # noqa: F401 - for the starts, before the clock

    began = time.perf_counter()
    guided = start_program(program, name, data, budget)
    start_seconds = time.perf_counter() - began
    callbacks: list[Callback] = []
    if entry.has_epochs and on_epoch is not None:
        callbacks = [CallWithHistory(functools.partial(on_epoch, guided))]
    made = entry.load()
    if isinstance(made, type):
        result = fit_with(made(), guided, data.train, budget.config, callbacks=callbacks)
    else:
        result = made(guided, data, budget, callbacks)
    history = [replace(row, seconds=row.seconds + start_seconds) for row in result.history]
    return guided, replace(result, history=history, seconds=result.seconds + start_seconds)


def supports(program: Program, name: str) -> bool:
    """Whether a fit method can fit a program.

    Args:
        program: any program.
        name: a fit method of `FIT_METHODS`.

    Returns:
        True where the program's class is one of the method's.
    """
    classes = [Entry(name, path).load() for path in FIT_METHODS[name].models]
    return any(isinstance(each, type) and isinstance(program, each) for each in classes)


def start_program(program: Program, name: str, data: Dataset, budget: Budget) -> Program:
    """The program at the start of a fit, by some methods with another guide.

    Args:
        program: a new program.
        name: a fit method of `FIT_METHODS`.
        data: its training rows are used.
        budget: the seed, and the width of a network.

    Returns:
        The program that is to be fitted.
    """
    path = FIT_METHODS[name].start
    started: Program = Entry(name, path).load()(program, data, budget) if path else program
    return started


# The functions of fit methods: each takes the program, the data set, the budget and the callbacks, and returns the
# fit's result. Training rows alone are used.


def em(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback], hard: bool = False) -> FitResult:
    epochs, starts, seed = budget.iterations, budget.num_starts, budget.config.seed
    return fit_em(program, data.train, epochs=epochs, num_starts=starts, hard=hard, seed=seed, callbacks=callbacks)


def hard_em(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    return em(program, data, budget, callbacks, hard=True)


def online_em(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    config = budget.config
    return fit_em(
        program,
        data.train,
        epochs=config.epochs,
        num_starts=budget.num_starts,
        batch_size=config.batch_size,
        seed=config.seed,
        callbacks=callbacks,
    )


def closed_form(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    return fit_closed_form(program, data.train)


def cavi(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    return fit_cavi(program, data.train, epochs=budget.iterations, start=budget.config.seed, callbacks=callbacks)


def table(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    return fit_with(SVIMethod(), program, data.train, budget.for_table(len(data.train)), callbacks=callbacks)


def wake_sleep(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    return fit_with(SVIMethod(WakeSleep()), program, data.train, budget.config, callbacks=callbacks)


def reweighted_wake_sleep(program: Program, data: Dataset, budget: Budget, callbacks: Sequence[Callback]) -> FitResult:
    loss = ReweightedWakeSleep(RWS_PARTICLES)
    return fit_with(SVIMethod(loss), program, data.train, budget.config, callbacks=callbacks)


# The starts of fit methods: each takes the program, the data set and the budget, and returns the program that is to be
# fitted: a mixture at EM's start, before any M-step, or the same model with another guide (a network q(c|x); a free q
# for each row, of a mixture initialized at the responsibilities of EM's start; an encoder's q refined for each row).


def start_of_em(program: Program, data: Dataset, budget: Budget) -> Program:
    if isinstance(program, Mixture):
        fit_em(program, data.train, epochs=1, seed=budget.config.seed)
    return program


def _with_guide(mixture: Mixture, guide: nn.Module) -> Mixture:
    guided = rebuild_with(mixture, guide=guide).to(mixture.logits)
    guided.load_state_dict(mixture.state_dict(), strict=False)
    return guided


def with_network(mixture: Mixture, data: Dataset, budget: Budget) -> Mixture:
    with seeded(budget.config.seed):
        guide = CategoricalGuide(mlp(mixture.num_features, budget.width, mixture.num_components))
    start_of_em(mixture, data, budget)
    return _with_guide(mixture, guide)


@torch.no_grad()
def with_table(mixture: Mixture, data: Dataset, budget: Budget) -> Mixture:
    guide = PerRowCategorical(len(data.train), mixture.num_components)
    start_of_em(mixture, data, budget)
    guide.logits.copy_(mixture.responsibilities(data.train.x).clamp(min=1e-6).log())
    return _with_guide(mixture, guide)


def with_per_row_guide(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    with seeded(budget.config.seed), torch.no_grad():
        guide = PerRowNormal(len(data.train), int(vae.prior().event_shape[-1]))
    return VAE(vae.prior, vae.likelihood, guide)


def with_refined_guide(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    return VAE(vae.prior, vae.likelihood, SemiAmortizedNormal(vae.posterior, vae.prior, vae.likelihood))
