"""The likelihood of a table's columns: every kind against scipy, sums and integrals, and log p(x) by quadrature."""

import math

import numpy as np
import pandas
import pytest
import torch
from scipy import integrate, special, stats

import pyro_vae as pv
from pyro_vae.data.columns import Column, Schema
from pyro_vae.distributions.counted_columns import Levels, LogisticSteps, ZeroInflatedNegativeBinomial
from pyro_vae.distributions.real_columns import Beta, Gamma, LogitNormal, LogNormal, ZeroOrLogNormal
from pyro_vae.likelihoods.column_groups import UNSEEN, BetaGroup
from pyro_vae.likelihoods.columns import SCALE_FLOOR, group_columns

G = np.random.default_rng(0)
N = 300
SIZES = np.array(["S", "M", "L", "XL"])
D64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=D64)


X = np.array([1e-12, 1e-3, 0.2, 1.0, 7.5, 1e6])
FAMILIES = {
    "log-normal": (LogNormal(tensor(0.3), tensor(0.8)), X, stats.lognorm(0.8, scale=math.exp(0.3)).logpdf(X)),
    "log-normal, narrow": (LogNormal(tensor(9.0), tensor(0.01)), X, stats.lognorm(0.01, scale=math.exp(9.0)).logpdf(X)),
    "log-normal outside": (LogNormal(tensor(0.0), tensor(1.0)), np.array([0.0, -1.0]), np.array([-np.inf, -np.inf])),
    "logit-normal": (
        LogitNormal(tensor(-0.4), tensor(1.3)),
        np.array([1e-9, 0.1, 0.5, 1 - 1e-9]),
        stats.norm(-0.4, 1.3).logpdf(special.logit([1e-9, 0.1, 0.5, 1 - 1e-9]))
        - np.log([1e-9, 0.1, 0.5, 1 - 1e-9])
        - np.log1p([-1e-9, -0.1, -0.5, -(1 - 1e-9)]),
    ),
    "logit-normal outside": (LogitNormal(tensor(0.0), tensor(1.0)), np.array([0.0, 1.0, 2.0]), np.full(3, -np.inf)),
    "zero or log-normal": (
        ZeroOrLogNormal(tensor(-1.0), tensor(0.3), tensor(0.8)),
        np.array([0.0, 2.0]),
        np.array(
            [
                np.log(special.expit(-1.0)),
                np.log(special.expit(1.0)) + stats.lognorm(0.8, scale=math.exp(0.3)).logpdf(2.0),
            ]
        ),
    ),
    "logistic steps": (
        LogisticSteps(tensor(0.3), tensor(0.7), tensor(0.25)),
        np.array([-200.0, -0.25, 0.0, 3.0, 200.0]),
        np.array(
            [
                (-200.0 - 0.3) / 0.7 + math.log(2 * math.sinh(0.125 / 0.7)),
                *np.log(np.diff(special.expit((np.array([-0.375, -0.125, 0.125]) - 0.3) / 0.7))),
                np.log(special.expit(-(2.875 - 0.3) / 0.7) - special.expit(-(3.125 - 0.3) / 0.7)),
                -(200.0 - 0.3) / 0.7 + math.log(2 * math.sinh(0.125 / 0.7)),
            ]
        ),
    ),
    "gamma": (Gamma(tensor(0.7), tensor(2.5)), X, stats.gamma(2.5, scale=math.exp(0.7) / 2.5).logpdf(X)),
    "gamma, narrow": (
        Gamma(tensor(3.0), tensor(1e7)),
        np.array([20.0, 20.08, 20.1]),
        1e7 * (np.log([20.0, 20.08, 20.1]) - 3 - np.array([20.0, 20.08, 20.1]) * math.exp(-3))
        + (1e7 * math.log(1e7) - special.gammaln(1e7))
        - np.log([20.0, 20.08, 20.1]),
    ),
    "gamma outside": (Gamma(tensor(0.0), tensor(1.0)), np.array([0.0, -1.0]), np.array([-np.inf, -np.inf])),
    "beta": (
        Beta(tensor(-0.4), tensor(3.0)),
        np.array([1e-9, 0.1, 0.5, 1 - 1e-9]),
        stats.beta(3 * special.expit(-0.4), 3 * special.expit(0.4)).logpdf([1e-9, 0.1, 0.5, 1 - 1e-9]),
    ),
    "beta outside": (Beta(tensor(0.0), tensor(1.0)), np.array([0.0, 1.0, 2.0]), np.full(3, -np.inf)),
    "zero-inflated": (
        ZeroInflatedNegativeBinomial(tensor(-0.5), tensor(3.0), tensor(0.2)),
        np.array([0.0, 1.0, 7.0, 400.0]),
        np.log(
            special.expit(-0.5) * np.array([1.0, 0, 0, 0])
            + special.expit(0.5) * stats.nbinom(3.0, special.expit(-0.2)).pmf([0, 1, 7, 400])
        ),
    ),
    "levels": (
        Levels(torch.tensor([[1.0, -2.0, 0.5]], dtype=D64), torch.tensor([3]), UNSEEN),
        np.array([[0.0], [1.0], [2.0], [3.0]]),
        np.array([*(special.log_softmax([1.0, -2.0, 0.5]) + math.log1p(-UNSEEN)), math.log(UNSEEN)])[:, None],
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_scipys(name):
    fn, x, expected = FAMILIES[name]
    found = fn.log_prob(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10 if "narrow" not in name else 1e-7, atol=1e-10)


def test_every_family_has_the_mean_and_variance_of_its_density():
    for fn, low, high in (
        (LogNormal(tensor(0.1), tensor(0.5)), 0, 40),
        (LogitNormal(tensor(-0.4), tensor(1.3)), 0, 1),
        (Gamma(tensor(0.7), tensor(2.5)), 0, np.inf),
        (Beta(tensor(-0.4), tensor(3.0)), 0, 1),
    ):
        moments = []
        for k in range(3):
            integrand = lambda x, k=k, fn=fn: x**k * math.exp(fn.log_prob(tensor(x)[0]).item())  # noqa: E731
            moments.append(integrate.quad(integrand, low, high, limit=500)[0])
        total, mean, second = moments
        assert total == pytest.approx(1.0, abs=1e-8)
        assert fn.mean.item() == pytest.approx(mean, abs=1e-6)
        assert fn.variance.item() == pytest.approx(second - mean**2, abs=1e-5)
    steps = torch.arange(-4000, 4000, dtype=D64) * 0.25
    p = LogisticSteps(tensor(0.3), tensor(0.7), tensor(0.25)).log_prob(steps).exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)
    inflated = ZeroInflatedNegativeBinomial(tensor(-0.5), tensor(3.0), tensor(0.2))
    counts = torch.arange(2000, dtype=D64)
    p = inflated.log_prob(counts).exp()
    mean = float((p * counts).sum())
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert inflated.mean.item() == pytest.approx(mean, abs=1e-9)
    assert inflated.variance.item() == pytest.approx(float((p * counts.square()).sum()) - mean**2, abs=1e-8)
    zero = ZeroOrLogNormal(tensor(-1.0), tensor(0.3), tensor(0.8))
    above = integrate.quad(lambda x: math.exp(zero.log_prob(tensor(x)[0]).item()), 0, np.inf)[0]
    assert above + math.exp(zero.log_prob(tensor(0.0)).item()) == pytest.approx(1.0, abs=1e-8)
    first, second = (
        integrate.quad(lambda x, power: x**power * math.exp(zero.log_prob(tensor(x)[0]).item()), 0, np.inf, (power,))[0]
        for power in (1, 2)
    )
    assert zero.mean.item() == pytest.approx(first, rel=1e-6)
    assert zero.variance.item() == pytest.approx(second - first**2, rel=1e-6)


def frame():
    """Every kind of column, some with gaps."""
    z = G.normal(size=N)
    revenue = np.where(G.random(N) < 0.3, 0.0, np.exp(4 + z + 0.3 * G.normal(size=N)))
    return pandas.DataFrame(
        {
            "real": np.where(G.random(N) < 0.1, np.nan, 170 + 10 * z),
            "positive": np.exp(8 + 0.9 * z),
            "revenue": revenue,
            "share": special.expit(2 * z + G.normal(size=N)),
            "count": G.poisson(np.exp(1 + 0.5 * z)),
            "year": (1985 + 12 * z).round().astype(int),
            "on": G.random(N) < special.expit(z),
            "kind": np.array(["a", "b", "c"])[np.digitize(z, [-0.5, 0.5])],
            "size": pandas.Categorical(
                np.array(["S", "M", "L", "XL"])[np.digitize(z, [-1, 0, 1])], ["S", "M", "L", "XL"], ordered=True
            ),
            "city": [f"c{i}" for i in G.integers(0, 40, N)],
            "day": pandas.Timestamp("2024-01-01") + pandas.to_timedelta(G.integers(0, 300, N), unit="D"),
        }
    )


@pytest.fixture(scope="module")
def data():
    return pv.load_data(frame(), columns={"share": "bounded", "positive": "positive", "year": "integer"})


def columns_vae(data, seed=0, width=8, correlated=True):
    torch.manual_seed(seed)
    net = pv.nets.mlp(2, width, pv.likelihoods.Columns.num_outputs(data.schema))
    likelihood = pv.likelihoods.Columns(net, data.schema, correlated=correlated)
    inputs = pv.nets.ColumnEncoder.num_inputs(data.schema, masked=True)
    encoder = pv.nets.ColumnEncoder(pv.nets.mlp(inputs, width, 4), data.schema, masked=True)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(encoder)))


