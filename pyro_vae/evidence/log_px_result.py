"""log p(x) of rows: the number, its kind, its errors and its measure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_vae.data.row_weights import effective_rows, weighted_mc_se, weighted_mean, weighted_se
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import EvidenceRecord, finite_or_none
from pyro_vae.programs.plates import PlateStructure

ROUNDING, ROUNDING_OF_VALUE = 1e-3, 1e-5  # nats above 0 that a log-probability of a row, and of each value, may have


def require_log_probabilities(values: Tensor, what: str, plates: PlateStructure) -> Tensor:
    """Logarithms of probabilities, those that rounding brought above 0 as 0; others than probabilities as they are.

    Args:
        values: the largest of each row (N,), nats.
        what: what they are, in words.
        plates: the program's plates, which say whether all it observes are counted values.

    Returns:
        The values; `InputError` where a log-probability is above 0 by more than rounding.
    """
    if not plates.is_counting:
        return values
    allowed = ROUNDING + ROUNDING_OF_VALUE * sum(size for _, size in plates.values)
    if (wrong := values > allowed).any():
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"{what} is {float(values[row]):.4g} in row {row}, and the logarithm of a probability is at most 0: what "
            "the model observes is discrete, so check that its distributions sum to one"
        )
    return torch.where(values > 0, 0.0, values)


def weakest_kind(kinds: Iterable[str]) -> str:
    """The kind of a mean over numbers of several kinds.

    >>> weakest_kind(["exact", "lower bound"]), weakest_kind(["lower bound", "upper bound"])
    ('lower bound', 'estimate')
    """
    others = set(kinds) - {"exact"}
    if len(others) > 1:
        return "estimate"
    return others.pop() if others else "exact"


@dataclass(frozen=True, kw_only=True)
class LogPx:
    """log p(x) of N rows, what kind of number it is, and its errors.

    Nats per row, float64 on the CPU, the Jacobian of standardization counted. `mc_se` (N,) is the Monte-Carlo standard
    error of `log_px` (N,), zero where it is exact, NaN where it is not known. `kind` is `exact`, `lower bound`, `upper
    bound` or `estimate`; a bound is one in expectation. `measure` names the density's reference measure; only equal
    measures may be compared. A row of density zero has −∞, one whose density cannot be computed NaN; `reasons` says
    why, by row. Means and errors over rows are those of the rows that have a number, which NaN is not, each with its
    weight where `weights` (N,) are given: a row of weight 0 has its number, and counts in no mean.
    """

    log_px: Tensor
    mc_se: Tensor
    measure: str
    kind: str
    reasons: Mapping[int, str] = field(default_factory=dict)
    weights: Tensor | None = None

    @property
    def has_number(self) -> Tensor:
        """Which rows have a number, −∞ included, (N,)."""
        return ~self.log_px.isnan()

    @property
    def khat_bad(self) -> float | None:
        """The share of rows whose number a diagnostic calls bad; None where the method has no such diagnostic."""
        return None

    @property
    def log_px_mean(self) -> float:
        """The weighted mean over the rows that have a number, nats; NaN where none has."""
        return weighted_mean(*self._among(self.has_number, self.log_px))

    @property
    def log_px_se(self) -> float:
        """Standard error over rows: how well these rows represent the population, nats. NaN for one row."""
        return weighted_se(*self._among(self.has_number, self.log_px))

    @property
    def log_px_mc_se(self) -> float:
        """Monte-Carlo standard error of the mean: how well the draws approximate the integrals, nats."""
        return weighted_mc_se(*self._among(self.has_number, self.mc_se))

    @property
    def num_zero(self) -> int:
        """How many of the rows that count have density zero, so that the mean is −∞."""
        is_zero = self.log_px == -math.inf
        return int((is_zero if self.weights is None else is_zero & (self.weights > 0)).sum())

    def _among(self, known: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """The values of some rows, bool (N,), and these rows' weights."""
        return values[known], None if self.weights is None else self.weights[known]

    @property
    def without_number(self) -> str:
        """How many rows have no number or density zero, and the first reason; empty where all have a number."""
        if not self.reasons:
            return ""
        row, reason = next(iter(sorted(self.reasons.items())))
        nan, zero = int((~self.has_number).sum()), int((self.log_px == -math.inf).sum())
        counts = [f"{nan} of {len(self)} rows have no number" if nan else ""]
        counts += [f"{zero} of {len(self)} rows have density zero, log p(x) = −∞" if zero else ""]
        return f"{', '.join(filter(None, counts))}; row {row}: {reason}"

    def to_record(self, about: EvidenceRecord) -> EvidenceRecord:
        """The means over rows as the record of a program on a split.

        Args:
            about: the record with what is known of the program, its fit and its rows.

        Returns:
            `about` with log p(x), its kind and errors, weighted means over rows in nats per row.
        """
        return replace(
            about,
            measure=self.measure,
            log_px=finite_or_none(self.log_px_mean),
            log_px_kind=self.kind,
            log_px_se=finite_or_none(self.log_px_se),
            log_px_mc_se=finite_or_none(self.log_px_mc_se),
            num_data=len(self),
            num_with_number=None if self.has_number.all() else int(self.has_number.sum()),
            num_zero=self.num_zero or None,
            effective_rows=effective_rows(self.weights),
        )

    def __len__(self) -> int:
        return len(self.log_px)

    def _describe(self, details: str) -> str:
        missing = f"; {self.without_number}" if self.reasons else ""
        return (
            f"{type(self).__name__}({len(self)} rows, {details}: "
            f"log p(x) {self.log_px_mean:.2f} ± {self.log_px_se:.2f} (rows) "
            f"± {self.log_px_mc_se:.3f} (Monte Carlo) nats, {self.kind}; {self.measure}{missing})"
        )
