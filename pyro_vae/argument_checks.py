"""Arguments compared with the annotations of a function: numbers, texts, networks, parts and programs, in one place."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import NoneType, UnionType
from typing import Literal, Protocol, TypeVar, Union, cast, get_args, get_origin, runtime_checkable

import numpy as np
import torch
from jaxtyping import AbstractArray
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.options import MAX_COUNT, shown
from pyro_vae.typing import Density, Guide, Likelihood, Prior, Program, is_program

Kind = tuple[Callable[[object], bool], str]
Function = TypeVar("Function", bound=Callable[..., object])
POSITIVE = ("num_rows", "num_samples", "num_particles")  # one or more, everywhere


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _are_whole(value: object) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and all(map(_is_whole, value))


def _is_sequence(item: type, value: object) -> bool:
    if isinstance(value, (np.ndarray, Tensor)):
        return True
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, item) for each in value)


def _is_mapping(item: "Kind | None", value: object) -> bool:
    return isinstance(value, Mapping) and (item is None or all(item[0](each) for each in value.values()))


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
KINDS: dict[object, Kind] = {  # what a value may be, and in words
    int: (_is_whole, "a whole number"),
    float: (_is_finite, "a finite number"),
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    NoneType: (lambda value: value is None, "None"),
    Tensor: (lambda value: isinstance(value, Tensor), "a tensor"),
    nn.Module: (lambda value: isinstance(value, nn.Module), "a network (torch.nn.Module)"),
    Sequence[int]: (_are_whole, "whole numbers, as (28, 28)"),
    Prior: (_is_part, "a prior, a module or function that returns a Pyro distribution"),
    Likelihood: (_is_part, "a likelihood, a module or function of z"),
    Guide: (_is_part, "a guide, a module or function of x"),
    Program: (_is_a_program, PROGRAM),
    Density: (_is_a_program, PROGRAM),
    ELBO: (lambda value: isinstance(value, ELBO), "an objective, as pyro.infer.Trace_ELBO()"),
    torch.dtype: (
        lambda value: isinstance(value, torch.dtype) and value.is_floating_point,
        "a floating type, as torch.float64",
    ),
}
SIZES = ("num_latents", "num_components")  # of parts
ORIGINS: dict[object, Kind] = {
    Callable: (callable, "a function"),
    tuple: (lambda value: isinstance(value, (tuple, list)), "a tuple"),
}
ITEMS: dict[object, type] = {float: numbers.Real, str: str}  # of sequences
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
        if parameter.annotation is parameter.empty:
            continue
        kinds = _alternatives(parameter.annotation)
        if get_origin(parameter.annotation) is Literal and value not in kinds:
            raise InputError(
                f"{name}: {parameter.name} must be one of {', '.join(map(str, kinds))}, got {shown(value)}"
            )
        known = [found for kind in kinds if (found := _kind(kind)) is not None]
        if len(known) < len(kinds):
            continue
        if not any(fits(value) for fits, _ in known):
            words = " or ".join(words for _, words in known)
            raise InputError(f"{name}: {parameter.name} must be {words}, got {shown(value)}")
        if parameter.name != "seed" and isinstance(value, int) and value > MAX_COUNT:
            raise InputError(f"{name}: {parameter.name} must be at most {MAX_COUNT:,}, got {value:,}")
        if parameter.name in POSITIVE and isinstance(value, int) and value < 1:
            raise InputError(f"{name}: {parameter.name} must be one or more, got {value}")


def check_sizes(name: str, signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """`InputError` for a part of no latents or components, whose constructor has not refused them in words of its own.

    Args:
        name: the class, for the message.
        signature: its signature.
        args: the arguments by position.
        kwargs: those by name.
    """
    for size, value in signature.bind(*args, **kwargs).arguments.items():
        if size in SIZES and isinstance(value, int) and value < 1:
            raise InputError(f"{name}: {size} must be one or more, got {value}")


def check_call(function: Function) -> Function:
    """A decorator of a function whose arguments are checked by `check_arguments` before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        check_arguments(function.__qualname__.removesuffix(".__init__"), signature, args, kwargs)
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
        raise InputError(f"expected {PROGRAM} before the rows, got {shown(value)}")


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


def _generic_kind(origin: object, inside: tuple[object, ...]) -> Kind | None:
    """The same of an annotation with others inside."""
    if origin is Sequence:
        return partial(_is_sequence, ITEMS.get(inside[0], object)), "a sequence"
    if origin is Mapping:
        item = _kind(inside[1])
        words = "a mapping, as a dictionary" if item is None else f"a mapping, as a dictionary, each value {item[1]}"
        return partial(_is_mapping, item), words
    return ORIGINS.get(origin)


def _kind(annotation: object) -> Kind | None:
    """What a value of an annotation may be, and in words; None where that cannot be seen from the value."""
    if isinstance(annotation, Hashable) and annotation in KINDS:
        return KINDS[annotation]
    origin = get_origin(annotation)
    if origin is not None:
        return _generic_kind(origin, get_args(annotation))
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, AbstractArray):
        return KINDS[Tensor]
    try:
        isinstance(None, annotation)
    except TypeError:  # Any, or a protocol that is not checked at run time
        return None
    return lambda value: isinstance(value, annotation), f"a {annotation.__name__}"
