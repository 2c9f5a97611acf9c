"""The data set that settings name, and the likelihood that suits its values."""

from typing import Any

from pyro_vae.data import Dataset, load_data
from pyro_vae.data.named_datasets import are_counts, known
from pyro_vae.errors import InputError

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


def choose_likelihood(asked: str, data: Dataset) -> tuple[str, str]:
    """The likelihood's name and why: what was asked for, or what the data's values call for.

    `InputError` where the one asked for gives the values no probability.
    """
    measure, stored = data.train.measure, known(data.train.stored)
    binary = measure.binarize != "none"
    low, high = stored.min().item(), stored.max().item()
    if asked == "bernoulli" and not binary:
        raise InputError(
            f"{data.name}: a bernoulli likelihood needs values of 0 or 1, found {low:.3g} to {high:.3g}; binarize "
            "pictures (--binarize stochastic), or leave the likelihood to --likelihood auto"
        )
    if asked == "continuous-bernoulli" and (measure.scale or (not measure.levels and (low < 0 or high > 1))):
        raise InputError(
            f"{data.name}: a continuous-bernoulli likelihood needs values in [0, 1], found {low:.3g} to {high:.3g}"
        )
    if asked == "discretized-logistic" and (measure.dequantize or (measure.levels or 0) < 2):
        raise InputError(
            f"{data.name}: a discretized-logistic likelihood needs pictures with whole grey levels, not dequantized; "
            "--likelihood auto chooses one for these values"
        )
    if asked in OF_COUNTS and (measure.levels or 0) > 1:
        raise InputError(
            f"{data.name}: a {asked} likelihood is for tables, and these are pictures; try discretized-logistic"
        )
    if asked in OF_COUNTS and (measure.scale or low < 0 or bool((stored != stored.round()).any())):
        raise InputError(
            f"{data.name}: a {asked} likelihood needs whole numbers from 0, not standardized; found {low:.3g} to "
            f"{high:.3g}"
        )
    if asked != "auto":
        return asked, "asked for"
    if binary and measure.levels and measure.levels > 1:
        return (
            "bernoulli",
            f"pixels of 0 to {measure.levels}, binarized ({measure.binarize}); --binarize none keeps greys",
        )
    if binary:
        return "bernoulli", f"the values are {'0 or 1' if measure.binarize == 'fixed' else 'binarized'}"
    if are_counts(stored) and not measure.dequantize and not measure.levels and not measure.scale:
        return "negative-binomial", f"counts of 0 to {high:.0f}; --likelihood normal takes them as real numbers"
    whole = not measure.dequantize and not measure.levels and bool((stored == stored.round()).all())
    return "normal", "whole numbers, taken as real ones; --dequantize gives them a density" if whole else "real numbers"


def scale_of(settings: dict[str, Any], name: str, data: Dataset) -> float | str | None:
    """The scale of a likelihood that has one: asked for, or from the network for tables, one learned for pictures."""
    if name not in SCALED:
        if settings["scale"] is not None:
            raise InputError(f"a {name} likelihood has no scale: leave out --scale, or choose --likelihood normal")
        return None
    if isinstance(settings["scale"], float) and not settings["scale"] > 0:
        raise InputError(f"scale is a standard deviation and must be positive, got {settings['scale']}")
    return settings["scale"] if settings["scale"] is not None else "learned" if data.image_shape else "network"