def test_the_density_of_a_row_is_that_of_its_columns_in_their_own_units(data):
    """Column by column with scipy, from the stored values and what the network says, the Jacobian included."""
    vae = columns_vae(data, correlated=False).double()
    split = data.train.head(40)
    z = torch.randn(40, 2, dtype=D64)
    p = vae.likelihood(z)
    x = split.x.double()
    each = p.each_log_prob(x).detach().numpy()
    torch.testing.assert_close(p.log_prob(x), p.each_log_prob(x).sum(-1))
    stored, schema = split.stored.numpy(), data.schema
    families = {group.family: i for i, group in enumerate(vae.likelihood.grouping)}
    jacobian = data.train.measure.log_jacobian.numpy()

    def fn(family):
        return p.families[families[family]]

    names = [column.name for column in schema.modelled]
    at = {name: names.index(name) for name in names}
    group = vae.likelihood.grouping[families["normal"]].columns
    for name in ("real", "day"):
        place, column = group.index(at[name]), schema[name]
        loc = fn("normal").loc[:, place].detach().numpy() * column.scale + column.shift
        scale = fn("normal").scale[:, place].detach().numpy() * column.scale
        known = ~np.isnan(stored[:, at[name]])
        expected = stats.norm(loc, scale).logpdf(stored[:, at[name]])
        np.testing.assert_allclose((each + jacobian)[known, at[name]], expected[known], rtol=1e-5, atol=1e-5)
    log_normal = fn("log-normal")
    column = schema["positive"]
    expected = stats.lognorm(
        log_normal.scale[:, 0].detach().numpy(), scale=column.scale * log_normal.loc[:, 0].exp().detach().numpy()
    ).logpdf(stored[:, at["positive"]])
    np.testing.assert_allclose((each + jacobian)[:, at["positive"]], expected, rtol=1e-5, atol=1e-4)
    year = fn("logistic")
    v, column = stored[:, at["year"]], schema["year"]
    loc = year.loc[:, 0].detach().numpy() * column.scale + column.shift
    s = year.scale[:, 0].detach().numpy() * column.scale
    expected = np.log(special.expit((v + 0.5 - loc) / s) - special.expit((v - 0.5 - loc) / s))
    np.testing.assert_allclose((each + jacobian)[:, at["year"]], expected, rtol=1e-4, atol=1e-4)
    assert data.measure.startswith(
        "product of Lebesgue measure on R^5 (original units) and counting measure on 6 columns"
    )
    assert "1 with a probability of 0" in data.measure


