"""A program to and from a folder: the recipe that rebuilds it from this package's parts, and its weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast, overload

import torch
from torch import Tensor, nn

from pyro_vae import guides, likelihoods, nets, priors  # noqa: F401 - the parts that a recipe may name
from pyro_vae.allocation_limit import limit_allocation
from pyro_vae.atomic_write import JsonDict, read_tensors, read_toml, require_file_path, write_tensors
from pyro_vae.constructor_args import CONSTRUCTORS, find_constructor, recorded_call
from pyro_vae.context_managers import set_training
from pyro_vae.data import Measure
from pyro_vae.errors import InputError
from pyro_vae.models import (  # noqa: F401 - the same
    autoencoder,
    bayesian_mixture,
    bernoulli_mixture,
    conditional_vae,
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
from pyro_vae.typing import is_program

Built = TypeVar("Built")
MAX_DEPTH, MAX_ENTRIES = 50, 10_000  # of recipes: parts inside each other, entries of a list
MIN_LIMIT = 2**26  # bytes that a recipe may always make
WRONG_ARGUMENTS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)


def save(program: object, folder: str | Path) -> None:
    """Write a program to a folder: `model.safetensors`, and in `config.toml` the recipe that rebuilds it.

    A program made from this package's parts comes back by `load(folder)`; one that holds a user's own parts or
    functions comes back by `load(folder, build=function)`.

    Args:
        program: any program.
        folder: where it is written; other files there, and other tables of `config.toml`, stay.
    """
    if not isinstance(program, nn.Module) and not is_program(program):
        raise InputError(f"expected a program to save, got {program!r:.60}; pv.save(program, folder)")
    folder = _as_folder(folder)
    require_file_path(folder / WEIGHTS)
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
    folder = _as_folder(folder)
    if build is not None and not callable(build):
        raise InputError(f"build must be a function that makes the program, got {build!r:.60}")
    config = read_config(folder)
    if build is None and "program" not in config:
        raise InputError(f"{folder}: {config.get('program_needs', 'no program was saved here')}")
    tensors, _ = read_tensors(folder / WEIGHTS)
    _require_numbers(tensors, folder / WEIGHTS)
    program = _rebuild(config["program"], tensors, folder) if build is None else build()
    if build is not None and not isinstance(program, nn.Module) and not is_program(program):
        raise InputError(f"build returned {program!r:.60}, expected a program")
    first = next((value for value in tensors.values() if value.is_floating_point()), None)
    if isinstance(program, nn.Module) and first is not None:
        program.to(first.dtype)
    _require_same_kinds(program, tensors, folder / WEIGHTS)
    try:
        load_state(program, tensors)
    except InputError as error:
        raise InputError(f"{folder / WEIGHTS}: {error}") from error
    set_training(program, False)
    if "num_features" in config:
        set_num_features(program, config["num_features"], replace=True)
    if "fitted_measure" in config:
        set_fitted_measure(program, Measure.from_dict(config["fitted_measure"]))
    return program


def _as_folder(folder: object) -> Path:
    """A folder's path; `InputError` for what is none."""
    if not isinstance(folder, (str, Path)):
        raise InputError(f"expected the path of a folder, got {folder!r:.60}")
    return Path(folder)


def _require_numbers(tensors: dict[str, Tensor], path: Path) -> None:
    """`InputError` for weights that are NaN or infinite: everything computed by them would be."""
    for name, value in tensors.items():
        if not bool(value.to(torch.float32).isfinite().all() if value.is_floating_point() else True):
            raise InputError(
                f"{path}: {name} holds values that are no numbers (NaN or infinite): fit again, or bring back a copy"
            )


def _require_same_kinds(program: object, tensors: dict[str, Tensor], path: Path) -> None:
    """`InputError` for whole or complex numbers where the program has floating ones, or the other way round."""
    own = program.state_dict() if isinstance(program, nn.Module) else {}
    for name, value in tensors.items():
        if name in own and own[name].is_floating_point() != value.is_floating_point():
            raise InputError(f"{path}: {name} holds {value.dtype}, and the program has {own[name].dtype} there")


def _rebuild(recipe: object, tensors: dict[str, Tensor], folder: Path) -> nn.Module:
    """The program of a recipe, which may not make much more than the weights that are there for it."""
    num_bytes = sum(value.nbytes for value in tensors.values())
    with limit_allocation(
        max(MIN_LIMIT, 8 * num_bytes),
        f"{folder}: its recipe makes a program of another size than its weights, of {num_bytes:,} bytes; bring back a "
        "copy of config.toml",
    ):
        try:
            return from_recipe(recipe)
        except InputError as error:
            raise InputError(f"{folder / CONFIG}: {error}") from error


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


def from_recipe(recipe: object) -> nn.Module:
    """The object a recipe describes, with fresh weights; `InputError` for what describes none."""
    try:
        made = _from_recipe(recipe, "program", {})
    except RecursionError as error:
        raise InputError(f"the recipe has more than {MAX_DEPTH} parts inside each other") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"the recipe is {type(recipe).__name__}, expected a table that begins with make = …")
    return made


def _from_recipe(recipe: object, path: str, built: dict[str, object]) -> object:
    if path.count(".") > MAX_DEPTH:
        raise InputError(f"the recipe has more than {MAX_DEPTH} parts inside each other")
    if isinstance(recipe, list):
        if len(recipe) > MAX_ENTRIES:
            raise InputError(f"{path}: a list of {len(recipe):,} entries, and a part has at most {MAX_ENTRIES:,}")
        return [_from_recipe(item, f"{path}.{i}", built) for i, item in enumerate(recipe)]
    if not isinstance(recipe, dict):
        return recipe
    if "same_as" in recipe:
        if not isinstance(recipe["same_as"], str) or recipe["same_as"] not in built:
            raise InputError(f"{path}: same_as names {recipe['same_as']!r}, and no part of that name comes before it")
        return built[recipe["same_as"]]
    maker = _find_maker(recipe, path)
    arguments = {key: _from_recipe(value, f"{path}.{key}", built) for key, value in recipe.items() if key != "make"}
    built[path] = _make(maker, arguments, f"{path} ({recipe['make']})")
    return built[path]


def _find_maker(recipe: JsonDict, path: str) -> Callable[..., object]:
    """The constructor that a recipe names; `InputError` where it names none that is known."""
    name = recipe.get("make")
    if not isinstance(name, str):
        raise InputError(f"{path}: expected make = the name of a part, got {name!r}")
    maker = find_constructor(name)
    if maker is None:  # a part of another installed package, which is imported when it is used
        load_other_packages()
        maker = find_constructor(name)
    if maker is None:
        known = ", ".join(sorted(CONSTRUCTORS))
        raise InputError(f"{path}: no part called {name!r} in this version of pyro_vae; known: {known}")
    return maker


def _make(maker: Callable[..., object], arguments: dict[str, object], what: str) -> object:
    """Call a constructor; `InputError` where it does not take the arguments."""
    positional: list[object] = []
    parameters = inspect.signature(maker).parameters.values()
    try:
        if any(each.kind is each.VAR_POSITIONAL for each in parameters):  # those before it go by position too
            for parameter in parameters:
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    positional.append(arguments.pop(parameter.name))
                elif parameter.kind is parameter.VAR_POSITIONAL:
                    positional += cast(list[object], arguments.pop(parameter.name, []))
        return maker(*positional, **arguments)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except WRONG_ARGUMENTS as error:
        raise InputError(f"{what} does not take these arguments ({type(error).__name__}: {error})") from error
