"""`pyro-vae score`: log p(x) of each row of a file, held against the run's validation rows."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, ROWS, RUN, SPLIT, GroupedCommand, option, output_options


@click.command(cls=GroupedCommand)
@RUN
@ROWS
@SPLIT
@option(
    "Rows",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write, a .csv; by default scores.csv in the run's folder.",
)
@option(
    "Evidence",
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    help="The share of usual rows that may be flagged.",
)
@option("Evidence", "--num-samples", type=click.IntRange(1), default=1000, help="Draws S for each row.")
@option(
    "Evidence",
    "--prior-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    help="Share of draws from the prior, for rows unlike all that the encoder knows.",
)
@option("Evidence", "--memory-mib", type=float, default=64.0, help="Memory for the draws in progress.")
@option("Evidence", "--seed", type=int, default=0, help="Seed of the draws.")
@PROGRAM
@output_options
def score(
    run: Path,
    program: str | None,
    data: str | None,
    split: str,
    out: Path | None,
    false_alarms: float,
    num_samples: int,
    prior_share: float,
    memory_mib: float,
    seed: int,
    as_json: bool,
    debug: bool,
) -> None:
    """Score rows: log p(x) of each, its percentile among the run's validation rows, and which rows stand out.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own. A row is flagged where
    fewer validation rows are as improbable as --false-alarms allows. High log p(x) does not make a row typical.
    """
    import torch

    from pyro_vae import log_evidence, process_group
    from pyro_vae.context import seeded
    from pyro_vae.diagnostics.anomaly_scores import require_enough, score
    from pyro_vae.errors import InputError
    from pyro_vae.workflows.open_run import ROWS_AT_ONCE, Run
    from pyro_vae.workflows.write_rows import writing

    path = out or run / "scores.csv"
    if path.suffix != ".csv":
        raise InputError(f"{path}: scores are written as .csv, not {path.suffix or 'a file without an ending'}")
    began = time.perf_counter()
    opened = Run(run, program)
    group = process_group()
    rows, held_out, made = opened.rows(data, split), opened.data().valid, opened.program()
    require_enough(len(held_out), false_alarms)
    settings: dict[str, Any] = {"prior_share": prior_share, "memory_mib": memory_mib, "group": group}
    reference = log_evidence(made, held_out, num_samples, seed=seed, **settings)
    tally, in_training = Tally(), torch.arange(len(rows)) if rows.name == "train" else None
    how: dict[str, Any] = {"false_alarms": false_alarms, "memory_mib": memory_mib, "group": group}
    with (
        writing(path, len(rows), []) if group.is_main else nullcontext() as writer,
        seeded(seed),
    ):  # one stream of draws
        for number, part in enumerate(rows.parts(ROWS_AT_ONCE)):
            own = None if in_training is None else in_training[number * ROWS_AT_ONCE :][: len(part)]
            found = score(made, part, reference, seed=None if group.is_single else seed + number, rows=own, **how)
            index = part.places(slice(None))
            if writer is not None:
                writer.write_columns(_columns(found), index, part.labels)
            tally.add(found, index)
    if not group.is_main:
        return
    summary = {
        "run": str(run),
        "path": str(path),
        "num_data": len(rows),
        "num_anomalies": tally.flagged,
        "false_alarms": false_alarms,
        "threshold": found.threshold,
        "num_reference": len(reference),
        "log_px": tally.log_px / len(rows),
        "log_px_kind": reference.kind,
        "khat_bad": None if found.found.khat_bad is None else tally.khat_bad / len(rows),
        "measure": found.found.measure,
        "num_samples": num_samples,
        "seconds": time.perf_counter() - began,
    }
    if as_json:
        print_json(summary)
    else:
        _print(summary, tally)


class Tally:
    """What is said of all rows, from one part of them after another."""

    def __init__(self) -> None:
        self.flagged, self.log_px, self.khat_bad = 0, 0.0, 0.0
        self.lowest: list[tuple[float, int]] = []

    def add(self, scores: Any, index: Any) -> None:
        log_px = scores.found.log_px
        self.flagged += int(scores.anomaly.sum())
        self.log_px += float(log_px.sum())
        self.khat_bad += (scores.found.khat_bad or 0.0) * len(log_px)
        few = log_px.argsort()[:5]
        self.lowest = sorted([*self.lowest, *zip(log_px[few].tolist(), index[few].tolist(), strict=True)])[:5]


def _columns(scores: Any) -> dict[str, Any]:
    return {
        "log_px": scores.found.log_px.numpy(),
        "khat": scores.found.khat.numpy(),
        "percentile": scores.percentile.numpy(),
        "anomaly": scores.anomaly.numpy().astype(int),
    }


def _print(summary: dict[str, Any], tally: Tally) -> None:
    count, flagged = summary["num_data"], summary["num_anomalies"]
    click.echo(
        f"{summary['path']}: {count} rows, mean log p(x) {summary['log_px']:.2f} nats ({summary['log_px_kind']}); "
        f"{summary['measure']}"
    )
    click.echo(
        f"{flagged} flagged ({flagged / count:.1%}) at a false-alarm rate of {summary['false_alarms']:g}: log p(x) "
        f"below {summary['threshold']:.2f}, by {summary['num_reference']} validation rows"
    )
    click.echo(f"least probable rows: {', '.join(f'{place} ({log_px:.1f})' for log_px, place in tally.lowest)}")
    if (bad := summary["khat_bad"]) is not None and bad >= 0.1:
        click.echo(
            f"k-hat is bad for {bad:.0%} of rows: their log p(x) is likely too low, as that of validation rows; more "
            "draws or a richer guide would tighten both"
        )
