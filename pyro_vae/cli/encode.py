"""`pyro-vae encode`: posterior means of z."""

from pathlib import Path

import click

from pyro_vae.cli.options import OUT, PROGRAM, ROWS, RUN, SPLIT, GroupedCommand, output_options
from pyro_vae.workflows.export_rows import _through, _write


@click.command(cls=GroupedCommand)
@RUN
@ROWS
@SPLIT
@OUT
@PROGRAM
@output_options
def encode(
    run: Path, program: str | None, data: str | None, split: str, out: Path | None, as_json: bool, debug: bool
) -> None:
    """Write the posterior mean of z for each row, with its index and label.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own.
    """
    from pyro_vae.programs.model_and_guide import encode as encoded
    from pyro_vae.workflows.open_run import Run

    opened = Run(run, program)
    rows, made = opened.rows(data, split), opened.program()
    path = out or run / f"latents{'' if data else f'-{split}'}.csv"
    means = _through(rows, lambda x, row_inputs: encoded(made, x, **row_inputs))
    _write(opened, path, means, len(rows), None, as_json)
