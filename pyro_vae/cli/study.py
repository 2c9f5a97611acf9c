"""`pyro-vae study`: what the study notes claim, measured; each study writes a table and figures into a folder."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli.echo import echo
from pyro_vae.cli.option_types import GroupedCommand, given_options, option, output_options
from pyro_vae.cli.print_json import print_json
from pyro_vae.cli.setting_options import setting_options
from pyro_vae.errors import InputError

DATA_SETTINGS = ("data", "data_root", "binarize", "standardize", "image_shape", "gray", "resize")
NETWORK_SETTINGS = ("hidden", "epochs", "batch_size", "learning_rate", "denoising")
AUTOENCODER_OPTIONS = (
    *DATA_SETTINGS, *NETWORK_SETTINGS, "latent_dim", "seeds", "seed", "split", "num_rows", "train_rows", "out",
)  # fmt: skip
TABLE = "table.json"
OUT = option(
    "Run",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder of the table and the figures; by default a new one under runs/.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def study() -> None:
    """Measure what the study notes claim: one table and its figures for each study."""


@study.command("autoencoder-vs-vae", cls=GroupedCommand)
@option(
    "Study",
    "--latent-dim",
    type=click.IntRange(1),
    multiple=True,
    default=(2, 5, 10, 20, 50),
    help="Numbers of latents; again for more.",
)
@option("Study", "--seeds", type=click.IntRange(1), default=3, help="Fits of each network, for standard errors.")
@option(
    "Study",
    "--denoising",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="The share of values hidden from the autoencoder while it is trained.",
)
@option(
    "Study",
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    help="The rows to measure; test rows once, when all choices are made.",
)
@option("Study", "--num-rows", type=click.IntRange(2), help="Measure the first rows of the split only.")
@setting_options(*DATA_SETTINGS)
@option("Data", "--train-rows", type=click.IntRange(10), multiple=True, metavar="N", help="Train on the first N rows.")
@setting_options("hidden", "epochs", "batch_size", "learning_rate", "seed", epochs={"default": 60})
@OUT
@output_options
@click.pass_context
def autoencoder_vs_vae(ctx: click.Context, as_json: bool, debug: bool, **_: object) -> None:
    """Autoencoder, VAE, PCA and kernel PCA on the same rows: what codes keep, and what their latent spaces are like.

    A quarter of an hour on 5,000 digits. A study that was interrupted is resumed in its folder.
    """
    given = given_options(ctx)
    run_autoencoder_study(as_json, **{name: value for name, value in given.items() if name in AUTOENCODER_OPTIONS})


def run_autoencoder_study(as_json: bool, **given: Any) -> None:
    """The study with what is given, and its tables."""
    from pyro_vae.cli.print_tables import print_by_size, print_rolls, print_written
    from pyro_vae.data.data_config import DataConfig
    from pyro_vae.studies.autoencoder_vs_vae import TABLE, run_encoder_study
    from pyro_vae.studies.autoencoder_vs_vae_encoders import Training

    began = time.perf_counter()
    data = DataConfig(**{"binarize": "none"} | {name: given[name] for name in DATA_SETTINGS if name in given})
    training = Training(**{name: given[name] for name in NETWORK_SETTINGS if name in given})
    others = {name: value for name, value in given.items() if name not in (*DATA_SETTINGS, *NETWORK_SETTINGS)}
    done = run_encoder_study(data, training=training, swiss_roll="data" not in given, log=_log(as_json), **others)
    if as_json:
        print_json({"rows": done.records})
    else:
        print_by_size(done.table, done.rows, done.pixel_accuracy)
        if done.rolls:
            print_rolls(done.rolls)
    if done.unwritten is not None:
        raise done.unwritten
    if as_json:
        return
    print_written(done.folder, TABLE, done.figures, time.perf_counter() - began)


@study.command("swiss-roll", cls=GroupedCommand)
@setting_options("seed")
@OUT
@output_options
def swiss_roll(seed: int, out: Path | None, as_json: bool, debug: bool) -> None:
    """A sheet rolled up in space, encoded in two dimensions by each kind of encoder: how flat it becomes."""
    from pyro_vae.studies.swiss_roll import run_swiss_roll

    began = time.perf_counter()
    with _locked_folder(out, "swiss-roll") as folder:
        table, figure = run_swiss_roll(folder, seed=seed, log=_log(as_json))
        _finish(folder, table, [figure], began, as_json)


@study.command("posterior-collapse", cls=GroupedCommand)
@option(
    "Study",
    "--setting",
    type=click.Choice(["bernoulli", "learned", "one"]),
    default="bernoulli",
    help="bernoulli: drawn bits; learned: grey levels under a normal of learned scale; one: under a normal of scale 1.",
)
@option("Study", "--seeds", default="0,1,2", metavar="SEED[,SEED]", help="Seeds, each of which starts every remedy.")
@setting_options("epochs", epochs={"default": 60})
@OUT
@output_options
def posterior_collapse(setting: str, seeds: str, epochs: int, out: Path | None, as_json: bool, debug: bool) -> None:
    """Posterior collapse on 8 × 8 digits and its remedies: KL warm-up, free bits, β < 1."""
    from pyro_vae.studies.posterior_collapse import run_posterior_collapse

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {seeds}: expected whole numbers, as in 0,1,2") from error
    began = time.perf_counter()
    with _locked_folder(out, "posterior-collapse") as folder:
        table, figure = run_posterior_collapse(folder, setting=setting, seeds=numbers, epochs=epochs, log=_log(as_json))
        _finish(folder, table, [figure], began, as_json)


@study.command("squared-error-trap", cls=GroupedCommand)
@click.argument("run", type=click.Path(path_type=Path))
@setting_options("data", "data_root", data={"default": "mnist", "help": "A data set of images, as in fit."})
@option("Study", "--split", type=click.Choice(["valid", "test"]), default="test", help="Which of its rows.")
@option("Study", "--num-rows", type=click.IntRange(2), default=1000, help="How many of them.")
@option("Study", "--num-samples", type=click.IntRange(0), default=100, help="Draws for each log p(x); 0: leave it out.")
@OUT
@output_options
def squared_error_trap(
    run: Path,
    data: str,
    data_root: str | None,
    split: str,
    num_rows: int,
    num_samples: int,
    out: Path | None,
    as_json: bool,
    debug: bool,
) -> None:
    """How often squared error, latent distance and log p(x) call a shifted image nearer than one with a piece cut off.

    RUN is a run that was fitted to such images.
    """
    from pyro_vae.studies.squared_error_trap import run_squared_error_trap
    from pyro_vae.studies.squared_error_trap_figures import draw_squared_error_trap

    began = time.perf_counter()
    table, found = run_squared_error_trap(
        run, data=data, data_root=data_root, split=split, num_rows=num_rows, num_samples=num_samples
    )
    with _locked_folder(out, "squared-error-trap") as folder:
        _finish(folder, table, [draw_squared_error_trap(folder, found)], began, as_json)


@study.command("em-bounds", cls=GroupedCommand)
@OUT
@output_options
def em_bounds(out: Path | None, as_json: bool, debug: bool) -> None:
    """EM and VI by coordinate ascent on a mixture with one parameter: EM's bound touches log p(x), VI's does not."""
    from pyro_vae.studies.em_bounds import run_em_bounds

    began = time.perf_counter()
    with _locked_folder(out, "em-bounds") as folder:
        table, figure = run_em_bounds(folder)
        _finish(folder, table, [figure], began, as_json)


def _log(as_json: bool) -> Callable[[str], None]:
    return (lambda line: None) if as_json else (lambda line: echo(line, err=True))


@contextmanager
def _locked_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The study's folder; `InputError` for one that holds other files than those of an earlier study."""
    from pyro_vae.run_folder import lock_new_folder, require_unused

    with lock_new_folder(out, name) as folder:
        if not (folder / TABLE).is_file():
            require_unused(folder)
        yield folder


def _finish(
    folder: Path, table: Sequence[Mapping[str, object]], figures: list[Path], began: float, as_json: bool
) -> None:
    """Print the table, and write it next to the figures."""
    from pyro_vae.atomic_write import write_json
    from pyro_vae.cli.print_tables import print_rows, print_written

    if as_json:
        print_json({"rows": table})
    else:
        print_rows(table)
    write_json(folder / TABLE, {"rows": [dict(row) for row in table]})
    if not as_json:
        print_written(folder, TABLE, figures, time.perf_counter() - began)
