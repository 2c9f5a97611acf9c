"""`pyro-vae fit`: data to a run's folder, with its numbers and its pictures."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from pyro_vae import __version__
from pyro_vae.cli import print_json
from pyro_vae.cli.options import SHAPE, WIDTHS, GroupedCommand, option, output_options, plain, settle

DATA, MODEL, OBJECTIVE, TRAINING, RUN_GROUP = "Data", "Model", "Objective", "Training", "Run"
VALID_DRAWS = 200


@click.command(cls=GroupedCommand, short_help="Train a VAE on pictures or a table, score it and draw it.")
@option(
    DATA,
    "--data",
    default="mnist-5k",
    metavar="NAME|PATH",
    help="A named data set (pyro-vae datasets), or a .npy, .npz, .csv, .parquet file or a folder of pictures.",
)
@option(
    DATA,
    "--data-root",
    type=click.Path(),
    metavar="DIR",
    help="The folder that holds torchvision's data sets; else the cache, downloading.",
)
@option(
    DATA,
    "--binarize",
    type=click.Choice(["stochastic", "fixed", "threshold", "none"]),
    help="How pixels become 0 or 1; pictures: stochastic, fresh each epoch.",
)
@option(DATA, "--dequantize", is_flag=True, help="Add uniform noise to integers, so that a density exists.")
@option(
    DATA, "--standardize/--no-standardize", default=None, help="Centre and scale columns; tables of real numbers: yes."
)
@option(
    DATA,
    "--image-shape",
    type=SHAPE,
    metavar="HxW",
    help="Say that rows are pictures of this height and width, as in 28x20.",
)
@option(MODEL, "--latent-dim", type=int, default=2, help="Dimensions K of the latent z.")
@option(MODEL, "--network", type=click.Choice(["mlp", "linear"]), default="mlp", help="Encoder and decoder networks.")
@option(
    MODEL,
    "--hidden",
    type=WIDTHS,
    default="500",
    metavar="WIDTH[,WIDTH]",
    help="Hidden layers of the encoder; the decoder mirrors them.",
)
@option(
    MODEL,
    "--activation",
    type=click.Choice(["tanh", "relu", "softplus", "elu", "gelu", "silu"]),
    default="tanh",
    help="Nonlinearity of the hidden layers.",
)
@option(
    MODEL,
    "--likelihood",
    type=click.Choice(["auto", "bernoulli", "normal"]),
    default="auto",
    help="p(x|z); auto looks at the data and says why.",
)
@option(
    MODEL,
    "--scale",
    type=float,
    help="Standard deviation of a normal likelihood, in the units the model sees; standardized columns: 0.3, else 0.1.",
)
@option(OBJECTIVE, "--num-particles", type=int, default=1, help="Draws of z for each row and step.")
@option(
    OBJECTIVE,
    "--beta",
    type=float,
    default=1.0,
    help="Weight of the KL term in the objective; reports are always at 1.",
)
@option(
    OBJECTIVE,
    "--kl-warmup",
    type=float,
    default=0.0,
    metavar="EPOCHS",
    help="Epochs over which that weight rises from 0.",
)
@option(TRAINING, "--epochs", type=int, default=100, help="Passes over the training rows, at most.")
@option(TRAINING, "--batch-size", type=int, default=100, help="Rows for each step.")
@option(
    TRAINING, "--optimizer", type=click.Choice(["adam", "adamw", "adagrad", "rmsprop", "sgd"]), default="adam", help=""
)
@option(TRAINING, "--learning-rate", type=float, default=5e-3, help="")
@option(
    TRAINING,
    "--schedule",
    type=click.Choice(["constant", "cosine", "one-cycle"]),
    default="one-cycle",
    help="How the learning rate moves over the whole fit.",
)
@option(TRAINING, "--clip", type=float, metavar="NORM", help="Largest joint norm of the gradients.")
@option(
    TRAINING,
    "--patience",
    type=int,
    default=20,
    metavar="EPOCHS",
    help="Stop after so many epochs without a better validation ELBO; 0: never.",
)
@option(TRAINING, "--seed", type=int, default=0, help="Same seed, same machine, same bits.")
@option(TRAINING, "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="")
@option(TRAINING, "--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="")
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
    help="Go on with an interrupted run, with its own settings.",
)
@output_options
@click.pass_context
def fit(
    ctx: click.Context, out: Path | None, config: Path | None, resume: Path | None, as_json: bool, debug: bool, **_: Any
) -> None:
    """Train a VAE, score its validation rows, and write a run's folder with weights, numbers and pictures.

    With no option it trains on 5,000 real digits and needs no network.
    """
    from pyro_vae import runs
    from pyro_vae.errors import InputError

    if resume is not None:
        if ctx_given := [name for name in _given(ctx) if name not in ("resume", "as_json", "debug")]:
            raise InputError(
                f"--resume takes the run's own settings: leave out --{ctx_given[0].replace('_', '-')}, or start a new "
                "run with --config"
            )
        config, out = resume / runs.CONFIG, resume
        runs.read_config(resume)
    elif out is not None and (out / runs.CONFIG).exists():
        raise InputError(f"{out} holds a run already: go on with it (--resume {out}), or name another folder")
    settings = settle(ctx, None if config is None else runs.read_toml(config), str(config))
    record = run_fit(settings, out, resuming=resume is not None, quiet=as_json)
    if as_json:
        print_json(record)


def _given(ctx: click.Context) -> list[str]:
    return [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]


def run_fit(settings: dict[str, dict[str, Any]], out: Path | None, *, resuming: bool, quiet: bool) -> dict[str, Any]:
    """Everything that one fit does, from reading the data to the last figure; the record of the validation rows."""
    from pyro_vae import pick_device, runs
    from pyro_vae.cli.build import data_of, vae_of
    from pyro_vae.errors import InputError
    from pyro_vae.inference.settings import Settings

    training = settings["training"] | settings["objective"]
    training |= {"patience": training["patience"] or None}
    Settings(**{name: value for name, value in training.items() if name not in ("device", "dtype")}).check()
    pick_device(training["device"])
    settings["data"] |= _absolute(settings["data"])
    data = data_of(settings["data"])
    program = vae_of(settings["model"], data, training["seed"])
    made = [path for path in ((out, *out.parents) if out else (Path("runs"),)) if not path.exists()]
    folder = out or runs.new_run(Path("runs"), Path(data.name).stem)
    made = made if out else [folder, *made]
    if resuming:
        _same_data(folder, data.fingerprint)
    else:
        runs.write_config(folder, _config(settings, data) | runs.recipe_of(program))
    if not quiet:
        _introduce(folder, settings, data)
    try:
        fitted = _climb(folder, program, data, training, quiet)
    except InputError:
        if not resuming:
            _clear_away(folder, made)
        raise
    return _report(folder, program, data, fitted, quiet)


def _config(settings: dict[str, dict[str, Any]], data: Any) -> dict[str, Any]:
    """What a run's `config.toml` says beside its program: version, data fingerprint, every setting, the measure."""
    about = {"pyro_vae": __version__, "data": data.name, "fingerprint": data.fingerprint}
    about |= {"num_features": data.num_features}
    about |= {"image_shape": list(data.image_shape)} if data.image_shape else {}
    return {"about": about} | plain(settings) | {"measure": data.train.measure.plain()}


