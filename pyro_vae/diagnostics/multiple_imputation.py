"""Rubin's rules: one estimate and its error from those of several imputed data sets.

>>> pooled = pool_estimates([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
>>> pooled.estimate.item(), pooled.within.item(), pooled.between.item(), round(pooled.total.item(), 4)
(2.0, 0.5, 1.0, 1.8333)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError


@dataclass(frozen=True)
class PooledEstimate:
    """What M imputed data sets say together of one or several numbers, each field in the shape of one estimate.

    Attributes:
        estimate: the mean of the estimates.
        within: the mean of their variances, W.
        between: the variance between them, B, over M − 1.
        total: W + (1 + 1/M) B.
        df: the degrees of freedom of the t distribution of (estimate − truth) / √total.
        fraction_missing: the share of the information that was missing, (r + 2 / (df + 3)) / (1 + r) with
            r = (1 + 1/M) B / W.
    """

    estimate: Tensor
    within: Tensor
    between: Tensor
    total: Tensor
    df: Tensor
    fraction_missing: Tensor

    def interval(self, coverage: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of an interval around the estimate, by its t distribution.

        Args:
            coverage: the probability that it covers the truth.

        Returns:
            Both ends.
        """
        from scipy.stats import t

        if not 0 < coverage < 1:
            raise InputError(f"coverage is a probability between 0 and 1, got {coverage}")
        quantile = torch.as_tensor(t.ppf(0.5 + coverage / 2, self.df.numpy()))
        half = quantile * self.total.sqrt()
        return self.estimate - half, self.estimate + half


@check_call
def pool_estimates(
    estimates: Tensor | Sequence[float], variances: Tensor | Sequence[float], complete_df: float | None = None
) -> PooledEstimate:
    r"""Pool the estimates from M imputed data sets by Rubin's rules (Rubin 1987).

    With $\lambda = (1 + 1/M) B / T$ the degrees of freedom are $\nu_M = (M - 1) / \lambda^2$. With those of the
    complete data, $\nu$, they are $1 / (1/\nu_M + 1/\nu_o)$ with $\nu_o = \frac{\nu + 1}{\nu + 3} \nu (1 - \lambda)$
    (Barnard & Rubin 1999), never above $\nu$. The rules hold for proper imputations; draws at fixed parameters give a
    B that is somewhat too small.

    Args:
        estimates: of each data set, (M,) or (M, …), two or more.
        variances: the squares of their standard errors, in the same shape.
        complete_df: the degrees of freedom that the analysis of the complete data has, N − k; None for large N.

    Returns:
        The pooled numbers, float64.
    """
    q, u = (torch.as_tensor(values, dtype=torch.float64) for values in (estimates, variances))
    if q.shape != u.shape or q.dim() < 1:
        raise InputError(f"expected a variance for each estimate, got {tuple(q.shape)} and {tuple(u.shape)}")
    M = len(q)
    if M < 2:
        raise InputError("one imputation has no variance between imputations: give two or more")
    if not bool(torch.isfinite(q).all() and torch.isfinite(u).all() and (u >= 0).all()):
        raise InputError("estimates and variances must be finite, and no variance negative")
    if complete_df is not None and not complete_df > 0:
        raise InputError(f"complete_df must be positive, got {complete_df}")
    within, between = u.mean(0), q.var(0)
    added = (1 + 1 / M) * between
    total = within + added
    share = torch.where(total > 0, added / total, 0.0)  # λ
    df = (M - 1) / share.square()
    if complete_df is not None:
        observed = (complete_df + 1) / (complete_df + 3) * complete_df * (1 - share)
        df = 1 / (1 / df + 1 / observed)
    # (r + 2 / (df + 3)) / (1 + r) with r = λ / (1 − λ), which may be infinite
    fraction = share + (1 - share) * 2 / (df + 3)
    return PooledEstimate(q.mean(0), within, between, total, df, fraction)
