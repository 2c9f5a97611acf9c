"""`pyro-vae sample`, `reconstruct` and `encode`: rows out of a run, or through it."""

from collections.abc import Callable, Iterator
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
    from pyro_vae.cli.run import ROWS_AT_ONCE, Run
    from pyro_vae.models.program import sample as sampled
    from pyro_vae.models.rows import seeded

    opened = Run(run, program)
    made, width = opened.program(), opened.about["num_features"]

    def drawn() -> Iterator[tuple[Any, ...]]:
        with seeded(seed):
            for start in range(0, num, ROWS_AT_ONCE):
                rows = sampled(made, min(ROWS_AT_ONCE, num - start), num_features=width)
                yield opened.measure.undo(rows), None, None

    _write(opened, out or run / "samples.npy", drawn(), num, opened.columns(), as_json)


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
    rows, made = opened.rows(data, split), opened.program()
    path = out or run / f"reconstructions{'' if data else f'-{split}'}.npy"
    again = _through(rows, lambda x, extras: opened.measure.undo(reconstructed(made, x, **extras)))
    _write(opened, path, again, len(rows), opened.columns(), as_json)


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
    rows, made = opened.rows(data, split), opened.program()
    path = out or run / f"latents{'' if data else f'-{split}'}.csv"
    means = _through(rows, lambda x, extras: encoded(made, x, **extras))
    _write(opened, path, means, len(rows), None, as_json)


def _through(rows: Any, verb: Callable[[Any, dict[str, Any]], Any]) -> Iterator[tuple[Any, ...]]:
    """What a verb makes of rows, some at a time, with their places and labels."""
    from pyro_vae.cli.run import ROWS_AT_ONCE

    for part in rows.parts(ROWS_AT_ONCE):
        yield verb(part.x, part.extras(slice(None))), part.places(slice(None)), part.labels


def _write(
    opened: Any, path: Path, parts: Iterator[tuple[Any, ...]], num_rows: int, names: list[str] | None, as_json: bool
) -> None:
    from pyro_vae.cli.run import writing

    with writing(path, num_rows, names or []) as writer:
        for rows, index, labels in parts:
            writer.names = names or [f"z{i + 1}" for i in range(rows.shape[1])]
            writer.write(rows.cpu(), index, labels)
    if as_json:
        print_json({"run": str(opened.folder), "path": str(path), "num_rows": num_rows, "num_columns": rows.shape[1]})
    else:
        click.echo(f"{path}: {num_rows} rows of {rows.shape[1]}")
