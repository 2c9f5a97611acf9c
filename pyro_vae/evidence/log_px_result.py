"""log p(x) of rows: the number, its kind, its errors and its measure."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LogPx:
    """log p(x) of N rows, what kind of number it is, and its errors.

    Nats per row, float64 on the CPU, the Jacobian of standardization counted. `mc_se` (N,) is the Monte-Carlo standard
    error of `log_px` (N,), zero where it is exact, NaN where it is not known. `kind` is `exact`, `lower bound`, `upper
    bound` or `estimate`; a bound is one in expectation. `measure` names the density's reference measure; only equal
    measures may be compared.
    """

    log_px: Tensor
    mc_se: Tensor
    measure: str
    kind: str

    @property
    def log_px_se(self) -> float:
        """Standard error over rows: how well these N rows represent the population, nats. NaN for one row."""
        return float(self.log_px.std() / math.sqrt(len(self.log_px))) if len(self.log_px) > 1 else math.nan

    @property
    def log_px_mc_se(self) -> float:
        """Monte-Carlo standard error of the mean: how well the draws approximate the integrals, nats."""
        return float(self.mc_se.square().sum().sqrt() / len(self.mc_se))

    def __len__(self) -> int:
        return len(self.log_px)

    def _describe(self, details: str) -> str:
        return (
            f"{type(self).__name__}({len(self)} rows, {details}: "
            f"log p(x) {self.log_px.mean():.2f} ± {self.log_px_se:.2f} (rows) "
            f"± {self.log_px_mc_se:.3f} (Monte Carlo) nats, {self.kind}; {self.measure})"
        )
