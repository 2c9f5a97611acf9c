"""Rows that stay on disk: the same values as in memory, each row once an epoch, in memory that does not grow with N."""

import tracemalloc

import numpy as np
import pytest
import torch
from large_files import bytes_file, seeded
from whole_table import whole_table

from pyro_vae.data import load_data, prepare_rows
from pyro_vae.data.ondisk import read_large_files, rows_on_disk
from pyro_vae.data.ondisk.read_large_files import read_rows
from pyro_vae.data.ondisk.rows_on_disk import rows_from_npy
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.prepare_rows import make_split
from pyro_vae.data.reference_measure import Measure
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError


def test_slices_and_indices_give_the_rows_in_memory(tmp_path):
    values = bytes_file(tmp_path / "x.npy")
    excluded = torch.tensor([0, 3, 4, 50, 102])
    rows = rows_from_npy(tmp_path / "x.npy").without(excluded)
    kept = values[~torch.isin(torch.arange(103), excluded)]
    assert rows.shape == kept.shape
    assert torch.equal(rows[:], kept)
    assert torch.equal(torch.cat(list(rows.blocks())), kept)
    for some in (slice(2, 60), slice(0, 0), slice(90, 500), slice(-3, None), slice(1, 90, 7)):
        assert torch.equal(rows[some], kept[some])
    index = torch.randint(98, (200,), generator=seeded())
    assert torch.equal(rows[index], kept[index])
    assert torch.equal(rows[torch.tensor([], dtype=torch.long)], kept[:0])
    assert torch.equal(values[rows.source_index(torch.arange(98))], kept)
    assert torch.equal(rows.head(48)[:], kept[:48])
    assert torch.equal(rows.take_columns([3, 1])[:], kept[:, [3, 1]])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", "|b1", "|u1"])
def test_every_dtype_is_read_as_in_memory(tmp_path, dtype):
    values = (np.random.default_rng(0).normal(size=(40, 6)) * 9).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert torch.equal(read_rows(tmp_path / "x.npy", stream=True).values[:], whole_table(tmp_path / "x.npy").values)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 20, 36, 98, 500])
def test_an_epoch_has_each_row_once_in_full_batches(tmp_path, small_blocks, batch_size):
    bytes_file(tmp_path / "x.npy")
    rows = rows_from_npy(tmp_path / "x.npy").without(torch.tensor([1, 40]))
    batches = list(rows.shuffled_batches(batch_size, seeded()))
    assert sorted(torch.cat(batches).tolist()) == list(range(101))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-101 // batch_size)
    again, other = list(rows.shuffled_batches(batch_size, seeded())), list(rows.shuffled_batches(batch_size, seeded(1)))
    assert torch.equal(torch.cat(batches), torch.cat(again))
    assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_the_window_and_the_file_give_the_same_rows(tmp_path, small_blocks):
    values = bytes_file(tmp_path / "x.npy")
    rows = rows_from_npy(tmp_path / "x.npy")
    for index in rows.shuffled_batches(12, seeded()):  # windows of 35 rows: some batches have rows of two
        assert torch.equal(rows.read_from_window(index), values[index])
    assert torch.equal(rows.read_from_window(torch.arange(103).flip(0)), values.flip(0))


