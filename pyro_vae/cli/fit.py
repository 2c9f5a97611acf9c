"""`pyro-vae fit`: data to a run's folder, with its numbers and its pictures."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import SHAPE, WIDTHS, GroupedCommand, option, output_options, settle

DATA, MODEL, OBJECTIVE, TRAINING, RUN_GROUP = "Data", "Model", "Objective", "Training", "Run"


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
    TRAINING,
    "--optimizer",
    type=click.Choice(["adam", "adamw", "adagrad", "rmsprop", "sgd"]),
    default="adam",
    help="How gradients become steps.",
)
@option(TRAINING, "--learning-rate", type=float, default=5e-3, help="Its peak, where a schedule moves it.")
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
    default=0,
    metavar="EPOCHS",
    help="Stop after so many epochs without a better validation ELBO; 0: never.",
)
@option(TRAINING, "--seed", type=int, default=0, help="Same seed, same machine, same bits.")
@option(
    TRAINING,
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    help="auto: an accelerator, if there is one.",
)
@option(
    TRAINING,
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    help="Floating type of weights and rows.",
)
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
    from pyro_vae.cli.train import run_fit
    from pyro_vae.errors import InputError

    if resume is not None:
        if ctx_given := [name for name in _given(ctx) if name not in ("resume", "as_json", "debug")]:
            raise InputError(
                f"--resume takes the run's own settings: leave out --{ctx_given[0].replace('_', '-')}, or start a new "
                "run with --config"
            )
        config, out = resume / runs.CONFIG, resume
        runs.read_config(resume)
    elif out is not None and out.is_dir() and any(out.iterdir()) and not (out / runs.CONFIG).exists():
        raise InputError(f"{out} holds other files: name a folder that is new or empty")
    elif out is not None and (out / runs.CONFIG).exists():
        raise InputError(f"{out} holds a run already: go on with it (--resume {out}), or name another folder")
    settings = settle(ctx, None if config is None else runs.read_toml(config), str(config))
    record = run_fit(settings, out, resuming=resume is not None, quiet=as_json)
    if as_json:
        print_json(record)


def _given(ctx: click.Context) -> list[str]:
    return [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
