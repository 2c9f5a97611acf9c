"""The settings of a run in words: what was fitted to what, each group of settings, and the program's recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.data import Dataset
from pyro_vae.data.image_shapes import describe_shape, height_and_width, is_colour

Table = Mapping[str, Any]  # an object of a run's TOML or JSON files, or the record made of it


def describe_run(config: Table, data: Dataset) -> str:
    """One sentence on the program and its data.

    Args:
        config: what the run's `config.toml` holds.
        data: its data set.

    Returns:
        The sentence.
    """
    name = Path(data.name).name or data.name  # of a file without its folder
    model, rows = config.get("model", {}), f"{len(data.train):,} rows of {data.num_features} columns"
    if data.image_shape:
        kind = "colour images" if is_colour(data.image_shape) else "images"
        rows = f"{len(data.train):,} {kind} of {describe_shape(height_and_width(data.image_shape))} pixels"
    if own := config.get("about", {}).get("program"):
        return f"{own}, a program of its author's own, fitted to {name}: {rows}."
    if not model:
        return f"A program fitted to {name}: {rows}."
    K = model.get("latent_dim", 0)
    return f"A variational autoencoder with {K} latent dimension{'s' if K != 1 else ''}, fitted to {name}: {rows}."


def settings(group: Table) -> list[tuple[str, str]]:
    """A group of settings as names and short text."""
    return [(name.replace("_", " "), _short(value)) for name, value in group.items()]


def _short(value: object, most: int = 12) -> str:
    if isinstance(value, list):
        return ", ".join(_short(one) for one in value[:most]) + (f", … ({len(value)})" if len(value) > most else "")
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _format(value: object) -> str:
    return f"[{_short(value)}]" if isinstance(value, list) else repr(value)


def recipe(made: object, depth: int = 0) -> str:
    """A program's recipe as text, part inside part.

    Args:
        made: the recipe, an object of JSON.
        depth: how many parts it lies in.

    Returns:
        The text, `Class(argument=value)`.

    >>> recipe({"make": "priors.StandardNormal", "num_latents": 2})
    'StandardNormal(num_latents=2)'
    """
    if not (isinstance(made, dict) and "make" in made):
        return str(made.get("same_as", made)) if isinstance(made, dict) else _format(made)
    inside = {name: recipe(value, depth + 1) for name, value in made.items() if name != "make"}
    if all(not isinstance(value, dict) for value in made.values()):
        arguments = ", ".join(f"{name}={text}" for name, text in inside.items())
    else:
        step = "\n" + "    " * (depth + 1)
        arguments = "".join(f"{step}{name}={text}," for name, text in inside.items()) + "\n" + "    " * depth
    return f"{made['make'].rsplit('.', 1)[-1]}({arguments})"
