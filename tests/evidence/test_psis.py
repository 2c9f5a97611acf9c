"""k-hat through ArviZ: its values, its edges, and the sign that the two lines of ArviZ disagree on."""

import numpy as np
import pytest

from pyro_vae.evidence.psis import TOO_FEW, khat_limit, pareto_smoothed


def test_khat_is_the_shape_of_the_tail():
    """Weights drawn from a Pareto with shape k, so that k-hat must find k: low for light tails, high for heavy ones."""
    rng = np.random.default_rng(0)
    for k in (0.2, 0.5, 0.9):
        weights = rng.random((40, 20_000)) ** -k
        assert pareto_smoothed(np.log(weights))[0].mean() == pytest.approx(k, abs=0.06)


def test_large_weights_count_and_small_ones_do_not():
    """The right tail alone matters: the log weights' sign is not to be lost on the way to ArviZ."""
    log_weights = np.log(np.random.default_rng(0).random((10, 4000)) ** -0.9)
    assert pareto_smoothed(log_weights)[0].mean() > 0.7
    assert pareto_smoothed(-log_weights)[0].mean() < 0.1


def test_edges():
    assert (pareto_smoothed(np.full((3, 100), -7.0))[0] == 0).all(), "equal weights are exact"
    assert np.isnan(pareto_smoothed(np.zeros((2, TOO_FEW - 1)))).all()
    assert khat_limit(100) == pytest.approx(0.5)
    assert khat_limit(10**9) == 0.7
