"""`pyro-vae reconstruct`: each row from its own latents."""

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
def reconstruct(
    run: Path, program: str | None, data: str | None, split: str, out: Path | None, as_json: bool, debug: bool
) -> None:
    """Write E[x | z] at each row's posterior mean: a table in its own units, pixels between 0 and 1.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own.
    """
    from pyro_vae.programs.model_and_guide import reconstruct as reconstructed
    from pyro_vae.workflows.open_run import Run

    opened = Run(run, program)
    rows, made = opened.rows(data, split), opened.program()
    path = out or run / f"reconstructions{'' if data else f'-{split}'}.npy"
    again = _through(rows, lambda x, row_inputs: opened.measure.to_original_units(reconstructed(made, x, **row_inputs)))
    _write(opened, path, again, len(rows), opened.columns(), as_json)
