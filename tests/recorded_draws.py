"""What a small data set, a fit, a bootstrap and resampled points draw at random, as digests; as a script, in JSON."""

import hashlib
import json
import sys
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyro_vae as pv
from pyro_vae.evidence.impute_blocks import choose_points
from pyro_vae.workflows.fit_resampled import resampled_rows


class Recorder:
    """A program whose steps note x and z; no draw depends on a parameter, so that none depends on rounding."""

    def __init__(self):
        self.steps = []

    def model(self, x):
        bias = pyro.param("bias", torch.zeros(4))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z.sum(1, keepdim=True) + bias).to_event(1), obs=x)
        self.steps.append((x.clone(), z.clone()))

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def images():
    return pv.load_data(np.arange(160, dtype=np.uint8).reshape(40, 2, 2), seed=3)


def fitted_steps(seed=0, **options):
    """The x and z of each run of the program in a fit of four epochs."""
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inactive latent, a program that is not recorded
        pv.fit(
            pv.Program(recorder.model, recorder.guide),
            images(),
            epochs=4,
            batch_size=10,
            seed=seed,
            compile=False,
            progress="none",
            **options,
        )
    return recorder.steps


def digest(*tensors):
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def recorded_draws():
    """Digests by what is drawn."""
    data, steps = images(), fitted_steps()
    weights = torch.arange(12.0).log_softmax(0).reshape(4, 3)
    return {
        "splits": digest(data.train.index, data.valid.index, data.test.index),
        "fixed draws": digest(data.train.x, data.valid.x, data.test.x),
        "pixels and order of a fit": digest(*(x for x, _ in steps)),
        "noise of a fit": digest(*(z for _, z in steps)),
        "bootstrap": digest(resampled_rows(50, 4)),
        "points": digest(choose_points(weights, 20, 1, torch.arange(3))),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps(recorded_draws()))
