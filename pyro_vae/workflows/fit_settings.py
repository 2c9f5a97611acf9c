"""Every setting of `pyro-vae fit` with its default, in the groups that a run's `config.toml` keeps them in."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError

Settings = dict[str, dict[str, Any]]  # group: {name: value}
FIT_DEFAULTS: Settings = {
    "data": {
        "data": "mnist-5k",
        "data_root": None,
        "binarize": None,
        "dequantize": False,
        "standardize": None,
        "missing": "refuse",
        "image_shape": None,
        "stream": None,
    },
    "model": {
        "latent_dim": 2,
        "prior": "standard-normal",
        "components": None,
        "pseudo_inputs": None,
        "likelihood": "auto",
        "scale": None,
        "guide": "mean-field",
        "rank": None,
        "flow_layers": None,
        "network": "mlp",
        "hidden": None,
        "activation": None,
    },
    "objective": {
        "loss": "elbo",
        "num_particles": None,
        "dreg": False,
        "beta": 1.0,
        "kl_warmup": 0.0,
        "free_bits": None,
    },
    "training": {
        "epochs": 100,
        "batch_size": 100,
        "optimizer": "adam",
        "learning_rate": 5e-3,
        "schedule": "one-cycle",
        "clip": None,
        "patience": 0,
        "seed": 0,
        "device": "auto",
        "dtype": "float32",
        "compile": None,
    },
}
RUN_TABLES = ("about", "program", "program_needs", "num_features", "measure")  # of a config.toml that hold no settings


def default_of(name: str) -> Any:
    """The default of one setting."""
    return next(group[name] for group in FIT_DEFAULTS.values() if name in group)


def flatten_config(config: dict[str, Any], names: Iterable[str], source: str) -> dict[str, Any]:
    """The settings in a configuration, whether in tables named after the groups or not; dashes are underscores.

    Raises `InputError` for a table or a setting that does not exist.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key in FIT_DEFAULTS:
            flat |= value
        elif not isinstance(value, dict) and key not in RUN_TABLES:
            flat[key] = value
        elif isinstance(value, dict) and key not in RUN_TABLES:
            raise InputError(f"{source}: no table called [{key}]; there are [{'], ['.join(FIT_DEFAULTS)}]")
    given = {key.replace("-", "_"): value for key, value in flat.items()}
    require_known(given, names, source)
    return given


def require_known(given: Iterable[str], names: Iterable[str], source: str) -> None:
    """`InputError` for a name that is no setting, with the nearest one."""
    names = list(names)
    if unknown := [name for name in given if name not in names]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        raise InputError(f"{source}: no setting called {unknown[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def group_settings(given: dict[str, Any], source: str = "fit") -> Settings:
    """The settings by group: what is given, else the default; `InputError` for a name that is no setting."""
    require_known(given, [name for group in FIT_DEFAULTS.values() for name in group], source)
    return {
        group: {name: given.get(name, default) for name, default in defaults.items()}
        for group, defaults in FIT_DEFAULTS.items()
    }


def to_toml(settings: Settings) -> Settings:
    """Settings as TOML can hold them: nothing for None, lists for tuples, text for paths."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value

    return {group: {k: plain(v) for k, v in values.items() if v is not None} for group, values in settings.items()}


def require_program(config: dict[str, Any], source: str, program: str | None) -> None:
    """`InputError` where a configuration is of a user's own program, which no file may name, and none is given."""
    own = config.get("about", {}).get("program")
    if own and program is None:
        raise InputError(f"{source} is of a program of your own, which no file may name for you: add --program {own}")