REAL = ("real", "positive", "share", "day")


def test_real_columns_are_one_normal_after_their_transforms(data):
    """Rows with gaps against scipy's normal of what was observed, the Jacobians by hand; draws of the rest likewise."""
    likelihood = columns_vae(data).double().likelihood
    likelihood.init_from_rows(data.train.x[:200].double())
    torch.nn.init.normal_(likelihood.groups[0].residual.raw_tril, std=0.3)
    names = [column.name for column in data.schema.modelled]
    at = [names.index(name) for name in REAL]
    assert likelihood.grouping[0].columns == tuple(at)
    x, z = data.train.x[:30].double(), torch.randn(30, 2, dtype=D64)
    mask = torch.rand(30, len(names), generator=torch.Generator().manual_seed(2)) < 0.6
    mask[0], mask[1] = True, False
    only = mask & torch.tensor([name in REAL for name in names])
    found = likelihood.masked(z, only).log_prob(torch.where(only, x, -7.0)).detach().numpy()
    p = likelihood(z).families[0].normal
    tril = p.tril.detach().numpy()
    values = x[:, at].numpy()
    transformed = np.column_stack([values[:, 0], np.log(values[:, 1]), special.logit(values[:, 2]), values[:, 3]])
    slope = np.zeros_like(values)
    slope[:, 1], slope[:, 2] = -np.log(values[:, 1]), -np.log(values[:, 2]) - np.log1p(-values[:, 2])
    given = likelihood.masked(z, only)
    given = given.values.condition(torch.where(only, x, -7.0), given.observed).families[0].normal
    for i in range(30):
        seen = only[i, at].numpy()
        factor = p.scale[i].detach().numpy()[:, None] * tril
        sigma, loc = factor @ factor.T, p.loc[i].detach().numpy()
        expected = 0.0
        if seen.any():
            expected = stats.multivariate_normal(loc[seen], sigma[np.ix_(seen, seen)]).logpdf(transformed[i, seen])
        assert found[i] == pytest.approx(expected + slope[i, seen].sum(), abs=1e-9)
        weights = sigma[np.ix_(~seen, seen)] @ np.linalg.inv(sigma[np.ix_(seen, seen)])
        mean = loc[~seen] + weights @ (transformed[i, seen] - loc[seen])
        np.testing.assert_allclose(given.loc[i].detach().numpy()[~seen], mean, atol=1e-8)
    whole = likelihood(z).log_prob(x)
    torch.testing.assert_close(whole, likelihood.masked(z, torch.ones_like(mask)).log_prob(x))
    outside = x.clone()
    outside[0, at[1]], outside[1, at[2]] = -1.0, 1.0
    assert likelihood(z).log_prob(outside).isneginf().nonzero().flatten().tolist() == [0, 1]


