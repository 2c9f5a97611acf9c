"""Every setting of `pyro-vae compare` with its default, and the presets."""

from typing import Any

from pyro_vae.errors import InputError
from pyro_vae.options import require_known
from pyro_vae.workflows.fit_settings import fit_options

SHARED = (  # settings that a comparison has in common with a fit, and their defaults
    "data_root", "binarize", "dequantize", "standardize", "image_shape", "likelihood", "scale", "network", "hidden",
    "epochs", "batch_size", "optimizer", "learning_rate", "schedule", "seed",
)  # fmt: skip
COMPARISON_DEFAULTS: dict[str, Any] = {name: fit_options()[name].default for name in SHARED} | {
    "models": (),
    "fit_methods": (),
    "data": None,
    "train_rows": (),
    "split": "valid",
    "num_rows": None,
    "method": "auto",
    "num_samples": 1000,
    "level": None,
    "curve": False,
    "iterations": 500,
    "starts": 1,
    "width": 64,
}
PRESETS: dict[str, dict[str, Any]] = {
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


def comparison_settings(preset: str | None, given: dict[str, Any], has_runs: bool) -> dict[str, Any]:
    """The settings of a comparison: what is given, else the preset's, else the default.

    Without models or saved runs the preset is `toy`. Raises `InputError` for a fit method without a model, a preset
    together with models or runs, and names that are no settings.
    """
    require_known(given, COMPARISON_DEFAULTS, "compare")
    if given.get("fit_methods") and not given.get("models"):
        raise InputError("--fit-method needs --model, the models that are to be fitted so")
    if preset and (given.get("models") or has_runs):
        raise InputError(f"--preset {preset} names its own models: leave out --model and runs, or the preset")
    preset = preset or (None if given.get("models") or has_runs else "toy")
    chosen = PRESETS.get(preset or "", {})
    if "data" in given:  # the preset's own scale suits its own data
        chosen = {name: value for name, value in chosen.items() if name != "scale"}
    return COMPARISON_DEFAULTS | chosen | given | {"preset": preset}
