"""A program in the workers of a `DataLoader`: each worker, forked or spawned, encodes with a copy of its own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import pyro_vae as pv

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.ones(2, 4), 1.0).to_event(1), obs=x)


def guide(x):
    weight = pyro.param("weight", torch.full((4, 2), 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 0.5).to_event(1))


class Encoded(Dataset):
    """Rows with their codes and bounds, computed in the worker."""

    def __init__(self, program):
        self.program = program

    def __len__(self):
        return len(X) // 4

    def __getitem__(self, index):
        x = X[4 * index : 4 * index + 4]
        return self.program.encode(x), pv.log_evidence(self.program, x, 20, seed=index).log_px


def vae():
    likelihood, guide_part = pv.likelihoods.Normal(pv.nets.mlp(2, 4)), pv.guides.MeanFieldNormal(pv.nets.mlp(4, 4))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide_part)


def functions():
    return pv.Program(model, guide)


@pytest.mark.parametrize(("build", "start"), [(vae, "fork"), (functions, "fork"), (functions, "spawn")])
def test_workers_give_the_numbers_of_the_process(build, start):
    torch.manual_seed(0)
    program = build()
    pv.fit(program, X, epochs=2)
    here = Encoded(program)
    expected = [here[index] for index in range(len(here))]
    loader = DataLoader(here, batch_size=None, num_workers=2, multiprocessing_context=start)
    for found, known in zip(loader, expected, strict=True):
        assert torch.equal(found[0], known[0])
        assert torch.equal(found[1], known[1])
