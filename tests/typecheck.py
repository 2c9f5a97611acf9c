"""The package's annotations as runtime checks of the tests: beartype, and shapes that agree among a call's arguments.

An int may stand for a float, as in Python's own rules. `Self` is not checked: beartype knows it only in classes that it
decorates whole, and the import hook decorates methods. A function is checked in its first calls of each test: checking
costs more than most functions do, and an inner loop makes the same call a thousand times. A check is made once for the
functions of one code, so that a closure costs as little as a function of a module, and its arguments are checked once,
where jaxtyping's own decorator checks them again with the result.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from types import CodeType, FunctionType
from typing import Any, Self, get_type_hints

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

CHECKED_CALLS = 2

check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: object})))
number_of_calls: Counter[int] = Counter()  # of each function in this test so far, by its code: its closures as one
shared_shapes = jaxtyping.jaxtyped  # as a context, within which an axis's name means one size
_checks: dict[int, tuple[Callable, Callable, CodeType]] = {}  # of arguments, and of results; the code, to keep its id


def jaxtyped(function: Callable | type | None = None, *, typechecker: Callable | None = None) -> Callable:
    """`jaxtyping.jaxtyped` for the first calls."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(function):
        made = vars(function).get("__init__")
        if is_dataclass(function) and isinstance(made, FunctionType) and made.__globals__ is not globals():
            function.__init__ = jaxtyped(made, typechecker=typechecker)
        return function
    if not function.__annotations__:
        return function
    code = id(function.__code__)  # of two classes' __init__ that dataclass writes, the codes may be equal

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        if number_of_calls[code] >= CHECKED_CALLS:
            return function(*args, **kwargs)
        number_of_calls[code] += 1
        if code not in _checks:
            _checks[code] = (*_make_checks(function), function.__code__)
        check_arguments, check_result, _ = _checks[code]
        with shared_shapes("context"):
            check_arguments(*args, **kwargs)
            result = function(*args, **kwargs)
            return check_result(result)

    return call


def _make_checks(function: FunctionType) -> tuple[Callable, Callable]:
    """Functions that raise where arguments, or a result, are not those of a function's annotations."""

    @functools.wraps(function)
    def arguments(*args, **kwargs):
        pass

    def result(value):
        return value

    hints = {name: _resolve(hint, function) for name, hint in function.__annotations__.items()}
    result.__annotations__ = {"return": hints.pop("return", Any)}
    result.__module__, result.__qualname__ = function.__module__, function.__qualname__
    arguments.__annotations__ = hints
    return check(arguments), check(result)


def _resolve(hint: object, function: FunctionType) -> object:
    """An annotation without quotes; one whose names are known to type checkers alone is not checked."""

    def stub(value):
        pass

    stub.__annotations__ = {"value": hint}
    try:
        return get_type_hints(stub, function.__globals__, include_extras=True)["value"]
    except Exception:
        return Any


jaxtyping.jaxtyped = jaxtyped  # the name that the import hook's decorators have
