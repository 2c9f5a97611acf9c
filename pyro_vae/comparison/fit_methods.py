"""Fit methods by name: EM, SVI, CAVI, wake-sleep and others, and the budget that each is given."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pyro_vae.constructor_args import rebuild_with
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.guides import CategoricalGuide, PerRowCategorical, PerRowNormal, SemiAmortizedNormal
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.inference.em.fit_closed_form import fit_closed_form
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.inference.em.fit_mcem import fit_mcem
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.ppca import PPCA, FactorAnalysis
from pyro_vae.models.vae import VAE
from pyro_vae.nets import mlp

OnEpoch = Callable[[Any, list[EpochRecord]], object]  # called with the program and the history
RWS_PARTICLES = 5
TABLE_EPOCHS, TABLE_RATE = 20, 4.0  # factors on the epochs and learning rate of a network, for a q that is a table


@dataclass(frozen=True)
class Budget:
    """What a fit may spend: `epochs` of gradient steps, `iterations` of EM, and the settings of `fit` and `fit_em`.

    `width` is that of the hidden layer of a network q(c|x). Every fit method uses training rows alone and keeps its
    last epoch, EM the best of its starts: no choice is made by held-out rows.
    """

    epochs: int = 100
    iterations: int = 500
    batch_size: int = 100
    learning_rate: float = 5e-3
    optimizer: str = "adam"
    schedule: str = "one-cycle"
    num_starts: int = 1
    width: int = 64
    seed: int = 0

    def for_table(self, num_rows: int) -> dict[str, Any]:
        """Keywords of `fit` for a q that is a table: full batches, since an entry moves only with its own row."""
        more = {"epochs": TABLE_EPOCHS * self.epochs, "batch_size": num_rows}
        return self.for_gradients | more | {"learning_rate": TABLE_RATE * self.learning_rate}

    @property
    def for_gradients(self) -> dict[str, Any]:
        """Keywords of `fit`."""
        names = ("epochs", "batch_size", "learning_rate", "optimizer", "schedule", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def for_em(self) -> dict[str, Any]:
        """Keywords of `fit_em`."""
        return {"epochs": self.iterations, "num_starts": self.num_starts, "seed": self.seed}


@dataclass(frozen=True)
class FitMethod:
    """A fit method: the models it supports, a description, and its function.

    `fit(program, data, budget, options)` takes `on_epoch` among the options; `with_guide(program, data, budget)` gives
    the program another guide first. `is_amortized` says whether it has a q for held-out rows, `has_epochs` whether it
    calls `on_epoch`.
    """

    models: tuple[type, ...]
    description: str
    fit: Callable[[Any, Dataset, Budget, dict[str, Any]], FitResult]
    with_guide: Callable[[Any, Dataset, Budget], Any] = lambda program, data, budget: program
    is_amortized: bool = True
    has_epochs: bool = True


def fit_by_name(
    program: Any, name: str, data: Dataset, budget: Budget, on_epoch: OnEpoch | None = None
) -> tuple[Any, FitResult]:
    """Fit a program by the named method: the fitted program, which may have another guide, and the fit's result.

    Raises `InputError` where the method does not support the program.
    """
    if name not in FIT_METHODS:
        raise InputError(f"no fit method called {name!r}; try one of {', '.join(FIT_METHODS)}")
    if not supports(program, name):
        others = ", ".join(other for other in FIT_METHODS if supports(program, other))
        raise InputError(f"a {type(program).__name__} cannot be fitted by {name}; try one of {others}")
    import sklearn.cluster  # noqa: F401 - for the starts, before the clock

    method, began = FIT_METHODS[name], time.perf_counter()
    guided = method.with_guide(program, data, budget)
    start_seconds = time.perf_counter() - began
    calls = method.has_epochs and on_epoch is not None
    options = {"on_epoch": functools.partial(on_epoch, guided)} if calls and on_epoch is not None else {}
    result = method.fit(guided, data, budget, options)
    history = [replace(row, seconds=row.seconds + start_seconds) for row in result.history]
    return guided, replace(result, history=history, seconds=result.seconds + start_seconds)


def supports(program: Any, name: str) -> bool:
    """Whether the named fit method can fit a program."""
    return isinstance(program, FIT_METHODS[name].models)


def _em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_em(program, data.train, **budget.for_em, **options)


def _hard_em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_em(program, data.train, hard=True, **budget.for_em, **options)


def _online_em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    own = budget.for_em | {"epochs": budget.epochs, "batch_size": budget.batch_size}
    return fit_em(program, data.train, **own, **options)


def _closed_form(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_closed_form(program, data)


def _cavi(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_cavi(program, data.train, epochs=budget.iterations, start=budget.seed)


def _svi(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit(program, data.train, progress="none", **budget.for_gradients, **options)


def _table(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit(program, data.train, progress="none", **budget.for_table(len(data.train)), **options)


def _wake_sleep(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return _svi(program, data, budget, options | {"loss": WakeSleep()})


def _reweighted_wake_sleep(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return _svi(program, data, budget, options | {"loss": ReweightedWakeSleep(RWS_PARTICLES)})


def _mcem(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_mcem(program, data.train, progress="none", **budget.for_gradients, **options)


def _at_em_start(program: Any, data: Dataset, budget: Budget) -> Any:
    """The program at EM's start, before any M-step."""
    if isinstance(program, Mixture):
        fit_em(program, data.train, epochs=1, seed=budget.seed)
    return program


