"""Covariances of a mixture of normals in their four forms: full, tied, diagonal and spherical."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.errors import InputError

COVARIANCES = ("full", "tied", "diagonal", "spherical")


def scatter_about_means(covariance: str, second: Tensor, counts: Tensor, mean: Tensor) -> Tensor:
    """Σ_i r_ic (x_i − μ_c)(x_i − μ_c)ᵀ from second moments, in the shape that the covariance has.

    Args:
        covariance: one of `COVARIANCES`.
        second: weighted sums of products of the features: (C, D, D) or its upper triangle (C, D(D + 1)/2), tied (D, D),
            diagonal (C, D), spherical (C, 1).
        counts: sums of the weights (C,).
        mean: weighted means (C, D).

    Returns:
        Full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,).
    """
    D = mean.shape[1]
    if covariance == "full":
        if second.dim() == 2:
            i, j = torch.triu_indices(D, D, device=second.device)
            packed, second = second, second.new_zeros(len(second), D, D)
            second[:, i, j] = second[:, j, i] = packed
        return second - counts[:, None, None] * mean[:, :, None] * mean[:, None]
    if covariance == "tied":
        return second - (counts[:, None] * mean).T @ mean
    squared_means = counts[:, None] * mean.square()
    return second - squared_means if covariance == "diagonal" else second.reshape(-1) - squared_means.sum(1)


@dataclass(frozen=True)
class CovariancePrior:
    r"""A prior on the covariances of a mixture, in numbers of rows.

    The log prior is $-\frac{n_1}2 \sum_c (\log|\Sigma_c| + \mathrm{tr}\, V \Sigma_c^{-1}) - n_0 \sum_c
    KL(N(0, \Psi) \| N(0, \Sigma_c))$ with V diagonal and $\Psi = (\frac1C \sum_c \Sigma_c^{-1})^{-1}$, the common
    covariance that makes the second sum largest. So each covariance is that of its rows, of $n_1$ rows of V and of
    $n_0$ rows of Ψ: with $n_0 = 0$ it is an inverse-Wishart prior (for a tied covariance, one for all components
    together), and as $n_0$ grows the covariances become equal. $\frac\kappa2 \sum_c \log|\Sigma_c|$ is added, so that κ
    of all these rows are not counted: with κ = d + 1 the inverse of a sample covariance is unbiased, which held-out
    rows are more probable under.

    Args:
        covariance: one of `COVARIANCES`.
        prior_rows: $n_1$.
        pooled_rows: $n_0$; a tied covariance has none.
        uncounted_rows: κ; all three numbers or tensors.
    """

    covariance: str
    prior_rows: float | Tensor
    pooled_rows: float | Tensor = 0.0
    uncounted_rows: float | Tensor = 0.0

    def mode(self, scatter: Tensor, counts: Tensor, variance: Tensor, precision: Tensor | None) -> Tensor:
        """Covariances that raise the posterior, to its mode where `pooled_rows` is 0.

        All may have dimensions in front, of mixtures whose priors are independent; the numbers of rows too.

        Args:
            scatter: what `scatter_about_means` gives.
            counts: sums of the weights (C,).
            variance: the diagonal of V, (D,).
            precision: the inverses of the covariances before, in the same shape as these; where `pooled_rows` is 0
                they are not used and may be None.

        Returns:
            Full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,).
        """
        form, D = self.covariance, variance.shape[-1]
        own, pooled, uncounted = (
            torch.as_tensor(rows).to(counts)[..., None]
            for rows in (self.prior_rows, self.pooled_rows, self.uncounted_rows)
        )
        if form == "tied":
            total = counts.sum(-1, keepdim=True) + own - uncounted
            return (scatter + (own * variance).diag_embed()) / total[..., None]
        total = counts + own + (0.0 if precision is None else pooled) - uncounted
        if form == "full":
            summed = scatter + (own * variance).diag_embed()[..., None, :, :]
            if precision is not None:
                summed = summed + (pooled[..., None] * self._common(precision))[..., None, :, :]
            return summed / total[..., None, None]
        if form == "diagonal":
            summed = scatter + (own * variance)[..., None, :]
            if precision is not None:
                summed = summed + (pooled * self._common(precision))[..., None, :]
            return summed / total[..., None]
        summed = scatter + own * variance.sum(-1, keepdim=True)
        if precision is not None:
            summed = summed + pooled * D * self._common(precision)[..., None]
        return summed / total / D

    def _numbers(self, like: Tensor) -> list[Tensor]:
        numbers = self.prior_rows, self.pooled_rows, self.uncounted_rows
        return [torch.as_tensor(rows, dtype=like.dtype, device=like.device) for rows in numbers]

    def _common(self, precision: Tensor) -> Tensor:
        """The covariance Ψ that all components share, from the inverses of theirs."""
        if self.covariance == "full":
            return torch.cholesky_inverse(torch.linalg.cholesky(precision.mean(-3)))
        return 1 / precision.mean(-2 if self.covariance == "diagonal" else -1)

    def log_prob(self, variance: Tensor, precision: Tensor) -> Tensor:
        """The log prior without constants, (), nats; with the dimensions in front that the arguments have.

        Args:
            variance: the diagonal of V, (D,).
            precision: the inverses of the covariances, full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,).

        Returns:
            The sum over components.
        """
        form, D = self.covariance, variance.shape[-1]
        own, pooled, uncounted = self._numbers(variance)
        if form in ("full", "tied"):
            own_variance = variance if form == "tied" else variance[..., None, :]
            log_det = _log_det(precision)
            trace = (precision.diagonal(dim1=-2, dim2=-1) * own_variance).sum(-1)
        else:
            per_column = precision if form == "diagonal" else precision[..., None].expand(*precision.shape, D)
            log_det, trace = per_column.log().sum(-1), (per_column * variance[..., None, :]).sum(-1)
        if form == "tied":
            return (own * (log_det - trace) - uncounted * log_det) / 2
        total = (own * (log_det - trace).sum(-1) - uncounted * log_det.sum(-1)) / 2
        if not bool((pooled > 0).any()):
            return total
        if form == "full":
            of_common = _log_det(precision.mean(-3))
        else:
            logs = precision.mean(-2 if form == "diagonal" else -1).log()
            of_common = logs.sum(-1) if form == "diagonal" else D * logs
        return total + pooled / 2 * (log_det - of_common[..., None]).sum(-1)


def _log_det(matrix: Tensor) -> Tensor:
    log_det: Tensor = 2 * torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_det


def with_ridge(covariance: str, scatter: Tensor, counts: Tensor, reg_covar: float, num_features: int) -> Tensor:
    """Covariances of maximum likelihood with a number added to their diagonals, as in scikit-learn.

    Args:
        covariance: one of `COVARIANCES`.
        scatter: what `scatter_about_means` gives.
        counts: sums of the weights (C,).
        reg_covar: the number that is added.
        num_features: D.

    Returns:
        Full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,).
    """
    used = counts.clamp(min=torch.finfo(counts.dtype).tiny)
    if covariance == "tied":
        return scatter / counts.sum() + reg_covar * torch.eye(num_features).to(scatter)
    if covariance == "full":
        return scatter / used[:, None, None] + reg_covar * torch.eye(num_features).to(scatter)
    if covariance == "diagonal":
        return scatter / used[:, None] + reg_covar
    return scatter / used / num_features + reg_covar


def log_cholesky(covariances: Tensor) -> Tensor:
    """Cholesky factors with the logarithm of their diagonals (…, D, D); `InputError` where a covariance is singular."""
    factor, failed = torch.linalg.cholesky_ex(covariances)
    if failed.any() or not torch.isfinite(factor).all():
        raise singular("a covariance is singular")
    return factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).log().diag_embed()


def log_scales(variances: Tensor) -> Tensor:
    """Logarithms of standard deviations; `InputError` where a variance is zero."""
    if not bool((variances > 0).all()):
        raise singular("a variance is zero")
    return variances.log() / 2


def singular(what: str) -> InputError:
    """An error that says what can be done about a singular covariance."""
    return InputError(
        f"{what}: give the covariances a prior (prior_rows above 0), take fewer components, or a simpler covariance"
    )
