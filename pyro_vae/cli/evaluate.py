"""`pyro-vae evaluate`: what a run's program says of its validation or test rows."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, RUN, GroupedCommand, option, output_options


@click.command(cls=GroupedCommand)
@RUN
@option(
    "Evidence", "--split", type=click.Choice(["train", "valid", "test"]), default="test", help="Which rows to score."
)
@option("Evidence", "--num-samples", type=click.IntRange(1), default=1000, help="Draws S from the guide for each row.")
@option(
    "Evidence",
    "--memory-mib",
    type=float,
    default=128.0,
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
@PROGRAM
@output_options
def evaluate(
    run: Path,
    program: str | None,
    split: str,
    num_samples: int,
    memory_mib: float,
    seed: int,
    device: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Score a run: ELBO, its two terms, importance-sampled log p(x) with both errors, k-hat, active units.

    Choices are made on the validation rows; score the test rows once, at the end. The numbers are kept in
    RUN/evaluation.json.
    """
    import json

    from pyro_vae import pick_device, runs
    from pyro_vae.cli.run import Run
    from pyro_vae.cli.tables import print_record

    opened = Run(run, program)
    rows = opened.data().split(split)
    scored = opened.program()
    if hasattr(scored, "to"):
        scored.to(pick_device(device))
    sizes = [k for k in (1, 5, 50, 500) if k < num_samples]
    record = score_split(scored, rows, run, num_samples, sizes=sizes, memory_mib=memory_mib, seed=seed)
    path = run / runs.EVALUATION
    known = json.loads(path.read_text()) if path.exists() else {}
    runs.write_json(path, known | {split: record})
    if as_json:
        print_json(record)
    else:
        print_record(record, f"{run} · {split} rows · {record['seconds']:.0f} s")


def score_split(
    program: Any,
    rows: Any,
    folder: Path,
    num_samples: int,
    *,
    sizes: Iterable[int],
    memory_mib: float = 128.0,
    seed: int = 0,
) -> dict[str, Any]:
    """The record of one split under a run's program."""
    from pyro_vae import log_evidence
    from pyro_vae.errors import InputError
    from pyro_vae.evidence.record import record
    from pyro_vae.models.program import active_units, named_parameters
    from pyro_vae.models.rows import seeded

    began = time.perf_counter()
    found = log_evidence(program, rows, num_samples=num_samples, iwae=sizes, memory_mib=memory_mib, seed=seed)
    try:
        with seeded(seed):
            active: int | None = active_units(program, rows[:5000], **rows.extras(slice(5000)))[0]
    except InputError:  # no latent for each row
        active = None
    parameters = sum(parameter.numel() for parameter in named_parameters(program).values())
    seconds = time.perf_counter() - began
    return record(
        found, run=str(folder), split=rows.name, active_units=active, num_parameters=parameters, seconds=seconds
    )
