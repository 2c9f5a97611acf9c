"""Where only counted values are observed, logarithms of probabilities are at most 0, and the measure says counting."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence.evidence_record import EvidenceRecord


def program(observe, scale=1.0):
    """z ~ N(0, 1), the guide N(1, scale), and what a function observes given z."""

    def model(x):
        with pyro.plate("data", len(x)):
            observe(pyro.sample("z", dist.Normal(0.0, 1.0)), x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1.0 + 0 * x[:, 0], scale))

    return pv.Program(model, guide)


def pixels(z, x):
    """Pixels that are certainly what they are: p(x) = 1 for any z."""
    pyro.sample("x", pv.distributions.BernoulliVector(1000 * (2 * x - 1) + 0 * z[..., None]), obs=x)


ROWS = {
    "all zero": torch.zeros(4, 784),
    "all one": torch.ones(4, 784),
    "mixed": (torch.rand(4, 784, generator=torch.Generator().manual_seed(0)) < 0.5).float(),
}


@pytest.mark.parametrize("name", ROWS)
def test_pictures_of_probability_one(name):
    """The exact value is 0 and no more. An estimate may lie above by its Monte-Carlo error, which it has: the weights
    are p(z) / q(z), whose mean is 1 in expectation."""
    x = ROWS[name]
    exact = pv.exact_evidence(program(pixels), x)
    assert exact.log_px.max() <= 0
    assert exact.log_px.min() > -1e-3
    found = pv.log_evidence(program(pixels), x, 200)
    assert found.reconstruction.max() <= 0
    assert (found.log_px < 5 * found.mc_se).all()
    assert found.log_px.max() > 0


def test_the_table_says_why_an_estimate_is_above_zero(capsys):
    from pyro_vae.cli.print_tables import print_record

    found = pv.log_evidence(program(pixels), ROWS["all zero"], 200, seed=1)
    record = found.to_record(EvidenceRecord(method="is"))
    print_record(record, "rows")
    assert ("above 0 by its Monte-Carlo error" in capsys.readouterr().out) == (record.log_px > 0)


class NotNormalized(dist.Poisson):
    """A discrete distribution whose values do not sum to one."""

    def log_prob(self, value):
        return super().log_prob(value) + 3.0


def test_what_is_no_probability_is_refused():
    own = program(lambda z, x: pyro.sample("x", NotNormalized(torch.ones(1)).to_event(1), obs=x + 0 * z[..., None]))
    for estimate in (pv.log_evidence, pv.exact_evidence):
        with pytest.raises(pv.InputError, match="the logarithm of a probability is at most 0"):
            estimate(own, torch.zeros(3, 1))


def test_densities_may_be_above_zero():
    own = program(lambda z, x: pyro.sample("x", dist.Normal(0 * z[..., None], 1e-3).to_event(1), obs=x))
    assert pv.exact_evidence(own, torch.zeros(3, 1)).log_px.min() > 5


def two_columns(first, second):
    def observe(z, x):
        pyro.sample("a", first(z), obs=x[:, 0])
        pyro.sample("b", second(z), obs=x[:, 1])

    return program(observe)


def test_a_factor_is_no_probability():
    def observe(z, x):
        pyro.sample("a", dist.Poisson(z.exp()), obs=x[:, 0])
        pyro.factor("more", 5.0 + 0 * z)

    found = pv.log_evidence(program(observe), torch.zeros(3, 2), 100)
    assert found.log_px.min() > 0
    assert found.measure == "counting measure on {0, 1, 2, …}^1"


COUNTS = torch.poisson(torch.full((40, 3), 2.0), generator=torch.Generator().manual_seed(0))


def vae(likelihood):
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(3, 8, 4)))


LIKELIHOODS = {
    "poisson": (lambda: pv.likelihoods.Poisson(pv.nets.mlp(2, 8, 3)), "counting measure on {0, 1, 2, …}^3"),
    "negative binomial": (
        lambda: pv.likelihoods.NegativeBinomial(pv.nets.mlp(2, 8, 3), 3),
        "counting measure on {0, 1, 2, …}^3",
    ),
    "categories": (lambda: pv.likelihoods.Categorical(pv.nets.mlp(2, 8, 30), 10), "counting measure on {0, …, 9}^3"),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_counts_in_python_have_a_counting_measure(name):
    """ "as given" and Lebesgue before."""
    likelihood, measure = LIKELIHOODS[name]
    own = vae(likelihood())
    pv.fit(own, COUNTS, epochs=1)
    data = pv.load_data(COUNTS.numpy())
    assert pv.log_evidence(own, COUNTS, 10).measure == measure
    assert pv.log_evidence(own, data, 10).measure == measure
    assert pv.exact_evidence(own, COUNTS[:2]).measure == measure
    assert pv.score(own, COUNTS, COUNTS[:25], num_samples=30).found.measure == measure


MEASURES = {
    "counts in two sites": (dist.Poisson, dist.Poisson, "counting measure on {0, 1, 2, …}^2"),
    "counts and bits": (
        dist.Poisson,
        dist.Bernoulli,
        "counting measure on {0, 1, 2, …}^1 × {0, 1}^1",
    ),
    "counts and reals": (
        dist.Poisson,
        lambda rate: dist.Normal(rate, 1.0),
        "product of counting measure on {0, 1, 2, …}^1 and Lebesgue measure on R^1",
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_the_measure_of_several_sites(name):
    first, second, measure = MEASURES[name]
    own = two_columns(lambda z: first(0.1 + torch.sigmoid(z) / 2), lambda z: second(0.1 + torch.sigmoid(z) / 2))
    assert pv.log_evidence(own, torch.zeros(3, 2), 10).measure == measure
