"""Random numbers of our own: unbiased, the same for a seed in every process and after `--resume`, and none drawn twice.

Counts are compared with exact binomial bounds; of all the comparisons of a test together, one fails by chance once in a
million seeds, and the seeds here are fixed.
"""

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_draws import fitted_steps, recorded_draws
from scipy.stats import binom

import pyro_vae as pv
from pyro_vae.context_managers import derived_seed, part_seed
from pyro_vae.data import Measure, Split, as_split
from pyro_vae.data.ondisk.rows_on_disk import rows_from_npy
from pyro_vae.data.reference_measure import _bytes_below_255
from pyro_vae.data.split_rows import random_parts
from pyro_vae.distributed import ProcessGroup
from pyro_vae.evidence.impute_blocks import choose_points
from pyro_vae.inference.svi.fit_method import VALUES, FitTask
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.parameters import DeviceAndDtype
from pyro_vae.workflows.conditions_file import MAX_ROWS, some_conditions
from pyro_vae.workflows.fit_resampled import resampled_rows

FALSE_ALARM = 1e-6
TARGET = DeviceAndDtype(torch.device("cpu"), torch.float32)


def assert_counts(counts, num_trials, probability):
    """Each count within the bounds of its binomial distribution, the false alarm shared among all of them."""
    counts, probability = np.broadcast_arrays(np.asarray(counts), probability)
    tail = FALSE_ALARM / counts.size / 2
    low, high = binom.ppf(tail, num_trials, probability), binom.isf(tail, num_trials, probability)
    assert ((low <= counts) & (counts <= high)).all(), (counts, low, high)


def pairs_of(flags):
    """How often both of two flags are set, for all pairs of columns of flags (trials, n)."""
    flags = np.asarray(flags, dtype=np.int64)
    return (flags.T @ flags)[np.triu_indices(flags.shape[1], 1)]


STOCHASTIC = Measure(levels=255, binarize="stochastic")
LEVELS = {
    "bytes": torch.arange(256, dtype=torch.uint8),
    "floats": torch.linspace(0, 255, 103, dtype=torch.float64),
}


