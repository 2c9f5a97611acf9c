"""Every test starts from a seed, an empty param store, Pyro's validation on, and the package's annotations enforced."""

import gc
import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest -n has a process for each core

import pyro
import pytest
from jaxtyping import install_import_hook
from typecheck import number_of_calls

install_import_hook("pyro_vae", "typecheck.check").__enter__()


def pytest_collection_finish():
    """What is imported and collected lives to the end: the collector of garbage need not look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def hermetic():
    number_of_calls.clear()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture
def without_figures(monkeypatch):
    """Fits of tables and pictures draw no figures, which take half a second."""
    monkeypatch.setattr("pyro_vae.plots.fit_figures.write_figures", lambda *_: [])


@pytest.fixture
def tiny_vae():
    """A VAE of 6 binary values with two latents, and 60 rows for it."""
    import torch

    import pyro_vae as pv

    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)),
        guide=pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4)),
    )
    return vae, (torch.rand(60, 6) < 0.4).float()


@pytest.fixture(scope="session")
def table_csv(tmp_path_factory):
    """A table of 120 rows and three columns."""
    import numpy as np

    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    values = generator.normal(size=(120, 2)) @ generator.normal(size=(2, 3)) + 0.1 * generator.normal(size=(120, 3))
    np.savetxt(path, values, delimiter=",", header="a,b,c", comments="")
    return path


@pytest.fixture(scope="session")
def fitted_folder(table_csv, tmp_path_factory):
    """The folder of a small run, not to be changed."""
    from pyro_vae.workflows.fit_run import fit_run

    folder = tmp_path_factory.mktemp("fitted") / "run"
    fit_run(folder, data=str(table_csv), epochs=2, hidden=(4,), latent_dim=2, seed=0)
    return folder


@pytest.fixture
def run_folder(fitted_folder, tmp_path):
    """A small run's folder, to be damaged."""
    from pyro_vae import file_digests

    shutil.copytree(fitted_folder, tmp_path / "run")
    file_digests._noted.clear()
    return tmp_path / "run"
