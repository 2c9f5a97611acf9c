"""The options of `pyro-vae fit` by setting, written once; other commands take some of them too."""

from collections.abc import Callable
from typing import Any

import click

from pyro_vae.cli.option_types import SCALE, SHAPE, WIDTHS, option
from pyro_vae.workflows.fit_settings import default_of

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
DATA, MODEL, OBJECTIVE, TRAINING = "Data", "Model", "Objective", "Training"
Spec = tuple[str, str, dict[str, Any]]  # group, flag, what else click is told


def _choice(*names: str) -> click.Choice[str]:
    return click.Choice(names)


OPTIONS: dict[str, Spec] = {
    "data": (
        DATA,
        "--data",
        {
            "metavar": "NAME|PATH",
            "help": "A named data set (pyro-vae datasets), or a .npy, .npz, .csv, .parquet file or a folder of images.",
        },
    ),
    "data_root": (
        DATA,
        "--data-root",
        {
            "type": click.Path(),
            "metavar": "DIR",
            "help": "The folder that holds torchvision's data sets; by default the cache, downloading.",
        },
    ),
    "binarize": (
        DATA,
        "--binarize",
        {
            "type": _choice("stochastic", "fixed", "threshold", "none"),
            "help": "How pixels become 0 or 1; images: stochastic, drawn anew each epoch.",
        },
    ),
    "dequantize": (
        DATA,
        "--dequantize",
        {"is_flag": True, "help": "Add uniform noise to integers, so that a density exists."},
    ),
    "standardize": (
        DATA,
        "--standardize/--no-standardize",
        {"help": "Subtract each column's mean and divide by its standard deviation; tables of real numbers: yes."},
    ),
    "missing": (
        DATA,
        "--missing",
        {
            "type": _choice("refuse", "mask"),
            "help": "NaN and empty cells: refuse them, or model the observed values, with the mask as input of the "
            "guide.",
        },
    ),
    "image_shape": (
        DATA,
        "--image-shape",
        {"type": SHAPE, "metavar": "HxW", "help": "Rows are images of this height and width, as in 28x20."},
    ),
    "stream": (
        DATA,
        "--stream/--no-stream",
        {"help": "Leave the training rows of a .npy or .parquet on disk; by default where they exceed 1 GiB."},
    ),
    "latent_dim": (MODEL, "--latent-dim", {"type": int, "help": "Dimensions K of the latent z."}),
    "prior": (
        MODEL,
        "--prior",
        {
            "type": _choice("standard-normal", "normal", "laplace", "mixture", "vamp", "flow"),
            "help": "p(z); normal: learned mean and scales; vamp: a mixture of the guide at pseudo-inputs.",
        },
    ),
    "components": (
        MODEL,
        "--components",
        {"type": int, "help": "Components of a mixture: of the prior (50) or the guide (4)."},
    ),
    "pseudo_inputs": (MODEL, "--pseudo-inputs", {"type": int, "help": "Pseudo-inputs of a VampPrior (100)."}),
    "likelihood": (
        MODEL,
        "--likelihood",
        {
            "type": _choice("auto", *LIKELIHOODS),
            "help": "p(x|z); auto chooses by the values of the data and says why.",
        },
    ),
    "scale": (
        MODEL,
        "--scale",
        {
            "type": SCALE,
            "help": "Standard deviation of a normal, student-t or discretized-logistic likelihood, in the units of the "
            "model's x: a number, or learned (one for all), per-feature (one for each column), or network (an output "
            "of the decoder).",
        },
    ),
    "guide": (
        MODEL,
        "--guide",
        {
            "type": _choice("mean-field", "full-rank", "low-rank", "flow", "iaf", "mixture"),
            "help": "q(z|x); flow: spline couplings, iaf: inverse autoregressive.",
        },
    ),
    "rank": (MODEL, "--rank", {"type": int, "help": "Rank of a low-rank guide's covariance factor (2)."}),
    "flow_layers": (
        MODEL,
        "--flow-layers",
        {"type": int, "help": "Layers of a flow, in the prior or the guide (4)."},
    ),
    "network": (
        MODEL,
        "--network",
        {
            "type": _choice("mlp", "gated-mlp", "conv", "resnet", "linear"),
            "help": "Encoder and decoder networks; conv and resnet for images.",
        },
    ),
    "hidden": (
        MODEL,
        "--hidden",
        {
            "type": WIDTHS,
            "metavar": "WIDTH[,WIDTH]",
            "help": "Hidden layers of the encoder, mirrored by the decoder (500); for conv and resnet their channels "
            "(32,64).",
        },
    ),
    "activation": (
        MODEL,
        "--activation",
        {
            "type": _choice("tanh", "relu", "softplus", "elu", "gelu", "silu"),
            "help": "Nonlinearity of the hidden layers (mlp: tanh, conv: relu, resnet: elu).",
        },
    ),
    "loss": (
        OBJECTIVE,
        "--loss",
        {
            "type": _choice("elbo", "analytic-elbo", "iwae"),
            "help": "The objective: the ELBO, the ELBO with its KL in closed form, or the importance-weighted bound.",
        },
    ),
    "num_particles": (
        OBJECTIVE,
        "--num-particles",
        {"type": int, "help": "Draws of z for each row and step (1; iwae: 8)."},
    ),
    "dreg": (OBJECTIVE, "--dreg", {"is_flag": True, "help": "Doubly reparameterized gradients for iwae."}),
    "beta": (
        OBJECTIVE,
        "--beta",
        {"type": float, "help": "Weight of the KL term in the objective; reports are always at 1."},
    ),
    "kl_warmup": (
        OBJECTIVE,
        "--kl-warmup",
        {"type": float, "metavar": "EPOCHS", "help": "Epochs over which that weight rises from 0."},
    ),
    "free_bits": (
        OBJECTIVE,
        "--free-bits",
        {
            "type": float,
            "metavar": "NATS",
            "help": "KL without penalty, for each latent dimension; K times that for all where they are dependent.",
        },
    ),
    "epochs": (TRAINING, "--epochs", {"type": int, "help": "Passes over the training rows, at most."}),
    "batch_size": (TRAINING, "--batch-size", {"type": int, "help": "Rows for each step."}),
    "optimizer": (
        TRAINING,
        "--optimizer",
        {"type": _choice("adam", "adamw", "adagrad", "rmsprop", "sgd"), "help": "The optimizer, torch's."},
    ),
    "learning_rate": (
        TRAINING,
        "--learning-rate",
        {"type": float, "help": "Learning rate; the highest one where a schedule changes it."},
    ),
    "schedule": (
        TRAINING,
        "--schedule",
        {
            "type": _choice("constant", "cosine", "one-cycle"),
            "help": "Learning-rate schedule over all steps of the fit.",
        },
    ),
    "clip": (TRAINING, "--clip", {"type": float, "metavar": "NORM", "help": "Largest joint norm of the gradients."}),
    "patience": (
        TRAINING,
        "--patience",
        {
            "type": int,
            "metavar": "EPOCHS",
            "help": "Stop after so many epochs without a better validation ELBO; 0: never.",
        },
    ),
    "seed": (TRAINING, "--seed", {"type": int, "help": "Same seed, same machine, same bits."}),
    "device": (
        TRAINING,
        "--device",
        {"type": _choice("auto", "cpu", "cuda", "mps"), "help": "auto: an accelerator, if there is one."},
    ),
    "dtype": (
        TRAINING,
        "--dtype",
        {"type": _choice("float32", "float64"), "help": "Floating type of weights and rows."},
    ),
    "compile": (
        TRAINING,
        "--compile/--no-compile",
        {
            "help": "A step is recorded as a plain graph by default; --compile passes it to torch.compile too (half a "
            "minute, for long fits), --no-compile runs Pyro's handlers in each step.",
        },
    ),
}


def setting_options(*names: str, group: str | None = None, **changes: dict[str, Any]) -> Callable[[Any], Any]:
    """A decorator that adds the options of these settings, in this order; `changes` replaces what click is told."""

    def decorate(command: Any) -> Any:
        for name in reversed(names):
            own_group, flag, about = OPTIONS[name]
            told = {"default": default_of(name)} | about | changes.get(name, {})
            command = option(group or own_group, flag, **told)(command)
        return command

    return decorate
