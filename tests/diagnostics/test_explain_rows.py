"""Which columns make rows improbable: against conditional normals, and rows with one value that was moved."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import COV, LINEAR, LOC, Fixed, conditional_normal, gaps, linear_vae, patterns
from torch import nn

import pyro_vae as pv
from pyro_vae.data.customers import STRANGE
from pyro_vae.errors import InputError
from pyro_vae.evidence.column_blocks import ColumnShortlist

D, MOVED = 30, {0: 4, 1: 17, 2: 25}


def expected_nats(x):
    """½ − ½ t² of each observed value, t standard deviations off given the other observed values, NaN for gaps."""
    nats = torch.full(x.shape, math.nan, dtype=torch.float64)
    for i, row in enumerate(x):
        for d in (~row.isnan()).nonzero()[:, 0].tolist():
            without = row.clone()
            without[d] = math.nan
            mean, cov, missing = conditional_normal(without)
            place = int(missing[:d].sum())
            nats[i, d] = 0.5 - 0.5 * (row[d] - mean[place]) ** 2 / cov[place, place]
    return nats


@pytest.mark.parametrize("name", ["wide", "too narrow", "correlated", "ppca", "a mixture of one"])
def test_nats_are_those_of_the_conditional_normal(name):
    """Of each value of every pattern of gaps, one of them six deviations off, to five errors and a tenth."""
    x = patterns()
    x[::3, 1] += 6 * COV[1, 1].sqrt()
    found = pv.diagnostics.explain_rows(LINEAR[name](), gaps(x), seed=1)
    truth = expected_nats(x)
    assert torch.equal(found.nats.isnan(), truth.isnan())
    off = (found.nats - truth).abs() > 5 * found.se + 0.1
    assert not (off & ~truth.isnan()).any()
    assert not found.is_bad.any()
    assert float(found.se.max()) < 0.4


def wide_table(correlated):
    """A linear model of 30 columns, and three rows with a value each moved by six deviations."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(D, 3, generator=generator)
    net = nn.Linear(3, 2 * D if correlated else D)
    with torch.no_grad():
        net.weight.copy_(torch.cat([weight, torch.zeros(D, 3)]) if correlated else weight)
        net.bias.zero_()
    likelihood = pv.likelihoods.MultivariateNormal(net, num_features=D) if correlated else None
    likelihood = likelihood or pv.likelihoods.Normal(net, scale=0.7)
    x = torch.randn(3, 3, generator=generator) @ weight.T + 0.7 * torch.randn(3, D, generator=generator)
    for row, column in MOVED.items():
        x[row, column] += 6 * (weight[column].square().sum() + 0.49).sqrt()
    return pv.VAE(pv.priors.StandardNormal(3), likelihood, Fixed(dim=3)), x


@pytest.mark.parametrize("correlated", [False, True])
def test_the_value_that_was_moved_is_first(correlated):
    """Of 30 columns a first guess leaves 20, and the moved one is far below the others."""
    vae, x = wide_table(correlated)
    found = pv.diagnostics.explain_rows(vae, x)
    assert (found.nats.isfinite().sum(1) == 20).all()
    for row, column in MOVED.items():
        first, *others = found.strangest(row)
        assert (first.name, first.number) == (f"x{column + 1}", column)
        assert first.nats < -10
        assert all(other.nats > first.nats / 2 for other in others)


def test_the_strange_customers_are_explained():
    """The values that were planted come first; what is said of a row does not depend on the others beside it."""
    data = pv.load_data("customers", label="churned")
    mixture = pv.ColumnsMixture(5, data.schema)
    pv.fit_em(mixture, data, seed=0)
    for split in (data.train, data.valid, data.test):
        numbers = split.source_index(slice(None)).tolist()
        for place in [place for place, number in enumerate(numbers) if number in STRANGE]:
            found = pv.diagnostics.explain_rows(mixture, split.take(torch.tensor([place])), schema=data.schema)
            first = found.strangest(0)[0]
            assert first.name in ("revenue", "orders")
            assert first.name in STRANGE[numbers[place]]
            assert first.nats < -5


def test_usual_rows_have_no_strange_column():
    """Rows of the model: nats have mean 0 and hardly one in twenty is below −2, as of normals."""
    weight, noise = linear_vae().likelihood.net.weight.detach(), torch.randn(200, 4)
    x = torch.randn(200, 2) @ weight.T + LOC + 0.6 * noise
    found = pv.diagnostics.explain_rows(LINEAR["ppca"](), x)
    assert abs(float(found.nats.mean())) < 5 * float(found.nats.std()) / math.sqrt(800)
    assert 0.01 < float((found.nats < -2).double().mean()) < 0.05


class Discrete:
    """Two clusters, whose label the guide draws."""

    def model(self, x, mask=None):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5 * torch.ones(len(x))))
            normal = dist.Normal(c[:, None].expand(x.shape), 1.0)
            pyro.sample("x", normal.mask(torch.ones_like(x).bool() if mask is None else mask).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(0.5 * torch.ones(len(x))))


def test_what_cannot_be_explained():
    digits = pv.load_data("digits")
    with pytest.raises(InputError, match="those of pictures are single pixels"):
        pv.diagnostics.explain_rows(linear_vae(), digits)
    with pytest.raises(InputError, match="discrete ones that the guide draws"):
        pv.diagnostics.explain_rows(Discrete(), torch.randn(4, 3))


def test_densities_of_values_are_summed_over_the_numbers_of_a_column():
    shortlist = object.__new__(ColumnShortlist)
    each = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    shortlist.columns = [slice(0, 2), slice(2, 3)]
    assert shortlist._by_column(each).tolist() == [[3.0, 4.0], [24.0, 32.0]]
    shortlist.columns = [slice(i, i + 1) for i in range(3)]
    assert shortlist._by_column(each) is each