def test_families_by_name():
    """Another family of a kind by its name in the schema, beside the density of scipy; a wrong name is refused."""
    columns = [Column("wait", "positive", family="gamma"), Column("share", "bounded", family="beta")]
    columns += [Column("visits", "count", family="zero-inflated"), Column("tail", "real", family="student-t")]
    schema = Schema(columns, coding="columns")
    likelihood = pv.likelihoods.Columns(pv.nets.linear(1, 8), schema).double()
    x = torch.tensor([[0.5, 0.2, 0.0, 30.0], [2.0, 0.7, 3.0, -0.5]], dtype=D64).repeat(200, 1)
    likelihood.init_from_rows(x)
    p = likelihood(torch.zeros(2, 1, dtype=D64))
    a = 1.0 / (p.variance[0, 0] / p.mean[0, 0].square())
    each = p.each_log_prob(x[:2])
    expected = stats.gamma(a.item(), scale=(p.mean[0, 0] / a).item()).logpdf([0.5, 2.0])
    np.testing.assert_allclose(each[:, 0].detach().numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(p.mean[0].detach().numpy(), x.mean(0).numpy(), rtol=0.1, atol=0.05)
    assert Schema.from_dict(schema.to_dict()) == schema
    with pytest.raises(pv.InputError, match="column wait: family 'beta'; a positive column has log-normal, gamma"):
        Column("wait", "positive", family="beta")


def test_levels_have_probabilities_that_sum_to_one(data):
    vae = columns_vae(data).double()
    p = vae.likelihood(torch.randn(7, 2, dtype=D64))
    names = [column.name for column in data.schema.modelled]
    x = data.train.x[:7].double()
    for name in ("on", "kind", "size", "city"):
        num = len(data.schema[name].levels)
        total = 0.0
        for code in range(num + 1):
            x[:, names.index(name)] = code
            total = total + p.each_log_prob(x)[:, names.index(name)].exp()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=1e-12)
        x[:, names.index(name)] = num
        torch.testing.assert_close(p.each_log_prob(x)[:, names.index(name)].exp(), torch.full_like(total, UNSEEN))


