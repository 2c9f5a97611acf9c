"""Options in named groups, and where a setting comes from: flag, then config file, then default."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.core import ParameterSource

from pyro_vae.errors import InputError
from pyro_vae.options import MAX_COUNT, MAX_SEED, Option
from pyro_vae.workflows.fit_settings import fit_options, flatten_config

Decorator = Callable[[Any], Any]


class Duration(click.ParamType):
    """A time as a number with its unit, `90s`, `10m` or `2h`; in seconds."""

    name = "time"
    UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of a time; `BadParameter` for text that is none.

        Args:
            value: the text, or the seconds themselves.
            param: the option, for the message.
            ctx: the command's context.

        Returns:
            The seconds.
        """
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+\.?\d*)([smh])", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no time: write a number with its unit, as in 90s, 10m or 2h", param, ctx)
        return float(found[1]) * self.UNITS[found[2]]


class Grouped(click.Option):
    """An option that belongs to a group, under which --help lists it and the config file keeps it.

    Args:
        *args: as `click.Option` takes them.
        group: the group.
        **kwargs: as `click.Option` takes them.
    """

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The value as its type has it; numbers are finite, counts and seeds within their bounds.

        Args:
            ctx: the context.
            value: what was given.

        Returns:
            The value.
        """
        found = super().type_cast_value(ctx, value)
        if isinstance(found, Path) and value == "":
            raise click.BadParameter("the path is empty", ctx, self)
        for each in found if isinstance(found, tuple) else (found,):
            if isinstance(each, float) and not math.isfinite(each):
                raise click.BadParameter(f"{each} is not a finite number", ctx, self)
            most = MAX_SEED if self.name == "seed" else MAX_COUNT
            if isinstance(each, int) and not -most <= each <= most:
                raise click.BadParameter(f"{each} is more than {most:,}", ctx, self)
        return found


class GroupedCommand(click.Command):
    """A command whose --help shows its options group by group.

    Args:
        settings: a function that makes further options each time the command is used, before the others.
    """

    def __init__(self, *args: Any, settings: Callable[[], list[click.Parameter]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._settings is None:
            return super().get_params(ctx)
        key = f"{__name__}.{self.name}"
        if key not in ctx.meta:
            ctx.meta[key] = self._settings()
        return [*ctx.meta[key], *super().get_params(ctx)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                group = parameter.group if isinstance(parameter, Grouped) else "Other"
                sections.setdefault(group, []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


def option(group: str, *names: str, **kwargs: Any) -> Decorator:
    """`click.option` in a group of --help.

    Args:
        group: the group.
        *names: the flags, as `click.option` takes them.
        **kwargs: its keywords.

    Returns:
        The decorator of a command's function.
    """
    return click.option(*names, cls=Grouped, group=group, **_with_shown_default(kwargs))


def click_option(option: Option, group: str | None = None, **changes: Any) -> Decorator:
    """A decorator that adds an option of the command line, made from its plain data.

    Args:
        option: the option.
        group: the group of --help to list it in; by default its own.
        changes: keywords of `click.option` that differ.

    Returns:
        The decorator of a command's function.
    """
    return click.option(*_flags(option), cls=Grouped, group=group or option.group, **_keywords(option) | changes)


def grouped_option(option: Option) -> Grouped:
    """The option as a parameter of a click command."""
    return Grouped(_flags(option), group=option.group, **_keywords(option))


def _flags(option: Option) -> list[str]:
    name = option.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if option.type is bool and not option.is_flag else f"--{name}"
    return [flag, option.name]


def _keywords(option: Option) -> dict[str, Any]:
    """What click is told: type, default, help and the check."""
    told: dict[str, Any] = {"default": option.default, "help": option.help, "callback": _checker(option)}
    if option.metavar is not None:
        told["metavar"] = option.metavar
    if option.is_flag:
        return told | {"is_flag": True}
    if option.type == "texts":
        return told | {"multiple": True, "show_default": False}
    if option.type is not bool:
        types: dict[type | str, Any] = {"scale": SCALE, "widths": WIDTHS, "path": click.Path()}
        types |= {"shape": SHAPE, "size": SIZE}
        told["type"] = (
            click.Choice(tuple(option.choices)) if len(option.choices) else types.get(option.type, option.type)
        )
    return _with_shown_default(told)


def _with_shown_default(told: dict[str, Any]) -> dict[str, Any]:
    shown = told.get("default") not in (None, "", ()) and not told.get("is_flag") and "show_default" not in told
    return {"show_default": shown} | told


def _checker(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            replace(option, name=option.flag).check(value)  # a message names what was typed
        return value

    return check


def output_options(function: Any) -> Any:
    """--json and --debug, which every command takes."""
    function = option("Output", "--debug", is_flag=True, help="Show a traceback when something fails.")(function)
    return option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")(
        function
    )


RUN = click.argument("run", type=click.Path(path_type=Path))
PROGRAM = option(
    "Program",
    "--program",
    metavar="FILE.py:FUNCTION",
    help="A program of your own: a function, of the data set or of nothing, that returns it.",
)


def _whole(part: Any) -> int:
    """A part of a list of whole numbers; `ValueError` for what is none, also of a config file."""
    if isinstance(part, (bool, float)):
        raise ValueError(f"{part} is not a whole number")
    return int(part)


class _Sizes(click.ParamType):
    """Whole numbers with an x between them: 28x20 for height and width, or 3x28x20 with the channels first."""

    def __init__(self, name: str, words: str, lengths: tuple[int, ...]) -> None:
        self.name, self.words, self.lengths = name, words, lengths

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = value if isinstance(value, (tuple, list)) else str(value).lower().replace("×", "x").split("x")
        try:
            sizes = tuple(_whole(part) for part in parts)
        except (TypeError, ValueError):
            sizes = ()
        if len(sizes) not in self.lengths:
            self.fail(f"{value!r} is not {self.words}", param, ctx)
        return sizes


class _Widths(click.ParamType):
    """500 or 500,200: the hidden layers' widths."""

    name = "WIDTH[,WIDTH]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = value if isinstance(value, (tuple, list)) else str(value).split(",")
        try:
            widths = tuple(_whole(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a list of widths, as in 500 or 500,200", param, ctx)
        if not widths or min(widths) < 1 or max(widths) > MAX_COUNT:
            self.fail(f"{value!r}: every width must be one or more, and at most {MAX_COUNT:,}", param, ctx)
        return widths


class _Scale(click.ParamType):
    """A positive number, or who says what the scale is."""

    name = "NUMBER|learned|per-feature|network"
    words = ("learned", "per-feature", "network")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value in self.words:
            return str(value)
        try:
            if isinstance(value, bool):
                raise ValueError(value)
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor one of {', '.join(self.words)}", param, ctx)


SHAPE = _Sizes("[Cx]HxW", "HEIGHTxWIDTH, as in 28x20, or CHANNELSxHEIGHTxWIDTH, as in 3x32x32", (2, 3))
SIZE = _Sizes("HxW", "HEIGHTxWIDTH, as in 28x20", (2,))
WIDTHS, SCALE = _Widths(), _Scale()


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options given on the command line, by name."""
    source = ParameterSource.COMMANDLINE
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) is source}


def settings_with_config(ctx: click.Context, config: dict[str, Any] | None, source: str) -> dict[str, Any]:
    """The settings of `fit` that are given: a flag's value, else that of the config file.

    A config file may hold its keys in tables named after the groups or not; dashes and underscores are the same.

    Args:
        ctx: click's context of the command.
        config: the content of the config file; None without one.
        source: the file, for messages.

    Returns:
        The values by name; `InputError` for a value in the file that a setting cannot have.
    """
    known = fit_options()
    options = {parameter.name: parameter for parameter in ctx.command.get_params(ctx) if parameter.name in known}
    given = flatten_config(config or {}, [name for name in options if name], source)
    for name, value in given.items():
        try:
            value = (value,) if options[name].multiple and isinstance(value, str) else value
            if known[name].type in (int, float, bool, str, "texts", "path"):
                known[name].check(value)
            given[name] = options[name].process_value(ctx, value)
        except click.ClickException as error:
            raise InputError(f"{source}: {name}: {error.format_message()}") from error
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: {name}: {value!r} is not a value it can have") from error
    return given | {name: value for name, value in given_options(ctx).items() if name in options}


ROWS = click.argument("data", required=False, metavar="[DATA]")
SPLIT = option(
    "Rows",
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="test",
    help="Which rows of a named data set.",
)
OUT = option(
    "Rows",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write: .csv, .parquet or .npy, by default in the run's folder; encode: .h5ad, a copy of DATA.",
)
