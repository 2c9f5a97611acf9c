"""Densities in closed form that a program has to beat: one normal, independent columns or bits, mixtures of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.conditions import GIVEN, original_codes
from pyro_vae.data.infer_measure import product_measure
from pyro_vae.evidence.conditional_evidence import conditional_evidence
from pyro_vae.evidence.exact_log_px import exact_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.em.fit_closed_form import fit_closed_form
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.models.bernoulli_mixture import BernoulliMixture
from pyro_vae.models.columns_mixture import ColumnsMixture
from pyro_vae.models.gaussian_mixture import GaussianMixture
from pyro_vae.models.ppca import PPCA
from pyro_vae.typing import Program

MAX_COLUMNS, MAX_ROWS = 200, 200_000  # of a table whose baseline is fitted in seconds
MAX_PICTURES = 10_000  # that a mixture of bits is fitted to
NUM_COMPONENTS = 5  # of a mixture: what cross-validation chooses for the customers' table
NUM_LATENTS, PICTURE_EPOCHS = 20, 100  # of PPCA, and of EM of pictures
MIN_ROWS = 20  # of each of a mixture's components, and for each of PPCA's latents


@dataclass(frozen=True)
class BaselineDensity:
    """A density fitted to the training rows: its `name` in words, and log p(x) of rows under it."""

    name: str
    score: Callable[[Split], LogPx]


def fit_table_density(data: Dataset) -> BaselineDensity | None:
    """One normal for real columns, a mixture for columns of several kinds or conditions, fitted by EM.

    Raises `InputError` for too few rows.

    Args:
        data: the data set.

    Returns:
        The density; None where there is none for the data, or it would take long.
    """
    measure = data.train.measure
    is_table = data.image_shape is None and not measure.coded and bool(measure.scale)
    if not is_table or data.num_features > MAX_COLUMNS or len(data.train) > MAX_ROWS:
        return None
    return _conditional_mixture(data) if measure.conditions else _density(data)


def fit_baselines(data: Dataset) -> list[BaselineDensity]:
    """The simplest density of the data and a mixture of such: normals, independent columns of several kinds, or bits.

    Rows with conditions have the mixture alone, and pictures in grey levels PPCA. Raises `InputError` for too few rows.

    Args:
        data: the data set.

    Returns:
        The densities, from the simplest; none where there is none for the data, or they would take long.
    """
    if data.image_shape is not None:
        return _picture_densities(data)
    simplest = fit_table_density(data)
    if simplest is None:
        return []
    if data.train.measure.conditions:
        return [simplest]
    if data.train.measure.counted:
        independent = ColumnsMixture(1, data.schema)
        return [_fitted("independent columns", independent, data.train), simplest]
    num_components = min(NUM_COMPONENTS, len(data.train) // MIN_ROWS)
    if num_components < 2:
        return [simplest]
    mixture = GaussianMixture(num_components, data.num_features)
    return [simplest, _fitted(f"mixture of {num_components} normals", mixture, data.train)]


def _picture_densities(data: Dataset) -> list[BaselineDensity]:
    """Independent bits and a mixture of them, or PPCA of grey levels, fitted to the first 10,000 training rows."""
    train = data.train.head(MAX_PICTURES)
    if data.train.measure.binarize == "none":
        num_latents = min(NUM_LATENTS, len(train) // MIN_ROWS, data.num_features - 1)
        if num_latents < 1:
            return []
        ppca = PPCA(num_latents, data.num_features)
        fit_closed_form(ppca, train)
        return [BaselineDensity(f"PPCA of {num_latents} latents", lambda rows: exact_evidence(ppca, rows))]
    sizes = {"independent pixels": 1, f"mixture of {2 * NUM_COMPONENTS}": 2 * NUM_COMPONENTS}
    return [
        _fitted(name, BernoulliMixture(size, data.num_features), train, epochs=PICTURE_EPOCHS)
        for name, size in sizes.items()
    ]


def _fitted(name: str, model: Program, rows: Split, epochs: int = 500) -> BaselineDensity:
    fit_em(model, rows, epochs=epochs)
    return BaselineDensity(name, lambda rows: exact_evidence(model, rows))


def _density(data: Dataset) -> BaselineDensity:
    if data.train.measure.counted:
        return _fitted(f"mixture of {NUM_COMPONENTS}", ColumnsMixture(NUM_COMPONENTS, data.schema), data.train)
    return _fitted("one normal", GaussianMixture(1, data.num_features), data.train)


def _conditional_mixture(data: Dataset) -> BaselineDensity:
    """log p(x | y) of rows is log p(x, y) − log p(y) under a mixture of both."""
    schema = _joint_schema(data)
    model = ColumnsMixture(NUM_COMPONENTS, schema)
    fit_em(model, _joint_rows(data, data.train, schema))

    def score(rows: Split) -> LogPx:
        found = conditional_evidence(model, _joint_rows(data, rows, schema), columns=range(data.num_features))
        return replace(found, measure=rows.measure_name)

    return BaselineDensity(f"mixture of {NUM_COMPONENTS}", score)


def _joint_schema(data: Dataset) -> Schema:
    """The modelled columns, plain numbers as real ones, and the conditions."""
    columns, measure = data.schema.modelled, data.train.measure
    if not measure.counted:
        scaled = enumerate(zip(measure.shift, measure.scale, strict=True))
        columns = tuple(Column(f"x{i + 1}", "real", shift=shift, scale=scale) for i, (shift, scale) in scaled)
    return Schema((*columns, *data.schema.conditions), coding="columns")


def _joint_rows(data: Dataset, rows: Split, schema: Schema) -> Split:
    """Rows x with their conditions as further columns."""
    codes = torch.from_numpy(original_codes(data.schema, rows.inputs[GIVEN]))
    stored = torch.cat([rows.stored.double(), codes], 1)
    return Split(rows.name, stored, product_measure(schema), weights=rows.weights)
