"""The likelihood that suits the values of the data, chosen once; and the data set that settings name."""

from typing import Any

from torch import Tensor

from pyro_vae.data import Dataset, load_data
from pyro_vae.data.reference_measure import are_counts, observed_values
from pyro_vae.errors import InputError
from pyro_vae.registry import LikelihoodChoice

OF_REALS = ("normal", "student-t")
OF_GREYS = (*OF_REALS, "continuous-bernoulli", "discretized-logistic")
OF_COUNTS = ("categorical", "poisson", "negative-binomial")
SCALED = (*OF_REALS, "discretized-logistic")


def load_dataset(settings: dict[str, Any], likelihood: str = "auto") -> Dataset:
    """The data set that the settings' data group names, its measure the one that the likelihood is for.

    Likelihoods of grey levels get pictures as they are; only those of real numbers get standardized columns.
    """
    binarize, standardize = settings["binarize"], settings["standardize"]
    if likelihood in (*OF_GREYS, *OF_COUNTS) and binarize is None:
        binarize = "none"
    if likelihood in (*OF_COUNTS, "continuous-bernoulli", "discretized-logistic") and standardize is None:
        standardize = False

    def load(standardize: bool | None) -> Dataset:
        return load_data(
            settings["data"],
            binarize=binarize,
            dequantize=settings["dequantize"],
            standardize=standardize,
            missing=settings["missing"],
            image_shape=settings["image_shape"],
            root=settings["data_root"],
            stream=settings.get("stream"),
        )

    data = load(standardize)
    if likelihood in OF_REALS and standardize is None and data.train.measure.levels is None:
        return data if data.train.measure.scale else load(True)  # counts, taken as real numbers
    return data


def choose_likelihood(settings: dict[str, Any], data: Dataset) -> LikelihoodChoice:
    """The likelihood that the model's settings ask for, or with `auto` the one that the data's values call for.

    Raises `InputError` where the values lie outside the support of the one asked for, or its scale makes no sense.
    """
    name, stored = settings["likelihood"], observed_values(data.train.stored)
    _require_support(name, stored, data)
    reason = "asked for"
    if name == "auto":
        name, reason = _infer_likelihood(stored, data)
    return LikelihoodChoice(name, _scale_of(settings["scale"], name, data), reason)


def _require_support(name: str, stored: Tensor, data: Dataset) -> None:
    """`InputError` where a likelihood that was asked for has no density at the data's values."""
    measure, low, high = data.train.measure, stored.min().item(), stored.max().item()
    if name == "bernoulli" and measure.binarize == "none":
        raise InputError(
            f"{data.name}: a bernoulli likelihood needs values of 0 or 1, found {low:.3g} to {high:.3g}; binarize "
            "pictures (--binarize stochastic), or leave the likelihood to --likelihood auto"
        )
    if name == "continuous-bernoulli" and (measure.scale or (not measure.levels and (low < 0 or high > 1))):
        raise InputError(
            f"{data.name}: a continuous-bernoulli likelihood needs values in [0, 1], found {low:.3g} to {high:.3g}"
        )
    if name == "discretized-logistic" and (measure.dequantize or (measure.levels or 0) < 2):
        raise InputError(
            f"{data.name}: a discretized-logistic likelihood needs pictures with whole grey levels, not dequantized; "
            "--likelihood auto chooses one for these values"
        )
    if name in OF_COUNTS and (measure.levels or 0) > 1:
        raise InputError(
            f"{data.name}: a {name} likelihood is for tables, and these are pictures; try discretized-logistic"
        )
    if name in OF_COUNTS and (measure.scale or low < 0 or bool((stored != stored.round()).any())):
        raise InputError(
            f"{data.name}: a {name} likelihood needs whole numbers from 0, not standardized; found {low:.3g} to "
            f"{high:.3g}"
        )


def _infer_likelihood(stored: Tensor, data: Dataset) -> tuple[str, str]:
    """The name of the likelihood that the values call for, and why."""
    measure = data.train.measure
    if measure.binarize != "none":
        if measure.levels and measure.levels > 1:
            reason = f"pixels of 0 to {measure.levels}, binarized ({measure.binarize}); --binarize none keeps greys"
        else:
            reason = f"the values are {'0 or 1' if measure.binarize == 'fixed' else 'binarized'}"
        return "bernoulli", reason
    if are_counts(stored) and not measure.dequantize and not measure.levels and not measure.scale:
        high = stored.max().item()
        return "negative-binomial", f"counts of 0 to {high:.0f}; --likelihood normal takes them as real numbers"
    whole = not measure.dequantize and not measure.levels and bool((stored == stored.round()).all())
    return "normal", "whole numbers, taken as real ones; --dequantize gives them a density" if whole else "real numbers"


def _scale_of(scale: float | str | None, name: str, data: Dataset) -> float | str | None:
    """The scale asked for, else from the network for tables and one learned scale for pictures."""
    if name not in SCALED:
        if scale is not None:
            raise InputError(f"a {name} likelihood has no scale: leave out --scale, or choose --likelihood normal")
        return None
    if isinstance(scale, float) and not scale > 0:
        raise InputError(f"scale is a standard deviation and must be positive, got {scale}")
    return scale if scale is not None else "learned" if data.image_shape else "network"
