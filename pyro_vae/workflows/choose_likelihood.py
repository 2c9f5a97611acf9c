"""The likelihood that suits the values of the data, chosen once; and the data set that settings name."""

from dataclasses import dataclass, replace

from torch import Tensor

from pyro_vae.data import Dataset, load_data
from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.column_options import parse_exposures, parse_kinds, split_names
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.image_shapes import is_colour
from pyro_vae.data.infer_measure import are_counts, observed_values
from pyro_vae.data.load_tables import SplitSource
from pyro_vae.errors import InputError
from pyro_vae.options import Value
from pyro_vae.registry import LIKELIHOODS, ModelConfig
from pyro_vae.workflows.choose_families import choose_families

Scale = float | str | None
MIN_CORRELATED, MAX_CORRELATED = 4, 200  # columns of tables whose residuals are modelled with their correlation


@dataclass(frozen=True)
class LikelihoodChoice:
    """A likelihood by its name, the scale it gets (None where it has none), and why it was chosen.

    `schema` has the families of columns with kinds; None for other likelihoods.
    """

    name: str
    scale: Scale
    reason: str
    schema: Schema | None = None


def load_dataset(config: DataConfig, likelihood: str = "auto", rows: SplitSource | None = None) -> Dataset:
    """The data set of a configuration, its measure the one that the likelihood is for.

    Likelihoods of grey levels get pictures as they are; only those of real numbers get standardized columns.

    Args:
        config: the data settings.
        likelihood: the likelihood's name, or auto.
        rows: rows in memory, in place of those that `config.data` names.

    Returns:
        The data set.
    """
    rows = config.data if rows is None else rows
    values = "" if likelihood == "auto" else LIKELIHOODS[likelihood].values
    binarize, standardize = config.binarize, config.standardize
    if values not in ("", "bits") and binarize is None:
        binarize = "none"
    if values in ("counts", "unit interval", "grey levels") and standardize is None:
        standardize = False
    coding = config.coding
    if likelihood != "auto" and coding == "auto":
        coding = "columns" if values == "columns" else "one-hot"
    if values == "columns":
        binarize = standardize = None
    config = replace(config, coding=coding)
    data = _load(replace(config, binarize=binarize, standardize=standardize), rows)
    if values == "reals" and standardize is None and data.train.measure.levels is None:
        if data.train.measure.scale:
            return data
        return _load(replace(config, binarize=binarize, standardize=True), rows)  # counts, taken as real numbers
    return data


def _load(config: DataConfig, rows: SplitSource) -> Dataset:
    return load_data(
        rows,
        binarize=config.binarize,
        dequantize=config.dequantize,
        standardize=config.standardize,
        missing=config.missing,
        image_shape=config.image_shape,
        gray=config.gray,
        resize=config.resize,
        root=config.data_root,
        check_rows=config.check_rows,
        stream=config.stream,
        layer=config.layer,
        header=config.header,
        columns=parse_kinds(config.column),
        label=config.label,
        id=config.id,
        drop=config.drop,
        weights=config.weights,
        split=config.split,
        group=config.group,
        given=split_names(config.given),
        exposure=parse_exposures(config.exposure),
        schema=config.schema,
        coding=config.coding,
        valid=config.valid,
        test=config.test,
    )


def choose_likelihood(config: ModelConfig, data: Dataset) -> LikelihoodChoice:
    """The likelihood that a configuration asks for, or with `auto` the one that the data's values call for.

    Args:
        config: the model's settings, of which `likelihood` and its option `scale` are read.
        data: the data set.

    Returns:
        The choice; `InputError` where the values lie outside the support of the one asked for, or its scale makes no
        sense.
    """
    name, stored = config.likelihood, observed_values(data.train.stored)
    for split in (each for each in (data.train, data.valid, data.test) if len(each)):
        _require_support(name, observed_values(split.stored), data)
    reason = "asked for"
    if name == "auto":
        name, reason = _infer_likelihood(stored, data)
    schema = None
    if LIKELIHOODS[name].values == "columns" and data.schema.coding == "columns":
        schema, chosen = choose_families(data)
        reason = "; ".join([reason, *map(str, chosen)])
    return LikelihoodChoice(name, _scale_of(config.options.get("scale"), name, data), reason, schema)


