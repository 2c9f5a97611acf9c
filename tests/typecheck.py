"""The annotations of pyro_vae as runtime checks of the tests: beartype, and shapes that agree among a call's arguments.

An int may stand for a float, as in Python's own rules. `Self` is not checked: beartype knows it only in classes that it
decorates whole, and the import hook decorates methods. A function is checked in its first calls of each test: checking
costs more than most functions do, and an inner loop makes the same call a thousand times.
"""

import functools
from collections import Counter
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Self

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

CHECKED_CALLS = 5

check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: object})))
number_of_calls: Counter[CodeType] = Counter()  # of each function in this test so far, its closures as one
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(function: Callable | None = None, *, typechecker: Callable) -> Callable:
    """`jaxtyping.jaxtyped` for the first calls."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return _jaxtyped(function, typechecker=typechecker)
    checked, code = None, function.__code__

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal checked
        __tracebackhide__ = True
        if number_of_calls[code] >= CHECKED_CALLS:
            return function(*args, **kwargs)
        number_of_calls[code] += 1
        checked = checked or _jaxtyped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = jaxtyped  # the name that the import hook's decorators have
