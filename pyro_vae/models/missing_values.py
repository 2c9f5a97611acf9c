r"""Mixtures of normals on rows with missing values: the density of what was observed, and expected moments.

With o the observed columns of a row and d = x_o − μ_o, $\log p(x_o | c) = \log N(x_o; \mu_o, \Sigma_{oo})$, and given
x_o the row is normal with mean $\mu + \Sigma_{:o} \Sigma_{oo}^{-1} d$ and covariance $\Sigma - \Sigma_{:o}
\Sigma_{oo}^{-1} \Sigma_{o:}$ (Ghahramani & Jordan 1994).
"""

import math

import torch
from torch import Tensor

from pyro_vae.models.exact_density import Statistics

MAX_NUMBERS = 2**22  # in the matrices of a block of rows


def observed_log_probs(x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log p of the observed values of rows under normals.

    Args:
        x: rows as columns (D, n), NaN where a value is missing.
        means: (C, D).
        covariances: full (C, D, D) or diagonal (C, D).

    Returns:
        Log densities (C, n), nats; 0 for a row without any value.
    """
    parts = [_log_probs(rows, means, covariances) for rows in _blocks(x)]
    return torch.cat(parts, 1)


def _block_size(num_features: int) -> int:
    return max(1, MAX_NUMBERS // num_features**2)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(_block_size(len(x)), 1)


def _log_probs(x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    is_observed = ~x.isnan()
    constant = -0.5 * math.log(2 * math.pi) * is_observed.sum(0).to(x)
    each = []
    for mean, covariance in zip(means, covariances, strict=True):
        difference = torch.where(is_observed, x - mean[:, None], 0.0)
        if covariance.dim() == 1:
            each.append(
                -0.5 * (difference.square() / covariance[:, None] + is_observed * covariance.log()[:, None]).sum(0)
            )
            continue
        factor = torch.linalg.cholesky(_of_observed(covariance, is_observed))
        whitened = torch.linalg.solve_triangular(factor, difference.T[..., None], upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        each.append(-0.5 * whitened.square().sum(-1) - log_det)
    return torch.stack(each) + constant


def _of_observed(covariance: Tensor, is_observed: Tensor) -> Tensor:
    """The covariance of each row's observed columns, and one in the place of the others, (n, D, D)."""
    both = is_observed.T[:, :, None] & is_observed.T[:, None, :]
    return torch.where(both, covariance, 0.0) + (~is_observed.T).to(covariance).diag_embed()


def expected_statistics(
    x: Tensor, shares: Tensor, means: Tensor, covariances: Tensor, form: str, about: Tensor | None
) -> Statistics:
    """What the M-step needs of rows with missing values: sums of expected moments.

    Args:
        x: rows as columns (D, n), NaN where a value is missing.
        shares: the responsibilities (C, n).
        means: (C, D).
        covariances: full (C, D, D) or diagonal (C, D).
        form: the form of the mixture's covariances.
        about: the origin (D,) of the moments; None for each component's mean.

    Returns:
        The statistics of `GaussianMixture`.
    """
    first, second, counts = torch.zeros_like(means), torch.zeros_like(covariances), shares.sum(1)
    for rows, weights in zip(_blocks(x), shares.split(_block_size(len(x)), 1), strict=True):
        for c, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            moments = _expected_moments(rows, weights[c], mean, covariance)
            first[c] += moments[0]
            second[c] += moments[1]
    if about is not None:
        offset = means - about
        if covariances.dim() == 3:
            cross = first[:, :, None] * offset[:, None]
            second = second + cross + cross.mT + counts[:, None, None] * offset[:, :, None] * offset[:, None]
        else:
            second = second + 2 * first * offset + counts[:, None] * offset.square()
        first = first + counts[:, None] * offset
    suffix = "_about_loc" if about is None else ""
    return {"counts": counts, "first" + suffix: first, "second" + suffix: _in_form(second, form, about is not None)}


def _in_form(second: Tensor, form: str, is_packed: bool) -> Tensor:
    """Second moments as the features give them: full ones as upper triangles where they are packed."""
    if form == "tied":
        return second.sum(0)
    if form == "spherical":
        return second.sum(1, keepdim=True) if is_packed else second.sum(1)
    if form == "full" and is_packed:
        i, j = torch.triu_indices(*second.shape[1:], device=second.device)
        return second[:, i, j]
    return second


def _expected_moments(x: Tensor, share: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the expected moments of rows about a component's mean, (D,) and (D, D) or (D,)."""
    is_observed = ~x.isnan()
    difference = torch.where(is_observed, x - mean[:, None], 0.0)
    if covariance.dim() == 1:
        return difference @ share, (difference.square() + covariance[:, None] * ~is_observed) @ share
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_of_observed(covariance, is_observed)))
    both = is_observed.T[:, :, None] & is_observed.T[:, None, :]
    gain = covariance @ torch.where(both, inverse, 0.0)  # (n, D, D)
    expected = (gain @ difference.T[..., None])[..., 0]
    left = torch.einsum("n,njk->jk", share, covariance - gain @ covariance)
    return share @ expected, (expected * share[:, None]).T @ expected + left


def conditional_means(x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """The mean of rows under each normal, given their observed values.

    Args:
        x: rows (n, D), NaN where a value is missing.
        means: (C, D).
        covariances: (C, D, D).

    Returns:
        The means (C, n, D).
    """
    pairs = zip(means, covariances, strict=True)
    return torch.stack([_conditional_moments(x, mean, covariance)[0] for mean, covariance in pairs])


def conditional_draws(c: Tensor, x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Draws of rows, each under the normal of its label, given their observed values.

    Args:
        c: labels (M, n).
        x: rows (n, D), NaN where a value is missing.
        means: (C, D).
        covariances: (C, D, D).

    Returns:
        The draws (M, n, D).
    """
    noise = torch.randn(*c.shape, x.shape[1]).to(means)
    drawn = torch.zeros_like(noise)
    for number, (own_mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        mean, left = _conditional_moments(x, own_mean, covariance)
        own = mean + torch.einsum("nij,mnj->mni", _factor_of_missing(left, x), noise)
        drawn = torch.where((c == number)[..., None], own, drawn)
    return drawn


def _conditional_moments(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, D) and covariance (n, D, D) of rows given their observed values, whose covariance is zero."""
    is_observed = ~x.isnan()
    difference = torch.where(is_observed, x - mean, 0.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_of_observed(covariance, is_observed.T)))
    gain = covariance @ torch.where(is_observed[:, :, None] & is_observed[:, None, :], inverse, 0.0)
    both = ~is_observed[:, :, None] & ~is_observed[:, None, :]
    left = torch.where(both, covariance - gain @ covariance, 0.0)
    return mean + (gain @ difference[..., None])[..., 0], (left + left.mT) / 2


def _factor_of_missing(covariance: Tensor, x: Tensor) -> Tensor:
    """The Cholesky factors (n, D, D) of covariances of missing values, zero for observed ones."""
    is_observed = ~x.isnan()
    factor = torch.linalg.cholesky(covariance + is_observed.to(covariance).diag_embed())
    return torch.where(is_observed[:, :, None], 0.0, factor)
