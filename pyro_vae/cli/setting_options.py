"""The settings of `pyro-vae fit` as options of the command line, for `fit` and the commands that take some of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from pyro_vae.cli.option_types import Decorator, click_option, grouped_option
from pyro_vae.workflows.fit_settings import fit_options


def setting_options(*names: str, group: str | None = None, **changes: dict[str, Any]) -> Decorator:
    """A decorator that adds the options of some settings, in this order.

    Args:
        names: settings of `fit`.
        group: the group to list them in; by default their own.
        changes: by the name of a setting, fields of its `Option` that differ here.

    Returns:
        The decorator of a command's function.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        options = fit_options()
        for name in reversed(names):
            command = click_option(replace(options[name], **changes.get(name, {})), group=group)(command)
        return command

    return decorate


def fit_parameters() -> list[click.Parameter]:
    """The options of all settings of `fit`, made anew: parts registered in this process are among them."""
    return [grouped_option(option) for option in fit_options().values()]
