"""Pareto-smoothed importance sampling: the tail shape of weights, and their mean with a smoothed tail."""

import math

import numpy as np

from pyro_vae.arviz_compat import psislw

MIN_DRAWS = 25  # below this number the tail has too few weights to fit


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The shape $\hat k$ of a Pareto tail fitted to each row's weights (N, S), and log of their smoothed mean.

    Two arrays (N,), NaN where S is too small. Below 0.5 the weights have a variance; above `khat_limit(S)` the
    importance-sampled value is not to be trusted (Vehtari et al., arXiv:1507.02646). Smoothing puts the expected order
    statistics of that tail in place of the largest weights. Weights that agree to rounding are exact and have $\hat k =
    0$. The tail is that of the positive weights; those that are zero count in the mean, and a row with too few positive
    ones has no $\hat k$. Neither has a row with a weight that is NaN or infinite.
    """
    num_rows, num_samples = log_weights.shape
    khat, smoothed = np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    if num_samples < MIN_DRAWS:
        return khat, smoothed
    positive = log_weights > -np.inf
    is_number = (log_weights < np.inf).all(axis=1)  # NaN is not
    whole = is_number & positive.all(axis=1)
    khat[whole], smoothed[whole] = _of_positive(log_weights[whole])
    for row in np.flatnonzero(is_number & ~positive.all(axis=1)):
        count = int(positive[row].sum())
        if count >= MIN_DRAWS:
            found = _of_positive(log_weights[row, positive[row]][None])
            khat[row], smoothed[row] = found[0][0], found[1][0] + math.log(count / num_samples)
    return khat, smoothed


def _of_positive(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat and the log of the smoothed mean of weights that are all positive and finite."""
    khat, smoothed = np.zeros(len(log_weights)), log_weights.mean(axis=1) if len(log_weights) else np.zeros(0)
    uneven = np.ptp(log_weights, axis=1) > 1e-4
    if uneven.any():
        rows = np.array(log_weights[uneven], dtype=np.float64)
        smallest = rows.argmin(axis=1)[:, None]  # in no tail: smoothing only shifts it, by log of the weights' sum
        lowest = np.take_along_axis(rows, smallest, 1)[:, 0]
        normalized, khat[uneven] = psislw(rows)
        smoothed[uneven] = lowest - np.take_along_axis(normalized, smallest, 1)[:, 0] - math.log(rows.shape[1])
    return khat, smoothed


def khat_limit(num_samples: int) -> float:
    """The k-hat above which S draws are too few, min(1 − 1/log10 S, 0.7).

    >>> round(khat_limit(100), 2), khat_limit(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(num_samples, 11)), 0.7)
