"""`pyro-vae compare`: models and fit methods, or saved runs, on the same rows in one table."""

import time
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.option_types import GroupedCommand, given_options, option, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import setting_options
from pyro_vae.errors import InputError
from pyro_vae.workflows.comparison_settings import COMPARISON_DEFAULTS, PRESETS

COMPARISON, VAE, RUN_GROUP = "Comparison", "VAE", "Run"
ENCODER_STUDY = "ae-vs-vae"  # a study by its spelling of before


@click.command(cls=GroupedCommand, short_help="Compare models, fit methods, or saved runs.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@option(
    COMPARISON,
    "--preset",
    type=click.Choice([*PRESETS, ENCODER_STUDY]),
    metavar="|".join(PRESETS),
    help="toy (a minute or two; the default), mnist-5k (minutes), paper (figure 3 of Kingma & Welling; hours).",
)
@option(
    COMPARISON,
    "--model",
    "models",
    multiple=True,
    metavar="NAME[:SIZE]",
    help="gaussian-mixture[-tied|-diagonal|-spherical], bernoulli-mixture, bayesian-mixture, ppca, factor-analysis or "
    "vae, with its components or latents; again for more.",
)
@option(
    COMPARISON,
    "--fit-method",
    "fit_methods",
    multiple=True,
    metavar="NAME",
    help="em, online-em, hard-em, closed-form, svi, table, amortized, cavi, per-row, semi-amortized, mcem, wake-sleep, "
    "rws; again for more. Each model is fitted by every method that it supports; by default em or svi.",
)
@option(COMPARISON, "--way", "fit_methods_by_old_name", multiple=True, hidden=True)
@option(
    COMPARISON,
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    help="The rows to score; test rows once, when all choices are made.",
)
@option(
    COMPARISON,
    "--method",
    type=click.Choice(["auto", "exact", "laplace", "is"]),
    default="auto",
    help="How log p(x) is found where a model has no closed form: exactly (one or two latents), by importance sampling "
    "around each row's mode or from the guide; auto: exactly where rows are narrow, else around the modes.",
)
@option(COMPARISON, "--num-samples", type=click.IntRange(1), default=1000, help="Draws for each row.")
@option(COMPARISON, "--num-rows", type=click.IntRange(2), help="Score the first rows of the split only.")
@option(
    COMPARISON, "--level", type=float, metavar="NATS", help="Report the seconds until the validation bound is reached."
)
@option(COMPARISON, "--curve", is_flag=True, help="Score during each fit too, against the training rows processed.")
@setting_options("data", data={"default": None, "help": "As in fit; with runs their own (pinwheel)."})
@setting_options("data_root", "binarize", "dequantize", "standardize", "image_shape")
@option(
    "Data",
    "--train-rows",
    type=click.IntRange(10),
    multiple=True,
    metavar="N",
    help="Train on the first N rows; again for more.",
)
@setting_options("likelihood", "scale", "network", "hidden", group=VAE)
@setting_options("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "seed")
@option("Training", "--iterations", type=click.IntRange(1), default=500, help="EM's iterations, at most.")
@option("Training", "--starts", type=click.IntRange(1), default=1, help="EM's random starts, the best of them kept.")
@option("Training", "--width", type=click.IntRange(1), default=64, help="Hidden units of a network q(c|x).")
@option("Study", "--latent-dim", type=click.IntRange(1), multiple=True, hidden=True)
@option("Study", "--seeds", type=click.IntRange(1), hidden=True)
@option("Study", "--denoising", type=click.FloatRange(0, 1, max_open=True), hidden=True)
@option(
    RUN_GROUP,
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of the table, the figures and the fitted models; by default a new one under runs/. A comparison "
    "that was interrupted is resumed there.",
)
@output_options
@click.pass_context
def compare(ctx: click.Context, runs: tuple[Path, ...], as_json: bool, debug: bool, **_: Any) -> None:
    """Compare models, fit methods or saved runs on the same held-out rows.

    With no argument: a mixture, PPCA and a VAE on a data set in the plane, each fitted by every method it supports.
    With RUNs, those; with --model and --fit-method, a grid of them. One measure, or an error.
    """
    given = given_options(ctx)
    settings = {name: value for name, value in given.items() if name in COMPARISON_DEFAULTS}
    methods = (*given.get("fit_methods", ()), *given.get("fit_methods_by_old_name", ()))
    settings |= {"fit_methods": methods} if methods else {}
    if given.get("preset") == ENCODER_STUDY:
        _run_encoder_study(given, as_json)
        return
    if other := [name for name in ("latent_dim", "seeds", "denoising") if name in given]:
        raise InputError(f"--{other[0].replace('_', '-')} belongs to pyro-vae study autoencoder-vs-vae")

    from pyro_vae.cli.print_tables import print_comparison, print_written
    from pyro_vae.workflows.compare_models import TABLE, compare_models

    began = time.perf_counter()
    done = compare_models(
        runs,
        preset=given.get("preset"),
        out=given.get("out"),
        extra_figures=_coordinate_ascent if _is_toy(given, settings, runs) else None,
        log=(lambda line: None) if as_json else (lambda line: click.echo(line, err=True)),
        **settings,
    )
    if as_json:
        print_json({"rows": done.table})
        return
    print_comparison(done.table, done.rows)
    print_written(done.folder, TABLE, done.figures, time.perf_counter() - began)


def _is_toy(given: dict[str, Any], settings: dict[str, Any], runs: tuple[Path, ...]) -> bool:
    """Whether this is the toy preset on its own data, which comes with a picture of EM's bounds."""
    default = not given.get("preset") and not settings.get("models") and not runs
    return (default or given.get("preset") == "toy") and settings.get("data", "pinwheel") == "pinwheel"


def _coordinate_ascent(folder: Path) -> list[Path]:
    from pyro_vae.studies.em_bounds import draw_em_bounds

    return [draw_em_bounds(folder)]


def _run_encoder_study(given: dict[str, Any], as_json: bool) -> None:
    """The study of autoencoder and VAE by its spelling of before, `compare --preset ae-vs-vae`."""
    from pyro_vae.cli.study import AUTOENCODER_OPTIONS, run_autoencoder_study

    names = {name: value for name, value in given.items() if name not in ("preset", "as_json", "debug")}
    if strange := [name for name in names if name not in AUTOENCODER_OPTIONS]:
        option = "--" + strange[0].replace("_", "-")
        raise InputError(f"{option} means nothing to --preset ae-vs-vae, which compares reconstructions and codes")
    run_autoencoder_study(as_json, **names)