def test_ordinal_levels_are_cumulative_logits():
    schema = Schema((Column("a", "ordinal", levels=("S", "M", "L")), Column("b", "ordinal", levels=tuple("VWXYZ"))))
    likelihood = pv.likelihoods.Columns(pv.nets.linear(1, 2), schema).double()
    z = torch.randn(5, 1, dtype=D64)
    eta, cuts = likelihood.net(z).detach().numpy(), likelihood.groups[0].cut_points().detach().numpy()
    for column, num in ((0, 3), (1, 5)):
        below = special.expit(np.column_stack([cuts[column][: num - 1] - e for e in eta[:, column]]).T)
        edges = np.column_stack([np.zeros(5), below, np.ones(5)])
        for code in range(num):
            x = torch.zeros(5, 2, dtype=D64)
            x[:, column] = code
            found = likelihood(z).each_log_prob(x)[:, column].detach().numpy()
            np.testing.assert_allclose(found, np.log(np.diff(edges)[:, code]) + math.log1p(-UNSEEN), rtol=1e-10)


def test_draws_have_the_frequencies_of_the_density(data):
    vae = columns_vae(data).requires_grad_(False)
    z = torch.zeros(40_000, 2)
    p = vae.likelihood(z)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = p.sample()
    names = [column.name for column in data.schema.modelled]
    assert bool(vae.likelihood.support.check(x).all())
    first = vae.likelihood(z[:1])
    for name in ("on", "kind", "size", "count", "year"):
        i = names.index(name)
        values, counts = x[:, i].unique(return_counts=True)
        row = data.train.x[:1].expand(len(values), -1).clone()
        row[:, i] = values
        expected = first.expand([1]).each_log_prob(row)[:, i].exp().detach()
        share = counts / len(x)
        assert ((share - expected).abs() < 5 * (expected / len(x)).sqrt() + 1e-4).all()
    for name in ("real", "positive", "share"):
        i = names.index(name)
        mean, deviation = p.mean[0, i].item(), p.variance[0, i].sqrt().item()
        assert x[:, i].double().mean().item() == pytest.approx(mean, abs=6 * deviation / 200)


def test_missing_values_do_not_count_and_gradients_are_finite(data):
    vae = columns_vae(data, correlated=False)
    x, mask = data.train.x[:50], torch.rand(50, 11) < 0.7
    z = torch.randn(50, 2)
    each = vae.likelihood(z).each_log_prob(x)
    poisoned = torch.where(mask, x, -7.0)
    found = vae.likelihood.masked(z, mask).log_prob(poisoned)
    torch.testing.assert_close(found, (each * mask).sum(-1))
    found.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in vae.parameters())
    code = vae.posterior(torch.where(mask, x, 0.0), mask=mask).mean
    other = vae.posterior(torch.where(mask, x, 0.5), mask=mask).mean
    torch.testing.assert_close(code, other)


