"""Weights of rows: their check, and the weighted mean over rows with its standard error.

>>> values, weights = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])
>>> weighted_mean(values, weights), weighted_mean(values, None)
(2.0, 2.5)
"""

import math

import torch
from torch import Tensor

from pyro_vae.errors import InputError


def check_weights(weights: Tensor, num_rows: int) -> Tensor:
    """Weights of rows in float64; `InputError` unless finite, not negative, and one of them above 0.

    Args:
        weights: numbers (N,), up to a factor.
        num_rows: the number N of rows.

    Returns:
        The weights (N,).
    """
    try:
        weights = torch.as_tensor(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"weights of rows must be numbers (N,), got {weights!r:.60}") from error
    if weights.shape != (num_rows,):
        raise InputError(f"expected a weight for each of {num_rows} rows, got the shape {tuple(weights.shape)}")
    weights = weights.to(torch.float64)
    if len(wrong := (~weights.isfinite() | (weights < 0)).nonzero()[:, 0]):
        row = int(wrong[0])
        raise InputError(
            f"weights of rows must be finite and not negative, and that of row {row} is {float(weights[row]):g}: leave "
            "the row out, or give it the weight 0"
        )
    if num_rows and not bool((weights > 0).any()):
        raise InputError(f"the weights of all {num_rows} rows are zero, and one of them has to be above 0")
    return weights


def relative_weights(weights: Tensor | None) -> Tensor | None:
    """Weights divided by their mean, so that a sum over rows stays one over as many rows.

    Args:
        weights: the weights (N,), not all 0, or None.

    Returns:
        Weights (N,), float64, whose mean over the rows of positive weight is 1; None where all are equal.
    """
    return None if weights is None or _are_equal(weights) else weights.double() / weights[weights > 0].double().mean()


def weighted_mean(values: Tensor, weights: Tensor | None) -> float:
    r"""$\sum_i w_i v_i / \sum_i w_i$ over the rows whose weight is above 0.

    Args:
        values: numbers (N,).
        weights: the rows' weights (N,); None where each counts once.

    Returns:
        The mean; NaN over no rows.
    """
    values, weights = _counted(values, weights)
    if weights is None:
        return float(values.mean())
    return float((weights * values.double()).sum() / weights.sum())


def weighted_se(values: Tensor, weights: Tensor | None) -> float:
    r"""The standard error of `weighted_mean`, $\sqrt{\frac{n}{n-1} \sum_i w_i^2 (v_i - \bar v)^2} / \sum_i w_i$.

    That of a ratio of two sums over n rows of positive weight, drawn independently; with equal weights that of the
    mean, the standard deviation over √n.

    Args:
        values: numbers (N,).
        weights: the rows' weights (N,); None where each counts once.

    Returns:
        The standard error; NaN for fewer than two rows.
    """
    values, weights = _counted(values, weights)
    if len(values) < 2:
        return math.nan
    if weights is None:
        return float(values.std() / math.sqrt(len(values)))
    apart = values.double() - (weights * values.double()).sum() / weights.sum()
    n = len(values)
    return float((weights * apart).square().sum().mul(n / (n - 1)).sqrt() / weights.sum())


def weighted_mc_se(errors: Tensor, weights: Tensor | None) -> float:
    r"""The error of a weighted mean of values with independent errors, $\sqrt{\sum_i w_i^2 s_i^2} / \sum_i w_i$.

    Args:
        errors: the standard error of each value (N,).
        weights: the rows' weights (N,); None where each counts once.

    Returns:
        The standard error; NaN over no rows.
    """
    errors, weights = _counted(errors, weights)
    if not len(errors):
        return math.nan
    if weights is None:
        return float(errors.square().sum().sqrt() / len(errors))
    return float((weights * errors.double()).square().sum().sqrt() / weights.sum())


def effective_rows(weights: Tensor | None) -> float | None:
    r"""$(\sum_i w_i)^2 / \sum_i w_i^2$: as many rows of equal weight have a mean with the same error.

    Args:
        weights: the rows' weights (N,), or None.

    Returns:
        The number of rows; None without weights, and where all are 0.
    """
    if weights is None or not bool((weights > 0).any()):
        return None
    return float(weights.sum().square() / weights.square().sum())


def _counted(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The values whose weight is above 0, and those weights; None where they are equal, as without weights."""
    if weights is None:
        return values, None
    values, weights = values[weights > 0], weights[weights > 0]
    return values, None if _are_equal(weights) else weights


def _are_equal(weights: Tensor) -> bool:
    return not len(weights) or bool((weights == weights[0]).all())
