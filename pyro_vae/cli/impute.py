"""`pyro-vae impute`: the missing cells of rows, filled."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import OUT, PROGRAM, ROWS, RUN, SPLIT, GroupedCommand, option, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.json_records import Record

METHODS = ("draws", "mean", "mode")


@click.command(cls=GroupedCommand)
@RUN
@ROWS
@SPLIT
@OUT
@option(
    "Imputation",
    "--method",
    type=click.Choice(METHODS),
    default="draws",
    help="Draws of p(missing | observed); its mean (of levels the most probable); or mode: the most probable level, "
    "and the mean of numbers.",
)
@option(
    "Imputation",
    "--num-imputations",
    type=click.IntRange(1),
    default=1,
    help="How often each missing cell is drawn, in rows one below the other with a column imputation.",
)
@option("Imputation", "--seed", type=int, default=0, help="Seed of the draws.")
@option(
    "Imputation",
    "--num-samples",
    type=click.IntRange(25),
    default=1000,
    help="Weighted latents of each row, of which draws take one.",
)
@option(
    "Imputation",
    "--bootstrap",
    type=click.IntRange(0),
    default=0,
    metavar="B",
    help="Fit B programs to training rows drawn with replacement, and let each draw equally often: the uncertainty of "
    "the parameters is then in the draws. Takes B fits.",
)
@PROGRAM
@output_options
def impute(run: Path, as_json: bool, debug: bool, **options: Any) -> None:
    """Fill missing cells with what the model expects there, given the row's other cells; these stay as they are.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own. Latents are weighed, so
    draws are the model's and not the guide's. They are draws at the fitted parameters, whose own uncertainty is not in
    them (improper imputation): with few training rows, intervals are somewhat too narrow, unless --bootstrap is given.
    """
    from pyro_vae.workflows.impute_run import impute_run

    written, notes = impute_run(run, **options)
    for note in notes:
        echo(note, err=True)
    if as_json:
        print_json(written)
    else:
        echo(_in_words(written))


def _in_words(written: Record) -> str:
    """One line about the file that was written."""
    begin = f"{written['path']}: {written['num_rows']} rows of {written['num_columns']}"
    if not written["num_incomplete"]:
        return f"{begin}; nothing is missing"
    times = f", {written['num_imputations']} imputations" if written["num_imputations"] > 1 else ""
    cells = f"{written['num_filled']} cells of {written['num_incomplete']} rows"
    return f"{begin}; {cells} filled ({written['method']}{times})"
