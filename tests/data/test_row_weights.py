"""Weights of a split: what is refused, where they go with their rows, and the means and errors that count them."""

import math
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.data.ondisk.rows_on_disk import rows_from_npy
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.row_weights import (
    effective_rows,
    relative_weights,
    weighted_mc_se,
    weighted_mean,
    weighted_se,
)
from pyro_vae.errors import InputError

X = torch.arange(12.0).reshape(6, 2)
WEIGHTS = torch.tensor([1.0, 0.0, 2.0, 5.0, 0.0, 0.5])


def in_memory(weights=WEIGHTS, **fields):
    return Split("train", X, Measure(given=True), weights=weights, **fields)


@pytest.fixture
def on_disk(tmp_path):
    np.save(tmp_path / "rows.npy", X.numpy().astype(np.float64))
    labels = torch.arange(6)
    return SplitOnDisk("train", rows_from_npy(tmp_path / "rows.npy"), Measure(), labels=labels, weights=WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(5), "a weight for each of 6 rows"),
        (torch.ones(6, 1), "a weight for each of 6 rows"),
        (torch.tensor([1.0, 1, 1, -1, 1, -2]), "that of row 3 is -1"),
        (torch.tensor([1.0, math.nan, 1, 1, 1, 1]), "that of row 1 is nan"),
        (torch.tensor([1.0, 1, 1, 1, 1, math.inf]), "that of row 5 is inf"),
        (torch.zeros(6), "the weights of all 6 rows are zero"),
    ],
)
def test_weights_that_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        in_memory(weights)


@pytest.mark.parametrize("weights", [torch.ones(6, dtype=torch.long), torch.ones(6), torch.arange(6) > 2])
def test_weights_are_float64(weights):
    assert in_memory(weights).weights.dtype == torch.float64


def some_rows(split):
    index = torch.tensor([5, 1, 1])
    mask = torch.tensor([True, False, False, True, True, False])
    yield split.head(2), torch.arange(2)
    yield split.take(index), index
    yield split.take(mask), mask.nonzero()[:, 0]
    for number, part in enumerate(split.chunks(4)):
        yield part, torch.arange(4 * number, min(6, 4 * number + 4))
    yield split.without_uncounted(), WEIGHTS.nonzero()[:, 0]


def test_weights_go_with_their_rows():
    split = in_memory(labels=torch.arange(6), inputs={"length": 10 * torch.arange(6)})
    for part, index in [*some_rows(split), (split.to_device(torch.device("cpu")), torch.arange(6))]:
        assert torch.equal(part.weights, WEIGHTS[index].double())
        assert torch.equal(part.x, X[index])
        assert torch.equal(part.labels, index)
        assert torch.equal(part.inputs["length"], 10 * index)
        assert torch.equal(part.source_index(slice(None)), index)


def test_weights_go_with_their_rows_on_disk(on_disk):
    for part, index in some_rows(on_disk):
        assert torch.equal(part.weights, WEIGHTS[index].double())
        assert torch.equal(part.x.double(), X[index].double())
        assert torch.equal(part.labels, index)
        assert torch.equal(part.source_index(slice(None)), index)
    assert isinstance(on_disk.without_uncounted(), SplitOnDisk)
    torch.testing.assert_close(on_disk.mean, in_memory().mean)


def test_a_part_may_have_no_row_that_counts():
    part = in_memory().take(torch.tensor([1, 4]))
    assert part.weights.tolist() == [0, 0]
    with pytest.raises(InputError, match="the weights of all 2 rows are zero"):
        part.without_uncounted()


def test_programs_do_not_see_weights():
    assert in_memory().row_inputs(slice(None)) == {}


def test_other_weights_are_another_fingerprint():
    prints = {in_memory(weights).fingerprint for weights in (None, WEIGHTS, 2 * WEIGHTS)}
    assert len(prints) == 3


