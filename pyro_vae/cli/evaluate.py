"""`pyro-vae evaluate`: the numbers of a run's program on its training, validation or test rows."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.option_types import PROGRAM, RUN, GroupedCommand, given_options, option, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import setting_options
from pyro_vae.errors import InputError

OWNERS = {"temperatures": "ais", "chains": "ais", "start": "ais", "prior_share": "is"}  # option: its method
MEMORY = option(
    "Evidence",
    "--memory-mib",
    type=float,
    default=64.0,
    help="Memory for the draws in progress; results need a few numbers for each row.",
)
DRAW_SEED = option("Evidence", "--seed", type=int, default=0, help="Seed of the draws.")


@click.command(cls=GroupedCommand)
@RUN
@option(
    "Evidence", "--split", type=click.Choice(["train", "valid", "test"]), default="test", help="Which rows to score."
)
@option("Evidence", "--num-rows", type=click.IntRange(1), help="The first so many rows of the split; all by default.")
@option(
    "Evidence",
    "--method",
    type=click.Choice(["is", "ais", "exact"]),
    default="is",
    help="log p(x) by importance sampling from the guide; by annealing, tighter and more expensive; or exactly, where "
    "possible (one or two latent dimensions, linear-Gaussian models, discrete latents).",
)
@option("Evidence", "--num-samples", type=click.IntRange(1), default=1000, help="Draws S from the guide for each row.")
@option(
    "Evidence", "--prior-share", type=click.FloatRange(0, 1), default=0.0, help="is: share of draws from the prior."
)
@option("Evidence", "--temperatures", type=click.IntRange(1), default=500, help="ais: steps from start to posterior.")
@option("Evidence", "--chains", type=click.IntRange(1), default=16, help="ais: chains for each row.")
@option("Evidence", "--start", type=click.Choice(["guide", "prior"]), default="guide", help="ais: where chains start.")
@MEMORY
@DRAW_SEED
@setting_options("device", group="Evidence")
@option(
    "Output",
    "--netcdf",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write draws, weights and the first 100 rows (or --num-rows) for ArviZ.",
)
@PROGRAM
@output_options
@click.pass_context
def evaluate(
    ctx: click.Context,
    run: Path,
    program: str | None,
    split: str,
    num_rows: int | None,
    device: str,
    netcdf: Path | None,
    as_json: bool,
    debug: bool,
    **estimator: Any,
) -> None:
    """Score a run: ELBO, its two terms, log p(x) with both errors, k-hat, active units.

    Choices are made on the validation rows; score the test rows once, at the end. The numbers are kept in
    RUN/evaluation.json.
    """
    _require_owners(ctx, estimator["method"])
    from pyro_vae.cli.print_tables import print_record
    from pyro_vae.distributed import process_group
    from pyro_vae.workflows.evaluate_run import Estimator, evaluate_run

    name, record = evaluate_run(
        run,
        split=split,
        num_rows=num_rows,
        estimator=Estimator(**estimator),
        device=device,
        netcdf=netcdf,
        program=program,
        log=lambda line: click.echo(line, err=True),
    )
    if not process_group().is_main:
        return
    if as_json:
        print_json(record)
        return
    print_record(record, f"{run} · {name} rows · {record.seconds:.0f} s")
    if netcdf is not None:
        click.echo(f"\n{netcdf}: draws, weights and rows; arviz.from_netcdf reads it")


def _require_owners(ctx: click.Context, method: str) -> None:
    """`InputError` for an option that another method reads."""
    for name, owner in OWNERS.items():
        if name in given_options(ctx) and owner != method:
            raise InputError(f"--{name.replace('_', '-')} belongs to --method {owner}; leave it out, or choose that")
