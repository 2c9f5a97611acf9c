"""What a fit of a table has to beat: one normal, or a mixture of products of columns, on the same training rows."""

from dataclasses import dataclass

from pyro_vae.comparison.paired_differences import difference_to
from pyro_vae.data import Dataset, Split
from pyro_vae.diagnostics.baseline_densities import fit_table_density
from pyro_vae.errors import InputError
from pyro_vae.evidence.log_px_result import LogPx


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
    try:
        density = fit_table_density(data)
        if density is None:
            return None
        scored = density.score(rows)
        if scored.measure != found.measure:
            return None
        record = difference_to(found, density.name, scored)
    except InputError:  # too few rows: there is nothing to compare with
        return None
    return Baseline(density.name, scored.log_px_mean, record.behind, record.behind_se)
