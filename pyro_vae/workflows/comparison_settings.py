"""Every setting of `pyro-vae compare` as an option, and the presets."""

from dataclasses import dataclass, replace
from typing import Any

from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget
from pyro_vae.comparison.models_by_name import MODEL_NAMES
from pyro_vae.errors import InputError
from pyro_vae.option_registry import require_known
from pyro_vae.options import Option, options_of, setting
from pyro_vae.workflows.fit_settings import fit_options

Settings = dict[str, Any]  # of a comparison: values by the names of the options, and what else a preset says
COMPARISON, DATA, VAE = "Comparison", "Data", "VAE"
DATA_SETTINGS = (
    "data_root", "binarize", "dequantize", "standardize", "image_shape", "gray", "resize", "label", "layer", "coding"
)  # fmt: skip
COLUMNS_MODELS = ("columns-mixture:auto", "vae:2")  # what is compared by default where columns have kinds
VAE_SETTINGS = ("likelihood", "scale", "network", "hidden")
TRAIN_SETTINGS = ("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "seed")
METHOD_HELP = (
    "How log p(x) is found where a model has no closed form: exactly (one or two latents), by importance sampling "
    "around each row's mode or from the guide; auto: exactly where possible, else from a mixture of these."
)


@dataclass(frozen=True)
class ComparisonConfig:
    """The settings that a comparison alone has; those of a fit and of `Budget` come on top (`comparison_options`)."""

    models: tuple[str, ...] = setting(
        (),
        str,
        f"{', '.join(MODEL_NAMES)}, with its components or latents; a mixture's components may be auto, chosen by "
        "cross-validation; again for more.",
        metavar="NAME[:SIZE]",
        group=COMPARISON,
    )
    fit_methods: tuple[str, ...] = setting(
        (),
        str,
        f"{', '.join(FIT_METHODS)}; again for more. Each model is fitted by every method that it supports; by default "
        "em or svi.",
        metavar="NAME",
        group=COMPARISON,
    )
    data: str | None = setting(None, str, "As in fit; with runs their own (pinwheel).", metavar="NAME|PATH", group=DATA)
    train_rows: tuple[int, ...] = setting(
        (), int, "Train on the first N rows; again for more.", metavar="N", minimum=10, group=DATA
    )
    split: str = setting(
        "valid",
        str,
        "The rows to score; test rows once, when all choices are made.",
        choices=("valid", "test"),
        group=COMPARISON,
    )
    num_rows: int | None = setting(None, int, "Score the first rows of the split only.", minimum=2, group=COMPARISON)
    method: str = setting("auto", str, METHOD_HELP, choices=("auto", "exact", "laplace", "is"), group=COMPARISON)
    num_samples: int = setting(1000, int, "Draws for each row.", minimum=1, group=COMPARISON)
    level: float | None = setting(
        None, float, "Report the seconds until the validation bound is reached.", metavar="NATS", group=COMPARISON
    )
    curve: bool = setting(
        False,
        bool,
        "Score during each fit too, against the training rows processed.",
        is_flag=True,
        group=COMPARISON,
    )


def comparison_options() -> dict[str, Option]:
    """Every setting of `pyro-vae compare` by name."""
    of_fit, budget = fit_options(), options_of(Budget)
    shared = {name: of_fit[name] for name in (*DATA_SETTINGS, *VAE_SETTINGS, *TRAIN_SETTINGS)}
    shared |= {name: replace(shared[name], group=VAE) for name in VAE_SETTINGS}
    budget["starts"] = replace(budget.pop("num_starts"), name="starts")
    own = options_of(ComparisonConfig)
    return shared | own | {name: budget[name] for name in ("iterations", "starts", "width")}


PRESETS: dict[str, Settings] = {
    "toy": {
        "data": "pinwheel",
        "pairs": (
            *(("gaussian-mixture:5", name) for name in ("em", "svi", "table", "amortized")),
            ("bayesian-mixture:5", "cavi"),
            *(("ppca:1", name) for name in ("closed-form", "em")),
            *(("vae:2", name) for name in ("svi", "semi-amortized", "per-row", "wake-sleep", "rws", "mcem")),
        ),
        "train_rows": (1000,),
        "num_rows": 150,
        "epochs": 40,
        "batch_size": 50,
        "hidden": (64,),
        "scale": 0.3,
        "curve": True,
        "curve_options": {"num_rows": 150},
    },
    "mnist-5k": {
        "data": "mnist-5k",
        "pairs": (
            *((f"bernoulli-mixture:{size}", "em") for size in (10, 50, 100)),
            ("bernoulli-mixture:50", "svi"),
            *(("vae:2", name) for name in ("svi", "semi-amortized", "wake-sleep")),
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
        # of 0.01, 0.02 and 0.1, chosen by the training rows early in the fit, N = 1,000
        "learning_rates": {"svi": 0.1, "wake-sleep": 0.02, "mcem": 0.1},
        "epochs": 200,
        "epoch_shares": {"mcem": 0.1},  # one of its epochs costs seven of the others'
        "curve": True,
    },
}


def comparison_settings(preset: str | None, given: Settings, has_runs: bool) -> Settings:
    """The settings of a comparison: what is given, else the preset's, else the default.

    Raises `InputError` for a fit method without a model, a preset together with models or runs, names that are no
    settings, and values that cannot be used.

    Args:
        preset: a name of `PRESETS`; without models or saved runs `toy`.
        given: values by the names of the options.
        has_runs: whether saved runs are compared.

    Returns:
        All settings, with the preset's pairs of model and fit method.
    """
    options = comparison_options()
    require_known(given, options, "compare")
    for name, value in given.items():
        for each in value if isinstance(options[name].default, tuple) else (value,):
            options[name].check(each)
    if given.get("fit_methods") and not given.get("models"):
        raise InputError("--fit-method needs --model, the models that are to be fitted so")
    if preset and (given.get("models") or has_runs):
        raise InputError(f"--preset {preset} names its own models: leave out --model and runs, or the preset")
    preset = preset or (None if given.get("models") or has_runs else "toy")
    chosen = PRESETS.get(preset or "", {})
    if "data" in given:  # the preset's own scale suits its own data
        chosen = {name: value for name, value in chosen.items() if name != "scale"}
    defaults = {name: option.default for name, option in options.items()}
    return defaults | chosen | given | {"preset": preset}
