"""The measure that the values of a table call for, by the function itself."""

import pytest
import torch

from pyro_vae.data.infer_measure import are_counts, infer_measure

COUNTS = torch.tensor([[0.0, 3.0], [5.0, 1.0], [2.0, 2.0]])
REALS = COUNTS + 0.25


@pytest.mark.parametrize(
    ("values", "standardize", "coded", "is_scaled"),
    [
        (COUNTS, None, False, False),
        (COUNTS, True, False, True),
        (COUNTS, None, True, True),  # codes of categories and dates are no counts
        (COUNTS, False, True, False),
        (REALS, None, False, True),
        (REALS, None, True, True),
        (REALS, False, False, False),
    ],
)
def test_counts_stay_and_codes_and_real_numbers_are_standardized(values, standardize, coded, is_scaled):
    measure = infer_measure(values, None, None, False, standardize, coded)
    assert bool(measure.scale) == is_scaled
    assert measure.coded == coded
    if is_scaled:
        assert measure.shift == pytest.approx(values.double().mean(0).tolist())


def test_a_table_is_not_coded_unless_it_is_said():
    measure = infer_measure(COUNTS, None, None, False, None)
    assert (measure.scale, measure.coded) == ((), False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 0], False), ([0, 2, 1], True), ([1000, 0, 3], True), ([1001, 0, 3], False), ([0, 2, -1], False),
     ([0, 2, 1.5], False)],
)  # fmt: skip
def test_counts_are_whole_numbers_from_zero_to_a_thousand_and_not_bits(values, expected):
    assert are_counts(torch.tensor(values, dtype=torch.float64)) == expected