def _introduce(folder: Path, settings: dict[str, dict[str, Any]], data: Any) -> None:
    from pyro_vae.cli.build import choose_likelihood, scale_of

    likelihood, why = choose_likelihood(settings["model"]["likelihood"], data)
    likelihood += f" with scale {scale_of(settings['model'], data):g}" if likelihood == "normal" else ""
    rows = f"{len(data.train)} training, {len(data.valid)} validation and {len(data.test)} test rows"
    labels = f", labels from {data.label_name!r}" if data.label_name else ""
    say(f"{data.name}: {rows} of {data.num_features} columns{labels}")
    say(f"likelihood {likelihood}: {why}; {data.measure}")
    say(f"run {folder}; Ctrl-C saves, pyro-vae fit --resume {folder} goes on")


def _climb(folder: Path, program: Any, data: Any, training: dict[str, Any], quiet: bool) -> Any:
    """The fit itself, its metrics written as they come; on trouble the folder holds what is good, or is gone."""
    from pyro_vae import fit as climb
    from pyro_vae import runs
    from pyro_vae.cli.build import DTYPES
    from pyro_vae.errors import DivergedError

    style: Any = "none" if quiet else "bar" if sys.stderr.isatty() else "lines"
    done = _forget_later_epochs(folder)

    def keep(history: list[dict[str, Any]]) -> None:
        done[:] = history
        with (folder / runs.METRICS).open("a") as file:
            file.write(json.dumps(history[-1], allow_nan=False) + "\n")

    options = training | {"dtype": DTYPES[training["dtype"]], "checkpoint": folder, "on_epoch": keep, "progress": style}
    try:
        fitted = climb(program, data.train, valid=data.valid, **options)
    except DivergedError:
        runs.save(program, folder)
        raise
    except KeyboardInterrupt:
        say(f"interrupted after {len(done) or 'no'} whole epochs; pyro-vae fit --resume {folder} goes on from there")
        raise
    runs.write_lines(folder / runs.METRICS, fitted.history)
    runs.save(program, folder)
    return fitted


