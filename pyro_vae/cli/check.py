"""`pyro-vae check`: whether a run's model is right."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import (
    PROGRAM,
    RUN,
    Duration,
    GroupedCommand,
    click_option,
    given_options,
    option,
    output_options,
)
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import setting_options
from pyro_vae.diagnostics.checks.check_size import GROUP, CheckSize
from pyro_vae.options import options_of

SIZES = options_of(CheckSize)


def _size_options(command: Callable[..., None]) -> Callable[..., None]:
    for of in reversed(SIZES.values()):
        command = click_option(of, type=click.IntRange(int(of.minimum or 0)))(command)
    return command


@click.command(cls=GroupedCommand)
@RUN
@option(
    GROUP,
    "--split",
    type=click.Choice(["check", "valid", "test"]),
    help="Which rows; by default those that the fit set aside, or without them the validation rows.",
)
@option(
    GROUP,
    "--statistic",
    "statistics",
    multiple=True,
    metavar="FILE.py:FUNCTION",
    help="A statistic of your own: a function that returns a number of rows, a data frame where columns have names, "
    "else an array in original units. May be repeated.",
)
@option(
    GROUP,
    "--time",
    "time_limit",
    type=Duration(),
    metavar="TIME",
    help="How long it may take, as in 30s or 5m; by default as long as the fit, or 20s. It sets the numbers of draws.",
)
@_size_options
@option(
    GROUP,
    "--bootstrap",
    type=click.IntRange(min=0),
    default=0,
    metavar="B",
    help="Fit B programs to training rows drawn with replacement, 12 or more: what estimated parameters do to a "
    "statistic is then measured; by default 1 + n / N bounds it.",
)
@option(GROUP, "--seed", type=int, default=0, help="Seed of all draws.")
@setting_options("device", group=GROUP)
@option(
    "Output",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Where to write the page; RUN/check.html by default.",
)
@PROGRAM
@output_options
@click.pass_context
def check(ctx: click.Context, run: Path, as_json: bool, debug: bool, **options: Any) -> None:
    """Say whether the model is right: draws beside rows, calibration of the guide, log p(x), latents.

    Each verdict has a p-value, the size of the effect, and a level: nothing found, small, or it matters. The rows are
    some that the fit set aside, which chose nothing. RUN/check.json keeps the verdicts, RUN/check.html shows them.
    """
    given = given_options(ctx)
    size = {name: options.pop(name) for name in SIZES}
    is_sized = any(name in given for name in SIZES)
    from pyro_vae.workflows.check_run import check_run

    found, path = check_run(
        run, size=replace(CheckSize(), **size) if is_sized else None, log=lambda line: echo(line, err=True), **options
    )
    if as_json:
        print_json({"run": str(run), "path": str(path), **found.to_dict()})
        return
    from pyro_vae.cli.print_tables import print_check

    print_check(found, f"{run} · {found.num_rows} {found.rows} · {found.seconds:.0f} s")
    echo(f"\n{path}: what each check looks at, its picture and its numbers")
