"""PPCA and factor analysis on rows with gaps: marginal densities, conditional posteriors, steps that never fall."""

import itertools
import math

import pytest
import torch
from oracles import factor_rows

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError

MODELS = {"ppca": lambda: pv.PPCA(2, 5), "factor analysis": lambda: pv.FactorAnalysis(2, 5)}
BOTH = pytest.mark.parametrize("name", MODELS)


def with_gaps(share=0.3, n=200):
    x = factor_rows(n=n).float().double()  # a split holds float32
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
    x = torch.where(missing, math.nan, x)
    x[0] = math.nan  # a row without any value
    return x


def split(x):
    return Split("train", x, Measure())


def parameters(model):
    return [value.detach() for value in (model.weight, model.loc, model.scale.square().diag())]


@BOTH
def test_density_and_posterior_are_those_of_the_observed_values(name):
    """Each row by torch's normal over its own columns; z by conditioning; a row without values has the prior."""
    x = with_gaps()
    model = MODELS[name]()
    pv.fit_em(model, split(x), epochs=3)
    weight, loc, noise = parameters(model)
    found, mean, covariance = model.log_prob(split(x)), model.transform(split(x)), model.posterior(x).covariance_matrix
    for i, row in enumerate(x):
        seen = ~row.isnan()
        W, total = weight[seen], weight[seen] @ weight[seen].T + noise[seen][:, seen]
        if not seen.any():
            assert found[i] == 0
            assert torch.equal(mean[i], torch.zeros(2, dtype=torch.float64))
            continue
        normal = torch.distributions.MultivariateNormal(loc[seen], total)
        torch.testing.assert_close(found[i], normal.log_prob(row[seen]), rtol=1e-10, atol=1e-10)
        gain = W.T @ torch.linalg.inv(total)
        torch.testing.assert_close(mean[i], gain @ (row[seen] - loc[seen]))
        torch.testing.assert_close(covariance[i], torch.eye(2, dtype=torch.float64) - gain @ W)


@BOTH
@pytest.mark.parametrize("accelerate", [False, True])
def test_the_objective_never_falls_and_ends_at_a_maximum(name, accelerate):
    x = with_gaps()
    model = MODELS[name]()
    fitted = pv.fit_em(model, split(x), tolerance=0, epochs=5000, accelerate=accelerate)
    assert max(a["objective"] - b["objective"] for a, b in itertools.pairwise(fitted.history)) < 1e-9
    gradients = torch.autograd.grad(model.log_density(x).mean(), [model.weight, model.loc, model.log_scale])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-5


@BOTH
def test_blocks_with_and_without_gaps_add_up(name, monkeypatch):
    x = with_gaps()
    x[50:] = factor_rows(n=200)[50:].float().double()
    found = []
    for size in (20, 1000):
        monkeypatch.setattr(type(MODELS[name]()), "block_rows", size)
        model = MODELS[name]()
        pv.fit_em(model, split(x), epochs=8)
        found.append(torch.cat([value.flatten() for value in parameters(model)]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@BOTH
def test_gaps_cost_less_than_imputed_means(name):
    complete, rest, x = factor_rows(n=200), factor_rows(n=1000)[500:], with_gaps()
    filled, scores = torch.where(x.isnan(), x.nanmean(0), x), []
    for rows in (complete, x, filled):
        model = MODELS[name]()
        pv.fit_em(model, split(rows))
        scores.append(float(model.log_prob(rest).mean()))
    assert scores[0] - scores[1] < 0.2 * (scores[0] - scores[2])


def test_the_closed_form_needs_complete_rows():
    with pytest.raises(InputError, match="use fit_em"):
        pv.fit_closed_form(pv.PPCA(2, 5), split(with_gaps()))
