"""Annotated rows of the package anndata, in memory and in files: X, layers, labels, names, results written back."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.data.annotated import read_matrix
from pyro_vae.data.sparse.sparse_rows import SparseRows

anndata = pytest.importorskip("anndata", reason="the extra omics is not installed")
pandas = pytest.importorskip("pandas")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' option is deprecated"),  # anndata sets options of pandas
    pytest.mark.filterwarnings("ignore:.* names are not unique"),
]
CELLS = np.array(["T cell", "B cell", "NK", None], dtype=object)


@pytest.fixture(autouse=True)
def plain_strings():
    """Text as objects: anndata 0.12 cannot write the text that pandas 3 keeps in Arrow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pandas.option_context("future.infer_string", False):
            yield


def counts(num_rows=120, num_columns=8):
    values = np.random.default_rng(0).poisson(0.7, (num_rows, num_columns))
    values[::7, 2] = 2500  # above what is a count in other tables
    return values.astype(np.float32)


def annotated(values=None, **keywords):
    values = counts() if values is None else values
    num_rows, num_columns = values.shape
    obs = pandas.DataFrame(
        {
            "cell_type": pandas.Categorical(CELLS[np.arange(num_rows) % 4]),
            "cluster": np.arange(num_rows) % 3,
            "depth": np.arange(num_rows) / 7,
        },
        index=[f"cell{i}" for i in range(num_rows)],
    )
    var = pandas.DataFrame(index=[f"gene{i}" for i in range(num_columns)])
    return anndata.AnnData(values, obs=obs, var=var, **keywords)


FORMS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray, "integers": lambda x: x.astype(int)}


def opened(kind, data, folder):
    """The same rows in memory, in a file, and in memory with X left in a file."""
    if kind == "memory":
        return data
    if kind == "zarr":
        data.write_zarr(folder / "x.zarr")
        return folder / "x.zarr"
    data.write_h5ad(folder / "x.h5ad")
    return anndata.read_h5ad(folder / "x.h5ad", backed="r") if kind == "backed" else str(folder / "x.h5ad")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr", "backed"])
def test_rows_labels_and_names_are_those_of_the_object(kind, form, tmp_path):
    source = opened(kind, annotated(FORMS[form](counts())), tmp_path)
    data, expected = pv.load_data(source, label="cell_type"), pv.load_data(counts(), standardize=False)
    assert data.columns == tuple(f"gene{i}" for i in range(8))
    assert data.label_levels == ("B cell", "NK", "T cell")
    assert data.label_name == "cell_type"
    assert data.notes == ()
    assert data.measure == expected.measure
    for split, dense in ((data.split(name), expected.split(name)) for name in ("train", "valid", "test")):
        assert isinstance(split.stored, SparseRows) == (form in ("csr", "csc"))
        assert torch.equal(split.x, dense.x)
        assert torch.equal(split.index, dense.index)
        assert torch.equal(split.labels, torch.tensor([2, 0, 1, -1])[split.index % 4])


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr", "backed"])
def test_layers_and_raw_hold_rows_too(kind, tmp_path):
    whole = annotated(counts(120, 10))
    normal = annotated(sparse.csr_matrix(np.log1p(counts())), layers={"counts": sparse.csr_matrix(counts())})
    normal.raw = whole
    source = opened(kind, normal, tmp_path)
    data = pv.load_data(source)
    assert data.notes == (
        "X holds numbers that are not whole, or below 0: values that were normalized, and no counts; --layer raw and "
        "--layer counts hold counts",
        "no labels; --label takes a column of obs: cell_type",
    )
    assert len(data.train.measure.scale) == 8
    for layer, values in {"counts": counts(), "raw": counts(120, 10)}.items():
        data = pv.load_data(source, layer=layer, label="cluster")
        assert data.holds_counts
        assert len(data.columns) == values.shape[1]
        assert data.notes == ()
        assert torch.equal(data.train.x, torch.from_numpy(values)[data.train.index])
        assert data.train.labels.tolist() == (data.train.index % 3).tolist()
    with pytest.raises(pv.InputError, match=r"no layer 'spliced'; there is X .* of layers raw, counts"):
        pv.load_data(source, layer="spliced")
    with pytest.raises(pv.InputError, match="obs has no column 'batch'; it has cell_type, cluster, depth"):
        pv.load_data(source, label="batch")


def test_a_column_called_label_is_taken_without_a_word():
    data = annotated()
    data.obs["Label"] = np.arange(120) % 5
    found = pv.load_data(data)
    assert found.label_name == "Label"
    assert found.train.labels.tolist() == (found.train.index % 5).tolist()
    assert found.notes == ()


