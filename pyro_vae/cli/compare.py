"""`pyro-vae compare`: models and fit methods, or saved runs, on the same rows in one table."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import Decorator, GroupedCommand, click_option, given_options, option, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.errors import InputError
from pyro_vae.workflows.comparison_settings import (
    COMPARISON,
    DATA_SETTINGS,
    PRESETS,
    TRAIN_SETTINGS,
    VAE_SETTINGS,
    Settings,
    comparison_options,
)

RUN_GROUP = "Run"
OPTIONS = comparison_options()
ENCODER_STUDY = "ae-vs-vae"  # a study by its spelling of before


def _single(*names: str) -> Decorator:
    """A decorator that adds the options of settings with one value, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        return functools.reduce(lambda made, name: click_option(OPTIONS[name])(made), reversed(names), command)

    return decorate


def _repeated(name: str, flag: str) -> Decorator:
    """A decorator that adds the option of a setting that may be given several times."""
    found = OPTIONS[name]
    kind = click.IntRange(None if found.minimum is None else int(found.minimum)) if found.type is int else str
    return option(found.group, flag, name, type=kind, multiple=True, metavar=found.metavar, help=found.help)


@click.command(cls=GroupedCommand, short_help="Compare models, fit methods, or saved runs.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@option(
    COMPARISON,
    "--preset",
    type=click.Choice([*PRESETS, ENCODER_STUDY]),
    metavar="|".join(PRESETS),
    help="toy (a minute or two; the default), mnist-5k (minutes), paper (figure 3 of Kingma & Welling; hours).",
)
@_repeated("models", "--model")
@_repeated("fit_methods", "--fit-method")
@option(COMPARISON, "--way", "fit_methods_by_old_name", multiple=True, hidden=True)
@_single("split", "method", "num_samples", "num_rows", "level", "curve", "data", *DATA_SETTINGS)
@_repeated("train_rows", "--train-rows")
@_single(*VAE_SETTINGS, *TRAIN_SETTINGS, "iterations", "starts", "width")
@option("Study", "--latent-dim", type=click.IntRange(1), multiple=True, hidden=True)
@option("Study", "--seeds", type=click.IntRange(1), hidden=True)
@option("Study", "--denoising", type=click.FloatRange(0, 1, max_open=True), hidden=True)
@option(
    RUN_GROUP,
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of the table, the figures and the fitted models; by default a new one under runs/. A comparison "
    "that was interrupted is resumed there.",
)
@output_options
@click.pass_context
def compare(ctx: click.Context, runs: tuple[Path, ...], as_json: bool, debug: bool, **_: object) -> None:
    """Compare models, fit methods or saved runs on the same held-out rows.

    With no argument: a mixture, PPCA and a VAE on a data set in the plane, each fitted by every method it supports.
    With RUNs, those; with --model and --fit-method, a grid of them. One measure, or an error.
    """
    given = given_options(ctx)
    settings = {name: value for name, value in given.items() if name in OPTIONS}
    methods = (*given.get("fit_methods", ()), *given.get("fit_methods_by_old_name", ()))
    settings |= {"fit_methods": methods} if methods else {}
    if given.get("preset") == ENCODER_STUDY:
        _run_encoder_study(given, as_json)
        return
    if other := [name for name in ("latent_dim", "seeds", "denoising") if name in given]:
        raise InputError(f"--{other[0].replace('_', '-')} belongs to pyro-vae study autoencoder-vs-vae")

    from pyro_vae.cli.print_tables import print_comparison, print_written
    from pyro_vae.workflows.compare_models import TABLE, compare_models

    began = time.perf_counter()
    done = compare_models(
        runs,
        preset=given.get("preset"),
        out=given.get("out"),
        extra_figures=_coordinate_ascent if _is_toy(given, settings, runs) else None,
        log=(lambda line: None) if as_json else (lambda line: echo(line, err=True)),
        **settings,
    )
    if as_json:
        print_json({"rows": done.table})
    else:
        print_comparison(done.table, done.rows, {name: str(choice.best) for name, choice in done.chosen.items()})
    if done.unwritten is not None:
        raise done.unwritten
    if as_json:
        return
    print_written(done.folder, TABLE, done.figures, time.perf_counter() - began)


def _is_toy(given: Settings, settings: Settings, runs: tuple[Path, ...]) -> bool:
    """Whether this is the toy preset on its own data, which comes with a picture of EM's bounds."""
    default = not given.get("preset") and not settings.get("models") and not runs
    return (default or given.get("preset") == "toy") and settings.get("data", "pinwheel") == "pinwheel"


def _coordinate_ascent(folder: Path) -> list[Path]:
    from pyro_vae.studies.em_bounds import draw_em_bounds

    return [draw_em_bounds(folder)]


def _run_encoder_study(given: Settings, as_json: bool) -> None:
    """The study of autoencoder and VAE by its spelling of before, `compare --preset ae-vs-vae`."""
    from pyro_vae.cli.study import AUTOENCODER_OPTIONS, run_autoencoder_study

    names = {name: value for name, value in given.items() if name not in ("preset", "as_json", "debug")}
    if strange := [name for name in names if name not in AUTOENCODER_OPTIONS]:
        option = "--" + strange[0].replace("_", "-")
        raise InputError(f"{option} means nothing to --preset ae-vs-vae, which compares reconstructions and codes")
    run_autoencoder_study(as_json, **names)
