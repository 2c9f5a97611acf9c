"""How a part was made, kept as data: the reason a saved model needs no code from its file.

A constructor marked `@part` notes the arguments it was called with. `describe` turns an object into a recipe (a
dictionary of plain values) and `build` turns a recipe into an object, through the constructors that were marked here
and no others.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from pyro_vae.errors import InputError

Maker = TypeVar("Maker", bound=Callable[..., Any])
FOLDERS = ("nets", "guides")
_MAKERS: dict[str, Callable[..., Any]] = {}


def part(maker: Maker) -> Maker:
    """Mark a class or function as one whose results can be saved and rebuilt from their arguments."""
    place = maker.__module__.removeprefix("pyro_vae.")
    folder = place.split(".")[0]  # which file of a folder holds a network or a guide is no one's business
    name = f"{folder if folder in FOLDERS else place}.{maker.__name__}"
    signature = inspect.signature(maker)

    def note(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(made, "_made_by", (name, type(made), dict(bound.arguments)))

    if inspect.isclass(maker):
        construct = maker.__init__

        @functools.wraps(construct)
        def noted_init(self: Any, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            if type(self) is maker:  # a user's subclass is not what this recipe would rebuild
                note(self, args, kwargs)

        maker.__init__ = noted_init  # type: ignore[method-assign]
        _MAKERS[name] = maker
        return maker

    @functools.wraps(maker)
    def noted(*args: Any, **kwargs: Any) -> Any:
        made = maker(*args, **kwargs)
        note(made, args, kwargs)
        return made

    _MAKERS[name] = noted
    return noted  # type: ignore[return-value]


def describe(thing: Any) -> dict[str, Any]:
    """The recipe of an object made from this package's parts; `InputError` names the first piece that is none of them.

    An object used twice (a guide that a VampPrior borrows) is described once and referred to by its path afterwards.
    """
    recipe = _describe(thing, "program", {})
    if not isinstance(recipe, dict):
        raise InputError(f"expected a program, got {type(thing).__name__}")
    with torch.random.fork_rng():
        _same(thing, build(recipe))
    return recipe


def _same(thing: nn.Module, rebuilt: nn.Module) -> None:
    """`InputError` where a thing is no longer what its constructors made: a part or a setting was changed."""
    ours, theirs = dict(thing.named_modules()), dict(rebuilt.named_modules())
    for name in sorted(ours.keys() | theirs.keys()):
        pair = [(type(modules.get(name)), _settings(modules.get(name))) for modules in (ours, theirs)]
        if pair[0] != pair[1]:
            raise InputError(
                f"program.{name} was changed after it was made, so its recipe would not bring it back; make the "
                "program "
                "anew with the changed part, or load it with pv.load(dir, build=function)"
            )


def _settings(module: nn.Module | None) -> dict[str, Any]:
    """The plain values a module was given, and the shapes of its tensors."""
    if module is None:
        return {}
    passing = ("training", "num_features")  # what a fit sets
    values = {k: v for k, v in vars(module).items() if isinstance(v, (str, bool, int, float)) and k not in passing}
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return values | {name: tuple(tensor.shape) for name, tensor in tensors}


def _describe(thing: Any, path: str, seen: dict[int, str]) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if isinstance(thing, (str, bool, int, float)) or thing is None:
        return thing
    if isinstance(thing, (list, tuple)):
        return [_describe(item, f"{path}.{i}", seen) for i, item in enumerate(thing)]
    if id(thing) in seen:
        return {"same_as": seen[id(thing)]}
    seen[id(thing)] = path
    name, made_as, arguments = getattr(thing, "_made_by", (None, None, {}))
    if name is None or type(thing) is not made_as:
        raise InputError(
            f"{path} is {type(thing).__module__}.{type(thing).__name__}, which is not one of this package's parts, so "
            "a file "
            "cannot say how to build it; load it with pv.load(dir, build=function), a function that builds the program"
        )
    kept = {key: value for key, value in arguments.items() if value is not None}
    return {"make": name} | {key: _describe(value, f"{path}.{key}", seen) for key, value in kept.items()}


def remade(thing: Any, **changes: Any) -> Any:
    """A fresh object by the same constructor with the same arguments but for some; `InputError` where it is no part."""
    name, made_as, arguments = getattr(thing, "_made_by", (None, None, {}))
    if name is None or type(thing) is not made_as:
        raise InputError(f"a {type(thing).__name__} is not one of this package's parts, so it cannot be made anew")
    return _MAKERS[name](**(arguments | changes))


def build(recipe: dict[str, Any]) -> Any:
    """The object a recipe describes, with fresh weights; `InputError` for a constructor this package does not offer."""
    return _build(recipe, "program", {})


def _build(recipe: Any, path: str, built: dict[str, Any]) -> Any:
    if isinstance(recipe, list):
        return [_build(item, f"{path}.{i}", built) for i, item in enumerate(recipe)]
    if not isinstance(recipe, dict):
        return recipe
    if "same_as" in recipe:
        return built[recipe["same_as"]]
    maker = _MAKERS.get(recipe["make"])
    if maker is None:
        raise InputError(
            f"{path}: no part called {recipe['make']!r} in this version of pyro_vae; known: "
            f"{', '.join(sorted(_MAKERS))}"
        )
    arguments = {key: _build(value, f"{path}.{key}", built) for key, value in recipe.items() if key != "make"}
    positional: list[Any] = []
    parameters = inspect.signature(maker).parameters.values()
    if any(
        parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters
    ):  # those before it go by position too
        for parameter in parameters:
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                positional.append(arguments.pop(parameter.name))
            elif parameter.kind is parameter.VAR_POSITIONAL:
                positional += arguments.pop(parameter.name, [])
    built[path] = maker(*positional, **arguments)
    return built[path]
