"""Importance weights by recorded graphs are those of Pyro's handlers, bit by bit; else the handlers run."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, global_mean
from part_tables import GUIDES, LIKELIHOODS, PRIORS, D, K, make_guide, make_likelihood
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import RowsError
from pyro_vae.evidence import importance_sampling, recorded_weights
from pyro_vae.programs.log_weights import LogWeightSampler

NEVER = 10**9
FIELDS = ("log_px", "elbo", "reconstruction", "kl", "mc_se", "khat")
UNSUPPORTED = ("iaf", "vamp")  # such a guide cannot score points it did not draw


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were recorded, one for each shape after its second call."""
    found, original = [], recorded_weights.record_static

    def keep(*args):
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(recorded_weights, "record_static", keep)
    monkeypatch.setattr(recorded_weights, "MIN_CALLS", 2)
    return found


def evidence(monkeypatch, program, x, min_calls, **options):
    """log p(x) in blocks of eight rows and draws of three at a time, the last of either smaller."""
    monkeypatch.setattr(recorded_weights, "MIN_CALLS", min_calls)
    monkeypatch.setattr(importance_sampling, "chunks", lambda *_: (8, 3))
    return pv.log_evidence(program, x, num_samples=16, **options)


def assert_same(monkeypatch, graphs, program, x, num_graphs=3, **options):
    exact = evidence(monkeypatch, program, x, NEVER, **options)
    assert graphs == []
    found = evidence(monkeypatch, program, x, 2, **options)
    assert len(graphs) == num_graphs
    for name in FIELDS:
        assert torch.equal(getattr(found, name).nan_to_num(), getattr(exact, name).nan_to_num()), name


@pytest.mark.parametrize(("guide", "prior"), [p for p in itertools.product(GUIDES, PRIORS) if p != UNSUPPORTED])
def test_every_guide_and_prior(monkeypatch, graphs, guide, prior):
    torch.manual_seed(0)
    part = make_guide(guide)
    vae = pv.VAE(PRIORS[prior](part), make_likelihood("bernoulli"), part)
    assert_same(monkeypatch, graphs, vae, torch.rand(29, D).round())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood(monkeypatch, graphs, likelihood):
    torch.manual_seed(0)
    vae = pv.VAE(pv.priors.StandardNormal(K), make_likelihood(likelihood), make_guide("mean-field"))
    assert_same(monkeypatch, graphs, vae, torch.rand(29, D).round())


def test_a_program_of_ones_own_with_draws_of_the_prior(monkeypatch, graphs):
    torch.manual_seed(0)
    assert_same(monkeypatch, graphs, Hierarchical(), torch.rand(29, 6).round(), prior_share=0.25, num_graphs=2)


def test_labels_are_inputs_of_the_graph(monkeypatch, graphs):
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(6 + 3, 8, 4))
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 3, 8, 6))
    vae = pv.ConditionalVAE(pv.priors.StandardNormal(2), likelihood, guide, num_labels=3)
    assert_same(monkeypatch, graphs, vae, torch.rand(29, 6).round(), labels=torch.arange(29) % 3)


class Reads(nn.Module):
    """A model that asks for a value in an `if`."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6)
            if float(z.abs().max()) > 1e9:
                logits = logits + 1
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def test_what_cannot_be_recorded_runs_by_the_handlers(monkeypatch, graphs, recwarn):
    torch.manual_seed(0)
    assert_same(monkeypatch, graphs, Reads(), torch.rand(29, 6).round(), num_graphs=0)
    assert not recwarn.list


class CountsItsCalls(Reads):
    """A model whose numbers depend on how often it was called, which no graph can know."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def model(self, x):
        self.calls += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0 + 0.01 * self.calls).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z[..., :1].expand(*z.shape[:-1], 6)).to_event(1), obs=x)


def test_a_graph_with_other_numbers_is_not_used(monkeypatch, graphs):
    evidence(monkeypatch, CountsItsCalls(), torch.rand(29, 6).round(), 2)
    assert graphs == []


class TooHigh(dist.Normal):
    """No density: its values are e^150 too large where the location is below zero."""

    def log_prob(self, value):
        return super().log_prob(value) + torch.where(self.loc < 0, 150.0, 0.0)


class NoDensity(Reads):
    """A prior that is no density in rows of zeros."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", TooHigh(x[:, :2] - 0.5, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=torch.zeros(6)).to_event(1), obs=x)


def test_weights_that_no_density_allows_are_refused_in_a_graph_too(monkeypatch, graphs):
    x = torch.zeros(29, 6)
    x[:27] = 1.0  # in the first calls all is well
    with pytest.raises(RowsError, match="above 100 with probability"):
        evidence(monkeypatch, NoDensity(), x, 2)


def test_rows_that_share_a_latent_are_refused_as_before(monkeypatch, graphs):
    with pytest.raises(RowsError):
        evidence(monkeypatch, global_mean(), torch.randn(29, 1), 2)


def test_it_is_compared_again_after_many_calls(monkeypatch):
    """A program that changes later: the comparison at call 500 finds it, and the handlers take over."""
    program = Reads()
    program.scale = 1.0
    program.model = lambda x: _scaled(program, x)
    monkeypatch.setattr(recorded_weights, "CHECK_INTERVAL", 5)
    monkeypatch.setattr(recorded_weights, "MIN_CALLS", 2)
    x = torch.rand(4, 6).round()
    with torch.no_grad():
        from pyro_vae.programs.find_plates import find_plates
        from pyro_vae.programs.row_inputs import Batch

        batch = Batch.of(x, {})
        weigh = recorded_weights.RecordedWeights(LogWeightSampler(program, find_plates(program, batch), batch))
        for _ in range(4):
            weigh(batch, 3)
        assert len(weigh.graphs) == 1
        program.scale = 3.0
        for _ in range(5):
            weigh(batch, 3)
        assert not weigh.is_recorded
        pyro.set_rng_seed(0)
        found = weigh(batch, 3)
        pyro.set_rng_seed(0)
        assert torch.equal(found.log_ratio, weigh.sampler(batch, 3).log_ratio)


def _scaled(program, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), program.scale).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z[..., :1].expand(*z.shape[:-1], 6)).to_event(1), obs=x)


def test_a_graph_is_compared_at_its_first_call_with_draws_of_the_prior_between(monkeypatch, graphs):
    compared, original = [], recorded_weights.require_close

    def count(*args):
        compared.append(1)
        return original(*args)

    monkeypatch.setattr(recorded_weights, "require_close", count)
    evidence(monkeypatch, Hierarchical(), torch.rand(29, 6).round(), 2, prior_share=0.5)
    assert len(graphs) == len(compared) > 0


def test_a_comparison_that_fails_leaves_the_draws_as_the_handlers_take_them(monkeypatch):
    def refuse(*args):
        raise ValueError("not equal")

    x, program = torch.rand(29, 6).round(), Hierarchical()
    exact = evidence(monkeypatch, program, x, NEVER)
    monkeypatch.setattr(recorded_weights, "require_close", refuse)
    assert torch.equal(evidence(monkeypatch, program, x, 2).log_px, exact.log_px)
