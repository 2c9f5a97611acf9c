"""A VAE of p(x | conditions): against its closed form, its label twin, and rows that lack what it needs."""

import math

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data.columns import Column, Schema

D, K, NOISE = 3, 2, 0.5


@pytest.fixture(scope="module")
def data():
    """A table of 400 rows whose x is linear in an age, which some rows lack, and a segment."""
    g = np.random.default_rng(0)
    age, segment = g.normal(40, 12, 400), g.choice(["a", "b", "c"], 400)
    x = g.normal(size=(400, D)) + 0.05 * age[:, None] + (segment == "b")[:, None]
    frame = pandas.DataFrame(x, columns=["u", "v", "w"]).assign(age=age, segment=segment)
    frame.loc[g.random(400) < 0.2, "age"] = np.nan
    return pv.load_data(frame, given=["age", "segment"])


@pytest.fixture(scope="module")
def linear(data):
    """x = W z + B e(y) + c + noise, in float64, with a guide that is not its posterior."""
    conditions = data.schema.conditions
    E = pv.ConditionalVAE.num_inputs(conditions)
    return pv.ConditionalVAE(
        pv.priors.StandardNormal(K),
        pv.likelihoods.Normal(pv.nets.linear(K + E, D), scale=NOISE),
        pv.guides.MeanFieldNormal(pv.nets.linear(D + E, 2 * K)),
        conditions=conditions,
    ).double()


def inputs_of_y(given):
    """What both networks get of (age, segment): the age, 0 where it is missing, three levels, and the mask."""
    known = ~given.isnan()
    values = given.nan_to_num(nan=0.0)
    levels = (values[:, 1:] == torch.arange(3)).double()
    return torch.cat([values[:, :1], levels, known.double()], 1)


def closed_form(vae, given):
    """p(x | y), normal with mean B e(y) + c and covariance W Wᵀ + σ² I."""
    layer = vae.likelihood.net[0]
    W, B = layer.weight.detach().split([K, layer.in_features - K], 1)
    cov = W @ W.T + NOISE**2 * torch.eye(D).double()
    mean = inputs_of_y(given) @ B.T + layer.bias.detach()
    return torch.distributions.MultivariateNormal(mean, covariance_matrix=cov)


def test_log_px_given_y_is_the_closed_form(data, linear):
    given = data.test.inputs["given"]
    assert given.isnan().any()
    expected = closed_form(linear, given).log_prob(data.test.x.double()) + data.test.log_jacobian
    exact = pv.exact_evidence(linear, data.test)
    assert exact.method == "closed form"
    torch.testing.assert_close(exact.log_px, expected, atol=1e-9, rtol=0)
    assert exact.measure == "Lebesgue measure on R^3 (original units), given age, segment"
    sampled = pv.auto_evidence(linear, data.test.head(10), 500, exact=False)
    away = (sampled.log_px - expected[:10]) / sampled.mc_se.clamp(min=1e-12)
    assert away.abs().max() < 4.5  # Monte-Carlo errors, the largest of 10 rows


def test_draws_have_the_mean_and_covariance_given_y(data, linear):
    given = data.preparation.given({"age": 60, "segment": "b"}, 20_000)
    expected, drawn = closed_form(linear, given[:1]), linear.sample(20_000, seed=0, given=given)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - expected.mean[0]).abs() < 4 * error).all()
    torch.testing.assert_close(drawn.T.cov(), expected.covariance_matrix[0], atol=0.05, rtol=0.05)
    means = linear.decode(torch.zeros(1, K).double(), given=given[:1])
    torch.testing.assert_close(means, expected.mean)


def test_a_fit_learns_what_depends_on_y(data):
    conditions = data.schema.conditions
    E = pv.ConditionalVAE.num_inputs(conditions)
    vae = pv.ConditionalVAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.linear(1 + E, D), scale=0.8),
        pv.guides.MeanFieldNormal(pv.nets.linear(D + E, 2)),
        conditions=conditions,
    )
    fitted = pv.fit(vae, data, epochs=15, learning_rate=0.03, batch_size=32)
    assert fitted.history[-1].valid_elbo > fitted.history[0].valid_elbo + 0.3
    means = [
        vae.sample(2000, seed=0, given=data.preparation.given({"age": age, "segment": "a"}, 2000)).mean(0)
        for age in (20, 60)
    ]
    change = (means[1] - means[0]) * torch.tensor(data.train.measure.scale)
    assert (change > 1.0).all()  # 40 years of 0.05 are 2; by least squares with a standard error of 0.2