def test_a_batch_mixes_blocks_in_random_order(tmp_path, small_blocks):
    bytes_file(tmp_path / "x.npy", 700)
    batches = list(rows_from_npy(tmp_path / "x.npy").shuffled_batches(35, seeded()))
    blocks = torch.stack([(batch // 7).unique(return_counts=True)[1] for batch in batches])
    assert blocks.shape == (20, 5)  # five blocks in each batch, whole
    ranks = torch.stack([batch.argsort().double() for batch in batches])
    assert abs(float(torch.corrcoef(torch.stack([ranks.flatten(), torch.arange(35.0).repeat(20)]))[0, 1])) < 0.2


def test_an_epoch_in_memory_is_one_permutation():
    split = load_data("digits").train
    order = torch.randperm(len(split), generator=seeded(5))
    assert torch.equal(torch.cat(list(split.batches(100, seeded(5)))), order)


def test_splits_are_disjoint_and_cover_the_file(tmp_path):
    values = bytes_file(tmp_path / "x.npy", 500)
    data = load_data(tmp_path / "x.npy", stream=True)
    assert isinstance(data.train, SplitOnDisk)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [400, 50, 50]
    source_rows = [split.source_index(slice(None)) for split in (data.train, data.valid, data.test)]
    assert torch.cat(source_rows).sort().values.tolist() == list(range(500))
    for split, index in zip((data.train, data.valid, data.test), source_rows, strict=True):
        assert torch.equal(split.stored[:], values[index])
    assert load_data(tmp_path / "x.npy", stream=True, seed=1).fingerprint != data.fingerprint


def test_held_out_rows_are_limited_and_drawn_from_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(read_large_files, "MAX_HELD_OUT", 40)
    np.save(tmp_path / "x.npy", np.arange(10_000, dtype=np.float32).reshape(5000, 2))
    data = load_data(tmp_path / "x.npy", stream=True)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [4920, 40, 40]
    held_out = torch.cat([data.valid.index, data.test.index]).double()
    assert float(held_out.mean()) == pytest.approx(2500, abs=4 * 5000 / 12**0.5 / 80**0.5)


def test_the_fixed_draw_of_a_row_does_not_depend_on_the_order_of_reading(tmp_path):
    bytes_file(tmp_path / "x.npy", 200, 64)
    split = load_data(tmp_path / "x.npy", stream=True).train
    x, index = split.x, torch.randperm(160, generator=seeded())
    assert torch.equal(split[index], x[index])
    assert torch.equal(split.head(70).x, x[:70])
    assert torch.equal(torch.cat([chunk.x for chunk in split.chunks(37)]), x)
    assert torch.equal(torch.stack(list(split)), x)
    assert torch.equal(split.batch(index, seeded()), split.measure.draw_again(split.stored[index], seeded()))
    errors = (x.double().mean(1) - split.stored[:].double().mean(1) / 255) / (split.stored[:] / 255.0).std(1)
    assert float(errors.mean()) == pytest.approx(0, abs=4 / (160 * 64) ** 0.5 * 2)


@pytest.mark.parametrize("options", [{"binarize": "threshold"}, {"binarize": "none"}, {"standardize": False}])
def test_deterministic_x_is_equal_to_that_in_memory(tmp_path, options):
    values = bytes_file(tmp_path / "x.npy", 100, 64)
    split = load_data(tmp_path / "x.npy", stream=True, **options).train
    in_memory = make_split("train", Table(values[split.source_index(slice(None))]), split.measure)
    if not split.measure.is_random:
        assert torch.equal(split.x, in_memory.x)
        assert torch.equal(split.batch(torch.arange(9), seeded()), in_memory.x[:9])
    torch.testing.assert_close(split.mean, in_memory.mean, rtol=1e-6, atol=1e-7)
    assert torch.equal(split.log_jacobian, in_memory.log_jacobian)


def test_binary_values_are_used_unchanged(tmp_path):
    values = (np.random.default_rng(0).random((100, 12)) < 0.3).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    split = load_data(tmp_path / "x.npy", stream=True).train
    assert split.measure == Measure(1, "none") or split.measure.binarize == "fixed"
    assert torch.equal(split.x, torch.from_numpy(values)[split.source_index(slice(None))])


def test_standardizing_is_equal_to_that_in_memory(tmp_path, small_blocks):
    values = np.random.default_rng(0).normal(size=(500, 4)) * [1, 1e3, 1e-3, 0] + [0, 1e6, 5, 7]
    np.save(tmp_path / "x.npy", values)
    split = load_data(tmp_path / "x.npy", stream=True).train
    in_memory = torch.from_numpy(values)[split.source_index(slice(None))]
    mean, deviation = in_memory.mean(0), in_memory.std(0, correction=0)
    torch.testing.assert_close(torch.tensor(split.measure.shift).double(), mean.float().double(), rtol=1e-6, atol=0)
    mean_by_block, deviation_by_block, largest = split.stored.column_moments()
    torch.testing.assert_close(mean_by_block, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deviation_by_block[:3], deviation[:3], rtol=1e-10, atol=0)
    assert torch.equal(largest, in_memory.abs().amax(0))
    assert split.measure.scale[3] == 1  # a constant column
    np.testing.assert_allclose(split.measure.shift, mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(split.measure.scale[:3], deviation[:3].numpy(), rtol=1e-10)
    torch.testing.assert_close(split.measure.to_original_units(split.x), in_memory, rtol=1e-6, atol=1e-6)


def test_the_fingerprint_depends_on_every_byte_and_not_on_the_path(tmp_path):
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
        load_data(path, stream=True)  # what the first call of a process imports is not counted
        tracemalloc.start()
        split = load_data(path, stream=True).train
        for index in split.batches(100, seeded()):
            split.batch(index, seeded())
        assert split.mean.shape == (32,)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 0.2 * 40_000 * 32 * 4


def test_large_files_stay_on_disk_by_default(tmp_path, monkeypatch):
    bytes_file(tmp_path / "x.npy")
    assert not isinstance(load_data(tmp_path / "x.npy").train, SplitOnDisk)
    monkeypatch.setattr(read_large_files, "MAX_BYTES_IN_MEMORY", 1000)
    assert isinstance(load_data(tmp_path / "x.npy").train, SplitOnDisk)
    assert not isinstance(load_data(tmp_path / "x.npy", stream=False).train, SplitOnDisk)
    monkeypatch.setattr("pyro_vae.data.stored_split.MAX_BYTES_PER_READ", 1000)
    with pytest.raises(InputError, match="stay on disk"):
        load_data(tmp_path / "x.npy").train.x  # noqa: B018


def test_parquet_is_converted_once_to_the_same_values(tmp_path):
    import pandas

    values = np.random.default_rng(0).normal(size=(400, 3))
    frame = pandas.DataFrame(values, columns=["a", "b", "c"]).assign(label=np.arange(400) % 3)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=64)
    on_disk, in_memory = read_rows(tmp_path / "t.parquet", stream=True), whole_table(tmp_path / "t.parquet")
    assert torch.equal(on_disk.values[:], in_memory.values)
    assert torch.equal(on_disk.labels, in_memory.labels)
    assert (on_disk.columns, on_disk.schema.label.name) == (in_memory.columns, in_memory.schema.label.name)
    (converted,) = (tmp_path / "cache").glob("*.npy")
    written = converted.stat().st_mtime_ns
    data = load_data(tmp_path / "t.parquet", stream=True)
    assert converted.stat().st_mtime_ns == written
    assert torch.equal(data.train.labels, in_memory.labels[data.train.source_index(slice(None))])
    assert torch.equal(data.valid.labels, in_memory.labels[data.valid.index])
    assert torch.equal(data.train.row_inputs(torch.tensor([5, 2]))["labels"], data.train.labels[[5, 2]])


def test_bytes_in_parquet_are_stored_as_bytes_of_a_table(tmp_path):
    import pandas

    values = np.random.default_rng(0).integers(0, 99, (50, 4), dtype=np.uint8)
    pandas.DataFrame(values, columns=list("abcd")).to_parquet(tmp_path / "t.parquet")
    table = read_rows(tmp_path / "t.parquet", stream=True)
    assert table.values.dtype_in_file == np.uint8
    assert torch.equal(table.values[:], whole_table(tmp_path / "t.parquet").values)
    data, in_memory = (load_data(tmp_path / "t.parquet", stream=stream) for stream in (True, False))
    assert data.measure == in_memory.measure == "Lebesgue measure on R^4 (original units)"


def test_files_that_cannot_stay_on_disk_raise_with_the_reason(tmp_path):
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
    assert "in memory only" in message(tmp_path / "n.npy", missing="mask")
    np.save(tmp_path / "few.npy", values[:5])
    assert "too few" in message(tmp_path / "few.npy")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    assert "not a readable numpy file" in message(tmp_path / "bad.npy")
    np.save(tmp_path / "o.npy", np.array([[None, 1]] * 20), allow_pickle=True)
    assert "o.npy" in message(tmp_path / "o.npy")


def test_masks_and_negative_and_invalid_indices_behave_as_for_tensors(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(20, 3)
    np.save(tmp_path / "rows.npy", values)
    rows, tensor = rows_from_npy(tmp_path / "rows.npy"), torch.from_numpy(values)
    mask = torch.arange(20) % 3 == 0
    assert torch.equal(rows[mask], tensor[mask])
    assert torch.equal(rows[torch.tensor([-1, 0, -20])], tensor[torch.tensor([-1, 0, -20])])
    for outside in (20, -21):
        with pytest.raises(IndexError, match="of 20"):
            rows[torch.tensor([outside])]


def test_new_rows_of_a_large_file_stay_on_disk_with_the_same_x(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(300, 3))
    np.save(tmp_path / "new.npy", values)
    data = load_data(values[:100])
    prepared = data.prepare(tmp_path / "new.npy")
    monkeypatch.setattr(prepare_rows, "MAX_NEW_BYTES", 1000)
    on_disk = data.prepare(tmp_path / "new.npy")
    assert isinstance(on_disk, SplitOnDisk)
    assert torch.equal(on_disk.x, prepared.x)
    for drawn in (load_data(values[:100], standardize=False), load_data(np.rint(values[:100]), dequantize=True)):
        assert not isinstance(drawn.prepare(tmp_path / "new.npy"), SplitOnDisk)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("of_images", [{"gray": True}, {"resize": (8, 8)}], ids=["gray", "resize"])
def test_what_is_for_folders_of_images_is_refused(tmp_path, stream, of_images):
    np.save(tmp_path / "x.npy", np.zeros((100, 16), np.uint8))
    with pytest.raises(InputError, match="is for images and folders of images; leave it out"):
        load_data(tmp_path / "x.npy", stream=stream, **of_images)


def test_rows_on_disk_take_no_memory(tmp_path):
    bytes_file(tmp_path / "x.npy", 200)
    assert load_data(tmp_path / "x.npy", stream=True).train.memory_bytes == 0
