"""`pyro-vae fit`: data to a run's folder, with its numbers and its pictures."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.atomic_write import read_toml
from pyro_vae.cli import print_json
from pyro_vae.cli.options import PROGRAM, SCALE, SHAPE, WIDTHS, GroupedCommand, option, output_options, settle
from pyro_vae.runs import CONFIG, read_config

LIKELIHOODS = (
    "bernoulli",
    "continuous-bernoulli",
    "normal",
    "student-t",
    "discretized-logistic",
    "categorical",
    "poisson",
    "negative-binomial",
)
ALONG_WITH_RESUME = ("resume", "program", "logger", "as_json", "debug")
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
    "--missing",
    type=click.Choice(["refuse", "mask"]),
    default="refuse",
    help="NaN and empty cells: refuse them, or model the observed values, the guide seeing which those are.",
)
@option(
    DATA,
    "--image-shape",
    type=SHAPE,
    metavar="HxW",
    help="Say that rows are pictures of this height and width, as in 28x20.",
)
@option(
    DATA,
    "--stream/--no-stream",
    default=None,
    help="Leave the training rows of a .npy or .parquet on disk; by default where they are more than 1 GiB.",
)
@option(MODEL, "--latent-dim", type=int, default=2, help="Dimensions K of the latent z.")
@option(
    MODEL,
    "--prior",
    type=click.Choice(["standard-normal", "normal", "laplace", "mixture", "vamp", "flow"]),
    default="standard-normal",
    help="p(z); normal: learned mean and scales; vamp: a mixture of the guide's own posteriors.",
)
@option(MODEL, "--components", type=int, help="Components of a mixture: of the prior (50) or the guide (4).")
@option(MODEL, "--pseudo-inputs", type=int, help="Pseudo-inputs of a VampPrior (100).")
@option(
    MODEL,
    "--likelihood",
    type=click.Choice(["auto", *LIKELIHOODS]),
    default="auto",
    help="p(x|z); auto looks at the data and says why.",
)
@option(
    MODEL,
    "--scale",
    type=SCALE,
    help="Of a normal, student-t or discretized-logistic likelihood, in the units the model sees: a number, or "
    "learned, one for all, one for each column, or by the network.",
)
@option(
    MODEL,
    "--guide",
    type=click.Choice(["mean-field", "full-rank", "low-rank", "flow", "iaf", "mixture"]),
    default="mean-field",
    help="q(z|x); flow: spline couplings, iaf: inverse autoregressive.",
)
@option(MODEL, "--rank", type=int, help="Directions of correlation of a low-rank guide (2).")
@option(MODEL, "--flow-layers", type=int, help="Layers of a flow, in the prior or the guide (4).")
@option(
    MODEL,
    "--network",
    type=click.Choice(["mlp", "gated-mlp", "conv", "resnet", "linear"]),
    default="mlp",
    help="Encoder and decoder networks; conv and resnet for pictures.",
)
@option(
    MODEL,
    "--hidden",
    type=WIDTHS,
    metavar="WIDTH[,WIDTH]",
    help="Hidden layers of the encoder, mirrored by the decoder (500); for conv and resnet their channels (32,64).",
)
@option(
    MODEL,
    "--activation",
    type=click.Choice(["tanh", "relu", "softplus", "elu", "gelu", "silu"]),
    help="Nonlinearity of the hidden layers (mlp: tanh, conv: relu, resnet: elu).",
)
@PROGRAM
@option(
    OBJECTIVE,
    "--loss",
    type=click.Choice(["elbo", "analytic-elbo", "iwae"]),
    default="elbo",
    help="What is climbed: the ELBO, the same with its KL in closed form, or the importance-weighted bound.",
)
@option(OBJECTIVE, "--num-particles", type=int, help="Draws of z for each row and step (1; iwae: 8).")
@option(OBJECTIVE, "--dreg", is_flag=True, help="Doubly reparameterized gradients for iwae.")
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
@option(
    OBJECTIVE,
    "--free-bits",
    type=float,
    metavar="NATS",
    help="KL that costs nothing, for each latent dimension; where they depend on each other K times that for all.",
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
    TRAINING,
    "--compile/--no-compile",
    default=None,
    help="A step is recorded as a plain graph by default; --compile hands it to torch.compile too (half a minute, for "
    "long fits), --no-compile goes by Pyro's handlers.",
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
@option(
    RUN_GROUP,
    "--logger",
    type=click.Choice(["tensorboard"]),
    help="Write curves, pictures and latents to RUN/tensorboard too; needs the extra tensorboard.",
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
    """Train a VAE, score its validation rows, and write a run's folder with weights, numbers and pictures.

    With no option it trains on 5,000 real digits and needs no network.
    """
    from pyro_vae import process_group
    from pyro_vae.errors import InputError
    from pyro_vae.workflows.fit_run import fit_run

    if resume is not None:
        if ctx_given := [name for name in _given(ctx) if name not in ALONG_WITH_RESUME]:
            raise InputError(
                f"--resume takes the run's own settings: leave out --{ctx_given[0].replace('_', '-')}, or start a new "
                "run with --config"
            )
        config, out = resume / CONFIG, resume
        read_config(resume)
    elif out is not None and process_group().is_main:
        _check_new(out)
    if program is not None and (
        chosen := [p.name for p in ctx.command.params if _is_model(p) and p.name in _given(ctx)]
    ):
        raise InputError(
            f"--program is the whole model: leave out --{str(chosen[0]).replace('_', '-')}, or leave out --program"
        )
    kept = None if config is None else read_toml(config)
    own = (kept or {}).get("about", {}).get("program")
    if own and program is None:
        raise InputError(f"{config} is of a program of your own, which no file may name for you: add --program {own}")
    settings = settle(ctx, kept, str(config))
    record = fit_run(settings, out, program, logger=logger, resuming=resume is not None, quiet=as_json)
    if as_json and process_group().is_main:
        print_json(record)


def _check_new(out: Path) -> None:
    """`InputError` where a run's folder is in use."""
    from pyro_vae.errors import InputError

    if (out / CONFIG).exists():
        raise InputError(f"{out} holds a run already: go on with it (--resume {out}), or name another folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other files: name a folder that is new or empty")


def _is_model(parameter: click.Parameter) -> bool:
    return getattr(parameter, "group", "") == MODEL


def _given(ctx: click.Context) -> list[str]:
    return [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
