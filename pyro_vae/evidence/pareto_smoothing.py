"""Pareto-smoothed importance sampling: the tail shape of weights, and their mean with a smoothed tail."""

import math

import numpy as np

from pyro_vae.arviz_compat import psislw

MIN_DRAWS = 25  # below this number the tail has too few weights to fit


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The shape $\hat k$ of a Pareto tail fitted to each row's weights (N, S), and log of their smoothed mean.

    Two arrays (N,), NaN where S is too small; k-hat is infinite where a weight is zero or NaN. Below 0.5 the weights
    have a variance; above `khat_limit(S)` the importance-sampled value is not to be trusted (Vehtari et al.,
    arXiv:1507.02646). Smoothing puts the expected order statistics of that tail in place of the largest weights.
    Weights that agree to rounding are exact and have $\hat k = 0$.
    """
    num_rows, num_samples = log_weights.shape
    if num_samples < MIN_DRAWS:
        return np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    finite = np.isfinite(log_weights).all(axis=1)
    with np.errstate(invalid="ignore"):  # −∞ less −∞, in rows that are not finite
        uneven = finite & (np.ptp(log_weights, axis=1) > 1e-4)
    khat = np.where(finite, 0.0, np.inf)  # a weight of zero, or NaN: the tail cannot be fitted
    smoothed = np.where(finite, log_weights.mean(axis=1), np.nan)
    if uneven.any():
        rows = np.array(log_weights[uneven], dtype=np.float64)
        smallest = rows.argmin(axis=1)[:, None]  # in no tail: smoothing only shifts it, by log of the weights' sum
        lowest = np.take_along_axis(rows, smallest, 1)[:, 0]
        normalized, khat[uneven] = psislw(rows)
        smoothed[uneven] = lowest - np.take_along_axis(normalized, smallest, 1)[:, 0] - math.log(num_samples)
    return khat, smoothed


def khat_limit(num_samples: int) -> float:
    """The k-hat above which S draws are too few, min(1 − 1/log10 S, 0.7).

    >>> round(khat_limit(100), 2), khat_limit(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(num_samples, 11)), 0.7)
