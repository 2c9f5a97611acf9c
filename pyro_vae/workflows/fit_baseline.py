"""What a fit of a table has to beat: one normal, or a mixture of products of columns, on the same training rows."""

from dataclasses import dataclass, replace

import torch

from pyro_vae.comparison.paired_differences import difference_to
from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.conditions import GIVEN, original_codes
from pyro_vae.data.reference_measure import product_measure
from pyro_vae.errors import InputError
from pyro_vae.evidence.conditional_evidence import conditional_evidence
from pyro_vae.evidence.exact_log_px import exact_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.models.columns_mixture import ColumnsMixture
from pyro_vae.models.gaussian_mixture import GaussianMixture
from pyro_vae.typing import Program

MAX_COLUMNS, MAX_ROWS = 200, 200_000  # whose baseline is fitted in seconds
NUM_COMPONENTS = 5  # of a mixture: what cross-validation chooses for the customers' table


@dataclass(frozen=True)
class Baseline:
    """A baseline's log p(x) on validation rows, nats per row, and what the fit gains on it, row by row.

    Attributes:
        name: of the baseline, in words.
        log_px: its mean.
        gain: the mean of the fit's log p(x) − the baseline's.
        gain_se: the standard error of that difference over rows.
    """

    name: str
    log_px: float
    gain: float
    gain_se: float


def fit_baseline(data: Dataset, rows: Split, found: LogPx) -> Baseline | None:
    """The baseline on the same rows: one normal for real columns, a mixture for columns of several kinds or conditions.

    Args:
        data: the data set.
        rows: the validation rows that the fit was scored on.
        found: the fit's log p(x) of these rows.

    Returns:
        The baseline; None where it is no density of the data, or would take long.
    """
    measure = data.train.measure
    is_table = data.image_shape is None and not measure.coded and bool(measure.scale)
    if not is_table or data.num_features > MAX_COLUMNS or len(data.train) > MAX_ROWS:
        return None
    try:
        name, scored = (_conditional_mixture if measure.conditions else _density)(data, rows)
        if scored.measure != found.measure:
            return None
        record = difference_to(found, name, scored)
    except InputError:  # too few rows: there is nothing to compare with
        return None
    return Baseline(name, scored.log_px_mean, record.behind, record.behind_se)


def _density(data: Dataset, rows: Split) -> tuple[str, LogPx]:
    """log p(x) of rows under a density fitted to the training rows, and its name."""
    model: Program = GaussianMixture(1, data.num_features)
    name = "one normal"
    if data.train.measure.counted:
        model, name = ColumnsMixture(NUM_COMPONENTS, data.schema), f"mixture of {NUM_COMPONENTS}"
    fit_em(model, data.train)
    return name, exact_evidence(model, rows)


def _conditional_mixture(data: Dataset, rows: Split) -> tuple[str, LogPx]:
    """log p(x | y) of rows, log p(x, y) − log p(y) under a mixture of both, and its name."""
    schema = _joint_schema(data)
    model = ColumnsMixture(NUM_COMPONENTS, schema)
    fit_em(model, _joint_rows(data, data.train, schema))
    found = conditional_evidence(model, _joint_rows(data, rows, schema), columns=range(data.num_features))
    return f"mixture of {NUM_COMPONENTS}", replace(found, measure=rows.measure_name)


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
