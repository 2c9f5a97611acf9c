"""`pyro-vae compare`: models and ways to fit them, or saved runs, on the same rows in one table."""

from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json
from pyro_vae.cli.options import SCALE, SHAPE, WIDTHS, GroupedCommand, option, output_options

GRID, DATA, VAE, TRAINING, RUN_GROUP = "Comparison", "Data", "VAE", "Training", "Run"
PRESETS: dict[str, dict[str, Any]] = {
    "toy": {
        "data": "pinwheel",
        "pairs": (
            *(("gaussian-mixture:5", way) for way in ("em", "svi", "table", "amortized")),
            ("bayesian-mixture:5", "cavi"),
            *(("ppca:1", way) for way in ("closed-form", "em")),
            *(("vae:2", way) for way in ("svi", "semi-amortized", "per-row", "wake-sleep", "rws", "mcem")),
        ),
        "train_rows": (1000,),
        "num_rows": 150,
        "epochs": 40,
        "batch_size": 50,
        "hidden": (64,),
        "scale": 0.3,
        "curve": True,
        "looks": {"num_rows": 150},
    },
    "mnist-5k": {
        "data": "mnist-5k",
        "pairs": (
            *((f"bernoulli-mixture:{size}", "em") for size in (10, 50, 100)),
            ("bernoulli-mixture:50", "svi"),
            *(("vae:2", way) for way in ("svi", "semi-amortized", "wake-sleep")),
            ("vae:10", "svi"),
        ),
        "epochs": 100,
    },
    "paper": {
        "data": "mnist",
        "pairs": (("vae:3", "svi"), ("vae:3", "wake-sleep"), ("vae:3", "mcem")),
        "train_rows": (1000, 50_000),
        "hidden": (100,),
        "optimizer": "adagrad",
        "schedule": "constant",
        "rates": {
            "svi": 0.1,
            "wake-sleep": 0.02,
            "mcem": 0.1,
        },  # of 0.01, 0.02 and 0.1, by early training rows, N = 1,000
        "epochs": 200,
        "shares": {"mcem": 0.1},  # of the epochs: one costs seven of the others'
        "curve": True,
    },
    "ae-vs-vae": {"data": "mnist-5k", "epochs": 60, "hidden": (500,), "learning_rate": 2e-3, "binarize": "none"},
}
OF_ENCODERS = ("latent_dim", "seeds", "denoising")
NOT_OF_ENCODERS = (
    "method", "num_samples", "level", "curve", "likelihood", "scale", "network", "iterations", "starts", "optimizer",
    "schedule", "width", "dequantize",
)  # fmt: skip


