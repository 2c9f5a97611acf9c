"""Options in named groups, and where a setting comes from: flag, then config file, then default."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyro_vae.errors import InputError
from pyro_vae.workflows.fit_settings import FIT_DEFAULTS, flatten_config

Decorator = Callable[[Any], Any]


class Grouped(click.Option):
    """An option that belongs to a group, under which --help lists it and the config file keeps it."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose --help shows its options group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


def option(group: str, *names: str, **kwargs: Any) -> Decorator:
    shown = kwargs.get("default") not in (None, "", ()) and not kwargs.get("is_flag") and "show_default" not in kwargs
    return click.option(*names, cls=Grouped, group=group, **({"show_default": shown} | kwargs))


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


class _Shape(click.ParamType):
    """HEIGHTxWIDTH, as in 28x20."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        parts = value if isinstance(value, (tuple, list)) else str(value).lower().replace("×", "x").split("x")
        try:
            height, width = (int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not HEIGHTxWIDTH, as in 28x20", param, ctx)
        return height, width


class _Widths(click.ParamType):
    """500 or 500,200: the hidden layers' widths."""

    name = "WIDTH[,WIDTH]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = value if isinstance(value, (tuple, list)) else str(value).split(",")
        try:
            widths = tuple(int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a list of widths, as in 500 or 500,200", param, ctx)
        if not widths or min(widths) < 1:
            self.fail(f"{value!r}: every width must be one or more", param, ctx)
        return widths


class _Scale(click.ParamType):
    """A positive number, or who says what the scale is."""

    name = "NUMBER|learned|per-feature|network"
    words = ("learned", "per-feature", "network")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value in self.words:
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor one of {', '.join(self.words)}", param, ctx)


SHAPE, WIDTHS, SCALE = _Shape(), _Widths(), _Scale()


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options given on the command line, by name."""
    source = ParameterSource.COMMANDLINE
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) is source}


def settings_with_config(ctx: click.Context, config: dict[str, Any] | None, source: str) -> dict[str, Any]:
    """The settings of `fit` that are given: a flag's value, else that of the config file.

    A config file may hold its keys in tables named after the groups or not; dashes and underscores are the same.
    """
    options = {p.name: p for p in ctx.command.params if isinstance(p, Grouped) and p.group.lower() in FIT_DEFAULTS}
    given = flatten_config(config or {}, [name for name in options if name], source)
    for name, value in given.items():
        try:
            given[name] = options[name].process_value(ctx, value)
        except click.ClickException as error:
            raise InputError(f"{source}: {name}: {error.format_message()}") from error
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
    help="Where to write: .npy or .csv; by default in the run's folder.",
)
