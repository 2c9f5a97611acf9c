"""Options in named groups, and where a setting comes from: flag, then config file, then default."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyro_vae.errors import InputError

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


def settle(ctx: click.Context, config: dict[str, Any] | None, source: str) -> dict[str, dict[str, Any]]:
    """The settings of a command by group: what a flag says, else the config file, else the default.

    A config file may hold its keys in tables named after the groups or plainly; dashes and underscores are the same.
    """
    options = {p.name: p for p in ctx.command.params if isinstance(p, Grouped) and p.group.lower() in KEPT and p.name}
    given = _flat(config or {}, options, source)
    settled: dict[str, dict[str, Any]] = {group: {} for group in KEPT}
    for name, parameter in options.items():
        value = ctx.params[name]
        if name in given and ctx.get_parameter_source(name) in (ParameterSource.DEFAULT, None):
            try:
                value = parameter.process_value(ctx, given[name])
            except click.ClickException as error:
                raise InputError(f"{source}: {name}: {error.format_message()}") from error
            except (TypeError, ValueError) as error:
                raise InputError(f"{source}: {name}: {given[name]!r} is not a value it can have") from error
        settled[parameter.group.lower()][name] = value
    return settled


KEPT = ("data", "model", "objective", "training")


def _flat(config: dict[str, Any], options: dict[str, Grouped], source: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key in KEPT:
            flat |= value
        elif not isinstance(value, dict) and key not in ABOUT:
            flat[key] = value
        elif isinstance(value, dict) and key not in ABOUT:
            raise InputError(f"{source}: no table called [{key}]; there are [{'], ['.join(KEPT)}]")
    known = {key.replace("-", "_"): value for key, value in flat.items()}
    if unknown := [key for key in known if key not in options]:
        near = difflib.get_close_matches(unknown[0], list(options), n=1)
        raise InputError(f"{source}: no setting called {unknown[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return known


ABOUT = (
    "about",
    "program",
    "program_needs",
    "num_features",
    "measure",
)  # what a run's own config.toml holds beside the settings


def plain(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """TrainConfig as TOML can hold them: nothing for None, lists for tuples, text for paths."""

    def value_of(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value

    return {group: {k: value_of(v) for k, v in values.items() if v is not None} for group, values in settings.items()}


__all__: Sequence[str] = (
    "PROGRAM",
    "RUN",
    "SCALE",
    "SHAPE",
    "WIDTHS",
    "Grouped",
    "GroupedCommand",
    "option",
    "output_options",
    "plain",
    "settle",
)


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
