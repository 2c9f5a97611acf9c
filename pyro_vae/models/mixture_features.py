"""Features of rows in which log p(x | c) of a mixture of normals is linear, and their coefficients."""

import math

import torch
from torch import Tensor

MAX_ERROR, MAX_ROUNDING_ERRORS = 1e-8, 1e3  # in nats, or units of machine epsilon, of log p(x) by features


def features_of(x: Tensor, covariance: str) -> Tensor:
    """The products x_j x_k, j ≤ k (full), the squares (diagonal), their sum (spherical) or nothing (tied), x and 1.

    Args:
        x: centred rows as columns, (D, n).
        covariance: the form of the covariances.

    Returns:
        The features (F, n).
    """
    D, n = x.shape
    if covariance != "full":
        square = {"diagonal": x.square(), "spherical": x.square().sum(0, keepdim=True), "tied": x[:0]}
        return torch.cat([square[covariance], x, torch.ones_like(x[:1])])
    out, start = x.new_empty(D * (D + 1) // 2 + D + 1, n), 0
    for j in range(D):
        torch.mul(x[j], x[j:], out=out[start : start + D - j])
        start += D - j
    out[-1 - D : -1], out[-1] = x, 1.0
    return out


def coefficients_of(covariance: str, precision: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The coefficients of log p(x | c); for a tied covariance without the term that all components share.

    Args:
        covariance: the form of the covariances.
        precision: their inverses, full (C, D, D), tied (D, D), diagonal and spherical (C, D).
        loc: the means about the centre, (C, D).
        log_scale: half the log determinants, (C,) or ().

    Returns:
        The coefficients (C, F), nats.
    """
    D = loc.shape[1]
    if covariance in ("full", "tied"):
        first, second = torch.triu_indices(D, D, device=loc.device)
        factor = torch.where(first == second, -0.5, -1.0).to(loc)
        square = precision[:, first, second] * factor if covariance == "full" else loc[:, :0]
        linear = (precision @ loc[..., None])[..., 0]
    else:
        square, linear = -0.5 * precision, precision * loc
        if covariance == "spherical":
            square = square[:, :1]
    constant = -log_scale - 0.5 * (linear * loc).sum(-1) - D / 2 * math.log(2 * math.pi)
    return torch.cat([square, linear, constant[:, None]], 1)


def loses_digits(covariance: str, precision: Tensor, distance: Tensor) -> bool:
    """Whether terms of log p(x | c) are so large compared with their sum that features lose too many digits.

    Args:
        covariance: the form of the covariances.
        precision: their inverses, full (C, D, D), tied (D, D), diagonal and spherical (C, D).
        distance: a typical distance of rows from the centre along each axis, (C, D).

    Returns:
        Whether rows have to be compared with each component's mean instead.
    """
    if covariance in ("full", "tied"):
        terms = (distance[:, None] @ precision.abs() @ distance[..., None]).max()
    else:
        terms = (precision * distance.square()).sum(1).max()
    eps = torch.finfo(distance.dtype).eps
    return not bool(terms * eps < max(MAX_ERROR, MAX_ROUNDING_ERRORS * eps))
