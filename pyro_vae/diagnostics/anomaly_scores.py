"""Anomaly scores: log p(x) of each row, its percentile among validation rows, and a conformal test."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, as_split
from pyro_vae.data.split import OBSERVED_ONLY
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.evidence.auto_evidence import AutoEvidence, auto_evidence
from pyro_vae.evidence.exact_log_px import Exact
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.evidence.log_px_result import LogPx, weakest_kind
from pyro_vae.typing import Program

DEFAULT_RATE = 0.05  # of false alarms


@dataclass(frozen=True)
class Scores:
    """N rows compared with reference rows that the program was not fitted to.

    `found` is the evidence of the rows, `reference` that of the reference rows. `percentile` (N,) is the share of
    reference rows with a lower log p(x), times 100. `p_value` (N,) is conformal, (1 + number of reference rows that are
    as low or lower) / (1 + number of all), and `anomaly` (N,) says where it is at most `false_alarms`. A row whose
    log p(x) is NaN has neither, and reference rows without a number do not count.
    """

    found: LogPx
    reference: LogPx
    percentile: Tensor
    p_value: Tensor
    false_alarms: float

    @property
    def anomaly(self) -> Tensor:
        return self.p_value <= self.false_alarms

    @property
    def kind(self) -> str:
        """The kind of log p(x), the weaker one where rows and reference rows differ in it."""
        return weakest_kind([self.found.kind, self.reference.kind])

    @property
    def threshold(self) -> float:
        """The log p(x) below which a row is an anomaly, nats."""
        ordered = _ordered(self.reference)
        shares = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / (1 + len(ordered))
        allowed = int((shares <= self.false_alarms).sum())
        return float(ordered[allowed - 1])

    def __repr__(self) -> str:
        return (
            f"Scores({len(self.found)} rows against {len(self.reference)}: {int(self.anomaly.sum())} anomalies at a "
            f"false-alarm rate of {self.false_alarms:g})"
        )


@check_call
def score(
    program: Program,
    data: RowsGiven,
    reference: RowsGiven | LogPx,
    *,
    false_alarms: float | None = None,
    num_samples: int = 1000,
    prior_share: float | None = None,
    memory_mib: float = 64,
    seed: int | None = 0,
    rows: Tensor | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Scores:
    r"""log p(x) of each row, its percentile among reference rows, and whether it is unusual at a false-alarm rate.

    The p-value is conformal: of rows from the distribution of the reference rows at most a share `false_alarms` is
    flagged, however good the program is (Bates et al., arXiv:2104.08279; on average over reference sets). High density
    need not be typical (Nalisnick et al., arXiv:1810.09136): only low rows are flagged. Percentiles and p-values count
    reference rows alike, whatever weights they have.

    Raises `InputError` for too few reference rows for the rate, or another measure.

    Args:
        program: the fitted program.
        data: rows x (N, D), a split or a data set (its test split).
        reference: rows held out, a split or a data set (its validation split), since training rows have a higher log
            p(x); or what `auto_evidence`, `exact_evidence` or `log_evidence` returned for them, and then rows are
            scored likewise.
        false_alarms: the share of usual rows that may be flagged, between 0 and 1; by default 0.05, or
            the smallest that the number of reference rows can tell.
        num_samples: draws for each row.
        prior_share: where it is given, log p(x) is by `log_evidence`, with this share of draws from the prior; else by
            `auto_evidence`.
        memory_mib: of the draws' values, MiB.
        seed: of the draws.
        rows: the indices (N,) of `data` in the training set, for programs that take them.
        group: the processes that share the rows.

    Returns:
        Evidence of both sets of rows, nats per row, percentiles, p-values and flags.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 32, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 32, 64)), guide)
    >>> fitted = pv.fit(vae, data.train, epochs=3)
    >>> noise = (torch.rand(20, 64) < 0.5).float()
    >>> bool(pv.score(vae, noise, data.valid, num_samples=100).anomaly.all())
    True
    """
    if isinstance(reference, Evidence):  # the same estimator for both, or the p-values would compare two estimators
        num_samples = reference.num_samples
        prior_share = None if isinstance(reference, AutoEvidence) else reference.prior_share

    def evidence(some: RowsGiven, rows: Tensor | None = None) -> LogPx:
        estimate = auto_evidence if prior_share is None else partial(log_evidence, prior_share=prior_share)
        return estimate(program, some, num_samples, rows=rows, memory_mib=memory_mib, seed=seed, group=group)

    if not isinstance(reference, LogPx):
        held_out = as_split(reference, "valid")
        usable_rate(false_alarms, len(held_out))
        reference = evidence(held_out)
    elif not isinstance(reference, Evidence | Exact):
        raise InputError(f"rows are not scored as {type(reference).__name__} was; give the reference rows themselves")
    rate = usable_rate(false_alarms, int(reference.has_number.sum()))
    return compare_with_reference(evidence(data, rows), reference, rate)


def compare_with_reference(found: LogPx, reference: LogPx, false_alarms: float) -> Scores:
    """Percentiles and p-values of rows among reference rows, from log p(x) of both by the same method.

    Args:
        found: log p(x) of the rows.
        reference: that of the reference rows.
        false_alarms: the share of usual rows that may be flagged.

    Returns:
        The rows' percentiles, p-values and flags.
    """
    _require_rate(false_alarms)
    require_enough(int(reference.has_number.sum()), false_alarms)
    _require_comparable(found, reference)
    ordered, unknown = _ordered(reference), torch.where(found.has_number, 0.0, torch.nan)
    lower = torch.searchsorted(ordered, found.log_px, right=False)
    as_low = torch.searchsorted(ordered, found.log_px, right=True)
    return Scores(
        found=found,
        reference=reference,
        percentile=100.0 * lower / len(ordered) + unknown,
        p_value=(1.0 + as_low) / (1 + len(ordered)) + unknown,
        false_alarms=false_alarms,
    )


def _require_rate(false_alarms: float) -> None:
    if not 0 < false_alarms < 1:
        raise InputError(f"false_alarms is a share of usual rows, between 0 and 1, got {false_alarms}")


def _require_comparable(found: LogPx, reference: LogPx) -> None:
    given = "as given"
    if found.measure == reference.measure.removesuffix(OBSERVED_ONLY):
        return  # rows without gaps, beside some with them
    if found.measure != reference.measure and not any(m.startswith(given) for m in (found.measure, reference.measure)):
        raise InputError(f"these rows are measured by {found.measure}, the reference rows by {reference.measure}")


def _ordered(reference: LogPx) -> Tensor:
    """log p(x) of the reference rows that have a number, in rising order."""
    return reference.log_px[reference.has_number].sort().values


def usable_rate(false_alarms: float | None, num_rows: int) -> float:
    """The false-alarm rate that is asked for; by default 0.05, or the smallest that so few reference rows can tell.

    Args:
        false_alarms: the rate; None for the default. One that is too small is an `InputError`.
        num_rows: the number of reference rows.

    Returns:
        The rate.
    """
    if false_alarms is None:
        require_enough(num_rows, 1 / 2)
        return max(DEFAULT_RATE, 1 / (num_rows + 1))
    _require_rate(false_alarms)
    require_enough(num_rows, false_alarms)
    return false_alarms


def require_enough(num_rows: int, false_alarms: float) -> None:
    """`InputError` where there are too few reference rows for a false-alarm rate.

    Args:
        num_rows: the number of reference rows.
        false_alarms: the false-alarm rate.
    """
    if (num_rows + 1) * false_alarms < 1:
        enough = f"{1 / (num_rows + 1) + 5e-4:.3f}"
        raise InputError(
            f"{num_rows} reference rows cannot tell one in {1 / false_alarms:.0f}: a false-alarm rate of "
            f"{false_alarms:g} needs {int(-(-1 // false_alarms)) - 1} or more; try false_alarms={enough} "
            f"(--false-alarms {enough})"
        )
