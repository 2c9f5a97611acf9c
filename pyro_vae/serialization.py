"""A program to and from a folder: the recipe that rebuilds it from this package's parts, and its weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vae import guides, likelihoods, nets, priors  # noqa: F401 - the parts that a recipe may name
from pyro_vae.atomic_write import read_tensors, read_toml, write_tensors
from pyro_vae.constructor_args import CONSTRUCTORS, find_constructor, recorded_call
from pyro_vae.errors import InputError
from pyro_vae.models import autoencoder, bayesian_mixture, bernoulli_mixture, gaussian_mixture, ppca, vae  # noqa: F401 - the same
from pyro_vae.programs.parameters import copy_state, load_state
from pyro_vae.registry import load_other_packages
from pyro_vae.run_folder import CONFIG, WEIGHTS, read_config, write_config


def save(program: Any, folder: str | Path) -> None:
    """Write a program to a folder: `model.safetensors`, and in `config.toml` the recipe that rebuilds it.

    A program made from this package's parts comes back by `load(folder)`; one that holds a user's own parts or
    functions comes back by `load(folder, build=function)`.
    """
    folder = Path(folder)
    config = read_toml(folder / CONFIG) if (folder / CONFIG).exists() else {}
    kept = {key: value for key, value in config.items() if key not in ("program", "program_needs", "num_features")}
    write_config(folder, kept | recipe_of(program))
    write_tensors(folder / WEIGHTS, copy_state(program))


def recipe_of(program: Any) -> dict[str, Any]:
    """`{"program": recipe}`, or why there is none: `{"program_needs": reason}`; and the width of its rows."""
    width = getattr(program, "num_features", None)
    known = {} if width is None else {"num_features": width}
    try:
        return known | {"program": to_recipe(program)}
    except InputError as reason:
        return known | {"program_needs": str(reason)}


def load(folder: str | Path, build: Callable[[], Any] | None = None) -> Any:
    """The program saved in a folder, with its weights, on the CPU.

    `build` makes the program where a file cannot say how (a user's own parts or functions): no file ever names code to
    run. Raises `InputError` where the folder holds no program, or one that needs `build`.
    """
    folder = Path(folder)
    config = read_config(folder)
    if build is not None:
        program = build()
    elif "program" in config:
        program = from_recipe(config["program"])
    else:
        raise InputError(f"{folder}: {config.get('program_needs', 'no program was saved here')}")
    tensors, _ = read_tensors(folder / WEIGHTS)
    first = next((value for value in tensors.values() if value.is_floating_point()), None)
    if hasattr(program, "to") and first is not None:
        program.to(first.dtype)
    load_state(program, tensors)
    if hasattr(program, "num_features"):
        program.num_features = config.get("num_features", program.num_features)
    return program


def to_recipe(thing: Any) -> dict[str, Any]:
    """The recipe of an object made from this package's parts; `InputError` names the first piece that is none of them.

    An object used twice (a guide shared with a VampPrior) is described once and referred to by its path afterwards.
    """
    recipe = _to_recipe(thing, "program", {})
    if not isinstance(recipe, dict):
        raise InputError(f"expected a program, got {type(thing).__name__}")
    with torch.random.fork_rng():
        _require_same(thing, from_recipe(recipe))
    return recipe


def _require_same(thing: nn.Module, rebuilt: nn.Module) -> None:
    """`InputError` where a program differs from what its constructors made: a part or a setting was changed."""
    ours, theirs = dict(thing.named_modules()), dict(rebuilt.named_modules())
    for name in sorted(ours.keys() | theirs.keys()):
        pair = [(type(modules.get(name)), _plain_values(modules.get(name))) for modules in (ours, theirs)]
        if pair[0] != pair[1]:
            raise InputError(
                f"program.{name} was changed after it was made, so its recipe would not rebuild it; make the "
                "program anew with the changed part, or load it with pv.load(dir, build=function)"
            )


def _plain_values(module: nn.Module | None) -> dict[str, Any]:
    """The plain values a module was given, and the shapes of its tensors."""
    if module is None:
        return {}
    passing = ("training", "num_features")  # what a fit sets
    values = {k: v for k, v in vars(module).items() if isinstance(v, (str, bool, int, float)) and k not in passing}
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return values | {name: tuple(tensor.shape) for name, tensor in tensors}


def _to_recipe(thing: Any, path: str, seen: dict[int, str]) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if isinstance(thing, (str, bool, int, float)) or thing is None:
        return thing
    if isinstance(thing, (list, tuple)):
        return [_to_recipe(item, f"{path}.{i}", seen) for i, item in enumerate(thing)]
    if id(thing) in seen:
        return {"same_as": seen[id(thing)]}
    seen[id(thing)] = path
    name, arguments = recorded_call(thing)
    if name is None:
        raise InputError(
            f"{path} is {type(thing).__module__}.{type(thing).__name__}, which is not one of this package's parts, so "
            "a file cannot say how to build it; load it with pv.load(dir, build=function), a function that builds the "
            "program"
        )
    kept = {key: value for key, value in arguments.items() if value is not None}
    return {"make": name} | {key: _to_recipe(value, f"{path}.{key}", seen) for key, value in kept.items()}


def from_recipe(recipe: dict[str, Any]) -> Any:
    """The object a recipe describes, with fresh weights; `InputError` for a constructor this package does not offer."""
    return _from_recipe(recipe, "program", {})


def _from_recipe(recipe: Any, path: str, built: dict[str, Any]) -> Any:
    if isinstance(recipe, list):
        return [_from_recipe(item, f"{path}.{i}", built) for i, item in enumerate(recipe)]
    if not isinstance(recipe, dict):
        return recipe
    if "same_as" in recipe:
        return built[recipe["same_as"]]
    maker = find_constructor(recipe["make"])
    if maker is None:  # a part of another installed package, which is imported when it is used
        load_other_packages()
        maker = find_constructor(recipe["make"])
    if maker is None:
        raise InputError(
            f"{path}: no part called {recipe['make']!r} in this version of pyro_vae; known: "
            f"{', '.join(sorted(CONSTRUCTORS))}"
        )
    arguments = {key: _from_recipe(value, f"{path}.{key}", built) for key, value in recipe.items() if key != "make"}
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
