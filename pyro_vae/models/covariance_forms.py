"""Covariances of a mixture of normals in their four forms: full, tied, diagonal and spherical."""

import torch
from torch import Tensor

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


def posterior_mode(
    covariance: str, scatter: Tensor, counts: Tensor, prior_rows: float, prior_variance: Tensor
) -> Tensor:
    """Covariances at their posterior mode: `prior_rows` rows of the prior's covariance are added.

    Args:
        covariance: one of `COVARIANCES`.
        scatter: what `scatter_about_means` gives.
        counts: sums of the weights (C,).
        prior_rows: the weight n₀ of the prior.
        prior_variance: the diagonal of Ψ, (D,).

    Returns:
        Full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,).
    """
    n0, prior = prior_rows, prior_variance
    if covariance == "tied":
        return (scatter + n0 * prior.diag()) / (counts.sum() + n0)
    if covariance == "full":
        return (scatter + n0 * prior.diag()) / (counts + n0)[:, None, None]
    if covariance == "diagonal":
        return (scatter + n0 * prior) / (counts + n0)[:, None]
    return (scatter + n0 * prior.sum()) / (counts + n0) / len(prior)