def test_conditions_that_are_a_label_give_the_same_bits():
    data = pv.load_data("digits", given="label")
    parts = (
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(12, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(74, 8, 4)),
    )
    rows, labels = data.valid.head(20), data.valid.labels[:20]
    found = pv.log_evidence(pv.ConditionalVAE(*parts, conditions=data.schema.conditions), rows, 20)
    known = pv.log_evidence(pv.ConditionalVAE(*parts, 10), rows.x, 20, labels=labels)
    assert torch.equal(found.log_px, known.log_px)
    assert found.measure == f"{pv.load_data('digits').measure}, given label"


def test_levels_of_many_kinds_are_embedded_and_saved(tmp_path):
    levels = tuple(f"city {i}" for i in range(40))
    conditions = Schema((Column("city", "categorical", "text", levels), Column("orders", "count")), coding="columns")
    E = pv.ConditionalVAE.num_inputs(conditions)
    assert E == 9  # eight of an embedding, and log(1 + orders)
    vae = pv.ConditionalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.mlp(2 + E, 8, 3)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(3 + E, 8, 4)),
        conditions=conditions,
    )
    given = torch.stack([torch.arange(60) % 41, torch.arange(60)], 1).double()  # 40 is a level that is not known
    split = pv.Split("train", torch.randn(60, 3), inputs={"given": given})
    before = vae.encoder.embedding.weight.clone()
    pv.fit(vae, split, epochs=2, batch_size=20)
    assert not torch.equal(before, vae.encoder.embedding.weight)
    pv.save(vae, tmp_path / "run")
    again = pv.load(tmp_path / "run")
    assert torch.equal(pv.log_evidence(again, split, 5).log_px, pv.log_evidence(vae, split, 5).log_px)


def conditional(**y):
    parts = pv.likelihoods.Normal(pv.nets.mlp(4, 4, 3)), pv.guides.MeanFieldNormal(pv.nets.mlp(5, 4, 4))
    return pv.ConditionalVAE(pv.priors.StandardNormal(2), *parts, **y)


SEGMENT = Schema((Column("segment", "categorical", "text", ("a", "b")),), coding="columns")
X, GIVEN = torch.zeros(4, 3), torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conditional(), "give num_labels, or conditions"),
        (lambda: conditional(num_labels=2, conditions=SEGMENT), "give num_labels, or conditions"),
        (lambda: conditional(conditions=Schema()), "no column is given"),
        (lambda: pv.log_evidence(conditional(conditions=SEGMENT), X, 5), "needs the conditions segment"),
        (lambda: conditional(conditions=SEGMENT).sample(4), "needs the conditions segment"),
        (lambda: conditional(conditions=SEGMENT).sample(4, given=torch.zeros(4, 2)), "have as 2 columns"),
        (lambda: conditional(conditions=SEGMENT).sample(3, given=GIVEN), "one entry for each of the 3 rows"),
        (lambda: conditional(conditions=SEGMENT).sample(4, given=GIVEN * math.nan), "a condition is missing"),
        (lambda: conditional(num_labels=2).sample(4, given=GIVEN), "conditional on labels"),
        (lambda: pv.fit(plain(), with_conditions()), "the program's model takes none"),
        (lambda: pv.log_evidence(plain(), with_conditions()), "the program's model takes none"),
        (lambda: pv.fit_em(pv.GaussianMixture(2, 3), with_conditions()), "the program's model takes none"),
        (lambda: pv.GaussianMixture(2, 3).log_prob(with_conditions()), "the program's model takes none"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(pv.InputError, match=message):
        call()


def plain():
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 4, 4))
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(pv.nets.mlp(2, 4, 3)), guide)


def with_conditions():
    return pv.Split("train", X, inputs={"given": GIVEN})
