"""`pyro-vae fit`: data to a run's folder, with its numbers and its figures."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import (
    PROGRAM,
    GroupedCommand,
    given_options,
    option,
    output_options,
    settings_with_config,
)
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import fit_parameters
from pyro_vae.cli.streams import progress_style
from pyro_vae.errors import InputError
from pyro_vae.registry import model_options
from pyro_vae.workflows.fit_settings import require_program

WITH_RESUME = ("resume", "program", "logger", "as_json", "debug")
RUN_GROUP = "Run"


@click.command(
    cls=GroupedCommand, settings=fit_parameters, short_help="Train a VAE on images or a table, score it and draw it."
)
@PROGRAM
@option(
    RUN_GROUP,
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run's folder; by default a new one under runs/.",
)
@option(
    RUN_GROUP,
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Read options from a file; RUN/config.toml repeats a run.",
)
@option(
    RUN_GROUP,
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Resume an interrupted run, with its own settings.",
)
@option(
    RUN_GROUP,
    "--logger",
    type=click.Choice(["tensorboard"]),
    help="Write curves, images and latents to RUN/tensorboard too; needs the extra tensorboard.",
)
@output_options
@click.pass_context
def fit(
    ctx: click.Context,
    program: str | None,
    out: Path | None,
    config: Path | None,
    resume: Path | None,
    logger: str | None,
    as_json: bool,
    debug: bool,
    **_: Any,
) -> None:
    """Train a VAE, score its validation rows, and write a run's folder with weights, numbers and figures.

    With no option it trains on 5,000 real digits and needs no network.
    """
    settings = _settings(ctx, program, config, resume)

    from pyro_vae.workflows.fit_run import fit_run

    done = fit_run(
        out,
        program=program,
        resume=resume,
        logger=logger,
        progress=progress_style(),
        log=(lambda line: None) if as_json else (lambda line: echo(line, err=True)),
        debug=debug,
        **settings,
    )
    if as_json and done.record.split:
        print_json(done.record)
    elif done.record.split:
        _print(done)
    if done.unwritten is not None:
        raise done.unwritten


def _settings(ctx: click.Context, program: str | None, config: Path | None, resume: Path | None) -> dict[str, Any]:
    """The settings that are given; `InputError` for options that contradict each other."""
    from pyro_vae.atomic_write import read_toml

    given = given_options(ctx)
    if resume is not None and (other := [name for name in given if name not in WITH_RESUME]):
        raise InputError(
            f"--resume takes the run's own settings: leave out --{other[0].replace('_', '-')}, or start a new run with "
            "--config"
        )
    parts = [name for name in model_options() if name in given]
    if program is not None and parts:
        raise InputError(
            f"--program is the whole model: leave out --{parts[0].replace('_', '-')}, or leave out --program"
        )
    if resume is not None:
        return {}
    kept = None if config is None else read_toml(config)
    require_program(kept or {}, str(config), program)
    return settings_with_config(ctx, kept, str(config))


def _print(done: Any) -> None:
    """The record as a table, and where everything lies."""
    from pyro_vae.cli.print_tables import print_kl_by_latent, print_record
    from pyro_vae.loggers.open_logger import TENSORBOARD
    from pyro_vae.plots.latent_manifold import reason_for_no_manifold

    folder, fitted, record = done.folder, done.fitted, done.record
    if done.unscored:
        best = fitted.history[fitted.best_epoch - 1]
        name = "ELBO" if best.valid_elbo is not None else "log joint"
        echo(
            f"validation {name} {best.selection_value:.2f} nats per row; no more numbers, since {done.unscored}",
            err=True,
        )
        echo(f"Written to {folder}/")
        return
    ended = f"{len(fitted.history)} epochs in {fitted.seconds:.0f} s, stopped by {fitted.stopped}"
    print_record(record, f"Validation rows · {ended}, kept epoch {fitted.best_epoch}")
    print_kl_by_latent(fitted.history[fitted.best_epoch - 1].get("valid_kl_apart"))
    if (base := done.baseline) is not None:
        echo(
            f"  {base.name:<17}{base.log_px:>10.2f}  this fit gains {base.gain:+.2f} ± {base.gain_se:.2f} on it, paired"
        )
    if fitted.advice:
        echo(f"\nNote: {fitted.advice}", err=True)
    echo(f"\nWritten to {folder}/")
    echo("  config.toml  model.safetensors  metrics.jsonl  evaluation.json  checkpoint/")
    echo(f"  figures/     {'  '.join(path.name for path in done.figures)}")
    if missing := reason_for_no_manifold(done.program, done.data):
        echo(f"  {missing}")
    if (folder / TENSORBOARD).exists():
        echo(f"  {TENSORBOARD}/  tensorboard --logdir {folder / TENSORBOARD}")
    echo(f"\nNext: pyro-vae check {folder} says whether the model is right;")
    echo(f"      pyro-vae report {folder} makes a page to explore it in a browser;")
    echo(f"      pyro-vae evaluate {folder} scores the test rows, once all choices are made.")
