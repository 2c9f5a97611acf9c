"""`pyro-vae encode`: the posterior mean of z of each row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.option_types import OUT, PROGRAM, ROWS, RUN, SPLIT, GroupedCommand, output_options
from pyro_vae.cli.print_json import print_export
from pyro_vae.cli.streams import progress_style


def rows_command(function: Callable[..., None]) -> click.Command:
    """A command that passes rows through a run's program and writes the result."""
    for decorate in (output_options, PROGRAM, OUT, SPLIT, ROWS, RUN):
        function = decorate(function)
    return click.command(cls=GroupedCommand)(function)


@rows_command
def encode(run: Path, as_json: bool, debug: bool, **options: Any) -> None:
    """Write the posterior mean of z for each row, with its index and label; of a semi-supervised run the predicted
    label and the probabilities of all labels too.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own.
    """
    from pyro_vae.workflows.export_rows import encode_run

    print_export(encode_run(run, progress=progress_style(), **options), as_json)
