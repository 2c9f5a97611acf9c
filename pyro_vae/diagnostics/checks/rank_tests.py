"""Tests of whether ranks are uniform, with simultaneous bands, for draws that are exchangeable if a guide is right."""

from functools import cached_property

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array

NUM_SHUFFLES = 999  # of which draw is taken for the one that the row came from


def rank_all(values: Array, generator: np.random.Generator) -> Array:
    """The rank of each of L + 1 values among them, 0 … L, ties in random order.

    Args:
        values: values (L + 1, …).
        generator: of the order of ties.

    Returns:
        The ranks, in the same shape.
    """
    order = np.lexsort((generator.random(values.shape), values), axis=0)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1)), 0)
    return ranks


class RankTest:
    r"""Whether ranks are uniform: T quantities of M simulations, each with a rank among L + 1.

    The statistic of one quantity is the smallest of the binomial tail probabilities of its empirical distribution
    function at 1/(L + 1), …, L/(L + 1), and that of all the smallest of theirs: the simultaneous bands of Säilynoja,
    Bürkner and Vehtari (arXiv:2103.10522). If the guide is the posterior, the L + 1 draws of a simulation are
    exchangeable whatever the dependence between quantities, so that the null distribution comes from taking a random
    one of them for that which the row came from, and the p-value is exact.

    Args:
        ranks: the ranks (L + 1, M, T) of all draws, the first that of the one which the row came from.
        generator: of the random choices.
        num_shuffles: their number.
    """

    def __init__(self, ranks: Array, generator: np.random.Generator, num_shuffles: int = NUM_SHUFFLES) -> None:
        self.num_ranks, self.num_simulations, self.num_quantities = ranks.shape
        self.counts = self._cumulative(ranks[0])  # (T, L)
        table = self._table
        null, rows = [], np.arange(self.num_simulations)
        for _ in range(num_shuffles):
            chosen = ranks[generator.integers(self.num_ranks, size=self.num_simulations), rows]
            null.append(self._scores(self._cumulative(chosen), table).max())
        self.null = np.asarray(null)
        self.scores = self._scores(self.counts, table)  # of each quantity, −log of its smallest tail probability
        self.p_value = float((1 + (self.null >= self.scores.max()).sum()) / (1 + num_shuffles))
        self.limit = float(np.quantile(self.null, 0.95, method="higher"))

    def _cumulative(self, ranks: Array) -> Array:
        """How many of the ranks (M, T) are below 1, …, L, (T, L)."""
        shifted = ranks + np.arange(self.num_quantities) * self.num_ranks
        counts = np.bincount(shifted.ravel(), minlength=self.num_quantities * self.num_ranks)
        cumulative: Array = counts.reshape(self.num_quantities, self.num_ranks).cumsum(1)[:, :-1]
        return cumulative

    @cached_property
    def _table(self) -> Array:
        """−log of the smaller tail probability of each count (L, M + 1)."""
        from scipy.stats import binom

        share = np.arange(1, self.num_ranks)[:, None] / self.num_ranks
        counts = np.arange(self.num_simulations + 1)[None]
        tails = binom.logcdf(counts, self.num_simulations, share), binom.logsf(counts - 1, self.num_simulations, share)
        return -np.minimum(*tails)

    @staticmethod
    def _scores(counts: Array, table: Array) -> Array:
        scores: Array = table[np.arange(table.shape[0]), counts].max(1)
        return scores

    @property
    def fractions(self) -> Array:
        """1/(L + 1), …, L/(L + 1), (L,)."""
        return np.arange(1, self.num_ranks) / self.num_ranks

    @property
    def distribution(self) -> Array:
        """The empirical distribution functions of the ranks there, (T, L)."""
        return np.asarray(self.counts / self.num_simulations)

    def coverage(self, level: float) -> Array:
        """The share of simulations whose rank is in the central interval of a probability: that, if ranks are uniform.

        Args:
            level: the probability.

        Returns:
            The shares (T,).
        """
        fractions = [0.0, *self.fractions, 1.0]
        ends = [(1 - level) / 2, (1 + level) / 2]
        return np.asarray([np.diff(np.interp(ends, fractions, [0.0, *each, 1.0]))[0] for each in self.distribution])

    @property
    def band(self) -> tuple[Array, Array]:
        """The lowest and the highest distribution function (L,) that is not significant at 5 % anywhere."""
        inside = self._table <= self.limit
        low = inside.argmax(1)
        high = inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
        return low / self.num_simulations, high / self.num_simulations
