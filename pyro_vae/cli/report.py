"""`pyro-vae report`: one page about a run, to open in a browser."""

import time
from pathlib import Path

import click

from pyro_vae.atomic_write import read_lines
from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.runs import EVALUATION, METRICS


@click.command(cls=GroupedCommand)
@RUN
@option(
    "Report", "--split", type=click.Choice(["valid", "test"]), default="valid", help="Whose rows to show and to score."
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
    program: str | None,
    split: str,
    num_rows: int,
    num_samples: int,
    out: Path | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Write one page about a run: numbers and what they mean, pictures, an explorer of its latent space.

    The page is one file that needs no network and no server. Validation rows are shown; ask for the test rows once all
    choices are made.
    """
    import json

    from pyro_vae.errors import InputError
    from pyro_vae.report.html_page import write_report
    from pyro_vae.workflows.open_run import Run

    if out is not None and out.suffix not in (".html", ".htm"):
        raise InputError(f"{out}: a report is written as .html, not {out.suffix or 'a file without an ending'}")
    began = time.perf_counter()
    opened = Run(run, program)
    evaluation = run / EVALUATION
    path = write_report(
        run,
        opened.program(),
        opened.data(),
        config=opened.config,
        records=json.loads(evaluation.read_text()) if evaluation.exists() else {},
        history=read_lines(run / METRICS),
        split=split,
        num_rows=num_rows,
        num_samples=num_samples,
        out=out,
    )
    size = path.stat().st_size
    if as_json:
        found = {"run": str(run), "path": str(path), "bytes": size, "split": split}
        print_json(found | {"seconds": time.perf_counter() - began})
        return
    click.echo(f"{path}: {size / 1e6:.1f} MB, one file that needs no network")
    click.echo(f"Open it in a browser: {path.resolve().as_uri()}")
