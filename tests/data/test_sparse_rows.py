"""Sparse rows: x, measure, splits and log p(x) are those of the same rows stored densely; memory is that of entries."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.data.read_files import read_file
from pyro_vae.data.sparse import read_sparse
from pyro_vae.data.sparse.sparse_rows import SparseRows
from pyro_vae.data.sparse.sparse_split import SparseSplit

FORMATS = ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"]


def counts(num_rows=60, num_columns=9, rate=0.4):
    return np.random.default_rng(0).poisson(rate, (num_rows, num_columns)).astype(np.float64)


def reals(num_rows=200, num_columns=7):
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, (num_rows, num_columns)) * [1, 1e-200, 1e150, 1e-3, 1e6, 1, 0]
    return values * (rng.random(values.shape) < 0.2)


def bits():
    return (counts() > 0).astype(np.float64)


def count_vae(num_columns):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Poisson(pv.nets.mlp(2, 8, num_columns)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(num_columns, 8, 4)),
    )


VALUES = {
    "counts": counts(),
    "float32": counts().astype(np.float32),
    "int64": counts().astype(np.int64),
    "int8": -counts().astype(np.int8),
    "uint8": counts().astype(np.uint8),
    "bool": counts() > 0,
    "bits": bits(),
    "negative": counts() - 2.0 * (counts() > 1),
    "tenths": counts() / 10,
    "large counts": counts() * 1e9 + 3 * (counts() > 0),
    "empty rows and columns": counts() * (np.arange(60) % 3 > 0)[:, None] * (np.arange(9) != 4),
    "nothing": np.zeros((60, 9)),
    "no zero": counts() + 1,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", [sparse.coo_array, sparse.coo_matrix], ids=["array", "matrix"])
def test_every_format_holds_the_same_rows(form, make):
    data = pv.load_data(make(counts()).asformat(form))
    dense = pv.load_data(counts())
    for name in ("train", "valid", "test"):
        assert isinstance(data.split(name), SparseSplit)
        assert torch.equal(data.split(name).x, dense.split(name).x)
        assert torch.equal(data.split(name).stored[:], dense.split(name).stored)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("standardize", [False, None])
def test_rows_are_those_of_the_dense_array(name, standardize):
    values = VALUES[name]
    data, dense = (pv.load_data(each, standardize=standardize) for each in (sparse.csr_array(values), values))
    for split, expected in ((data.split(name), dense.split(name)) for name in ("train", "valid", "test")):
        measure = split.measure
        assert torch.equal(split.index, expected.index)
        assert (measure.levels, measure.binarize) == (expected.measure.levels, expected.measure.binarize)
        np.testing.assert_allclose(measure.shift, expected.measure.shift, rtol=1e-12, atol=0)
        np.testing.assert_allclose(measure.scale, expected.measure.scale, rtol=1e-12, atol=0)
        assert split.stored.dtype == expected.stored.dtype
        assert torch.equal(split.stored[:], expected.stored)
        assert split.x.dtype == expected.x.dtype
        if measure == expected.measure:
            assert torch.equal(split.x, expected.x)
        torch.testing.assert_close(split.x, expected.x, rtol=2e-7, atol=1e-12)
        torch.testing.assert_close(split.mean, expected.mean, rtol=1e-6, atol=1e-6 * float(expected.x.abs().max()))
        assert torch.equal(split.log_jacobian, expected.log_jacobian) or measure != expected.measure
    assert data.measure == dense.measure
    assert not standardize or len(data.train.measure.scale) == 9


def test_means_and_deviations_are_those_of_the_dense_array():
    values = reals()
    data, dense = pv.load_data(sparse.csc_array(values)), pv.load_data(values)
    np.testing.assert_allclose(data.train.measure.shift, dense.train.measure.shift, rtol=1e-12)
    np.testing.assert_allclose(data.train.measure.scale, dense.train.measure.scale, rtol=1e-12)
    assert data.train.measure.scale[6] == 1  # a column of zeros
    torch.testing.assert_close(data.test.x, dense.test.x, rtol=1e-6, atol=1e-6)


def test_slices_heads_chunks_and_rows_taken_are_those_of_the_dense_split():
    split, dense = pv.load_data(sparse.csr_array(counts())).train, pv.load_data(counts()).train
    index = torch.tensor([5, 0, 41, 5])
    for some in (slice(2, 30), slice(0, 0), slice(-3, None), slice(1, 40, 7), index, torch.arange(48) % 5 == 0):
        assert torch.equal(split[some], dense[some])
        assert torch.equal(split.stored[some], dense.stored[some])
        assert torch.equal(split.source_index(some), dense.source_index(some))
    for own, expected in ((split.head(7), dense.head(7)), (split.take(index), dense.take(index))):
        assert isinstance(own, SparseSplit)
        assert torch.equal(own.x, expected.x)
        assert torch.equal(own.index, expected.index)
    for own, expected in zip(split.chunks(20), dense.chunks(20), strict=True):
        assert torch.equal(own.x, expected.x)
    order = [list(each.batches(7, torch.Generator().manual_seed(3))) for each in (split, dense)]
    assert all(map(torch.equal, *order))
    assert torch.equal(split.batch(index, torch.Generator()), dense.batch(index, torch.Generator()))
    assert torch.equal(torch.stack(list(split)), dense.x)
    with pytest.raises(IndexError):
        split[torch.tensor([48])]


def test_statistics_in_small_blocks_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.sparse.sparse_rows.BLOCK_ENTRIES", 5)
    monkeypatch.setattr("pyro_vae.data.sparse.sparse_rows.BLOCK_BYTES", 200)
    rows = pv.load_data(sparse.csr_array(counts())).train.stored
    monkeypatch.undo()
    whole = pv.load_data(sparse.csr_array(counts())).train.stored
    assert rows.digest == whole.digest
    assert torch.equal(torch.cat(list(rows.blocks())), whole[:])
    assert torch.equal(rows.representative_values, whole.representative_values)
    for found, expected in zip(rows.column_moments(), whole.column_moments(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert rows.num_entries == int((whole[:] != 0).sum())


def test_columns_are_taken_in_any_order():
    rows = pv.load_data(sparse.csr_array(counts())).train.stored
    some = rows.take_columns([7, 0, 3])
    assert torch.equal(some[:], rows[:][:, [7, 0, 3]])
    assert torch.equal(some.take_columns([2, 0])[:], rows[:][:, [3, 7]])
    mean, deviation, largest = some.column_moments()
    torch.testing.assert_close(mean, some[:].mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(deviation, some[:].std(0, correction=0), rtol=1e-13, atol=0)
    assert torch.equal(largest, some[:].amax(0))


GIVEN = {  # entries of a 12×3 matrix: rows, columns, values; and what is stored
    "explicit zeros": (([0, 1, 2], [0, 1, 2], [0.0, 5.0, 2.0]), {(1, 1): 5, (2, 2): 2}, ()),
    "given twice": (([1, 1, 2], [0, 0, 2], [3.0, 4.0, 2.5]), {(1, 0): 7, (2, 2): 2.5}, ("1 entries",)),
    "given twice, zero in sum": (([1, 1, 2], [0, 0, 2], [3.0, -3.0, 2.5]), {(2, 2): 2.5}, ("1 entries",)),
    "bytes beyond 255": (([1, 1], [0, 0], np.array([200, 100], np.uint8)), {(1, 0): 300}, ("1 entries",)),
    "bytes": (([1, 1], [0, 0], np.array([200, 50], np.uint8)), {(1, 0): 250}, ("1 entries",)),
    "truths": (([1, 1], [0, 0], np.array([True, True])), {(1, 0): 1}, ("1 entries",)),
    "long indices": ((np.array([3, 1]), np.array([2, 0]), [1.5, 2.0]), {(3, 2): 1.5, (1, 0): 2}, ()),
}


@pytest.mark.parametrize("name", GIVEN)
def test_entries_are_what_they_add_up_to(name):
    (rows, columns, values), expected, notes = GIVEN[name]
    matrix = sparse.coo_array((np.asarray(values), (np.asarray(rows), np.asarray(columns))), (12, 3))
    if name == "long indices":
        matrix.coords = tuple(each.astype(np.int64) for each in matrix.coords)
    given = matrix.copy()
    table = read_sparse.table_from_sparse(matrix, Path("m"))
    dense = np.zeros((12, 3))
    for place, value in expected.items():
        dense[place] = value
    np.testing.assert_array_equal(table.values[:].numpy(), dense)
    assert table.values.num_entries == len(expected)
    assert [note.split(" of")[0] for note in table.notes] == list(notes)
    assert np.array_equal(matrix.data, given.data)  # the matrix is as it was


def test_a_matrix_that_is_changed_later_does_not_change_the_data():
    matrix = sparse.csr_array(counts())
    data = pv.load_data(matrix)
    before = data.train.x.clone()
    matrix.data[:] = 99
    matrix.indices[:] = 0
    assert torch.equal(data.train.x, before)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_tensors_are_taken():
    expected = pv.load_data(counts()).train.x
    for tensor in (torch.from_numpy(counts()).to_sparse(), torch.from_numpy(counts()).to_sparse_csr()):
        assert torch.equal(pv.load_data(tensor).train.x, expected)


def wrong(values, form="csr"):
    return sparse.coo_array(values).asformat(form)


def of_invalid_indices():
    matrix = wrong(counts())
    matrix.indices[0] = 99
    return matrix


REFUSED = {
    "infinite": (lambda: wrong(np.where(counts() > 2, np.inf, counts())), r"a value is infinite, the first in row \d+"),
    "missing": (lambda: wrong(np.where(counts() > 2, np.nan, counts())), r"missing \(NaN\).*--missing mask"),
    "complex": (lambda: wrong(counts() * 1j), "holds complex128 values; expected numbers"),
    "no columns": (lambda: sparse.csr_array((12, 0)), "no rows in it, or no columns"),
    "no rows": (lambda: sparse.csr_array((0, 5)), "no rows in it, or no columns"),
    "an array without rows": (lambda: np.zeros((0, 5)), "no rows in it, or no columns"),
    "few rows": (lambda: wrong(counts(5)), "5 rows are too few"),
    "one axis": (lambda: sparse.coo_array(counts()[0]), r"has shape \(9,\); expected one row for each"),
    "indices": (of_invalid_indices, "not a valid sparse matrix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_matrices_that_cannot_be_used_are_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(make())


def test_missing_values_and_random_draws_make_rows_dense_and_say_so(monkeypatch):
    values = np.where(counts() > 1, np.nan, counts() + 0.5 * (counts() > 0))
    data, dense = pv.load_data(wrong(values), missing="mask"), pv.load_data(values, missing="mask")
    assert torch.equal(data.train.mask, dense.train.mask)
    assert torch.equal(data.train.x, dense.train.x)
    assert data.notes == ("sparse rows made dense: values are missing",)
    for options in ({"dequantize": True}, {"binarize": "stochastic"}, {"binarize": "fixed"}):
        values = counts() / 10 if "binarize" in options else counts()
        data, dense = pv.load_data(wrong(values), **options), pv.load_data(values, **options)
        assert torch.equal(data.test.x, dense.test.x)
        assert data.notes[0].startswith("sparse rows made dense: ")
        assert torch.equal(data.prepare(wrong(values[:5])).x, dense.prepare(values[:5]).x)
    monkeypatch.setattr(read_sparse, "MAX_DENSE_BYTES", 1000)
    with pytest.raises(pv.InputError, match=r"noise is added .*needs dense rows, and these would take 0\.0 GiB"):
        pv.load_data(wrong(counts()), dequantize=True)


@pytest.mark.parametrize("binarize", ["threshold", "fixed", "stochastic"])
def test_bits_are_the_same_bits(binarize):
    data, dense = (pv.load_data(each, binarize=binarize) for each in (sparse.csr_array(bits()), bits()))
    assert isinstance(data.train, SparseSplit)
    assert torch.equal(data.train.x, dense.train.x)
    assert data.measure == dense.measure == "counting measure on {0, 1}^9"
    torch.testing.assert_close(data.train.mean, dense.train.mean)
    order = torch.arange(48)
    assert torch.equal(data.train.batch(order, torch.Generator()), dense.train.batch(order, torch.Generator()))


def test_a_fit_and_its_log_px_are_those_of_dense_rows():
    found = []
    for values in (sparse.csr_array(counts()), counts()):
        data = pv.load_data(values)
        torch.manual_seed(0)
        vae = count_vae(9)
        history = pv.fit(vae, data.train, valid=data.valid, epochs=2, batch_size=16, seed=0).history
        found.append(([row["elbo"] for row in history], pv.log_evidence(vae, data.test, num_samples=50, seed=0).log_px))
        new = data.prepare(values[:12])
        found[-1] += (pv.score(vae, new, data.valid, num_samples=50, false_alarms=0.2, seed=0).found.log_px,)
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2])


def test_an_npz_of_scipy_is_read_sparse(tmp_path):
    for form in ("csr", "csc", "coo", "bsr", "dia"):
        sparse.save_npz(tmp_path / "m.npz", sparse.coo_matrix(counts()).asformat(form))
        table = read_file(tmp_path / "m.npz")
        assert isinstance(table.values, SparseRows)
        assert torch.equal(table.values[:], torch.from_numpy(counts()))
    np.savez(tmp_path / "odd.npz", format=np.array("csr"), shape=np.array([3, 3]), data=np.ones(2))
    with pytest.raises(pv.InputError, match="not a readable sparse matrix"):
        read_file(tmp_path / "odd.npz")


def run(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_commands_take_sparse_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    values = counts(300)
    sparse.save_npz("x.npz", sparse.csr_array(values))
    np.save("x.npy", values)
    for name in ("x.npz", "x.npy"):
        assert run(["fit", "--data", name, "--epochs", "1", "--hidden", "8", "--out", name[2:]]) == 0
        assert run(["score", name[2:], name, "--num-samples", "20", "--out", f"{name}.csv"]) == 0
        assert run(["encode", name[2:], name, "--out", f"{name}.npy"]) == 0
    assert "negative-binomial" in capsys.readouterr().err
    assert (tmp_path / "x.npz.csv").read_text() == (tmp_path / "x.npy.csv").read_text()
    assert (tmp_path / "x.npz.npy").read_bytes() == (tmp_path / "x.npy.npy").read_bytes()


def test_memory_is_that_of_the_entries():
    num_rows, num_columns, generator = 20_000, 5_000, np.random.default_rng(0)
    places = generator.integers(0, num_rows, 100_000), generator.integers(0, num_columns, 100_000)
    matrix = sparse.coo_array((generator.poisson(2, 100_000) + 1.0, places), (num_rows, num_columns)).tocsr()
    tracemalloc.start()
    data = pv.load_data(matrix)
    loaded = tracemalloc.get_traced_memory()[1]
    for index in data.train.batches(256, torch.Generator()):
        x = data.train.batch(index, torch.Generator())
    for part in data.test.chunks(500):
        assert part.x.shape == (500, 5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape[1] == num_columns
    assert loaded < 60e6  # dense rows take 800 MB
    assert peak < 120e6
    assert data.train.mean.shape == (5000,)


def test_rows_wider_than_one_operation_reads_are_fitted(monkeypatch, tmp_path):
    """No step reads all rows: 1,000 are read at once, of 1,200 validation rows; then 100, of 1,000 for the start."""
    from pyro_vae.data import stored_split
    from pyro_vae.plots.fit_figures import write_figures

    data = pv.load_data(sparse.csr_array(counts(12_000)))
    torch.manual_seed(0)
    expected = pv.fit(count_vae(9), data.train, valid=data.valid, epochs=1, batch_size=400, seed=0).history[0]
    monkeypatch.setattr(stored_split, "MAX_BYTES_PER_READ", 1000 * 9 * 4)
    monkeypatch.setattr(stored_split, "CHUNK_BYTES", 60 * 9 * 4)
    with pytest.raises(pv.InputError, match="9600 rows stay on disk, or sparse"):
        data.train.x  # noqa: B018
    torch.manual_seed(0)
    vae = count_vae(9)
    found = pv.fit(vae, data.train, valid=data.valid, epochs=1, batch_size=400, seed=0)
    assert [found.history[0][key] for key in ("elbo", "valid_elbo")] == [expected["elbo"], expected["valid_elbo"]]
    written = write_figures(tmp_path, vae, data, found.history, found.best_epoch)
    assert {path.name for path in written} >= {"latents.png"}
    assert torch.equal(torch.stack(list(data.test)), torch.cat([part.x for part in data.test.chunks(60)]))
    monkeypatch.setattr(stored_split, "MAX_BYTES_PER_READ", 100 * 9 * 4)
    assert math.isfinite(pv.fit(vae, data.train, valid=data.valid, epochs=1, batch_size=100).history[0]["valid_elbo"])


def test_a_layer_is_one_of_annotated_rows():
    with pytest.raises(pv.InputError, match="a layer is one of annotated rows"):
        pv.load_data(sparse.csr_array(counts()), layer="counts")
