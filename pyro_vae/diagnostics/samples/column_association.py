"""How much two columns of a table have to do with each other: one number for each pair of kinds, 0 without relation."""

import math

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's correlation of two columns of numbers.

    Args:
        first: numbers (N,).
        second: numbers (N,).

    Returns:
        The correlation, from −1 to 1; NaN where a column does not vary.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(each) for each in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def cramers_v(first: Array, second: Array) -> float:
    r"""Cramér's V of two columns with levels, corrected for the bias of few rows (Bergsma 2013).

    $V = \sqrt{\tilde\varphi^2 / \min(\tilde r - 1, \tilde c - 1)}$ with
    $\tilde\varphi^2 = \max(0, \chi^2 / N - (r - 1)(c - 1) / (N - 1))$ and $\tilde r = r - (r - 1)^2 / (N - 1)$. Without
    the correction V of unrelated columns is well above 0, the more the fewer the rows.

    Args:
        first: codes of levels (N,).
        second: likewise.

    Returns:
        V, from 0 to 1; NaN where a column does not vary.
    """
    from scipy.stats import chi2_contingency
    from scipy.stats.contingency import crosstab

    counts = crosstab(first, second).count
    N, levels = len(first), np.array(counts.shape)
    if levels.min() < 2:
        return math.nan
    phi_squared = chi2_contingency(counts, correction=False).statistic / N
    unbiased = max(0.0, phi_squared - np.prod(levels - 1) / (N - 1))
    least = (levels - 1 - (levels - 1) ** 2 / (N - 1)).min()
    return math.sqrt(min(1.0, unbiased / least)) if least > 0 else math.nan


def correlation_ratio(levels: Array, numbers: Array) -> float:
    r"""The correlation ratio of numbers, by their ranks, on levels, corrected for few rows (Kelley 1935).

    $\varepsilon = \sqrt{\max(0, 1 - \frac{S_w / (N - L)}{S_t / (N - 1)})}$ with the sums of squares of the ranks within
    the L levels and in all.

    Args:
        levels: codes (N,).
        numbers: numbers (N,).

    Returns:
        ε, from 0 to 1; NaN where a column does not vary or each row has a level of its own.
    """
    from scipy.stats import rankdata

    ranks = rankdata(numbers)
    _, codes = np.unique(levels, return_inverse=True)
    N, sizes = len(ranks), np.bincount(codes)
    total = ((ranks - ranks.mean()) ** 2).sum()
    if total == 0 or not 1 < len(sizes) < N:
        return math.nan
    means = np.bincount(codes, ranks) / sizes
    within = ((ranks - means[codes]) ** 2).sum()
    return math.sqrt(max(0.0, 1 - within / (N - len(sizes)) / (total / (N - 1))))