def _with_guide(mixture: Mixture, guide: nn.Module) -> Mixture:
    guided = rebuild_with(mixture, guide=guide).to(mixture.logits)
    guided.load_state_dict(mixture.state_dict(), strict=False)
    return guided


def _with_network(mixture: Mixture, data: Dataset, budget: Budget) -> Mixture:
    with seeded(budget.seed):
        guide = CategoricalGuide(mlp(mixture.num_features, budget.width, mixture.num_components))
    return _with_guide(_at_em_start(mixture, data, budget), guide)


@torch.no_grad()
def _with_table(mixture: Mixture, data: Dataset, budget: Budget) -> Mixture:
    """A free q for each row, initialized at the responsibilities of EM's start."""
    guide = PerRowCategorical(len(data.train), mixture.num_components)
    guide.logits.copy_(_at_em_start(mixture, data, budget).responsibilities(data.train.x).clamp(min=1e-6).log())
    return _with_guide(mixture, guide)


def _with_per_row_guide(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    with seeded(budget.seed), torch.no_grad():
        guide = PerRowNormal(len(data.train), int(vae.prior().event_shape[-1]))
    return VAE(vae.prior, vae.likelihood, guide)


def _with_refined_guide(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    return VAE(vae.prior, vae.likelihood, SemiAmortizedNormal(vae.posterior, vae.prior, vae.likelihood))


LINEAR = (PPCA, FactorAnalysis)
FIT_METHODS: dict[str, FitMethod] = {
    "em": FitMethod((Mixture, *LINEAR), "q is the exact posterior, the M-step a maximum", _em),
    "online-em": FitMethod((Mixture, *LINEAR), "EM on exponentially weighted averages, batch by batch", _online_em),
    "hard-em": FitMethod((Mixture,), "q is the posterior's mode (k-means, where scales are fixed)", _hard_em),
    "closed-form": FitMethod((PPCA,), "the maximum from eigenvectors", _closed_form, has_epochs=False),
    "svi": FitMethod(
        (Mixture, *LINEAR, VAE), "gradients of the ELBO; q the exact posterior, or an encoder", _svi, _at_em_start
    ),
    "table": FitMethod(
        (Mixture,), "gradients; a free q(c) for each training row", _table, _with_table, is_amortized=False
    ),
    "amortized": FitMethod((Mixture,), "gradients; a network q(c|x)", _svi, _with_network),
    "cavi": FitMethod(
        (BayesianGaussianMixture,),
        "closed-form steps; q of weights, means, precisions, labels",
        _cavi,
        has_epochs=False,
    ),
    "per-row": FitMethod(
        (VAE,), "gradients; a free normal q(z) for each training row", _table, _with_per_row_guide, is_amortized=False
    ),
    "semi-amortized": FitMethod((VAE,), "gradients; the encoder's q, refined for each row", _svi, _with_refined_guide),
    "mcem": FitMethod((VAE,), "Monte-Carlo EM: the E-step is Hamiltonian Monte Carlo", _mcem, is_amortized=False),
    "wake-sleep": FitMethod((VAE,), "the encoder is fitted to draws of the model", _wake_sleep),
    "rws": FitMethod((VAE,), f"reweighted wake–sleep, {RWS_PARTICLES} particles", _reweighted_wake_sleep),
}
