"""`pyro-vae sample`, `reconstruct` and `encode`: rows out of a run, or through it."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, RUN, GroupedCommand, option, output_options

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
    from pyro_vae.cli.run import Run
    from pyro_vae.models.program import sample as sampled

    opened = Run(run, program)
    drawn = opened.measure.undo(sampled(opened.program(), num, num_features=opened.about["num_features"], seed=seed))
    _write(opened, out or run / "samples.npy", drawn, opened.columns(), as_json)


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
    from pyro_vae.cli.run import Run
    from pyro_vae.models.program import reconstruct as reconstructed

    opened = Run(run, program)
    rows, index = opened.rows(data, split)
    again = opened.measure.undo(reconstructed(opened.program(), rows.x, **rows.extras(slice(None))))
    path = out or run / f"reconstructions{'' if data else f'-{split}'}.npy"
    _write(opened, path, again, opened.columns(), as_json, index, rows.labels)


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
    from pyro_vae.cli.run import Run
    from pyro_vae.models.program import encode as encoded

    opened = Run(run, program)
    rows, index = opened.rows(data, split)
    means = encoded(opened.program(), rows.x, **rows.extras(slice(None)))
    path = out or run / f"latents{'' if data else f'-{split}'}.csv"
    _write(opened, path, means, [f"z{i + 1}" for i in range(means.shape[1])], as_json, index, rows.labels)


def _write(
    opened: Any, path: Path, rows: Any, names: list[str], as_json: bool, index: Any = None, labels: Any = None
) -> None:
    from pyro_vae.cli.run import write_rows

    write_rows(path, rows.cpu(), names, index, labels)
    if as_json:
        print_json({"run": str(opened.folder), "path": str(path), "num_rows": len(rows), "num_columns": rows.shape[1]})
    else:
        click.echo(f"{path}: {len(rows)} rows of {rows.shape[1]}")
