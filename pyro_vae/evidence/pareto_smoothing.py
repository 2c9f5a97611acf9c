"""Pareto-smoothed importance sampling: the tail shape of weights, and their mean with a smoothed tail."""

import math

import numpy as np

from pyro_vae.arviz_compat import psislw

MIN_DRAWS = 25  # below this number the tail has too few weights to fit
MIN_TAIL = 4  # weights, or fewer, have no fit
MIN_LOG = math.log(np.finfo(float).tiny)
BLOCK_BYTES = 2**22  # of the numbers at the grid's points for all weights of a tail


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
        khat[uneven], smoothed[uneven] = _of_uneven(np.array(log_weights[uneven], dtype=np.float64))
    return khat, smoothed


def _of_uneven(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat and the log of the smoothed mean of weights (N, S) that differ: blocks of rows, some one by one."""
    num_samples, found = rows.shape[1], []
    size = max(1, BLOCK_BYTES // (8 * tail_length(num_samples) * _grid_size(tail_length(num_samples))))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        khat, smoothed = _smooth_tails(part)
        rest = np.isnan(khat)
        if rest.any():  # ties at the tail's end, weights that underflow, a fit that fails: as ArviZ treats them
            values = np.array(part[rest])
            smallest = values.argmin(axis=1)[:, None]  # in no tail: smoothing shifts it by log of the weights' sum
            lowest = np.take_along_axis(values, smallest, 1)[:, 0]
            normalized, khat[rest] = psislw(values)
            smoothed[rest] = lowest - np.take_along_axis(normalized, smallest, 1)[:, 0] - math.log(num_samples)
        found.append((khat, smoothed))
    khats, means = zip(*found, strict=True)
    return np.concatenate(khats), np.concatenate(means)


def tail_length(num_samples: int) -> int:
    """The number of the largest of S weights that a Pareto tail is fitted to, the lesser of S/5 and 3√S.

    >>> tail_length(100), tail_length(10_000)
    (20, 300)
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def _grid_size(length: int) -> int:
    """The number of points at which the posterior of the tail's parameter is computed."""
    return 30 + math.isqrt(length)


def _smooth_tails(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""k-hat (N,) and the log of the smoothed mean (N,) of weights (N, S), NaN where a row is no usual case.

    The generalized Pareto distribution is fitted by the method of Zhang & Stephens (2009), the mean of its parameter's
    posterior on a grid, with k drawn toward 0.5 as by ten more weights.
    """
    num_samples = log_weights.shape[1]
    length = tail_length(num_samples)
    grid_size = _grid_size(length)
    largest = log_weights.max(axis=1, keepdims=True)
    sorted_weights = np.sort(log_weights - largest, axis=1)
    body, tail = sorted_weights[:, :-length], sorted_weights[:, -length:]
    with np.errstate(all="ignore"):
        cutoff = np.exp(body[:, -1:])
        excess = np.exp(tail) - cutoff
        grid = 1 - np.sqrt(grid_size / (np.arange(1, grid_size + 1) - 0.5))
        b = grid / (3 * excess[:, [int(length / 4 + 0.5) - 1]]) + 1 / excess[:, -1:]
        k = np.log1p(-b[:, :, None] * excess[:, None, :]).mean(-1)
        log_likelihood = length * (np.log(-b / k) - k - 1)
        weights = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        weights[weights < 10 * np.finfo(float).eps] = 0
        b_mean = (b * weights).sum(1) / weights.sum(1)
        k_mean = np.log1p(-b_mean[:, None] * excess).mean(1)
        sigma, khat = -k_mean / b_mean, (length * k_mean + 5) / (length + 10)
        levels = np.log1p(-np.arange(0.5, length) / length)
        expected = sigma[:, None] * np.expm1(-khat[:, None] * levels) / khat[:, None] + cutoff
        total = np.exp(body).sum(1) + np.minimum(expected, 1).sum(1)
        smoothed = largest[:, 0] + np.log(total / num_samples)
    is_usual = (tail[:, 0] > body[:, -1]) & (body[:, -1] > MIN_LOG) & (sigma > 0) & (np.abs(khat) > 1e-12)
    is_usual &= np.isfinite(khat) & np.isfinite(smoothed) & (length > MIN_TAIL)
    return np.where(is_usual, khat, np.nan), np.where(is_usual, smoothed, np.nan)


def khat_limit(num_samples: int) -> float:
    """The k-hat above which S draws are too few, min(1 − 1/log10 S, 0.7).

    >>> round(khat_limit(100), 2), khat_limit(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(num_samples, 11)), 0.7)
