"""`pyro-vae score`: log p(x) of each row of a file, compared with the run's validation rows."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.evaluate import COMMON, evidence_options, given_estimator
from pyro_vae.cli.option_types import (
    PROGRAM,
    ROWS,
    RUN,
    SPLIT,
    Duration,
    GroupedCommand,
    given_options,
    option,
    output_options,
)
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.streams import progress_style
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS
from pyro_vae.json_records import Record

NUM_EXPLAINED = 5  # rows that are printed


@click.command(cls=GroupedCommand)
@RUN
@ROWS
@SPLIT
@option(
    "Rows",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .csv or .parquet, by default scores.csv in the run's folder; or a .h5ad, a copy of DATA.",
)
@option(
    "Evidence",
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=None,
    help="The share of usual rows that may be flagged; by default 0.05, or the smallest that can be told.",
)
@option(
    "Evidence",
    "--explain",
    is_flag=True,
    help="For each flagged row the columns that make it improbable given its others, in nats; tables only.",
)
@evidence_options
@option(
    "Evidence",
    "--time",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="Choose the draws S so that all rows take about so long, as in 90s, 10m or 2h; in place of --num-samples.",
)
@option("Rows", "--resume", is_flag=True, help="Go on with an interrupted score of the same rows into the same file.")
@PROGRAM
@output_options
@click.pass_context
def score(ctx: click.Context, run: Path, data: str | None, as_json: bool, debug: bool, **options: Any) -> None:
    """Score rows: log p(x) of each, its percentile among the run's validation rows, and which rows are anomalous.

    DATA is a file, whose rows keep their order, or a named data set; without it, the run's own. A row is flagged where
    fewer validation rows are as improbable as --false-alarms allows. High log p(x) does not make a row typical.
    """
    if options["seconds"] is not None and "num_samples" in given_options(ctx):
        raise InputError("--time chooses the number of draws: leave out --num-samples, or --time")
    is_asked_for = bool(given_options(ctx).keys() & {*COMMON, *EVIDENCE_METHODS.owned_options()})
    estimator = given_estimator(ctx, options)
    from pyro_vae.distributed import process_group
    from pyro_vae.workflows.score_rows import score_rows

    summary, totals = score_rows(
        run,
        data,
        estimator=estimator if is_asked_for else None,
        progress=progress_style(),
        log=lambda line: echo(line, err=True),
        **options,
    )
    if not process_group().is_main:
        return
    if summary.reason:
        echo(_without_number(summary), err=True)
    if as_json:
        print_json(summary)
    else:
        _print(summary, totals.lowest, "" if data is not None else f" {options['split']}")
    if summary.num_with_number == 0:
        click.get_current_context().exit(1)


def _without_number(summary: Record) -> str:
    """How many rows have no number or density zero, and the first reason."""
    count, known, zero = summary["num_data"], summary["num_with_number"], summary["num_zero"]
    parts = [] if known is None else [f"{count - known} of {count} rows have no log p(x), and an empty cell"]
    parts += [f"{zero} of {count} rows have density zero, log p(x) = −∞"] if zero else []
    return f"{', '.join(parts)}; {summary['reason']}"


def _number(summary: Record) -> str:
    if summary["num_with_number"] == 0:
        return "–"
    return "−∞" if summary["log_px"] is None else f"{summary['log_px']:.2f}"


def _print(summary: Record, lowest: list[tuple[float, str]], split: str) -> None:
    from pyro_vae.cli.print_tables import weighted_words
    from pyro_vae.data.split import density_name

    count, flagged = summary["num_data"], summary["num_anomalies"]
    echo(
        f"{summary['path']}: {count}{split} rows{weighted_words(summary['effective_rows'])}, mean "
        f"{density_name(summary['measure'])} {_number(summary)} nats ({summary['log_px_kind']}); "
        f"{summary['measure']}"
    )
    echo(
        f"{flagged} flagged ({flagged / count:.1%}) at a false-alarm rate of {summary['false_alarms']:.3g}: log p(x) "
        f"below {summary['threshold']:.2f}, by {summary['num_reference']} validation rows"
    )
    echo(f"least probable rows: {', '.join(f'{index} ({log_px:.1f})' for log_px, index in lowest)}")
    if summary["explanations"] is not None:
        _print_explanations(summary["explanations"], flagged)
    if (bad := summary["khat_bad"]) is not None and bad >= 0.1:
        echo(
            f"k-hat is bad for {bad:.0%} of the rows: their log p(x) is likely too low, as that of validation rows; "
            f"{'--method auto' if summary['method'] == 'is' else '--method ais, more draws'} or a richer guide would "
            "tighten both"
        )


def _print_explanations(explained: list[Record], num_flagged: int) -> None:
    if not explained:
        return
    few = "" if len(explained) == num_flagged else f" (the {len(explained)} least probable of {num_flagged})"
    echo(f"flagged rows{few}, log p of a value given the row's others, less what is expected there, in nats:")
    for row in explained[:NUM_EXPLAINED]:
        echo(f"  row {row['row']}: {row}")
    if len(explained) > NUM_EXPLAINED:
        echo(f"  and {len(explained) - NUM_EXPLAINED} more, in the file")