def _clear_away(folder: Path, made: list[Path]) -> None:
    """Nothing half-written: remove the files of a run that could not begin, and the folders that were made for it."""
    from pyro_vae import runs

    for name in (runs.CONFIG, runs.METRICS):
        (folder / name).unlink(missing_ok=True)
    for path in made:
        path.rmdir()


def say(words: str) -> None:
    """One line of talk, on stderr."""
    click.echo(words, err=True)


def _absolute(group: dict[str, Any]) -> dict[str, Any]:
    """Paths as they will still be found from another folder; a data set's name is no path."""
    from pyro_vae.data import NAMED

    given = {name: group[name] for name in ("data", "data_root") if group[name] and group[name] not in NAMED}
    return {name: str(Path(path).resolve()) for name, path in given.items() if Path(path).exists()}


def _same_data(folder: Path, fingerprint: str) -> None:
    from pyro_vae import runs
    from pyro_vae.errors import InputError

    if runs.read_config(folder)["about"]["fingerprint"] != fingerprint:
        raise InputError(
            f"{folder}: the data is not what it was when this run began; start a new run, or bring the old data back"
        )


def _forget_later_epochs(folder: Path) -> list[dict[str, Any]]:
    """The metrics of the epochs that the fit will not repeat: after a crash the file may be ahead of the checkpoint."""
    from pyro_vae import runs

    path = folder / runs.CHECKPOINT
    rows = runs.read_tensors(path)[1]["history"] if path.exists() else []
    runs.write_lines(folder / runs.METRICS, rows)
    return rows


def _report(folder: Path, program: Any, data: Any, fitted: Any, quiet: bool) -> dict[str, Any]:
    """Score the validation rows, draw the figures, and say what was found and where it lies."""
    from pyro_vae import runs
    from pyro_vae.cli.evaluate import score_split
    from pyro_vae.cli.tables import print_record
    from pyro_vae.show.figures import write_figures

    program.to("cpu")
    record = score_split(program, data.valid, folder, VALID_DRAWS, sizes=(1, 5, 50)) | {"seconds": fitted.seconds}
    figures = write_figures(folder / "figures", program, data, fitted.history, fitted.best_epoch)
    path = folder / runs.EVALUATION
    known = json.loads(path.read_text()) if path.exists() else {}
    runs.write_json(path, known | {"valid": record})  # last: its presence says that the run is complete
    if not quiet:
        ended = f"{len(fitted.history)} epochs in {fitted.seconds:.0f} s, stopped by {fitted.stopped}"
        print_record(record, f"Validation rows · {ended}, kept epoch {fitted.best_epoch}")
        click.echo(f"\nWritten to {folder}/")
        click.echo("  config.toml  model.safetensors  metrics.jsonl  evaluation.json  checkpoint/")
        click.echo(f"  figures/     {'  '.join(path.name for path in figures)}")
        click.echo(f"\nNext: pyro-vae evaluate {folder} scores the test rows, once all choices are made.")
    return record
