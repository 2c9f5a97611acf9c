"""A program to and from a folder: the recipe that rebuilds it from this package's parts, and its weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast, overload

import torch
from torch import nn

from pyro_vae import guides, likelihoods, nets, priors  # noqa: F401 - the parts that a recipe may name
from pyro_vae.atomic_write import JsonDict, read_tensors, read_toml, write_tensors
from pyro_vae.constructor_args import CONSTRUCTORS, find_constructor, recorded_call
from pyro_vae.context_managers import set_training
from pyro_vae.data import Measure
from pyro_vae.errors import InputError
from pyro_vae.models import (  # noqa: F401 - the same
    autoencoder,
    bayesian_mixture,
    bernoulli_mixture,
    gaussian_mixture,
    ppca,
    semi_supervised_vae,
    vae,
)
from pyro_vae.programs.model_and_guide import Program
from pyro_vae.programs.parameters import copy_state, load_state
from pyro_vae.programs.program_defaults import fitted_measure_of, num_features_of, set_fitted_measure, set_num_features
from pyro_vae.registry import load_other_packages
from pyro_vae.run_folder import CONFIG, WEIGHTS, read_config, write_config

Built = TypeVar("Built")


def save(program: object, folder: str | Path) -> None:
    """Write a program to a folder: `model.safetensors`, and in `config.toml` the recipe that rebuilds it.

    A program made from this package's parts comes back by `load(folder)`; one that holds a user's own parts or
    functions comes back by `load(folder, build=function)`.

    Args:
        program: any program.
        folder: where it is written; other files there, and other tables of `config.toml`, stay.
    """
    folder = Path(folder)
    config = read_toml(folder / CONFIG) if (folder / CONFIG).exists() else {}
    own = ("program", "program_needs", "num_features", "fitted_measure")
    kept = {key: value for key, value in config.items() if key not in own}
    write_config(folder, kept | recipe_of(program))
    write_tensors(folder / WEIGHTS, copy_state(program))


def recipe_of(program: object) -> JsonDict:
    """`{"program": recipe}`, or why there is none: `{"program_needs": reason}`; and how its rows were prepared."""
    width = num_features_of(program)
    known: JsonDict = {} if width is None else {"num_features": width}
    measure = fitted_measure_of(program)
    if measure is not None and measure.scale:
        known["fitted_measure"] = measure.to_dict()
    try:
        return known | {"program": to_recipe(program)}
    except InputError as reason:
        return known | {"program_needs": str(reason)}


@overload
def load(folder: str | Path) -> Program: ...


@overload
def load(folder: str | Path, build: Callable[[], Built]) -> Built: ...


@overload
def load(folder: str | Path, build: Callable[[], object] | None) -> object: ...


def load(folder: str | Path, build: Callable[[], object] | None = None) -> object:
    """The program saved in a folder, with its weights, on the CPU.

    Raises `InputError` where the folder holds no program, or one that needs `build`.

    Args:
        folder: where `save` or `fit` wrote it.
        build: a function that makes the program where a file cannot say how (a user's own parts or functions): no file
            ever names code to run.

    Returns:
        The program, in evaluation mode as after a fit.
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
    if isinstance(program, nn.Module) and first is not None:
        program.to(first.dtype)
    load_state(program, tensors)
    set_training(program, False)
    if "num_features" in config:
        set_num_features(program, config["num_features"], replace=True)
    if "fitted_measure" in config:
        set_fitted_measure(program, Measure.from_dict(config["fitted_measure"]))
    return program


def to_recipe(thing: object) -> JsonDict:
    """The recipe of an object made from this package's parts; `InputError` names the first piece that is none of them.

    An object used twice (a guide shared with a VampPrior) is described once and referred to by its path afterwards.
    """
    recipe = _to_recipe(thing, "program", {})
    if not isinstance(recipe, dict) or not isinstance(thing, nn.Module):
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


def _plain_values(module: nn.Module | None) -> dict[str, object]:
    """The plain values a module was given, and the shapes of its tensors."""
    if module is None:
        return {}
    passing = ("training", "num_features")  # what a fit sets
    values = {k: v for k, v in vars(module).items() if isinstance(v, (str, bool, int, float)) and k not in passing}
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return values | {name: tuple(tensor.shape) for name, tensor in tensors}


def _to_recipe(thing: object, path: str, seen: dict[int, str]) -> object:
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


def from_recipe(recipe: JsonDict) -> nn.Module:
    """The object a recipe describes, with fresh weights; `InputError` for a constructor this package does not offer."""
    return cast(nn.Module, _from_recipe(recipe, "program", {}))


def _from_recipe(recipe: object, path: str, built: dict[str, object]) -> object:
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
    positional: list[object] = []
    parameters = inspect.signature(maker).parameters.values()
    if any(
        parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters
    ):  # those before it go by position too
        for parameter in parameters:
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                positional.append(arguments.pop(parameter.name))
            elif parameter.kind is parameter.VAR_POSITIONAL:
                positional += cast(list[object], arguments.pop(parameter.name, []))
    built[path] = maker(*positional, **arguments)
    return built[path]
