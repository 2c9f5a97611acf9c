"""`pyro-vae sample`: new rows from a run's model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.options import OUT, PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.workflows.export_rows import _write


@click.command(cls=GroupedCommand)
@RUN
@option("Rows", "--num", type=click.IntRange(1), default=64, help="How many rows to draw.")
@option("Rows", "--seed", type=int, default=0, help="Seed of the draws.")
@OUT
@PROGRAM
@output_options
def sample(run: Path, program: str | None, num: int, seed: int, out: Path | None, as_json: bool, debug: bool) -> None:
    """Draw new rows from a run's model: z from the prior, then x from the likelihood.

    For pictures these are drawn pixels; the run's own figure shows E[x | z], without their noise.
    """
    from pyro_vae.context import seeded
    from pyro_vae.programs.model_and_guide import sample as sampled
    from pyro_vae.workflows.open_run import ROWS_AT_ONCE, Run

    opened = Run(run, program)
    made, width = opened.program(), opened.about["num_features"]

    def drawn() -> Iterator[tuple[Any, ...]]:
        with seeded(seed):
            for start in range(0, num, ROWS_AT_ONCE):
                rows = sampled(made, min(ROWS_AT_ONCE, num - start), num_features=width)
                yield opened.measure.to_original_units(rows), None, None

    _write(opened, out or run / "samples.npy", drawn(), num, opened.columns(), as_json)
