"""Every test starts from a seed, an empty param store, Pyro's validation on, and the package's annotations enforced."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest -n has a process for each core

import pyro
import pytest
from jaxtyping import install_import_hook
from typecheck import number_of_calls

install_import_hook("pyro_vae", "typecheck.check").__enter__()


@pytest.fixture(autouse=True)
def hermetic():
    number_of_calls.clear()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


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
