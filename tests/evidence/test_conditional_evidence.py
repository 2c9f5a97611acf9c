"""log p(x_A | x_B): against conditional normals, mixtures by Bayes' rule, marginals, and repeats of the estimate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import COV, LINEAR, LOC, drawn_rows, gaps, linear_vae, patterns, ppca
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.errors import InputError, ZeroDensityWarning

SAMPLED = ("wide", "too narrow", "correlated")  # and not by a density of their own


def normal_log_prob(row, chosen):
    """log p of some values of a row under the one normal that all the linear models are."""
    if not chosen.any():
        return torch.tensor(0.0, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(LOC[chosen].double(), COV[chosen][:, chosen].double())
    return normal.log_prob(row[chosen].double())


def closed_form(x, a, b):
    """log p(x_A | x_B) of rows with gaps, 0 where nothing of A was observed."""
    observed = ~x.isnan()
    rows = [(row, here & a, here & b) for row, here in zip(x, observed, strict=True)]
    return torch.stack(
        [
            normal_log_prob(row, i | j) - normal_log_prob(row, j) if i.any() else normal_log_prob(row, i)
            for row, i, j in rows
        ]
    )


@pytest.mark.parametrize("name", LINEAR)
def test_it_is_the_conditional_normal(name):
    """Every pattern of gaps, some values six deviations off: exactly where that is possible, else to five errors."""
    x = patterns()
    x[::3, 1] += 6 * COV[1, 1].sqrt()
    a = torch.tensor([False, True, True, False])
    found = pv.conditional_evidence(LINEAR[name](), gaps(x), [1, 2])
    truth = closed_form(x, a, ~a)
    assert found.kind == "exact"
    assert torch.allclose(found.log_px, truth, atol=1e-4)
    assert (found.mc_se == 0).all()
    assert not found.is_bad.any()
    if name not in SAMPLED:
        return
    sampled = pv.conditional_evidence(LINEAR[name](), gaps(x), [1, 2], exact=False, seed=3)
    assert sampled.kind == "estimate"
    assert ((sampled.log_px - truth).abs() <= 5 * sampled.mc_se + 1e-4).all()
    assert float(sampled.mc_se.max()) < 0.1
    assert torch.equal(sampled.mc_se == 0, x[:, 1:3].isnan().all(1))


def test_given_columns_are_marginals_of_the_others():
    """Of x1 given x3 alone the others are integrated out; without any column given it is the marginal of A."""
    x = drawn_rows(20)
    a, b = torch.tensor([True, False, False, False]), torch.tensor([False, False, True, False])
    for given, side in ([2], b), ([], torch.zeros(4, dtype=torch.bool)):
        found = pv.conditional_evidence(linear_vae(), x, [0], given, exact=False)
        assert ((found.log_px - closed_form(x, a, side)).abs() <= 5 * found.mc_se).all()
    whole = pv.conditional_evidence(ppca(), x, [0, 1, 2, 3])
    assert torch.allclose(whole.log_px, pv.exact_evidence(ppca(), x).log_px)
    masked = Split("test", torch.where(a | b, x, math.nan), Measure())
    parts = [pv.conditional_evidence(ppca(), x, *sides).log_px for sides in (([0], [2]), ([2], []))]
    assert torch.allclose(sum(parts), ppca().log_prob(masked), atol=1e-6)


def test_a_mixture_of_columns_by_bayes_rule():
    """log Σ_c π_c p(x_A|c) p(x_B|c) − log Σ_c π_c p(x_B|c), with names of columns."""
    data = pv.load_data("customers", label="churned")
    mixture = pv.ColumnsMixture(3, data.schema)
    mixture.init_from_data(data.train.x.mean(0).double(), data.train.x[:200].double())
    x, names = data.test.x[:30].double(), [column.name for column in data.schema.modelled]
    observed = ~torch.from_numpy(data.test.stored[:30].isnan().numpy())
    found = pv.conditional_evidence(mixture, data.test.head(30), ["revenue", "segment"], schema=data.schema)
    a = torch.tensor([name in ("revenue", "segment") for name in names])
    each = mixture.components(torch.arange(3)).each_log_prob(x[:, None])  # (N, C, D)
    each = torch.where(observed[:, None], each, 0.0)
    log_pi = mixture.logits.log_softmax(0)
    expected = torch.logsumexp(each.sum(-1) + log_pi, 1) - torch.logsumexp(each[..., ~a].sum(-1) + log_pi, 1)
    scale = math.log(data.test.measure.scale[names.index("revenue")])
    assert found.kind == "exact"
    assert torch.allclose(found.log_px, (expected - scale).detach(), atol=1e-4)
    assert found.columns == ("segment", "revenue")
    assert found.measure.endswith(": segment, revenue given signup, city, orders, satisfaction")


def test_the_error_is_that_of_repeats():
    """Of 64 repeats of each row: the quoted error is theirs, and a third of that of two independent estimates."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 6))
    vae = pv.VAE(pv.priors.StandardNormal(3), pv.likelihoods.Bernoulli(net), pv.guides.MeanFieldNormal(nn.Linear(6, 6)))
    x = (torch.rand(4, 6) < 0.5).float().repeat(64, 1)  # a row's random numbers depend on its place
    found = pv.conditional_evidence(vae, x, [0, 3], num_samples=200)
    spread, quoted = found.log_px.reshape(64, 4).var(0).mean().sqrt(), found.mc_se.square().mean().sqrt()
    assert 0.85 < float(spread / quoted) < 1.15
    apart = pv.auto_evidence(vae, x[:64], 200, exact=False).mc_se * math.sqrt(2)
    assert float(found.mc_se.mean()) < 0.5 * float(apart.mean())


