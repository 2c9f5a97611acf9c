"""Every verb gives a program the row inputs that it asks for, `num_rows` included."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import as_split

X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
VALID = X[:25] + 0.1


class AsksForRows(torch.nn.Module):
    """A linear model whose model and guide require the number of rows."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.seen = set()

    def model(self, x, num_rows):
        self.seen.add(num_rows)
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x, num_rows):
        self.seen.add(num_rows)
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x[:, :1], 0.7).to_event(1))


VERBS = {
    "fit": lambda program: pv.fit(program, X, valid=VALID, epochs=1),
    "fit_mcem": lambda program: pv.fit_mcem(program, X, epochs=1),
    "encode": lambda program: program.encode(X),
    "reconstruct": lambda program: program.reconstruct(X),
    "sample": lambda program: program.sample(3),
    "active units": lambda program: pv.programs.encode_rows.active_units(program, X),
    "log_evidence": lambda program: pv.log_evidence(program, X, 30, prior_share=0.2),
    "annealed": lambda program: pv.annealed_evidence(program, X, 5),
    "exact": lambda program: pv.exact_evidence(program, X),
    "bidirectional": lambda program: pv.bidirectional(program, 5, 5, num_features=2),
    "score": lambda program: pv.score(program, X, VALID),
    "laplace": lambda program: pv.laplace_approximation(program, X),
    "refine": lambda program: pv.refine(program, X, 2),
    "gaps": lambda program: pv.diagnostics.inference_gaps(program, X, steps=2, num_samples=30),
    "nuts": lambda program: pv.nuts(program, X[:2], 5, warmup=5, num_chains=2),
    "arviz": lambda program: pv.to_inference_data(program, X, 30),
    "aggregate": lambda program: pv.diagnostics.aggregate(program, X),
    "usage": lambda program: pv.diagnostics.measure_latent_usage(program, X),
    "two-sample": lambda program: pv.diagnostics.two_sample(program, X),
    "compare": lambda program: pv.compare({"own": program}, as_split(X, "valid")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_knows_the_number_of_rows(verb):
    """`encode`, `reconstruct`, `sample` and those of their kind refused such a program before."""
    own = AsksForRows()
    program = pv.Program(own.model, own.guide)
    VERBS[verb](program)
    assert all(isinstance(number, int) and number > 0 for number in own.seen)


def test_the_number_is_that_of_the_rows_or_the_one_given():
    own = AsksForRows()
    program = pv.Program(own.model, own.guide)
    program.encode(X)
    assert own.seen == {8, 2, 30}  # eight and two rows in search of the plate over rows
    own.seen.clear()
    program.encode(X, num_rows=100)
    assert own.seen == {100}


def test_unknown_inputs_are_named():
    own = AsksForRows()
    with pytest.raises(pv.InputError, match="neither model nor guide takes weights"):
        pv.Program(own.model, own.guide).encode(X, weights=X)