def test_counts_above_a_thousand_are_counts():
    from pyro_vae.registry import ModelConfig
    from pyro_vae.workflows.choose_likelihood import choose_likelihood

    data = pv.load_data(annotated())
    assert choose_likelihood(ModelConfig(), data).name == "negative-binomial"
    assert not data.train.measure.scale
    assert choose_likelihood(ModelConfig(), pv.load_data(counts())).name == "multivariate-normal"


def test_views_are_read_as_they_are_seen():
    data = annotated(sparse.csr_matrix(counts()))[10:50, ::-1]
    found = pv.load_data(data)
    assert found.columns[0] == "gene7"
    assert torch.equal(found.train.x, torch.from_numpy(counts()[10:50, ::-1].copy())[found.train.index])


def without_x():
    data = annotated()
    return anndata.AnnData(None, obs=data.obs, var=data.var, layers={"counts": counts()})


def of_twins():
    data = annotated()
    data.var_names = ["gene0", "gene1", "gene1", *data.var_names[3:]]
    return data


REFUSED = {
    "no X": (without_x, r"has no X; name the layer .*: counts"),
    "two of one name": (of_twins, r"two variables are called 'gene1'; adata.var_names_make_unique\(\)"),
    "missing": (lambda: annotated(np.where(counts() > 3, np.nan, counts())), r"missing \(NaN\)"),
    "infinite": (lambda: annotated(sparse.csr_matrix(np.where(counts() > 3, np.inf, counts()))), "is infinite"),
    "few rows": (lambda: annotated(counts(6)), "6 rows are too few"),
    "no rows": (lambda: annotated(counts())[:0], "no rows in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_objects_that_cannot_be_used_are_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(pv.InputError, match=message):
        pv.load_data(make())


def test_files_that_cannot_be_used_are_refused(tmp_path):
    import h5py

    (tmp_path / "text.h5ad").write_text("a,b\n1,2\n")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = np.zeros(3)
    (tmp_path / "empty.zarr").mkdir()
    for name, message in {
        "text.h5ad": "not a readable file of annotated rows",
        "other.h5ad": "has no obs and no var; expected a file that anndata wrote",
        "empty.zarr": "not a readable file of annotated rows",
        "none.h5ad": "no file",
    }.items():
        with pytest.raises(pv.InputError, match=message):
            pv.load_data(tmp_path / name)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(pv.InputError, match="a layer is one of annotated rows"):
        pv.load_data(tmp_path / "t.csv", layer="counts")


@pytest.mark.parametrize("form", ["csr", "dense", "csc"])
def test_files_larger_than_memory_stay_sparse_or_on_disk(form, tmp_path, monkeypatch):
    monkeypatch.setattr(read_matrix, "MAX_BYTES", 500)
    monkeypatch.setattr(read_matrix, "BLOCK_ENTRIES", 100)
    source = opened("h5ad", annotated(FORMS[form](counts())), tmp_path)
    data = pv.load_data(source)
    rows = data.train.stored
    assert isinstance(rows, SparseRows)
    assert isinstance(rows.values, np.memmap) == (form != "csc")
    assert any("stay on disk" in note for note in data.notes) == (form != "csc")
    assert torch.equal(data.train.x, torch.from_numpy(counts())[data.train.index])
    again = pv.load_data(source)
    assert again.fingerprint == data.fingerprint
    in_memory = pv.load_data(source, stream=False)
    assert not isinstance(in_memory.train.stored.values, np.memmap)
    assert in_memory.fingerprint == data.fingerprint
    assert torch.equal(pv.load_data(source, stream=True).train.x, data.train.x)


def test_new_rows_have_the_layer_the_genes_and_the_labels_of_the_fit(tmp_path):
    normal = annotated(sparse.csr_matrix(np.log1p(counts())), layers={"counts": sparse.csr_matrix(counts())})
    data = pv.load_data(normal, layer="counts", label="cell_type")
    new = normal[5:25, ::-1].copy()
    new.obs["cell_type"] = pandas.Categorical(["B cell", "monocyte"] * 10)
    found = data.prepare(new)
    assert torch.equal(found.x, torch.from_numpy(counts()[5:25]))
    assert found.labels.tolist() == [0, -1] * 10
    assert data.prepare(anndata.AnnData(None, obs=new.obs[[]], var=new.var, layers=dict(new.layers))).labels is None
    with pytest.raises(pv.InputError, match="no column gene7; this run was fitted to gene0, gene1"):
        data.prepare(normal[:, :7])
    with pytest.raises(pv.InputError, match="no layer 'counts'"):
        data.prepare(annotated())
    new.write_h5ad(tmp_path / "new.h5ad")
    assert torch.equal(data.prepare(tmp_path / "new.h5ad").x, found.x)


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_commands_write_results_into_a_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    source = annotated(
        sparse.csr_matrix(np.log1p(counts(120))), layers={"counts": sparse.csr_matrix(counts(120))}, uns={"a": {"b": 1}}
    )
    source.obsm["X_pca"] = np.arange(240.0).reshape(120, 2)
    source.raw = annotated(counts(120))
    source.write_h5ad("a.h5ad")
    before = (tmp_path / "a.h5ad").read_bytes()
    fit = ["fit", "--data", "a.h5ad", "--layer", "counts", "--label", "cell_type", "--epochs", 1, "--hidden", 4]
    assert run(*fit, "--out", "run") == 0
    assert run("encode", "run", "a.h5ad", "--out", "z.h5ad") == 0
    assert run("encode", "run", "a.h5ad", "--out", "z.csv") == 0
    assert run("score", "run", "z.h5ad", "--num-samples", 20, "--false-alarms", 0.1, "--out", "s.h5ad") == 0
    assert run("score", "run", "a.h5ad", "--num-samples", 20, "--false-alarms", 0.1, "--out", "s.csv") == 0
    shutil.copy("s.h5ad", "again.h5ad")
    again = ("score", "run", "again.h5ad", "--num-samples", 20, "--false-alarms", 0.1, "--explain")
    assert run(*again, "--out", "s2.h5ad") == 0
    capsys.readouterr()
    assert (tmp_path / "a.h5ad").read_bytes() == before
    found, again, latents = anndata.read_h5ad("s.h5ad"), anndata.read_h5ad("s2.h5ad"), pandas.read_csv("z.csv")
    scores = pandas.read_csv("s.csv")
    np.testing.assert_allclose(found.obsm["X_vae"], latents[[f"z{i}" for i in range(1, 9)]], rtol=1e-6)
    assert latents["obs_name"].tolist() == scores["obs_name"].tolist() == found.obs_names.tolist()
    assert [None if isinstance(x, float) else x for x in latents["cell_type"]] == list(CELLS[np.arange(120) % 4])
    np.testing.assert_allclose(found.obs["log_px"], scores["log_px"], rtol=1e-12)
    assert found.obs["anomaly"].tolist() == (scores["anomaly"] == 1).tolist()
    names = ["cell_type", "cluster", "depth", "log_px", "khat", "percentile", "anomaly"]
    explained = ["column_1", "nats_1", "column_2", "nats_2", "column_3", "nats_3"]
    assert list(found.obs.columns) == names
    assert list(again.obs.columns) == [*names, *explained]
    flagged = again.obs[again.obs["anomaly"].fillna(False).astype(bool)]
    assert set(flagged["column_1"]) <= {*again.var_names, ""}
    assert (found.X != source.X).nnz == 0
    assert (found.layers["counts"] != source.layers["counts"]).nnz == 0
    assert np.array_equal(found.obsm["X_pca"], source.obsm["X_pca"])
    assert found.uns["a"]["b"] == 1
    assert np.array_equal(found.raw.X, source.raw.X)
    assert found.obs["cell_type"].isna().sum() == 30


def test_copies_that_cannot_be_written_are_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])
    annotated(sparse.csr_matrix(counts(240))).write_h5ad("a.h5ad")
    np.save("a.npy", counts(240))
    assert run("fit", "--data", "a.h5ad", "--epochs", 1, "--hidden", 4, "--out", "run") == 0
    for words, message in {
        ("encode", "run", "a.h5ad", "--out", "a.h5ad"): "is the file that is read; give the copy another name",
        ("encode", "run", "a.npy", "--out", "z.h5ad"): "give that file as DATA, or write a .csv",
        ("score", "run", "--out", "z.h5ad"): "give that file as DATA, or write a .csv",
        ("reconstruct", "run", "a.h5ad", "--out", "z.h5ad"): "can write .csv, .parquet or .npy, not .h5ad",
        ("sample", "run", "--out", "z.h5ad"): "can write .csv, .parquet or .npy, not .h5ad",
    }.items():
        capsys.readouterr()
        assert run(*words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "z.h5ad").exists()


def test_a_row_without_a_number_has_no_anomaly(tmp_path):
    from pyro_vae.data.annotated.write_annotated import copy_with_columns

    annotated().write_h5ad(tmp_path / "a.h5ad")
    flags = np.array([None, 1, *[0] * 118], dtype=object)
    with (tmp_path / "b.h5ad").open("wb+") as file:
        copy_with_columns(tmp_path / "a.h5ad", file, {"anomaly": flags})
    found = anndata.read_h5ad(tmp_path / "b.h5ad").obs["anomaly"]
    assert found.isna().tolist() == [True, *[False] * 119]
    assert found[1:].tolist() == [True, *[False] * 118]