def _require_support(name: str, stored: Tensor, data: Dataset) -> None:
    """`InputError` where a likelihood that was asked for has no density at the data's values."""
    if name == "auto":
        return
    measure, low, high = data.train.measure, stored.min().item(), stored.max().item()
    values = LIKELIHOODS[name].values
    if values == "bits" and measure.binarize == "none":
        raise InputError(
            f"{data.name}: a {name} likelihood needs values of 0 or 1, found {low:.3g} to {high:.3g}; binarize "
            "pictures (--binarize stochastic), or leave the likelihood to --likelihood auto"
        )
    if values == "unit interval" and (measure.scale or (not measure.levels and (low < 0 or high > 1))):
        raise InputError(f"{data.name}: a {name} likelihood needs values in [0, 1], found {low:.3g} to {high:.3g}")
    if values == "grey levels" and (measure.dequantize or (measure.levels or 0) < 2):
        raise InputError(
            f"{data.name}: a {name} likelihood needs pictures with whole grey levels, not dequantized; "
            "--likelihood auto chooses one for these values"
        )
    if values == "counts" and (measure.levels or 0) > 1:
        raise InputError(
            f"{data.name}: a {name} likelihood is for tables, and these are pictures; try discretized-logistic"
        )
    if values == "counts" and (measure.scale or low < 0 or bool((stored != stored.round()).any())):
        raise InputError(
            f"{data.name}: a {name} likelihood needs whole numbers from 0, not standardized; found {low:.3g} to "
            f"{high:.3g}"
        )


def _infer_likelihood(stored: Tensor, data: Dataset) -> tuple[str, str]:
    """The name of the likelihood that the values call for, and why."""
    measure = data.train.measure
    if measure.counted:
        return "columns", "each column by its kind"
    if measure.coded:
        return "normal", "columns of several kinds, coded as numbers"
    if measure.binarize != "none":
        if measure.levels and measure.levels > 1:
            reason = f"pixels of 0 to {measure.levels}, binarized ({measure.binarize}); --binarize none keeps greys"
        else:
            reason = f"the values are {'0 or 1' if measure.binarize == 'fixed' else 'binarized'}"
        return "bernoulli", reason
    if is_colour(data.image_shape) and (measure.levels or 0) > 1 and not measure.dequantize and not measure.scale:
        return "discretized-logistic", (
            f"colours of 0 to {measure.levels}, each level with its probability; --likelihood normal takes them as "
            "real numbers"
        )
    is_unchanged = not measure.dequantize and not measure.levels and not measure.scale
    if is_unchanged and (data.holds_counts or are_counts(stored)):
        high = stored.max().item()
        return "negative-binomial", f"counts of 0 to {high:.0f}; --likelihood normal takes them as real numbers"
    if data.image_shape is None and MIN_CORRELATED <= data.num_features <= MAX_CORRELATED:
        return "multivariate-normal", "real numbers, with one correlation of their residuals"
    whole = not measure.dequantize and not measure.levels and bool((stored == stored.round()).all())
    return "normal", "whole numbers, taken as real ones; --dequantize gives them a density" if whole else "real numbers"


def _scale_of(scale: Value, name: str, data: Dataset) -> Scale:
    """The scale asked for, else from the network for tables and one learned scale for pictures."""
    if not any(option.name == "scale" for option in LIKELIHOODS[name].options):
        if scale is not None:
            raise InputError(f"a {name} likelihood has no scale: leave out --scale, or choose --likelihood normal")
        return None
    if isinstance(scale, float) and not scale > 0:
        raise InputError(f"scale is a standard deviation and must be positive, got {scale}")
    assert scale is None or isinstance(scale, (str, float, int))
    return scale if scale is not None else "learned" if data.image_shape else "network"
