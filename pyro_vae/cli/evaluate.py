"""`pyro-vae evaluate`: what a run's program says of its training, validation or test rows."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pyro_vae.atomic_write import write_json
from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.runs import EVALUATION

OWNED = {"temperatures": "ais", "chains": "ais", "start": "ais", "prior_share": "is"}  # option: its method


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
    help="log p(x) by importance sampling from the guide; by annealing, tighter and dearer; or exactly, where it "
    "can be (one or two latent dimensions, linear-Gaussian models, discrete latents).",
)
@option("Evidence", "--num-samples", type=click.IntRange(1), default=1000, help="Draws S from the guide for each row.")
@option(
    "Evidence", "--prior-share", type=click.FloatRange(0, 1), default=0.0, help="is: share of draws from the prior."
)
@option("Evidence", "--temperatures", type=click.IntRange(1), default=500, help="ais: steps from start to posterior.")
@option("Evidence", "--chains", type=click.IntRange(1), default=16, help="ais: chains for each row.")
@option("Evidence", "--start", type=click.Choice(["guide", "prior"]), default="guide", help="ais: where chains start.")
@option(
    "Evidence",
    "--memory-mib",
    type=float,
    default=64.0,
    help="Memory for the draws in progress; results need a few numbers for each row.",
)
@option("Evidence", "--seed", type=int, default=0, help="Seed of the draws.")
@option(
    "Evidence",
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    help="auto: an accelerator, if there is one.",
)
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
    method: str,
    num_samples: int,
    prior_share: float,
    temperatures: int,
    chains: int,
    start: str,
    memory_mib: float,
    seed: int,
    device: str,
    netcdf: Path | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Score a run: ELBO, its two terms, log p(x) with both errors, k-hat, active units.

    Choices are made on the validation rows; score the test rows once, at the end. The numbers are kept in
    RUN/evaluation.json.
    """
    import json

    from pyro_vae import pick_device, process_group
    from pyro_vae.cli.print_tables import print_record
    from pyro_vae.workflows.open_run import Run

    _check_owned(ctx, method)
    opened = Run(run, program)
    rows = opened.data().split(split)
    rows = rows if num_rows is None else rows.head(num_rows)
    scored = opened.program()
    if hasattr(scored, "to"):
        scored.to(pick_device(device))
    better = _better(scored, rows, method, temperatures, chains, start, memory_mib, seed)
    record = score_split(
        scored,
        rows,
        run,
        num_samples,
        sizes=[k for k in (1, 5, 50, 500) if k < num_samples],
        prior_share=prior_share,
        memory_mib=memory_mib,
        seed=seed,
        better=better,
        method=method,
    )
    if not process_group().is_main:
        return
    path = run / EVALUATION
    known = json.loads(path.read_text()) if path.exists() else {}
    how = f" {method}" if method != "is" else f" prior-share {prior_share:g}" if prior_share else ""
    name = split + how + (f" first {len(rows)}" if num_rows else "")
    write_json(path, known | {name: record})
    if netcdf is not None:
        _write_netcdf(opened, scored, rows if num_rows else rows.head(100), netcdf, seed)
    if as_json:
        print_json(record)
        return
    print_record(record, f"{run} · {name} rows · {record['seconds']:.0f} s")
    if netcdf is not None:
        click.echo(f"\n{netcdf}: draws, weights and rows; arviz.from_netcdf reads it")


def _check_owned(ctx: click.Context, method: str) -> None:
    """`InputError` for an option that another method reads."""
    from pyro_vae.errors import InputError

    for name, owner in OWNED.items():
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and owner != method:
            raise InputError(f"--{name.replace('_', '-')} belongs to --method {owner}; leave it out, or choose that")


def _better(
    program: Any, rows: Any, method: str, temperatures: int, chains: int, start: str, memory_mib: float, seed: int
) -> tuple[Any, float] | None:
    """log p(x) by another method than importance sampling, and the seconds it took."""
    from pyro_vae import annealed_evidence, exact_evidence, process_group

    began, group = time.perf_counter(), process_group()
    if method == "is":
        return None
    shared: dict[str, Any] = {"memory_mib": memory_mib, "seed": seed, "group": group}
    if method == "exact":
        return exact_evidence(program, rows, **shared), time.perf_counter() - began

    def say(done: int) -> None:
        each = (time.perf_counter() - began) / done
        of = f"{len(rows)} rows" + ("" if group.is_single else f" by {group.size} processes, this one")
        click.echo(f"annealed {done} of {of}, {each:.2f} s a row", err=True)

    heard = say if group.is_main else None
    found = annealed_evidence(program, rows, temperatures, num_chains=chains, start=start, on_rows=heard, **shared)
    return found, time.perf_counter() - began


def _write_netcdf(opened: Any, program: Any, rows: Any, path: Path, seed: int) -> None:
    from pyro_vae import to_inference_data

    to_inference_data(program, rows, columns=opened.columns(), path=path, seed=seed)


def score_split(
    program: Any,
    rows: Any,
    folder: Path,
    num_samples: int,
    *,
    sizes: Iterable[int],
    prior_share: float = 0.0,
    memory_mib: float = 64.0,
    seed: int = 0,
    better: tuple[Any, float] | None = None,
    method: str = "is",
) -> dict[str, Any]:
    """The record of one split under a run's program, log p(x) `better` where another method has found it; of several
    processes each scores some of the rows."""
    from pyro_vae import log_evidence, process_group
    from pyro_vae.context import seeded
    from pyro_vae.errors import InputError
    from pyro_vae.evidence.evidence_record import record
    from pyro_vae.programs.model_and_guide import active_units
    from pyro_vae.programs.parameters import named_parameters

    began = time.perf_counter()
    found = log_evidence(
        program,
        rows,
        num_samples=num_samples,
        iwae=sizes,
        prior_share=prior_share,
        memory_mib=memory_mib,
        seed=seed,
        group=process_group(),
    )
    try:
        with seeded(seed):
            active: int | None = active_units(program, rows[:5000], **rows.row_inputs(slice(5000)))[0]
    except InputError:  # no latent for each row
        active = None
    parameters = sum(parameter.numel() for parameter in named_parameters(program).values())
    log_px, seconds = better or (None, 0.0)
    return record(
        found,
        log_px,
        method=f"exact: {log_px.way}" if method == "exact" and log_px is not None else method,
        run=str(folder),
        split=rows.name,
        active_units=active,
        num_parameters=parameters,
        seconds=seconds + time.perf_counter() - began,
    )
