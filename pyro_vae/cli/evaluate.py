"""`pyro-vae evaluate`: the numbers of a run's program on its training, validation or test rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import (
    PROGRAM,
    RUN,
    Decorator,
    GroupedCommand,
    click_option,
    given_options,
    option,
    output_options,
)
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import setting_options
from pyro_vae.cli.streams import progress_style
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, GROUP, Estimator
from pyro_vae.options import Option, options_of


def evidence_option(of: Option) -> Decorator:
    """A decorator that adds an option, whose bounds --help shows."""
    if of.minimum is None and of.maximum is None:
        return click_option(of)
    kind: Callable[..., click.ParamType] = click.IntRange if of.type is int else click.FloatRange
    return click_option(of, type=kind(of.minimum, of.maximum, min_open=of.exclusive))


COMMON = options_of(Estimator)
MEMORY, DRAW_SEED = (evidence_option(COMMON[name]) for name in ("memory_mib", "seed"))


def _method_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that methods own, each with the methods' names before its help."""
    for owned in reversed(EVIDENCE_METHODS.owned_options().values()):
        names, of = ", ".join(name for name, _ in owned), owned[0][1]
        command = evidence_option(replace(of, help=f"{names}: {of.help}"))(command)
    return command


def _describe_methods() -> str:
    *others, last = (method.help for method in EVIDENCE_METHODS.values())
    return f"log p(x) {'; '.join(others)}; or {last}."


def evidence_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options from which `given_estimator` makes an estimator of log p(x)."""
    method, draws = replace(COMMON["method"], help=_describe_methods()), COMMON["num_samples"]
    for decorator in (DRAW_SEED, MEMORY, _method_options, evidence_option(draws), evidence_option(method)):
        command = decorator(command)
    return command


def given_estimator(ctx: click.Context, options: dict[str, Any]) -> Estimator:
    """The estimator that the command line asks for.

    Args:
        ctx: the command's context.
        options: the command's options; those of `evidence_options` are taken out.

    Returns:
        The estimator.
    """
    given = given_options(ctx)
    common = {name: options.pop(name) for name in COMMON}
    own = {name: given[name] for name in EVIDENCE_METHODS.owned_options() if name in given}
    for name in EVIDENCE_METHODS.owned_options():
        options.pop(name)
    if "prior_share" in own and "method" not in given:  # as before there was another default
        common["method"] = "is"
    return Estimator(**common, options=own)


@click.command(cls=GroupedCommand)
@RUN
@option(GROUP, "--split", type=click.Choice(["train", "valid", "test"]), default="test", help="Which rows to score.")
@option(GROUP, "--num-rows", type=click.IntRange(1), help="The first so many rows of the split; all by default.")
@evidence_options
@setting_options("device", group=GROUP)
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
    netcdf: Path | None,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Score a run: ELBO, its two terms, log p(x) with both errors, k-hat, active units.

    Choices are made on the validation rows; score the test rows once, at the end. The numbers are kept in
    RUN/evaluation.json.
    """
    estimator = given_estimator(ctx, options)
    from pyro_vae.cli.print_tables import print_record
    from pyro_vae.distributed import process_group
    from pyro_vae.evidence.evidence_record import EvidenceRecord
    from pyro_vae.workflows.evaluate_run import evaluate_run

    def show(name: str, record: EvidenceRecord) -> None:
        if as_json:
            print_json(record)
        elif record.num_with_number != 0:
            print_record(record, f"{run} · {name} rows · {record.seconds:.0f} s")

    _, record = evaluate_run(
        run,
        estimator=estimator,
        netcdf=netcdf,
        log=lambda line: echo(line, err=True),
        progress=progress_style(),
        on_found=show,
        **options,
    )
    if not process_group().is_main:
        return
    if record.num_with_number == 0:
        ctx.exit(1)
    if netcdf is not None and not as_json:
        echo(f"\n{netcdf}: draws, weights and rows; arviz.from_netcdf reads it")
