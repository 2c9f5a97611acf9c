"""What a program may offer beyond its model and guide, asked of any object: `Program` has the defaults.

An object without that base has the defaults too, and where it has a method or attribute of the same name, that one
counts.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyro_vae.data import Measure
from pyro_vae.typing import PerRow


@runtime_checkable
class Predictive(Protocol):
    """A program that has the density of a new row given its training rows, `log_predictive(x)`, (N,) nats."""

    def log_predictive(self, x: Tensor) -> PerRow: ...


def _offered(program: object, name: str) -> Any:
    """What a program has under a name, None where it has nothing.

    Submodules, wrappers and compiled modules offer it too, which `isinstance` with a protocol does not see from Python
    3.12 on.
    """
    return getattr(program, name, None)


def no_density_reason(program: object) -> str:
    """Why a program has no p(x), its `no_density`; empty where it has one."""
    reason = _offered(program, "no_density")
    return reason if isinstance(reason, str) else ""


def num_features_of(program: object) -> int | None:
    """The number D of features that a program keeps, its `num_features`; None where it keeps none."""
    found = _offered(program, "num_features")
    return found if isinstance(found, int) else None


def set_num_features(program: object, num_features: int, *, replace: bool = False) -> None:
    """Keep the number of features in a program that has a `num_features`.

    Args:
        program: any program; one without that attribute stays as it is.
        num_features: the number D of features of x.
        replace: whether a number that is kept already is replaced.
    """
    if hasattr(program, "num_features") and (replace or program.num_features is None):
        program.num_features = num_features


def fitted_measure_of(program: object) -> Measure | None:
    """The measure of the rows that a program was fitted to, its `fitted_measure`; None where it is not known."""
    found = _offered(program, "fitted_measure")
    return found if isinstance(found, Measure) else None


def set_fitted_measure(program: object, measure: Measure) -> None:
    """Keep in a program how the rows that it is fitted to were prepared; one without that attribute stays as it is.

    Args:
        program: any program.
        measure: the measure of its training rows.
    """
    if hasattr(program, "fitted_measure"):
        program.fitted_measure = measure


def log_prior_of(program: object) -> Tensor | None:
    """The log prior of a program's parameters, () nats, differentiable; None where it has none."""
    log_prior = _offered(program, "log_prior")
    value: Tensor | None = log_prior() if callable(log_prior) else None
    return value


def init_program_from_data(program: object, mean: Tensor, rows: Tensor) -> None:
    """Before a fit: set a program's initial values from data, if it supports that.

    Args:
        program: any program.
        mean: the mean (D,) of the training rows.
        rows: some of them (n, D).
    """
    initialize = _offered(program, "init_from_data")
    if callable(initialize):
        initialize(mean, rows)


def init_program_from_labels(program: object, labels: Tensor) -> None:
    """Before a fit: set a program's initial values from the training labels, if it supports that.

    Args:
        program: any program.
        labels: the labels (N,) of the training rows.
    """
    initialize = _offered(program, "init_from_labels")
    if callable(initialize):
        initialize(labels)


def check_labels(program: object, labels: Tensor) -> None:
    """`InputError` for labels that a program cannot take, if it checks them.

    Args:
        program: any program.
        labels: labels (N,).
    """
    check = _offered(program, "check_labels")
    if callable(check):
        check(labels)


def decoder_of(program: object) -> Callable[..., Tensor] | None:
    """A program's own `decode`, from z (..., K) to E[x | z] (..., D); None where it has none."""
    decode = _offered(program, "decode")
    return decode if callable(decode) else None


def prior_of(program: object) -> Callable[..., object] | None:
    """A program's own part p(z), its `prior`; None where it has none."""
    prior = _offered(program, "prior")
    return prior if callable(prior) else None