@click.command(cls=GroupedCommand, short_help="Hold models, ways to fit them, or runs against each other.")
@click.argument("saved", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@option(
    GRID,
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="toy (a minute or two; what happens with no option), mnist-5k (minutes), paper (figure 3 of Kingma & "
    "Welling; hours), ae-vs-vae (autoencoder, VAE, PCA and kernel PCA; a quarter of an hour).",
)
@option(
    GRID,
    "--model",
    "models",
    multiple=True,
    metavar="NAME[:SIZE]",
    help="gaussian-mixture[-tied|-diagonal|-spherical], bernoulli-mixture, bayesian-mixture, ppca, factor-analysis or "
    "vae, with its components or latents; again for more.",
)
@option(
    GRID,
    "--way",
    "ways",
    multiple=True,
    metavar="NAME",
    help="em, online-em, hard-em, closed-form, svi, table, amortized, cavi, per-row, semi-amortized, mcem, wake-sleep, "
    "rws; again for more. Each model is fitted in every way that goes with it; by default em or svi.",
)
@option(
    GRID,
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    help="The rows to score; test rows once, when all choices are made.",
)
@option(
    GRID,
    "--method",
    type=click.Choice(["auto", "exact", "laplace", "is"]),
    default="auto",
    help="How log p(x) is found where a model does not know it: exactly (one or two latents), by importance sampling "
    "around each row's mode or from the guide; auto: exactly where rows are narrow, else around the modes.",
)
@option(GRID, "--num-samples", type=click.IntRange(1), default=1000, help="Draws for each row.")
@option(GRID, "--num-rows", type=click.IntRange(2), help="Score the first rows of the split only.")
@option(GRID, "--level", type=float, metavar="NATS", help="Report the seconds until the validation bound is there.")
@option(GRID, "--curve", is_flag=True, help="Score along each fit too, against the training rows it has seen.")
@option(
    GRID,
    "--latent-dim",
    type=click.IntRange(1),
    multiple=True,
    default=(2, 5, 10, 20, 50),
    help="Of ae-vs-vae: latents; again for more.",
)
@option(GRID, "--seeds", type=click.IntRange(1), default=3, help="Of ae-vs-vae: fits of each network, for errors.")
@option(
    GRID,
    "--denoising",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Of ae-vs-vae: the share of values hidden from the autoencoder while it is trained.",
)
@option(DATA, "--data", metavar="NAME|PATH", help="As in fit; with runs their own (pinwheel).")
@option(DATA, "--data-root", type=click.Path(), metavar="DIR", help="The folder that holds torchvision's data sets.")
@option(DATA, "--binarize", type=click.Choice(["stochastic", "fixed", "threshold", "none"]), help="As in fit.")
@option(DATA, "--dequantize", is_flag=True, help="Add uniform noise to integers, so that a density exists.")
@option(DATA, "--standardize/--no-standardize", default=None, help="Centre and scale columns; tables of reals: yes.")
@option(DATA, "--image-shape", type=SHAPE, metavar="HxW", help="Say that rows are pictures of this size.")
@option(
    DATA,
    "--train-rows",
    type=click.IntRange(10),
    multiple=True,
    metavar="N",
    help="Train on the first N rows; again for more.",
)
@option(VAE, "--likelihood", default="auto", metavar="NAME", help="p(x|z) of the VAE, as in fit.")
@option(VAE, "--scale", type=SCALE, help="Of a normal likelihood, as in fit.")
@option(VAE, "--network", type=click.Choice(["mlp", "gated-mlp", "linear"]), default="mlp", help="Its networks.")
@option(VAE, "--hidden", type=WIDTHS, metavar="WIDTH[,WIDTH]", help="Their hidden layers (500).")
@option(TRAINING, "--epochs", type=click.IntRange(1), default=100, help="Passes over the rows, by gradients.")
@option(TRAINING, "--iterations", type=click.IntRange(1), default=500, help="EM's iterations, at most.")
@option(TRAINING, "--starts", type=click.IntRange(1), default=1, help="EM's starts, the best kept.")
@option(TRAINING, "--batch-size", type=click.IntRange(1), default=100, help="Rows for each step.")
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
@option(TRAINING, "--width", type=click.IntRange(1), default=64, help="Hidden units of a network q(c|x).")
@option(TRAINING, "--seed", type=int, default=0, help="Same seed, same machine, same bits.")
@option(
    RUN_GROUP,
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the table, the pictures and the fitted models go; by default a new folder under runs/. A comparison "
    "that was interrupted goes on there.",
)
@output_options
@click.pass_context
def compare(ctx: click.Context, saved: tuple[Path, ...], as_json: bool, debug: bool, **given: Any) -> None:
    """Hold models, ways to fit them, or saved runs against each other on the same held-out rows.

    With no argument: a mixture, PPCA and a VAE on a data set in the plane, each fitted in every way it has. With RUNs,
    those; with --model and --way, a grid of them. One measure, or an error.
    """
    settings = _settings(ctx, saved, given)
    if settings["preset"] == "ae-vs-vae":
        from pyro_vae.studies.autoencoder_vs_vae_run import compare_encoders

        rows = compare_encoders(settings, quiet=as_json)
    else:
        from pyro_vae.workflows.compare_models import compare_models

        rows = compare_models(saved, settings, quiet=as_json)
    if as_json:
        print_json({"rows": rows})


def _settings(ctx: click.Context, saved: tuple[Path, ...], given: dict[str, Any]) -> dict[str, Any]:
    """What was asked for: a flag, else the preset, else the default; `InputError` for a way without a model."""
    from pyro_vae.errors import InputError

    source = click.core.ParameterSource
    flags = {name for name in given if ctx.get_parameter_source(name) is source.COMMANDLINE}
    if given["ways"] and not given["models"]:
        raise InputError("--way needs --model, the models that are to be fitted so")
    if given["preset"] and (given["models"] or saved):
        raise InputError(f"--preset {given['preset']} names its own models: leave out --model and runs, or the preset")
    preset = given["preset"] or (None if given["models"] or saved else "toy")
    chosen = PRESETS.get(preset or "", {})
    _check_owned(preset, flags)
    if preset == "ae-vs-vae":
        chosen = chosen | {"roll": "data" not in flags}
    if "data" in flags:  # the preset's own scale suits its own data
        chosen = {name: value for name, value in chosen.items() if name != "scale"}
    return given | {name: value for name, value in chosen.items() if name not in flags} | {"preset": preset}


def _check_owned(preset: str | None, flags: set[str]) -> None:
    """`InputError` for an option that this comparison would not look at."""
    from pyro_vae.errors import InputError

    of_encoders = preset == "ae-vs-vae"
    if strange := sorted(flags & set(NOT_OF_ENCODERS if of_encoders else OF_ENCODERS)):
        option = "--" + strange[0].replace("_", "-")
        raise InputError(
            f"{option} means nothing to --preset ae-vs-vae, which holds reconstructions and codes against each other"
            if of_encoders
            else f"{option} belongs to --preset ae-vs-vae"
        )
