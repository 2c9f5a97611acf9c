"""The arguments that a part was constructed with, recorded so that it can be saved as a recipe and rebuilt."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, cast, runtime_checkable

from pyro_vae.allocation_limit import limit_allocation
from pyro_vae.argument_checks import check_arguments, check_sizes
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import free_memory

Constructor = TypeVar("Constructor", bound=Callable[..., object])
Part = TypeVar("Part")
PACKAGES = ("nets", "guides", "likelihoods")  # a recipe names the package of these parts, and the module of the others
CONSTRUCTORS: dict[str, Callable[..., object]] = {}
RENAMED = {  # the name in a recipe of an earlier version: the name now
    "guides.Categories": "guides.CategoricalGuide",
    "guides.PerRowCategories": "guides.PerRowCategorical",
    "guides.SeesMask": "guides.MaskAwareGuide",
    "data.columns.Column": "data.columns.column.Column",
    "data.columns.Schema": "data.columns.schema.Schema",
    "column_likelihood.Columns": "likelihoods.Columns",
    "multivariate_likelihood.MultivariateNormal": "likelihoods.MultivariateNormal",
    "models.vae.ConditionalVAE": "models.conditional_vae.ConditionalVAE",
}


def part(constructor: Constructor) -> Constructor:
    """Decorate a class or function whose results can be saved and rebuilt from their arguments."""
    module = constructor.__module__.removeprefix("pyro_vae.")
    package = module.split(".")[0]
    name = f"{package if package in PACKAGES else module}.{constructor.__name__}"
    if inspect.isclass(constructor):
        _record_arguments_of(constructor, name)
        CONSTRUCTORS[name] = constructor
    else:
        CONSTRUCTORS[name] = _recording_function(constructor, name)
    return cast(Constructor, CONSTRUCTORS[name])


def find_constructor(name: str) -> Callable[..., object] | None:
    """The constructor that a recipe names, also by its name in an earlier version; None where there is none."""
    return CONSTRUCTORS.get(RENAMED.get(name, name))


def rebuild_with(instance: Part, **changes: object) -> Part:
    """A new object by the same constructor and arguments, except for `changes`; `InputError` where it is no part."""
    name, arguments = recorded_call(instance)
    if name is None:
        raise InputError(f"a {type(instance).__name__} is not one of this package's parts, so it cannot be rebuilt")
    return cast(Part, CONSTRUCTORS[name](**(arguments | changes)))


@runtime_checkable
class _Recorded(Protocol):
    _constructor_call: tuple[str, type, dict[str, object]]


def recorded_call(instance: object) -> tuple[str | None, dict[str, object]]:
    """The constructor's name and the arguments that an object was made with; (None, {}) for one that is no part."""
    if not isinstance(instance, _Recorded):
        return None, {}
    name, made_as, arguments = instance._constructor_call
    return (name, arguments) if type(instance) is made_as else (None, {})


def _record_arguments_of(cls: type, name: str) -> None:
    """Let the constructor of a class record the arguments of each instance."""
    init, signature = cls.__init__, inspect.signature(cls)  # type: ignore[misc]  # that of this class, not of an instance

    @functools.wraps(init)
    def recording_init(self: object, *args: object, **kwargs: object) -> None:
        if type(self) is cls:
            check_arguments(cls.__name__, signature, args, kwargs)
        with _limit(cls.__name__):
            init(self, *args, **kwargs)
        if type(self) is cls:  # the recipe would not rebuild a user's subclass
            check_sizes(cls.__name__, signature, args, kwargs)
            _record_call(self, name, signature, args, kwargs)

    cls.__init__ = recording_init  # type: ignore[misc]  # the same


def _recording_function(function: Callable[..., object], name: str) -> Callable[..., object]:
    """The function, recording the arguments of each object that it returns."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def recording(*args: object, **kwargs: object) -> object:
        check_arguments(function.__name__, signature, args, kwargs)
        with _limit(function.__name__):
            instance = function(*args, **kwargs)
        _record_call(instance, name, signature, args, kwargs)
        return instance

    return recording


def _limit(name: str) -> AbstractContextManager[None]:
    return limit_allocation(free_memory(), f"{name}: more weights than memory holds; give fewer or smaller layers")


def _record_call(
    instance: object, name: str, signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    object.__setattr__(instance, "_constructor_call", (name, type(instance), dict(bound.arguments)))
