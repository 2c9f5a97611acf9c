"""Rows that stay on disk: the same rows as in memory, each once an epoch, in memory that does not grow with N."""

import json
import tracemalloc

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import _run
from pyro_vae.data import load_data
from pyro_vae.data.dataset import make_split
from pyro_vae.data.ondisk import read_large_files, rows_on_disk
from pyro_vae.data.ondisk.column_statistics import moments
from pyro_vae.data.ondisk.read_large_files import read_rows
from pyro_vae.data.ondisk.rows_on_disk import rows_of_npy
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.read_files import Table, read_file
from pyro_vae.data.reference_measure import Measure
from pyro_vae.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 7 rows of 10 bytes, windows of 5 blocks."""
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 75)
    monkeypatch.setattr(rows_on_disk, "WINDOW_BYTES", 5 * 75)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bytes_file(path, num_rows=103, num_columns=10):
    values = np.random.default_rng(0).integers(0, 256, (num_rows, num_columns), dtype=np.uint8)
    np.save(path, values)
    return torch.from_numpy(values)


def test_rows_are_those_in_memory_by_slice_and_by_index(tmp_path):
    values = bytes_file(tmp_path / "x.npy")
    left_out = torch.tensor([0, 3, 4, 50, 102])
    rows = rows_of_npy(tmp_path / "x.npy").without(left_out)
    kept = values[~torch.isin(torch.arange(103), left_out)]
    assert rows.shape == kept.shape
    assert torch.equal(rows[:], kept)
    assert torch.equal(torch.cat(list(rows.blocks())), kept)
    for some in (slice(2, 60), slice(0, 0), slice(90, 500), slice(-3, None), slice(1, 90, 7)):
        assert torch.equal(rows[some], kept[some])
    index = torch.randint(98, (200,), generator=seeded())
    assert torch.equal(rows[index], kept[index])
    assert torch.equal(rows[torch.tensor([], dtype=torch.long)], kept[:0])
    assert torch.equal(values[rows.places(torch.arange(98))], kept)
    assert torch.equal(rows.head(48)[:], kept[:48])
    assert torch.equal(rows.take_columns([3, 1])[:], kept[:, [3, 1]])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", "|b1", "|u1"])
def test_every_type_is_read_as_in_memory(tmp_path, dtype):
    values = (np.random.default_rng(0).normal(size=(40, 6)) * 9).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert torch.equal(read_rows(tmp_path / "x.npy", stream=True).values[:], read_file(tmp_path / "x.npy").values)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 20, 36, 98, 500])
def test_each_row_once_an_epoch_in_whole_batches(tmp_path, small_blocks, batch_size):
    bytes_file(tmp_path / "x.npy")
    rows = rows_of_npy(tmp_path / "x.npy").without(torch.tensor([1, 40]))
    batches = list(rows.order(batch_size, seeded()))
    assert sorted(torch.cat(batches).tolist()) == list(range(101))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-101 // batch_size)
    again, other = list(rows.order(batch_size, seeded())), list(rows.order(batch_size, seeded(1)))
    assert torch.equal(torch.cat(batches), torch.cat(again))
    assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_rows_of_a_batch_come_from_the_window_and_from_the_file_alike(tmp_path, small_blocks):
    values = bytes_file(tmp_path / "x.npy")
    rows = rows_of_npy(tmp_path / "x.npy")
    for index in rows.order(12, seeded()):  # 35 rows a window: batches cross
        assert torch.equal(rows.near(index), values[index])
    assert torch.equal(rows.near(torch.arange(103).flip(0)), values.flip(0))


def test_a_batch_mixes_blocks_and_a_window_is_shuffled(tmp_path, small_blocks):
    bytes_file(tmp_path / "x.npy", 700)
    batches = list(rows_of_npy(tmp_path / "x.npy").order(35, seeded()))
    blocks = torch.stack([(batch // 7).unique(return_counts=True)[1] for batch in batches])
    assert blocks.shape == (20, 5)  # five blocks in each batch, whole
    group = torch.stack([batch.argsort().double() for batch in batches])
    assert abs(float(torch.corrcoef(torch.stack([group.flatten(), torch.arange(35.0).repeat(20)]))[0, 1])) < 0.2


def test_in_memory_an_epoch_is_one_permutation():
    split = load_data("digits").train
    order = torch.randperm(len(split), generator=seeded(5))
    assert torch.equal(torch.cat(list(split.batches(100, seeded(5)))), order)


def test_splits_are_disjoint_and_hold_every_row(tmp_path):
    values = bytes_file(tmp_path / "x.npy", 500)
    data = load_data(tmp_path / "x.npy", stream=True)
    assert isinstance(data.train, SplitOnDisk)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [400, 50, 50]
    places = [split.places(slice(None)) for split in (data.train, data.valid, data.test)]
    assert torch.cat(places).sort().values.tolist() == list(range(500))
    for split, where in zip((data.train, data.valid, data.test), places, strict=True):
        assert torch.equal(split.stored[:], values[where])
    assert load_data(tmp_path / "x.npy", stream=True, seed=1).fingerprint != data.fingerprint


def test_held_out_rows_are_capped_and_drawn_from_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(read_large_files, "MAX_HELD_OUT", 40)
    np.save(tmp_path / "x.npy", np.arange(10_000, dtype=np.float32).reshape(5000, 2))
    data = load_data(tmp_path / "x.npy", stream=True)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [4920, 40, 40]
    held_out = torch.cat([data.valid.index, data.test.index]).double()
    assert float(held_out.mean()) == pytest.approx(2500, abs=4 * 5000 / 12**0.5 / 80**0.5)


def test_a_row_has_one_draw_in_whatever_order_it_is_asked_for(tmp_path):
    bytes_file(tmp_path / "x.npy", 200, 64)
    split = load_data(tmp_path / "x.npy", stream=True).train
    x, index = split.x, torch.randperm(160, generator=seeded())
    assert torch.equal(split[index], x[index])
    assert torch.equal(split.head(70).x, x[:70])
    assert torch.equal(torch.cat([part.x for part in split.parts(37)]), x)
    assert torch.equal(torch.stack(list(split)), x)
    assert torch.equal(split.batch(index, seeded()), split.measure.draw(split.stored[index], seeded()))
    errors = (x.double().mean(1) - split.stored[:].double().mean(1) / 255) / (split.stored[:] / 255.0).std(1)
    assert float(errors.mean()) == pytest.approx(0, abs=4 / (160 * 64) ** 0.5 * 2)


@pytest.mark.parametrize("options", [{"binarize": "threshold"}, {"binarize": "none"}, {"standardize": False}])
def test_x_without_chance_is_that_in_memory(tmp_path, options):
    values = bytes_file(tmp_path / "x.npy", 100, 64)
    split = load_data(tmp_path / "x.npy", stream=True, **options).train
    held = make_split("train", Table(values[split.places(slice(None))]), split.measure)
    if not split.measure.random:
        assert torch.equal(split.x, held.x)
        assert torch.equal(split.batch(torch.arange(9), seeded()), held.x[:9])
    torch.testing.assert_close(split.mean, held.mean, rtol=1e-6, atol=1e-7)
    assert torch.equal(split.log_jacobian, held.log_jacobian)


def test_binary_values_are_not_drawn(tmp_path):
    values = (np.random.default_rng(0).random((100, 12)) < 0.3).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    split = load_data(tmp_path / "x.npy", stream=True).train
    assert split.measure == Measure(1, "none") or split.measure.binarize == "fixed"
    assert torch.equal(split.x, torch.from_numpy(values)[split.places(slice(None))])


def test_standardizing_is_that_in_memory(tmp_path, small_blocks):
    values = np.random.default_rng(0).normal(size=(500, 4)) * [1, 1e3, 1e-3, 0] + [0, 1e6, 5, 7]
    np.save(tmp_path / "x.npy", values)
    split = load_data(tmp_path / "x.npy", stream=True).train
    held = torch.from_numpy(values)[split.places(slice(None))]
    mean, deviation = held.mean(0), held.std(0, correction=0)
    torch.testing.assert_close(torch.tensor(split.measure.shift).double(), mean.float().double(), rtol=1e-6, atol=0)
    mean_by_block, deviation_by_block, largest = moments(split.stored)
    torch.testing.assert_close(mean_by_block, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deviation_by_block[:3], deviation[:3], rtol=1e-10, atol=0)
    assert torch.equal(largest, held.abs().amax(0))
    assert split.measure.scale[3] == 1  # a constant column
    np.testing.assert_allclose(split.measure.shift, mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(split.measure.scale[:3], deviation[:3].numpy(), rtol=1e-10)
    torch.testing.assert_close(split.measure.to_original_units(split.x), held, rtol=1e-6, atol=1e-6)


def test_the_fingerprint_follows_every_byte(tmp_path):
    path = tmp_path / "x.npy"
    values = bytes_file(path).numpy().copy()
    one, again = load_data(path, stream=True), load_data(path, stream=True)
    assert (one.fingerprint, one.train.fingerprint) == (again.fingerprint, again.train.fingerprint)
    values[57, 3] ^= 1
    np.save(path, values)
    other = load_data(path, stream=True)
    assert other.fingerprint != one.fingerprint
    assert other.train.fingerprint != one.train.fingerprint
    (tmp_path / "folder").mkdir()
    values[57, 3] ^= 1
    np.save(tmp_path / "folder" / "copy.npy", values)
    assert load_data(tmp_path / "folder" / "copy.npy", stream=True).fingerprint == one.fingerprint


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 2**14)
    monkeypatch.setattr(rows_on_disk, "WINDOW_BYTES", 2**18)
    monkeypatch.setattr(read_large_files, "MAX_HELD_OUT", 100)
    peaks = []
    for num_rows in (4000, 40_000):
        path = tmp_path / f"{num_rows}.npy"
        np.save(path, np.random.default_rng(0).normal(size=(num_rows, 32)).astype(np.float32))
        tracemalloc.start()
        split = load_data(path, stream=True).train
        for index in split.batches(100, seeded()):
            split.batch(index, seeded())
        assert split.mean.shape == (32,)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 0.2 * 40_000 * 32 * 4


def test_large_files_stay_on_disk_by_themselves(tmp_path, monkeypatch):
    bytes_file(tmp_path / "x.npy")
    assert not isinstance(load_data(tmp_path / "x.npy").train, SplitOnDisk)
    monkeypatch.setattr(read_large_files, "LARGEST_IN_MEMORY", 1000)
    assert isinstance(load_data(tmp_path / "x.npy").train, SplitOnDisk)
    assert not isinstance(load_data(tmp_path / "x.npy", stream=False).train, SplitOnDisk)
    monkeypatch.setattr("pyro_vae.data.dataset.MAX_AT_ONCE", 1000)
    with pytest.raises(InputError, match="stay on disk"):
        load_data(tmp_path / "x.npy").train.x  # noqa: B018


def test_parquet_is_converted_once_and_holds_the_same(tmp_path):
    import pandas

    values = np.random.default_rng(0).normal(size=(400, 3))
    frame = pandas.DataFrame(values, columns=["a", "b", "c"]).assign(label=np.arange(400) % 3)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=64)
    on_disk, held = read_rows(tmp_path / "t.parquet", stream=True), read_file(tmp_path / "t.parquet")
    assert torch.equal(on_disk.values[:], held.values)
    assert torch.equal(on_disk.labels, held.labels)
    assert (on_disk.columns, on_disk.label_name) == (held.columns, held.label_name)
    (converted,) = (tmp_path / "cache").glob("*.npy")
    written = converted.stat().st_mtime_ns
    data = load_data(tmp_path / "t.parquet", stream=True)
    assert converted.stat().st_mtime_ns == written
    assert torch.equal(data.train.labels, held.labels[data.train.places(slice(None))])
    assert torch.equal(data.valid.labels, held.labels[data.valid.index])
    assert torch.equal(data.train.row_inputs(torch.tensor([5, 2]))["labels"], data.train.labels[[5, 2]])


def test_bytes_in_parquet_take_a_byte_and_are_a_table(tmp_path):
    import pandas

    values = np.random.default_rng(0).integers(0, 99, (50, 4), dtype=np.uint8)
    pandas.DataFrame(values, columns=list("abcd")).to_parquet(tmp_path / "t.parquet")
    table = read_rows(tmp_path / "t.parquet", stream=True)
    assert table.values.dtype_in_file == np.uint8
    assert torch.equal(table.values[:], read_file(tmp_path / "t.parquet").values)
    data, held = (load_data(tmp_path / "t.parquet", stream=stream) for stream in (True, False))
    assert data.measure == held.measure == "Lebesgue measure on R^4 (original units)"


def test_what_cannot_stay_on_disk_is_said(tmp_path):
    def message(name, **options):
        with pytest.raises(InputError) as error:
            load_data(name if isinstance(name, str) else str(name), stream=True, **options)
        return str(error.value)

    assert "leave stream" in message("digits")
    np.savez(tmp_path / "x.npz", x=np.ones((20, 2)))
    assert "save them as one of these" in message(tmp_path / "x.npz")
    np.save(tmp_path / "f.npy", np.asfortranarray(np.random.default_rng(0).normal(size=(20, 2))))
    assert "Fortran" in message(tmp_path / "f.npy")
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[13, 1] = np.nan
    np.save(tmp_path / "n.npy", values)
    assert "row 13 (counting from 0), column 1" in message(tmp_path / "n.npy")
    assert "in memory alone" in message(tmp_path / "n.npy", missing="mask")
    np.save(tmp_path / "few.npy", values[:5])
    assert "too few" in message(tmp_path / "few.npy")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    assert "not a readable numpy file" in message(tmp_path / "bad.npy")
    np.save(tmp_path / "o.npy", np.array([[None, 1]] * 20), allow_pickle=True)
    assert "o.npy" in message(tmp_path / "o.npy")


def small_vae():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 16, 5), 0.3)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 16, 4)))


def line_file(path, num_rows=3000):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num_rows, 1)) @ rng.normal(size=(1, 5)) + 0.2 * rng.normal(size=(num_rows, 5))
    np.save(path, rows[rows[:, 0].argsort()].astype(np.float32))  # in the worst order


def test_a_fit_from_disk_learns_as_much_as_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 20 * 10)
    monkeypatch.setattr(rows_on_disk, "WINDOW_BYTES", 20 * 10 * 20)  # 4 windows of 20 blocks of 10 rows
    line_file(tmp_path / "x.npy", 1000)
    data = load_data(tmp_path / "x.npy", stream=True)
    in_memory = make_split("train", Table(data.train.stored[:]), data.train.measure)
    found = [pv.log_evidence(small_vae(), data.valid, num_samples=50).log_px.mean()]
    for train in (data.train, in_memory):
        vae = small_vae()
        pv.fit(vae, train, epochs=4, batch_size=40, learning_rate=0.03, progress="none")
        found.append(pv.log_evidence(vae, data.valid, num_samples=50).log_px.mean())
    before, from_disk, from_memory = map(float, found)
    assert from_disk == pytest.approx(from_memory, abs=0.05 * (from_memory - before))


def test_a_fit_from_disk_goes_on_to_the_same_bits(tmp_path, small_blocks):
    line_file(tmp_path / "x.npy", 300)
    data = load_data(tmp_path / "x.npy", stream=True)
    whole, parts = small_vae(), small_vae()
    options = {"epochs": 4, "learning_rate": 0.01, "schedule": "constant", "progress": "none", "batch_size": 40}
    pv.fit(whole, data, **options)

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pv.fit(parts, data, **options, checkpoint=tmp_path, on_epoch=stop)
    pv.fit(parts, load_data(tmp_path / "x.npy", stream=True), **options, checkpoint=tmp_path)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_em_from_disk_is_em_in_memory(tmp_path, small_blocks):
    line_file(tmp_path / "x.npy", 300)
    data = load_data(tmp_path / "x.npy", stream=True)
    found = []
    for train in (data.train, make_split("train", Table(data.train.stored[:]), data.train.measure)):
        mixture = pv.GaussianMixture(2, 5)
        pv.fit_em(mixture, train, epochs=3)
        found.append(mixture.log_prob(data.valid))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=0)


def test_the_commands_on_a_file_that_stays_on_disk(tmp_path, monkeypatch, capsys):
    """Score, encode and reconstruct write what they write of rows in memory, part by part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    line_file("x.npy", 400)
    np.save("more.npy", np.load("x.npy")[::-1][:300])
    words = ["fit", "--data", "x.npy", "--epochs", "2", "--hidden", "8", "--out", "run", "--json"]
    assert _run(words) == 0
    wanted = (
        ["score", "--num-samples", "30", "--out", "s.csv"],
        ["encode", "--out", "e.npy"],
        ["encode", "--out", "e.csv"],
        ["reconstruct", "--out", "r.npy"],
    )
    files = {}
    for on_disk in (False, True):
        if on_disk:
            monkeypatch.setattr("pyro_vae.workflows.open_run.ROWS_AT_ONCE", 128)
            monkeypatch.setattr(
                "pyro_vae.workflows.open_run.read_rows", lambda path, missing, stream: read_rows(path, missing, True)
            )
        for verb, *options in wanted:
            assert _run([verb, "run", "more.npy", *options]) == 0
        files[on_disk] = [np.load(name) for name in ("e.npy", "r.npy")]
        files[on_disk] += [np.genfromtxt(name, delimiter=",", names=True) for name in ("s.csv", "e.csv")]
    capsys.readouterr()
    for held, streamed in zip(files[False], files[True], strict=True):
        assert held.dtype == streamed.dtype
        for name in held.dtype.names or [...]:
            np.testing.assert_allclose(held[name], streamed[name], rtol=1e-4, atol=1e-5)
    assert _run(["sample", "run", "--num", "300", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 300
    assert np.load("run/samples.npy").shape == (300, 5)


def test_masks_negative_places_and_places_outside_are_as_a_tensors(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(20, 3)
    np.save(tmp_path / "rows.npy", values)
    rows, tensor = rows_of_npy(tmp_path / "rows.npy"), torch.from_numpy(values)
    mask = torch.arange(20) % 3 == 0
    assert torch.equal(rows[mask], tensor[mask])
    assert torch.equal(rows[torch.tensor([-1, 0, -20])], tensor[torch.tensor([-1, 0, -20])])
    for outside in (20, -21):
        with pytest.raises(IndexError, match="of 20"):
            rows[torch.tensor([outside])]