def one_latent_program(x, mask=None):
    """A program of one's own, whose model takes a mask."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        likelihood = dist.Normal(z, 0.5).mask(torch.ones_like(x).bool() if mask is None else mask).to_event(1)
        pyro.sample("x", likelihood, obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))


def test_a_program_of_ones_own():
    """Independent columns: what is given says nothing of the others."""
    x = torch.tensor([[0.3, -1.0, 2.0], [4.0, 0.0, 0.0]])
    found = pv.conditional_evidence(pv.Program(one_latent_program, guide), x, [1], exact=False)
    expected = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(x[:, 1])
    assert ((found.log_px - expected).abs() <= 5 * found.mc_se + 1e-5).all()


def reads_everything(x, mask=None):
    total = x.sum(1, keepdim=True)
    one_latent_program(x - 0.1 * total, mask)


def takes_no_mask(x):
    one_latent_program(x)


@pytest.mark.parametrize(
    ("model", "columns", "given", "message"),
    [
        (takes_no_mask, [0], None, "takes no mask: give model"),
        (reads_everything, [0], None, "reads the values that are missing"),
        (one_latent_program, ["age"], None, "no column 'age'; there are x1, x2, x3, or numbers from 0 to 2"),
        (one_latent_program, [3], None, "no column 3"),
        (one_latent_program, "x1", None, "are a list of names"),
        (one_latent_program, [], None, "no column is asked for"),
        (one_latent_program, ["x1"], [0, 1], "x1 cannot be asked for and given"),
    ],
)
def test_what_cannot_be_asked(model, columns, given, message):
    with pytest.raises(InputError, match=message):
        pv.conditional_evidence(pv.Program(model, guide), torch.randn(5, 3), columns, given, exact=False)


def test_one_hot_columns_go_together():
    """A category by its name is all of its levels' numbers."""
    columns = (Column("size", "categorical", "text", ("s", "m", "l")), Column("age", "real"))
    schema = Schema(columns, coding="one-hot")
    found = pv.conditional_evidence(ppca(), drawn_rows(5), ["size"], schema=schema)
    a = torch.tensor([True, True, True, False])
    assert torch.allclose(found.log_px, closed_form(drawn_rows(5), a, ~a), atol=1e-4)
    assert found.given == ("age",)


def two_sites(x, mask=None):
    observed = torch.ones_like(x).bool() if mask is None else mask
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        for i in range(3):
            pyro.sample(f"x{i}", dist.Poisson(z[:, i].exp()).mask(observed[:, i]), obs=x[:, i])


def test_rows_of_density_zero():
    """−∞ where only A lies outside its support; where what is given does, there is no number."""
    x = torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0], [1.0, 2.5, 3.0]])
    with pytest.warns(ZeroDensityWarning):
        found = pv.conditional_evidence(pv.Program(two_sites, guide), x, [0])
    assert found.log_px.isfinite().tolist() == [True, False, False]
    assert float(found.log_px[1]) == -math.inf
    assert math.isnan(float(found.log_px[2]))
    assert "conditioned on" in found.reasons[2]