@pytest.mark.parametrize("binarize", ["none", "stochastic"])
def test_the_mean_counts_weights(binarize):
    stored = torch.randint(0, 256, (6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    measure = Measure(binarize=binarize, levels=255) if binarize != "none" else Measure(given=True)
    split = Split("train", stored if binarize != "none" else stored.double(), measure, weights=WEIGHTS)
    scale = 255 if binarize != "none" else 1
    expected = (WEIGHTS[:, None] * stored.double() / scale).sum(0) / WEIGHTS.sum()
    torch.testing.assert_close(split.mean, expected.float())
    absurd = replace(split, stored=torch.where(WEIGHTS[:, None] > 0, split.stored, split.stored.max()))
    assert torch.equal(absurd.mean, split.mean)


def test_the_mean_of_observed_values_counts_weights():
    values = torch.tensor([[1.0, math.nan], [3.0, 4.0], [math.nan, 8.0]])
    split = Split("train", values, Measure(), weights=torch.tensor([1.0, 2.0, 5.0]))
    torch.testing.assert_close(split.mean, torch.tensor([(1 + 6) / 3, (8 + 40) / 7]))


def survey_mean(values, weights):
    """The mean and its linearized error, row by row, as survey packages have it, with n / (n − 1)."""
    pairs = [(float(v), float(w)) for v, w in zip(values, weights, strict=True) if w > 0]
    total = sum(w for _, w in pairs)
    mean = sum(w * v for v, w in pairs) / total
    scores = [w * (v - mean) / total for v, w in pairs]
    n = len(pairs)
    return mean, math.sqrt(n / (n - 1) * sum(score**2 for score in scores))


@pytest.mark.parametrize("seed", range(5))
def test_means_and_errors_are_those_of_a_survey(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(50, generator=generator, dtype=torch.float64) * 3 + 10
    weights = torch.rand(50, generator=generator, dtype=torch.float64) ** 2
    weights[::7] = 0
    absurd = torch.where(weights > 0, values, math.nan)
    mean, se = survey_mean(values, weights)
    assert weighted_mean(absurd, weights) == pytest.approx(mean, rel=1e-12)
    assert weighted_se(absurd, weights) == pytest.approx(se, rel=1e-12)
    assert weighted_se(absurd, 1e6 * weights) == pytest.approx(se, rel=1e-12)
    mc_se = math.sqrt(sum((float(w) * float(v)) ** 2 for v, w in zip(values, weights, strict=True))) / weights.sum()
    assert weighted_mc_se(absurd, weights) == pytest.approx(float(mc_se), rel=1e-12)
    expected = float(weights.sum() ** 2 / (weights**2).sum())
    assert effective_rows(weights) == pytest.approx(expected, rel=1e-12)


def test_the_error_is_that_of_repeated_surveys():
    """The spread of weighted means over samples whose weights depend on the values is the error of each."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2000):
        values = torch.randn(200, generator=generator, dtype=torch.float64)
        weights = torch.exp(0.5 * values + 0.5 * torch.randn(200, generator=generator, dtype=torch.float64))
        found.append((weighted_mean(values, weights), weighted_se(values, weights)))
    means, errors = torch.tensor(found).T
    assert errors.square().mean().sqrt() == pytest.approx(float(means.std()), rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [1.0, 0.1, 3e7])
def test_equal_weights_are_the_bits_of_no_weights(weight, dtype):
    values = torch.randn(101, generator=torch.Generator().manual_seed(0), dtype=dtype)
    weights = torch.full((101,), weight, dtype=torch.float64)
    assert weighted_mean(values, weights) == weighted_mean(values, None) == float(values.mean())
    assert weighted_se(values, weights) == weighted_se(values, None) == float(values.std() / math.sqrt(101))
    assert weighted_mc_se(values, weights) == weighted_mc_se(values, None)
    assert relative_weights(weights) is None
    assert effective_rows(weights) == pytest.approx(101)


def test_numbers_of_no_row():
    none = torch.empty(0)
    assert math.isnan(weighted_mean(none, None))
    assert math.isnan(weighted_mean(torch.ones(2), torch.zeros(2)))
    assert math.isnan(weighted_se(torch.ones(2), torch.tensor([1.0, 0.0])))
    assert math.isnan(weighted_mc_se(torch.ones(2), torch.zeros(2)))
    assert effective_rows(torch.zeros(2)) is None
    assert effective_rows(None) is None


def test_a_column_of_weights_is_that_of_its_rows():
    x = np.random.default_rng(0).normal(size=(60, 2))
    frame = pandas.DataFrame({"a": x[:, 0], "w": np.exp(x[:, 0]), "b": x[:, 1]})
    data = pv.load_data(frame, weights="w", standardize=False)
    for split in (data.train, data.valid, data.test):
        assert split.shape[1] == 2
        torch.testing.assert_close(split.weights, split.x[:, 0].double().exp(), rtol=1e-6, atol=0)
    assert data.fingerprint != pv.load_data(frame[["a", "b"]], standardize=False).fingerprint
