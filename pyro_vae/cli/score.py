"""`pyro-vae score`: log p(x) of each row of a file, held against the run's validation rows."""

import time
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, RUN, GroupedCommand, option, output_options
from pyro_vae.cli.rows import ROWS, SPLIT


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
    from pyro_vae import score as scored
    from pyro_vae import world
    from pyro_vae.cli.run import Run
    from pyro_vae.errors import InputError
    from pyro_vae.runs import write_whole

    path = out or run / "scores.csv"
    if path.suffix != ".csv":
        raise InputError(f"{path}: scores are written as .csv, not {path.suffix or 'a file without an ending'}")
    began = time.perf_counter()
    opened = Run(run, program)
    rows, index = opened.rows(data, split)
    found = scored(
        opened.program(),
        rows,
        opened.data().valid,
        false_alarms=false_alarms,
        num_samples=num_samples,
        prior_share=prior_share,
        memory_mib=memory_mib,
        seed=seed,
        ranks=(ranks := world()),
    )
    if not ranks.main:
        return
    write_whole(path, _table(found, index, rows.labels).encode())
    summary = {
        "run": str(run),
        "path": str(path),
        "num_data": len(rows),
        "num_anomalies": int(found.anomaly.sum()),
        "false_alarms": false_alarms,
        "threshold": found.threshold,
        "num_reference": len(found.reference),
        "log_px": float(found.found.log_px.mean()),
        "log_px_kind": found.found.kind,
        "khat_bad": found.found.khat_bad,
        "measure": found.found.measure,
        "num_samples": num_samples,
        "seconds": time.perf_counter() - began,
    }
    if as_json:
        print_json(summary)
    else:
        _print(summary, found, index)


def _table(found: Any, index: list[int], labels: Any) -> str:
    import pandas

    columns = {
        "index": index,
        "log_px": found.found.log_px.numpy(),
        "khat": found.found.khat.numpy(),
        "percentile": found.percentile.numpy(),
        "anomaly": found.anomaly.numpy().astype(int),
    }
    if labels is not None:
        columns["label"] = labels.numpy()
    return str(pandas.DataFrame(columns).to_csv(index=False))


def _print(summary: dict[str, Any], found: Any, index: list[int]) -> None:
    count, flagged = summary["num_data"], summary["num_anomalies"]
    click.echo(
        f"{summary['path']}: {count} rows, mean log p(x) {summary['log_px']:.2f} nats ({summary['log_px_kind']}); "
        f"{summary['measure']}"
    )
    click.echo(
        f"{flagged} flagged ({flagged / count:.1%}) at a false-alarm rate of {summary['false_alarms']:g}: log p(x) "
        f"below {summary['threshold']:.2f}, by {summary['num_reference']} validation rows"
    )
    lowest = found.found.log_px.argsort()[:5].tolist()
    shown = ", ".join(f"{index[i]} ({found.found.log_px[i]:.1f})" for i in lowest)
    click.echo(f"least probable rows: {shown}")
    if (bad := summary["khat_bad"]) is not None and bad >= 0.1:
        click.echo(
            f"k-hat is bad for {bad:.0%} of rows: their log p(x) is likely too low, as that of validation rows; more "
            "draws or a richer guide would tighten both"
        )