def test_log_px_of_mixed_columns_by_quadrature():
    """Linear-Gaussian columns beside a bit, a count and levels, with one latent: the integral over a grid."""
    z = G.normal(size=400)
    table = pandas.DataFrame(
        {
            "a": 3 + 2 * z + G.normal(size=400),
            "bit": (G.random(400) < special.expit(2 * z)).astype(int),
            "count": G.poisson(np.exp(0.5 + 0.6 * z)),
            "kind": np.array(["u", "v", "w"])[np.digitize(z + G.normal(size=400), [-0.7, 0.7])],
        }
    )
    data = pv.load_data(table)
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Columns(pv.nets.linear(1, pv.likelihoods.Columns.num_outputs(data.schema)), data.schema)
    encoder = pv.nets.ColumnEncoder(pv.nets.mlp(pv.nets.ColumnEncoder.num_inputs(data.schema), 8, 2), data.schema)
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, pv.guides.MeanFieldNormal(encoder))
    pv.fit(vae, data.train, valid=data.valid, epochs=15, learning_rate=0.02)
    vae.double()
    grid = torch.linspace(-9, 9, 4001, dtype=D64)[:, None]
    rows = data.test.x.double()
    with torch.no_grad():
        p = vae.likelihood(grid[:, None, :])
        log_joint = p.log_prob(rows[None]) + torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    expected = torch.logsumexp(log_joint, 0) + math.log(18 / 4000) + data.test.log_jacobian
    vae.float()
    exact = pv.exact_evidence(vae, data.test)
    torch.testing.assert_close(exact.log_px, expected, atol=2e-4, rtol=0)
    assert exact.kind == "exact"
    assert exact.measure == data.measure
    found = pv.log_evidence(vae, data.test, 5000)
    assert (found.log_px - expected).abs().max() < 0.05
    auto = pv.auto_evidence(vae, data.test, 500)
    assert (auto.log_px - expected).abs().max() < 0.03


def test_a_fit_is_recorded_and_the_program_comes_back(data, tmp_path):
    runs = []
    for compile in (None, False):
        vae = columns_vae(data)
        fitted = pv.fit(vae, data.train, valid=data.valid, epochs=3, compile=compile)
        runs.append((vae, [epoch.valid_elbo for epoch in fitted.history]))
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-4)
    pv.save(runs[0][0], tmp_path)
    again = pv.load(tmp_path)
    first, second = (pv.log_evidence(p, data.test, 50).log_px for p in (runs[0][0], again))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_other_densities_refuse_codes(data):
    mixture = pv.GaussianMixture(2, data.num_features)
    with pytest.raises(pv.InputError, match="codes of columns"):
        pv.fit_em(mixture, data)
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.mlp(2, 4, 11)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(11, 4, 4)),
    )
    with pytest.raises(pv.InputError, match="codes of columns"):
        pv.fit(vae, data.train, epochs=1)


def test_a_thousand_columns_and_five_hundred_levels():
    columns = [Column(f"r{i}", "real") for i in range(600)] + [Column(f"c{i}", "count") for i in range(200)]
    columns += [Column(f"k{i}", "categorical", levels=tuple(f"l{j}" for j in range(2 + i % 7))) for i in range(190)]
    columns += [Column(f"w{i}", "categorical", levels=tuple(range(500))) for i in range(10)]
    schema = Schema(tuple(columns), coding="columns")
    assert len(group_columns(schema.modelled)) == 6
    likelihood = pv.likelihoods.Columns(pv.nets.mlp(4, 16, pv.likelihoods.Columns.num_outputs(schema)), schema)
    p = likelihood(torch.randn(100, 4))
    x = p.sample()
    assert p.log_prob(x).isfinite().all()
    encoder = pv.nets.ColumnEncoder(pv.nets.mlp(pv.nets.ColumnEncoder.num_inputs(schema), 16, 8), schema)
    assert encoder(x).shape == (100, 8)
    assert SCALE_FLOOR > 0


def test_shares_without_a_value_inside_begin_in_the_middle():
    group = BetaGroup([Column("a", "bounded", family="beta"), Column("b", "bounded", family="beta")], 0.01)
    x = torch.tensor([[0.0, 0.2], [1.0, 0.4], [math.nan, 0.6]])
    begin = group(group.init_from_values(x)[None].movedim(0, 0))
    assert begin.mean.squeeze().tolist() == pytest.approx([0.5, 0.4], abs=1e-6)
