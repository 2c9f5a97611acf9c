"""Rubin's rules, against numbers computed by hand."""

import math
from fractions import Fraction

import pytest
import torch

import pyro_vae as pv


def test_numbers_computed_by_hand():
    """Q = 1, 2, 3, 6 with U = 1, 1, 2, 2: W = 3/2, B = 14/3, T = 3/2 + 5/4 · 14/3 = 22/3, λ = 35/44."""
    pooled = pv.diagnostics.pool_estimates([1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 2.0, 2.0])
    share = Fraction(35, 44)
    df = 3 / share**2
    assert pooled.estimate == 3.0
    for found, exact in (
        (pooled.within, Fraction(3, 2)),
        (pooled.between, Fraction(14, 3)),
        (pooled.total, Fraction(22, 3)),
        (pooled.df, df),
        (pooled.fraction_missing, share + (1 - share) * 2 / (df + 3)),
    ):
        assert math.isclose(float(found), float(exact), rel_tol=1e-12)


def test_degrees_of_freedom_of_small_samples():
    """Barnard & Rubin's with ν = 20: ν_o = 21/23 · 20 · 9/44, and never more than ν."""
    pooled = pv.diagnostics.pool_estimates([1.0, 2.0, 3.0, 6.0], [1.0, 1.0, 2.0, 2.0], complete_df=20)
    df, observed = 3 / Fraction(35, 44) ** 2, Fraction(21, 23) * 20 * Fraction(9, 44)
    assert math.isclose(float(pooled.df), float(1 / (1 / df + 1 / observed)), rel_tol=1e-12)
    alike = pv.diagnostics.pool_estimates([2.0, 2.0], [1.0, 1.0], complete_df=20)
    assert math.isclose(float(alike.df), 20 * 21 / 23, rel_tol=1e-12)
    assert math.isclose(float(alike.total), 1.0)


def test_several_numbers_at_once_and_their_intervals():
    q, u = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), torch.ones(3, 2)
    pooled = pv.diagnostics.pool_estimates(q, u)
    assert pooled.estimate.tolist() == [2.0, 0.0]
    assert pooled.df[1] == math.inf
    assert pooled.fraction_missing[1] == 0
    low, high = pooled.interval(0.95)
    assert math.isclose(float(high[1]), 1.959963984540054, rel_tol=1e-9)
    assert math.isclose(float(pooled.df[0]), 6.125)
    quantile = (2 - float(low[0])) / math.sqrt(7 / 3)
    assert 2.364624 < quantile < 2.446912  # those of 7 and of 6 degrees of freedom
    two = pv.diagnostics.PooledEstimate(*torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 0.0], dtype=torch.float64))
    assert math.isclose(float(two.interval(0.9)[1]), 0.9 / math.sqrt(2 * 0.95 * 0.05), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0]), "two or more"),
        (([1.0, 2.0], [1.0]), "a variance for each estimate"),
        (([1.0, math.nan], [1.0, 1.0]), "must be finite"),
        (([1.0, 2.0], [1.0, -1.0]), "no variance negative"),
        (([1.0, 2.0], [1.0, 1.0], 0), "complete_df must be positive"),
    ],
)
def test_what_cannot_be_pooled(arguments, message):
    with pytest.raises(pv.InputError, match=message):
        pv.diagnostics.pool_estimates(*arguments)
