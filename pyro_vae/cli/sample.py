"""`pyro-vae sample`: new rows from a run's model."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.option_types import OUT, PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.cli.print_json import print_export
from pyro_vae.cli.streams import progress_style


@click.command(cls=GroupedCommand)
@RUN
@option("Rows", "--num", type=click.IntRange(1), default=64, help="How many rows to draw.")
@option(
    "Rows",
    "--given",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a condition; by default rows have the conditions of training rows. May be repeated.",
)
@option("Rows", "--seed", type=int, default=0, help="Seed of the draws.")
@OUT
@PROGRAM
@output_options
def sample(run: Path, as_json: bool, debug: bool, **options: Any) -> None:
    """Draw new rows from a run's model: z from the prior, then x from the likelihood.

    For images these are drawn pixels; the run's own figure shows E[x | z], without their noise.
    """
    from pyro_vae.workflows.export_rows import sample_run

    print_export(sample_run(run, progress=progress_style(), **options), as_json)
