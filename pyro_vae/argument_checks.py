"""Arguments compared with the annotations of a function: numbers, texts, networks, parts and programs, in one place."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Literal, Protocol, TypeVar, Union, cast, get_args, get_origin, runtime_checkable

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.option_registry import MAX_COUNT
from pyro_vae.typing import Density, Guide, Likelihood, Prior, Program, is_program

Function = TypeVar("Function", bound=Callable[..., object])
MAX_SHOWN = 40  # characters of a value in a message


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_part(value: object) -> bool:
    """Whether a value may be a part: it can be called, and is neither a class nor a plain network."""
    return callable(value) and not isinstance(value, (type, Tensor, nn.Linear))


@runtime_checkable
class _WithoutDensity(Protocol):
    """What says itself that it has no density, as PCA does: whoever needs one gives that reason."""

    no_density: str


def _is_a_program(value: object) -> bool:
    return (is_program(value) or isinstance(value, _WithoutDensity)) and not isinstance(value, type)


PROGRAM = "a program, an object with model and guide such as pv.VAE(…)"
KINDS: dict[object, tuple[Callable[[object], bool], str]] = {  # what a value may be, and in words
    int: (_is_whole, "a whole number"),
    float: (_is_finite, "a finite number"),
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    NoneType: (lambda value: value is None, "None"),
    Tensor: (lambda value: isinstance(value, Tensor), "a tensor"),
    nn.Module: (lambda value: isinstance(value, nn.Module), "a network (torch.nn.Module)"),
    Prior: (_is_part, "a prior, a module or function that returns a Pyro distribution"),
    Likelihood: (_is_part, "a likelihood, a module or function of z"),
    Guide: (_is_part, "a guide, a module or function of x"),
    Program: (_is_a_program, PROGRAM),
    Density: (_is_a_program, PROGRAM),
    ELBO: (lambda value: isinstance(value, ELBO), "an objective, as pyro.infer.Trace_ELBO()"),
    torch.dtype: (lambda value: isinstance(value, torch.dtype), "a floating type, as torch.float64"),
}
SHAPE_ERRORS = ("shapes cannot be multiplied", "size of tensor", "must match", "broadcast", "expand", "incompatible")


def check_arguments(
    name: str, signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """`InputError` for an argument that is not of the kind of its annotation, where that is one of `KINDS`.

    Args:
        name: the class or function, for the message.
        signature: its signature.
        args: the arguments by position.
        kwargs: those by name; ones that do not fit the signature are left to Python's own `TypeError`.
    """
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return
    for parameter, value in _single_values(signature, bound):
        kinds = _alternatives(parameter.annotation)
        if get_origin(parameter.annotation) is Literal and value not in kinds:
            raise InputError(
                f"{name}: {parameter.name} must be one of {', '.join(map(str, kinds))}, got {_shown(value)}"
            )
        if not all(isinstance(kind, Hashable) and kind in KINDS for kind in kinds):
            continue
        if not any(KINDS[kind][0](value) for kind in kinds):
            raise InputError(f"{name}: {_expected(parameter.name, kinds)}, got {_shown(value)}")
        if parameter.name != "seed" and isinstance(value, int) and value > MAX_COUNT:
            raise InputError(f"{name}: {parameter.name} must be at most {MAX_COUNT:,}, got {value:,}")


def check_call(function: Function) -> Function:
    """A decorator of a function whose arguments are checked by `check_arguments` before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        check_arguments(function.__name__, signature, args, kwargs)
        return function(*args, **kwargs)

    return cast(Function, checked)


@contextmanager
def shape_errors_as_input(message: str) -> Iterator[None]:
    """Inside, torch's errors about shapes that do not fit become `InputError`s.

    Args:
        message: what does not fit; torch's own words follow.

    Yields:
        None: nothing.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if not any(words in str(error) for words in SHAPE_ERRORS):
            raise
        raise InputError(f"{message}: {str(error).splitlines()[0]}") from error


def require_program(value: object) -> None:
    """`InputError` for what is no program."""
    if not _is_a_program(value):
        raise InputError(f"expected {PROGRAM} before the rows, got {_shown(value)}")


def _single_values(
    signature: inspect.Signature, bound: dict[str, object]
) -> Iterator[tuple[inspect.Parameter, object]]:
    """Each argument with its parameter, those of `*args` one by one."""
    for name, value in bound.items():
        parameter = signature.parameters[name]
        if parameter.kind is not parameter.VAR_KEYWORD:
            values = cast(tuple[object, ...], value) if parameter.kind is parameter.VAR_POSITIONAL else (value,)
            yield from ((parameter, each) for each in values)


def _alternatives(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType, Literal) else (annotation,)


def _expected(name: str, kinds: tuple[object, ...]) -> str:
    return f"{name} must be {' or '.join(KINDS[kind][1] for kind in kinds)}"


def _shown(value: object) -> str:
    """A value in a message: itself where it is short."""
    if isinstance(value, type):
        return f"the class {value.__name__}; make an object of it first, {value.__name__}(…)"
    shown = repr(value)
    return f"a {type(value).__name__}" if len(shown) > MAX_SHOWN or not shown.isprintable() else shown
