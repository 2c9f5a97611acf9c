"""The arguments that a part was constructed with, recorded so that it can be saved as a recipe and rebuilt."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyro_vae.errors import InputError

Constructor = TypeVar("Constructor", bound=Callable[..., Any])
PACKAGES = ("nets", "guides")  # a recipe names the package of these parts, and the module of the others
CONSTRUCTORS: dict[str, Callable[..., Any]] = {}
RENAMED = {  # the name in a recipe of version 0.1.0: the name now
    "guides.Categories": "guides.CategoricalGuide",
    "guides.PerRowCategories": "guides.PerRowCategorical",
    "guides.SeesMask": "guides.MaskAwareGuide",
}


def part(constructor: Constructor) -> Constructor:
    """Decorate a class or function whose results can be saved and rebuilt from their arguments."""
    module = constructor.__module__.removeprefix("pyro_vae.")
    package = module.split(".")[0]
    name = f"{package if package in PACKAGES else module}.{constructor.__name__}"
    recording = _recording_class if inspect.isclass(constructor) else _recording_function
    CONSTRUCTORS[name] = recording(constructor, name)
    return CONSTRUCTORS[name]  # type: ignore[return-value]


def find_constructor(name: str) -> Callable[..., Any] | None:
    """The constructor that a recipe names, also by its name in version 0.1.0; None where there is none."""
    return CONSTRUCTORS.get(RENAMED.get(name, name))


def rebuild_with(instance: Any, **changes: Any) -> Any:
    """A new object by the same constructor and arguments, except for `changes`; `InputError` where it is no part."""
    name, arguments = recorded_call(instance)
    if name is None:
        raise InputError(f"a {type(instance).__name__} is not one of this package's parts, so it cannot be rebuilt")
    return CONSTRUCTORS[name](**(arguments | changes))


def recorded_call(instance: Any) -> tuple[str | None, dict[str, Any]]:
    """The constructor's name and the arguments that an object was made with; (None, {}) for one that is no part."""
    name, made_as, arguments = getattr(instance, "_constructor_call", (None, None, {}))
    return (name, arguments) if type(instance) is made_as else (None, {})


def _recording_class(cls: Any, name: str) -> Any:
    """The class, its constructor recording the arguments of each instance."""
    init, signature = cls.__init__, inspect.signature(cls)

    @functools.wraps(init)
    def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is cls:  # the recipe would not rebuild a user's subclass
            _record_call(self, name, signature, args, kwargs)

    cls.__init__ = recording_init
    return cls


def _recording_function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, recording the arguments of each object that it returns."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def recording(*args: Any, **kwargs: Any) -> Any:
        instance = function(*args, **kwargs)
        _record_call(instance, name, signature, args, kwargs)
        return instance

    return recording


def _record_call(
    instance: Any, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    object.__setattr__(instance, "_constructor_call", (name, type(instance), dict(bound.arguments)))