@pytest.mark.parametrize("draw", [Measure.draw, Measure.draw_again], ids=["fixed", "again"])
@pytest.mark.parametrize("kind", LEVELS)
def test_a_pixel_is_one_as_often_as_its_grey_level_says(kind, draw):
    stored = LEVELS[kind]
    drawn = draw(STOCHASTIC, stored.repeat(4000, 1), torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert_counts(drawn.sum(0).long().numpy(), 4000, stored.double().numpy() / 255)


def test_pixels_are_drawn_independently():
    """All pairs of pixels of an image, of neighbours in a batch, and of an image in two epochs."""
    split, config = Split("train", torch.full((4, 5), 128, dtype=torch.uint8), STOCHASTIC), TrainConfig()
    seeds = [derived_seed(config.epoch_seed(epoch), VALUES) for epoch in range(3000)]
    drawn = [split.batch(torch.arange(4), torch.Generator().manual_seed(seed)).flatten() for seed in seeds]
    flags = torch.stack(drawn).numpy()
    assert_counts(pairs_of(flags), 3000, (128 / 255) ** 2)
    assert_counts(pairs_of(np.concatenate([flags[:-1], flags[1:]], 1)), 2999, (128 / 255) ** 2)


@pytest.mark.parametrize("width", [1, 7, 8, 21])
def test_bytes_of_one_random_word_are_independent(width):
    """Neighbours within 64 bits and across them."""
    generator, level = torch.Generator().manual_seed(2), torch.randint(1, 255, (width,), dtype=torch.uint8)
    flags = STOCHASTIC.draw_again(level.repeat(4001, 1), generator).numpy()
    share = level.double().numpy() / 255
    assert_counts(flags.sum(0), 4001, share)
    both = np.outer(share, share)[np.triu_indices(width, 1)]
    if width > 1:
        assert_counts(pairs_of(flags), 4001, both)
    assert_counts((flags[1:] * flags[:-1]).sum(0), 4000, share**2)  # of one column in two rows


def test_bytes_are_below_255_and_uniform():
    for number in (0, 1, 8, 9, 255_001):
        drawn = _bytes_below_255(number, torch.Generator().manual_seed(4))
        assert drawn.shape == (number,)
    assert_counts(np.bincount(drawn.numpy(), minlength=255), 255_001, 1 / 255)


def test_values_that_are_no_bytes_of_255_levels_are_drawn_as_before():
    for measure, stored in (
        (Measure(levels=9, binarize="stochastic"), torch.randint(0, 10, (5, 4), dtype=torch.uint8)),
        (STOCHASTIC, torch.rand(5, 4) * 255),
        (Measure(levels=255, dequantize=True), torch.randint(0, 256, (5, 4), dtype=torch.uint8)),
    ):
        pair = [draw(measure, stored, torch.Generator().manual_seed(3)) for draw in (Measure.draw, Measure.draw_again)]
        assert torch.equal(*pair)


def test_a_batch_takes_every_kind_of_index():
    split = Split("train", torch.randint(0, 256, (6, 4), dtype=torch.uint8), STOCHASTIC)
    index = torch.tensor([1, 5])
    expected = split.batch(index, torch.Generator().manual_seed(3))
    mask = torch.zeros(6, dtype=torch.bool)
    mask[index] = True
    for rows in (index - 6, mask, index.to(torch.int32)):
        assert torch.equal(split.batch(rows, torch.Generator().manual_seed(3)), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert split.batch(index, torch.Generator()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_dequantizing_noise_is_uniform():
    measure = Measure(levels=9, dequantize=True)
    noise = 10 * measure.draw(torch.zeros(2000, 10), torch.Generator().manual_seed(0)).flatten().numpy()
    assert_counts(np.histogram(noise, 50, (0, 1))[0], len(noise), 1 / 50)


def orders_in_memory(folder):
    split = Split("train", torch.zeros(6, 1))
    return [torch.cat(list(split.batches(4, generator))) for generator in epoch_generators(4000)]


def orders_on_disk(folder):
    np.save(folder / "x.npy", np.zeros((6, 1), dtype=np.float32))
    rows = rows_from_npy(folder / "x.npy")
    return [torch.cat(list(rows.shuffled_batches(4, generator))) for generator in epoch_generators(1000)]


def epoch_generators(num_epochs):
    config = TrainConfig(seed=7)
    return [torch.Generator().manual_seed(config.epoch_seed(epoch)) for epoch in range(num_epochs)]


def orders_of_splits(folder):
    return [torch.cat(random_parts(6, seed, 2, 1)) for seed in range(4000)]


@pytest.mark.parametrize("shuffle", [orders_in_memory, orders_on_disk, orders_of_splits])
def test_every_order_of_rows_is_as_probable(shuffle, tmp_path):
    """Every row at every place, and every pair of rows at every pair of places, over the seeds of epochs."""
    orders = torch.stack(shuffle(tmp_path)).numpy()
    assert (np.sort(orders, 1) == np.arange(6)).all()
    at = orders[:, :, None] == np.arange(6)  # (orders, place, row)
    assert_counts(at.sum(0), len(orders), 1 / 6)
    both = np.einsum("opr,oqs->pqrs", at.astype(np.int64), at.astype(np.int64))
    for p, q in combinations(range(6), 2):
        assert_counts(both[p, q][~np.eye(6, dtype=bool)], len(orders), 1 / 30)
    repeated = (at[:-1] & at[1:]).sum(0)  # a place holds the same row in two epochs
    assert_counts(repeated, len(orders) - 1, 1 / 36)


def test_a_bootstrap_draws_every_row_as_often():
    drawn = torch.stack([resampled_rows(8, derived_seed(0, number, 1)) for number in range(1, 3001)]).numpy()
    counts = (drawn[:, :, None] == np.arange(8)).sum(1)
    assert_counts(counts.sum(0), drawn.size, 1 / 8)
    places = drawn[:, :, None] == np.arange(8)
    assert_counts(places.sum(0), len(drawn), 1 / 8)
    absent = counts == 0
    assert_counts(absent.sum(0), len(drawn), (7 / 8) ** 8)
    assert_counts(pairs_of(absent), len(drawn), (6 / 8) ** 8)


def test_points_are_resampled_by_their_weights():
    weights = np.array([0.0, 0.05, 0.15, 0.3, 0.5])
    log_weights = torch.from_numpy(np.log(weights, where=weights > 0, out=np.full(5, -np.inf)))[:, None].expand(5, 2000)
    chosen = choose_points(log_weights, 2, 3, torch.arange(2000)).numpy()
    assert_counts((chosen[0, :, None] == np.arange(5)).sum(0), 2000, weights)
    joint = (chosen[0, :, None] == np.arange(5))[:, :, None] & (chosen[1, :, None] == np.arange(5))[:, None, :]
    assert_counts(joint.sum(0), 2000, np.outer(weights, weights))
    neighbours = (chosen[0, :-1, None] == np.arange(5)) & (chosen[0, 1:, None] == np.arange(5))
    assert_counts(neighbours.sum(0), 1999, weights**2)


def test_conditions_that_a_run_keeps_are_drawn_by_the_weights_of_rows():
    num_rows, share = MAX_ROWS + 500, np.array([1.0, 3.0])
    given = torch.arange(num_rows) % 2
    weights = torch.from_numpy(share)[given]
    split = Split("train", torch.zeros(num_rows, 1), inputs={"given": given[:, None].float()}, weights=weights)
    kept = some_conditions(split, seed=5)[:, 0].numpy()
    expected = float(weights[given == 1].sum() / weights.sum())
    assert_counts([(kept == 1).sum()], len(kept), expected)


def test_another_process_with_other_threads_and_hashes_draws_the_same():
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "5"}
    command = [sys.executable, str(Path(__file__).with_name("recorded_draws.py")), "2"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == recorded_draws()


def test_a_resumed_fit_draws_what_it_would_have_drawn(tmp_path):
    """The steps of the epochs after an interruption; the probes before the first one are drawn again."""
    whole = fitted_steps(seed=5)

    def interrupt(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted_steps(seed=5, checkpoint=tmp_path, on_epoch=interrupt)
    resumed = fitted_steps(seed=5, checkpoint=tmp_path)
    last = resumed[-10:]  # of two epochs: four steps each, and a run of the validation rows
    assert len(resumed) < len(whole)
    for (x, z), (same_x, same_z) in zip(whole[-10:], last, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(z, same_z)


def test_another_seed_draws_other_numbers():
    first, second = fitted_steps(seed=0), fitted_steps(seed=1)
    noise = [
        {tuple(row) for _, z in steps for row in z.tolist()} for steps in (first[4:], second[4:])
    ]  # without probes
    assert not noise[0] & noise[1]
    epochs = [z for _, z in first if len(z) == 10]
    assert len({float(z[0, 0]) for z in epochs}) == len(epochs)


def first_words(generator):
    """Numbers of 62 bits at the beginning of a stream: another one that has one of them is the same, further on."""
    return set(torch.randint(2**62, (500,), generator=generator).tolist())


def test_the_streams_of_a_fit_have_no_number_in_common(tiny_vae):
    """The noise of latents, and values that are drawn anew, of some epochs, seeds and ranks."""
    vae, x = tiny_vae
    streams = []
    for rank in range(2):
        for seed in range(3):
            task = FitTask(vae, as_split(x, "train"), None, TrainConfig(seed=seed), None, TARGET, ProcessGroup(rank, 2))
            for epoch in range(4):
                _, values = task._epoch_generators(epoch)
                streams += [first_words(values), first_words(torch.default_generator)]
    assert len(set().union(*streams)) == 500 * len(streams)


@pytest.mark.parametrize("of_part", [part_seed, derived_seed], ids=["parts of scores", "bootstraps"])
def test_parts_of_what_seeds_draw_have_streams_of_their_own(of_part):
    """A sum would not do: part 1 of seed 0 would be part 0 of seed 1."""
    found = [of_part(seed, number) for seed in (*range(-3, 30), 2**40, 2**63 - 1) for number in range(30)]
    assert len(set(found)) == len(found)
    assert all(part_seed(seed, 0) == seed for seed in range(-3, 3))


@pytest.mark.parametrize("seed", [-1, -(2**63) + 1, 2**63 - 1])
def test_any_seed_that_an_option_takes_draws(seed, tiny_vae):
    vae, x = tiny_vae
    assert pv.auto_evidence(vae, x[:2], 20, seed=seed, exact=False).log_px.isfinite().all()
    assert len(pv.load_data("customers", seed=seed).train)
