"""Fit methods by name: EM, SVI, CAVI, wake-sleep and their kin, and the budget that each is given."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pyro_vae.constructor_args import rebuild_with
from pyro_vae.context import seeded
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.guides import CategoricalGuide, PerRowCategorical, PerRowNormal, SemiAmortizedNormal
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.inference.em.fit_closed_form import fit_closed_form
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.inference.em.fit_mcem import fit_mcem
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.ppca import PPCA, FactorAnalysis
from pyro_vae.models.vae import VAE
from pyro_vae.nets import mlp

OnEpoch = Callable[[Any, list[dict[str, Any]]], None]  # of the program as it stands, and the history
DREAMS = 5  # particles of reweighted wake–sleep
TABLE_EPOCHS, TABLE_RATE = 20, 4.0  # of a q that is a table, times those of a network


@dataclass(frozen=True)
class Budget:
    """How hard to climb: `epochs` of gradients, `iterations` of EM, and what else the fits take under these names.

    `width` is of the hidden layer of a network q(c|x). Every way sees training rows alone and keeps its last epoch, EM
    its best start: held-out rows choose nothing.
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

    def of_table(self, num_rows: int) -> dict[str, Any]:
        """For a q that is a table: an entry moves only when its row is seen, so all rows are, many times, faster."""
        more = {"epochs": TABLE_EPOCHS * self.epochs, "batch_size": num_rows}
        return self.by_gradients | more | {"learning_rate": TABLE_RATE * self.learning_rate}

    @property
    def by_gradients(self) -> dict[str, Any]:
        names = ("epochs", "batch_size", "learning_rate", "optimizer", "schedule", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def by_em(self) -> dict[str, Any]:
        return {"epochs": self.iterations, "num_starts": self.num_starts, "seed": self.seed}


@dataclass(frozen=True)
class FitMethod:
    """One way to climb: for which models, what it does in a few words, and how.

    `fit(program, data, budget, options)` climbs, with `on_epoch` among the options; `guided(program, data, budget)`
    gives the program another guide first. `answers` says whether its q is there for rows held out, `watched` whether
    its epochs can be looked at.
    """

    models: tuple[type, ...]
    words: str
    fit: Callable[[Any, Dataset, Budget, dict[str, Any]], FitResult]
    guided: Callable[[Any, Dataset, Budget], Any] = lambda program, data, budget: program
    answers: bool = True
    watched: bool = True


def fit_by_name(
    program: Any, way: str, data: Dataset, budget: Budget, on_epoch: OnEpoch | None = None
) -> tuple[Any, FitResult]:
    """Fit a program in the named way: the program that was fitted, which may have another guide, and what the fit did.

    Raises `InputError` where the two do not go together.
    """
    if way not in FIT_METHODS:
        raise InputError(f"no way called {way!r}; try one of {', '.join(FIT_METHODS)}")
    if not supports(program, way):
        fitting = ", ".join(name for name in FIT_METHODS if supports(program, name))
        raise InputError(f"{way} is no way to fit a {type(program).__name__}; try one of {fitting}")
    import sklearn.cluster  # noqa: F401 - for starts, before the clock

    chosen, began = FIT_METHODS[way], time.perf_counter()
    guided = chosen.guided(program, data, budget)
    before = time.perf_counter() - began
    watched = chosen.watched and on_epoch is not None
    options = {"on_epoch": functools.partial(on_epoch, guided)} if watched and on_epoch is not None else {}
    result = chosen.fit(guided, data, budget, options)
    for row in result.history:
        row["seconds"] += before
    return guided, replace(result, seconds=result.seconds + before)


def supports(program: Any, way: str) -> bool:
    return isinstance(program, FIT_METHODS[way].models)


def _em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_em(program, data.train, **budget.by_em, **options)


def _hard_em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_em(program, data.train, hard=True, **budget.by_em, **options)


def _online_em(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    own = budget.by_em | {"epochs": budget.epochs, "batch_size": budget.batch_size}
    return fit_em(program, data.train, **own, **options)


def _closed_form(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_closed_form(program, data)


def _cavi(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_cavi(program, data.train, epochs=budget.iterations, start=budget.seed)


def _svi(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit(program, data.train, progress="none", **budget.by_gradients, **options)


def _table(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit(program, data.train, progress="none", **budget.of_table(len(data.train)), **options)


def _wake_sleep(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return _svi(program, data, budget, options | {"loss": WakeSleep()})


def _reweighted(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return _svi(program, data, budget, options | {"loss": ReweightedWakeSleep(DREAMS)})


def _mcem(program: Any, data: Dataset, budget: Budget, options: dict[str, Any]) -> FitResult:
    return fit_mcem(program, data.train, progress="none", **budget.by_gradients, **options)


def _started(program: Any, data: Dataset, budget: Budget) -> Any:
    """At EM's own start: the parameters after an iteration of none."""
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
    return _with_guide(_started(mixture, data, budget), guide)


@torch.no_grad()
def _with_table(mixture: Mixture, data: Dataset, budget: Budget) -> Mixture:
    """A free q for each row, at first the responsibilities of the start."""
    guide = PerRowCategorical(len(data.train), mixture.num_components)
    guide.logits.copy_(_started(mixture, data, budget).responsibilities(data.train.x).clamp(min=1e-6).log())
    return _with_guide(mixture, guide)


def _per_row(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    with seeded(budget.seed), torch.no_grad():
        guide = PerRowNormal(len(data.train), int(vae.prior().event_shape[-1]))
    return VAE(vae.prior, vae.likelihood, guide)


def _refining(vae: VAE, data: Dataset, budget: Budget) -> VAE:
    return VAE(vae.prior, vae.likelihood, SemiAmortizedNormal(vae.posterior, vae.prior, vae.likelihood))


LINEAR = (PPCA, FactorAnalysis)
FIT_METHODS: dict[str, FitMethod] = {
    "em": FitMethod((Mixture, *LINEAR), "q is the exact posterior, the M-step a maximum", _em),
    "online-em": FitMethod((Mixture, *LINEAR), "EM on averages that forget, a batch at a time", _online_em),
    "hard-em": FitMethod((Mixture,), "q is the posterior's mode (k-means, where scales are fixed)", _hard_em),
    "closed-form": FitMethod((PPCA,), "the maximum from eigenvectors", _closed_form, watched=False),
    "svi": FitMethod(
        (Mixture, *LINEAR, VAE), "gradients of the ELBO; q the exact posterior, or an encoder", _svi, _started
    ),
    "table": FitMethod((Mixture,), "gradients; a free q(c) for each training row", _table, _with_table, answers=False),
    "amortized": FitMethod((Mixture,), "gradients; a network q(c|x)", _svi, _with_network),
    "cavi": FitMethod(
        (BayesianGaussianMixture,), "closed-form steps; q of weights, means, precisions, labels", _cavi, watched=False
    ),
    "per-row": FitMethod(
        (VAE,), "gradients; a free normal q(z) for each training row", _table, _per_row, answers=False
    ),
    "semi-amortized": FitMethod((VAE,), "gradients; the encoder's q, refined for each row", _svi, _refining),
    "mcem": FitMethod((VAE,), "Monte-Carlo EM: the E-step is Hamiltonian Monte Carlo", _mcem, answers=False),
    "wake-sleep": FitMethod((VAE,), "the encoder learns from the model's dreams", _wake_sleep),
    "rws": FitMethod((VAE,), f"reweighted wake–sleep, {DREAMS} particles", _reweighted),
}
