"""`pyro-vae report`: one page about a run, to open in a browser."""

import time
from pathlib import Path

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.cli.print_json import print_json


@click.command(cls=GroupedCommand)
@RUN
@option(
    "Report",
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    help="The split whose rows are shown and scored.",
)
@option("Report", "--num-rows", type=click.IntRange(3), default=500, help="Rows to click on, at most.")
@option("Report", "--num-samples", type=click.IntRange(1), default=200, help="Draws S for log p(x) of each of them.")
@option(
    "Output",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Where to write it; RUN/report.html by default.",
)
@PROGRAM
@output_options
def report(
    run: Path,
    split: str,
    num_rows: int,
    num_samples: int,
    out: Path | None,
    program: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Write one page about a run: numbers and what they mean, figures, an explorer of its latent space.

    The page is one file that needs no network and no server. Validation rows are shown; ask for the test rows once all
    choices are made.
    """
    from pyro_vae.workflows.report_run import report_run

    began = time.perf_counter()
    path = report_run(run, split=split, num_rows=num_rows, num_samples=num_samples, out=out, program=program)
    size = path.stat().st_size
    if as_json:
        seconds = time.perf_counter() - began
        print_json({"run": str(run), "path": str(path), "bytes": size, "split": split, "seconds": seconds})
        return
    echo(f"{path}: {size / 1e6:.1f} MB, one file that needs no network")
    echo(f"Open it in a browser: {path.resolve().as_uri()}")
