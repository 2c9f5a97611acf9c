"""Mixtures over columns with kinds: brute force, scikit-learn, other mixtures, steps that never fall, gaps."""

import itertools
import math
import warnings

import numpy as np
import pandas
import pytest
import torch
from cluster_rows import bernoulli_clusters
from scipy import optimize, special, stats
from sklearn.mixture import GaussianMixture as OtherGaussianMixture

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.column_groups import UNSEEN
from pyro_vae.likelihoods.columns import Columns
from pyro_vae.models.column_families import NormalColumns, ZeroOrLogNormalColumns
from pyro_vae.models.column_m_steps import raise_total_count
from pyro_vae.models.columns_mixture import ColumnsMixture
from pyro_vae.models.counted_families import LevelColumns, LogisticColumns, NegativeBinomialColumns

KINDS = {"share": "bounded", "positive": "positive", "year": "integer", "step": "integer"}


def planted(n=600, seed=0, gaps=0.1):
    """Rows of three classes over columns of every kind, with gaps, and the classes."""
    g = np.random.default_rng(seed)
    c = g.choice(3, n, p=[0.5, 0.3, 0.2])

    def of(*values):
        return np.array(values)[c]

    frame = pandas.DataFrame(
        {
            "real": of(150.0, 170.0, 190.0) + 6 * g.normal(size=n),
            "positive": np.exp(of(3.0, 5.0, 7.0) + 0.5 * g.normal(size=n)),
            "revenue": np.where(g.random(n) < of(0.7, 0.1, 0.3), 0.0, np.exp(of(2.0, 4.0, 5.0) + g.normal(size=n))),
            "share": special.expit(of(-2.0, 0.0, 2.0) + 0.7 * g.normal(size=n)),
            "count": g.poisson(of(1.0, 6.0, 15.0) * g.gamma(3.0, 1 / 3, n)),
            "visits": g.poisson(of(8.0, 2.0, 4.0)),
            "year": (of(1960, 1985, 1990) + g.logistic(size=n) * 4).round().astype(int),
            "step": (of(-6, 0, 6) + g.normal(size=n)).round().astype(int),
            "on": g.random(n) < of(0.1, 0.5, 0.9),
            "kind": of("a", "b", "c"),
            "size": pandas.Categorical(
                np.array(["S", "M", "L", "XL"])[np.clip(c + g.integers(0, 2, n), 0, 3)], ["S", "M", "L", "XL"], True
            ),
            "city": [f"c{i}" for i in g.integers(0, 12, n)],
            "day": pandas.Timestamp("2024-01-01") + pandas.to_timedelta(of(10, 100, 200) + g.integers(0, 40, n), "D"),
        }
    )
    noisy = g.random(n) < 0.3  # a kind that says nothing
    frame["kind"] = np.where(noisy, g.choice(["a", "b", "c"], n), frame["kind"])
    for name in frame.columns:
        if gaps:
            frame[name] = frame[name].mask(pandas.Series(g.random(n) < gaps))
    return frame, c


@pytest.fixture(scope="module")
def data():
    return pv.load_data(planted()[0], columns=KINDS)


@pytest.fixture(scope="module")
def fitted(data):
    torch.manual_seed(0)
    mixture = ColumnsMixture(3, data.schema)
    return mixture, pv.fit_em(mixture, data, epochs=30, seed=0)


def rows_of(x):
    """Rows whose NaN are missing values."""
    return Split("train", x, Measure())


def coded(split):
    return torch.where(split.mask, split.x.double(), math.nan) if split.mask is not None else split.x.double()


def scipy_log_prob(family, c, j, x):
    """log p of a value of column j of a family under component c."""

    def of(name):
        return getattr(family, name)[c, j].detach().numpy()

    kind = type(family).__name__
    if isinstance(family, NormalColumns):
        loc, scale = float(of("loc")), float(np.exp(of("log_scale")))
        if kind == "NormalColumns":
            return stats.norm(loc, scale).logpdf(x)
        if kind == "LogitNormalColumns":
            return stats.norm(loc, scale).logpdf(special.logit(x)) - math.log(x) - math.log1p(-x)
        above = stats.lognorm(scale, scale=math.exp(loc)).logpdf(x)
        if not isinstance(family, ZeroOrLogNormalColumns):
            return above
        zero = special.expit(float(of("zero_logits")))
        return math.log(zero) if x == 0 else math.log1p(-zero) + above
    if isinstance(family, NegativeBinomialColumns):
        count, mean = np.exp(of("log_total_count")), np.exp(of("log_mean"))
        return stats.nbinom(count, count / (count + mean)).logpmf(x)
    if isinstance(family, LogisticColumns):
        fn, half = stats.logistic(of("loc"), np.exp(of("log_scale"))), float(family.step[j]) / 2
        tail = fn.sf if x > fn.mean() else fn.cdf
        return math.log(abs(tail(x + half) - tail(x - half)))
    levels = int(family.num_levels[j])
    probs = special.softmax(of("logits")[:levels])
    return math.log(UNSEEN) if x == levels else math.log(probs[int(x)]) + math.log1p(-UNSEEN)


def brute_force(mixture, x):
    """log p of each row, column by column with scipy."""
    found = []
    for row in x:
        each = mixture.weights.log().numpy().copy()
        for family, values in mixture.groups(row[None]):
            for (j, value), c in itertools.product(enumerate(values[0].tolist()), range(mixture.num_components)):
                each[c] += 0.0 if math.isnan(value) else scipy_log_prob(family, c, j, value)
        found.append(special.logsumexp(each))
    return torch.tensor(found, dtype=torch.float64)


def test_the_density_is_the_sum_over_components_of_scipys_products(data, fitted):
    mixture, split = fitted[0], data.test.head(40)
    x = coded(split)
    assert {type(family).__name__ for family in mixture.families} == {
        "NormalColumns", "LogNormalColumns", "ZeroOrLogNormalColumns", "LogitNormalColumns",
        "NegativeBinomialColumns", "LogisticColumns", "LevelColumns",
    }  # fmt: skip
    torch.testing.assert_close(mixture.log_density(x), brute_force(mixture, x), rtol=0, atol=1e-10)
    found = pv.exact_evidence(mixture, split)
    torch.testing.assert_close(found.log_px, brute_force(mixture, x) + split.log_jacobian, rtol=0, atol=1e-9)
    assert found.kind == "exact"


def test_a_level_that_was_never_seen_has_the_probability_of_the_likelihood(data, fitted):
    mixture, x = fitted[0], coded(data.test.head(3))
    city = [column.name for column in data.schema.modelled].index("city")
    x[:, city], known = len(data.schema["city"].levels), x.clone()
    known[:, city] = math.nan
    difference = mixture.log_density(x) - mixture.log_density(known)
    torch.testing.assert_close(difference, torch.full((3,), math.log(UNSEEN), dtype=torch.float64))


def test_one_component_is_the_likelihood_with_the_same_numbers(data):
    """The same measure: `likelihoods.Columns` of a network of constants, every kind of column."""
    torch.manual_seed(1)
    net = torch.nn.Linear(2, Columns.num_outputs(data.schema))
    likelihood = Columns(net, data.schema, correlated=False).double()
    z, mixture = torch.zeros(1, 2, dtype=torch.float64), ColumnsMixture(1, data.schema)
    x = coded(data.train)
    x = x[~x.isnan().any(1)]
    likelihood.init_from_rows(x)
    (year, step) = (data.schema[name].scale for name in ("year", "step"))
    steps = torch.tensor([1 / year, 1 / step], dtype=torch.float64)  # they were rounded to float32
    next(group for group in likelihood.groups if hasattr(group, "step")).step = steps
    p = likelihood(z)
    for fn, columns in zip(p.families, p.columns, strict=True):
        for number, column in enumerate(columns.tolist()):
            set_column(mixture, column, fn, number)
    torch.testing.assert_close(mixture.log_density(x), p.log_prob(x), rtol=0, atol=1e-10)


@torch.no_grad()
def set_column(mixture, column, fn, number):
    """Give a column of a mixture the numbers of a distribution."""
    (family, at), *others = [
        (family, int((mixture.columns_of(i) == column).nonzero()))
        for i, family in enumerate(mixture.families)
        if column in mixture.columns_of(i)
    ]
    assert not others
    if isinstance(family, LevelColumns):
        logits = fn.logits[0, number].log_softmax(-1)[: family.num_levels[at]]
        family.logits[0, at, : len(logits)] = logits
    elif isinstance(family, NegativeBinomialColumns):
        family.log_total_count[0, at] = fn.total_count.expand(1, -1)[0, number].log()
        family.log_mean[0, at] = fn.mean[0, number].log()
    else:
        if isinstance(family, ZeroOrLogNormalColumns):
            family.zero_logits[0, at] = fn.zero_logits[0, number]
            fn = fn.positive
        family.loc[0, at], family.log_scale[0, at] = fn.loc[0, number], fn.scale[0, number].log()


def real_schema(size):
    return Schema([Column(f"c{i}", "real") for i in range(size)], coding="columns")


def real_rows(n=400):
    g = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (n,), generator=g)
    centres = 3 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    x = centres[label] + torch.randn(n, 4, generator=g, dtype=torch.float64) * (0.5 + label[:, None])
    return (x - x.mean(0)) / x.std(0, correction=0)


@torch.no_grad()
def with_parameters(mixture, weights, means, variances):
    (family,) = mixture.families
    mixture.logits.copy_(weights.log())
    family.loc.copy_(means)
    family.log_scale.copy_(variances.log() / 2)
    return mixture


def test_real_columns_are_scikit_learns_diagonal_mixture():
    x = real_rows()
    weights, means, variances = torch.full((3,), 1 / 3, dtype=torch.float64), x[:3], torch.ones(3, 4).double()
    other = OtherGaussianMixture(
        3, covariance_type="diag", reg_covar=0.0, weights_init=weights, means_init=means, precisions_init=variances,
        max_iter=50, tol=0.0,
    )  # fmt: skip
    with warnings.catch_warnings(action="ignore"):  # that it has not converged
        other.fit(x)
    mixture = with_parameters(ColumnsMixture(3, real_schema(4), prior_rows=0), weights, means, variances)
    pv.fit_em(mixture, x, start="current", epochs=51, tolerance=0.0, accelerate=False)
    torch.testing.assert_close(mixture.log_prob(x), torch.from_numpy(other.score_samples(x)), rtol=0, atol=1e-9)
    assert mixture.bic(x) == pytest.approx(other.bic(x), abs=1e-5)


def test_real_columns_are_the_regularized_diagonal_mixture():
    x = real_rows()
    weights, means, variances = torch.full((3,), 1 / 3, dtype=torch.float64), x[:3], torch.ones(3, 4).double()
    same = pv.GaussianMixture(3, 4, "diagonal", prior_rows=5.0)
    same.set_parameters(weights, means, variances)
    mixture = with_parameters(ColumnsMixture(3, real_schema(4), prior_rows=5.0), weights, means, variances)
    objectives = [
        pv.fit_em(each, x, start="current", epochs=20, tolerance=0.0, accelerate=False).history[-1]["elbo"]
        for each in (same, mixture)
    ]
    torch.testing.assert_close(mixture.log_prob(x), same.log_prob(x), rtol=0, atol=1e-9)
    assert objectives[0] == pytest.approx(objectives[1], abs=1e-10)


def test_bits_are_the_bernoulli_mixture():
    x = bernoulli_clusters(n=200, D=6).double()
    schema = Schema([Column(f"c{i}", "binary", levels=(0, 1)) for i in range(6)], coding="columns")
    same, mixture = pv.BernoulliMixture(4, 6, prior_rows=2.0), ColumnsMixture(4, schema, prior_rows=2.0)
    with torch.no_grad():
        (family,) = mixture.families
        family.logits.copy_(torch.stack([torch.zeros(4, 6), same.logits_of_bits], -1))
    for each in (same, mixture):
        pv.fit_em(each, x, start="current", epochs=30, tolerance=0.0, accelerate=False)
    known = 6 * math.log1p(-UNSEEN)  # what is left for levels that were never seen
    torch.testing.assert_close(mixture.log_prob(x) - known, same.log_prob(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(mixture.responsibilities(x), same.responsibilities(x))


ALONE = ["real", "positive", "revenue", "share", "count", "visits", "year", "step", "on", "kind", "size", "day"]


@pytest.mark.parametrize("prior_rows", [0.0, 5.0])
@pytest.mark.parametrize("name", ALONE)
def test_the_objective_never_falls_whatever_the_family(name, prior_rows):
    frame, _ = planted(300)
    frame["other"] = planted(300)[0]["real"]
    frame["text"] = planted(300)[0]["kind"]
    kinds = {key: kind for key, kind in KINDS.items() if key == name}
    data = pv.load_data(frame[[name, "other", "text"]], columns=kinds)
    torch.manual_seed(0)
    mixture = ColumnsMixture(4, data.schema, prior_rows=prior_rows)
    history = pv.fit_em(mixture, data, epochs=60, tolerance=0.0, num_starts=2, accelerate=False, seed=0).history
    never_falls(history)
    mixture = ColumnsMixture(4, data.schema, prior_rows=prior_rows)
    never_falls(pv.fit_em(mixture, data, epochs=60, tolerance=0.0, accelerate=True, seed=0).history)


def never_falls(history):
    pairs = [
        (before["objective"], after["objective"])
        for before, after in itertools.pairwise(history)
        if (before["start"], before["segment"]) == (after["start"], after["segment"])
    ]
    assert len(pairs) > 10
    assert min(after - before for before, after in pairs) > -1e-9


@pytest.mark.parametrize(("mean", "count"), [(0.3, 0.2), (5.0, 3.0), (40.0, 2.0), (200.0, 50.0)])
def test_a_negative_binomial_is_at_its_maximum(mean, count):
    g = np.random.default_rng(0)
    x = g.negative_binomial(count, count / (count + mean), 500)
    schema = Schema([Column("n", "count")], coding="columns")
    mixture = ColumnsMixture(1, schema, prior_rows=0)
    rows = torch.from_numpy(x).double()[:, None]
    history = pv.fit_em(mixture, rows, tolerance=0.0, epochs=40).history

    def loss(log_r):
        r = math.exp(log_r)
        return -stats.nbinom(r, r / (r + x.mean())).logpmf(x).mean()

    best = optimize.minimize_scalar(loss, bounds=(-7, 9), method="bounded", options={"xatol": 1e-10})
    (family,) = mixture.families
    assert family.log_mean.exp().item() == pytest.approx(x.mean(), rel=1e-12)
    assert family.log_total_count.item() == pytest.approx(best.x, abs=1e-4)
    assert history[-1]["elbo"] == pytest.approx(-best.fun, abs=1e-9)
    assert history[:7][-1]["elbo"] == pytest.approx(-best.fun, abs=1e-6)  # a few steps are enough


def test_counts_that_vary_less_than_poisson_are_nearly_poisson():
    x = torch.tensor([3.0, 4.0, 4.0, 5.0, 4.0] * 20).double()[:, None]
    mixture = ColumnsMixture(1, Schema([Column("n", "count")], coding="columns"), prior_rows=0)
    pv.fit_em(mixture, x, epochs=100, tolerance=0.0)
    expected = torch.from_numpy(stats.poisson(4.0).logpmf(x.numpy()[:, 0]))
    torch.testing.assert_close(mixture.log_prob(x), expected, rtol=0, atol=1e-3)


def test_the_bound_of_total_counts_holds_and_touches():
    """Whatever the counts, the M-step's number is no worse than the one before on the objective itself."""
    g = np.random.default_rng(0)
    for seed in range(50):
        r0, size = math.exp(g.uniform(-6, 8)), math.exp(g.uniform(-2, 6))
        x = g.negative_binomial(math.exp(g.uniform(-2, 4)), g.uniform(0.05, 0.95), 30) + (seed % 3 == 0) * int(size)
        mean = max(x.mean(), 1e-10)

        def value(r, x=x, mean=mean):
            return stats.nbinom(r, r / (r + mean)).logpmf(x).mean()

        given = [torch.tensor([[v]], dtype=torch.float64) for v in (
            math.log(r0), r0, mean, special.digamma(r0 + x).mean(), special.polygamma(1, r0 + x).mean()
        )]  # fmt: skip
        raised = raise_total_count(*given, (-7.0, 9.0)).exp().item()
        assert value(raised) >= value(r0) - 1e-9


@pytest.mark.parametrize("scale", [0.2, 1.0, 30.0])
def test_discretized_logistic_values_are_at_their_maximum(scale):
    g = np.random.default_rng(0)
    x = np.round(0.3 + scale * g.logistic(size=400))
    deviation = max(float(x.std()), 0.1)
    schema = Schema([Column("n", "integer", scale=deviation)], coding="columns")
    mixture = ColumnsMixture(1, schema, prior_rows=2.0)
    rows = torch.from_numpy(x / deviation)[:, None]
    pv.fit_em(mixture, rows, tolerance=1e-12, epochs=2000)
    (family,) = mixture.families
    h, d = 1 / deviation, family.distance.item()

    def log_p(x, loc, s):
        upper, lower = (x + h / 2 - loc) / s, (x - h / 2 - loc) / s
        return -np.logaddexp(0, -upper) - np.logaddexp(0, lower) + np.log(-np.expm1(-h / s))

    def loss(at):
        loc, s = at[0], math.exp(at[1])
        return -(log_p(x / deviation, loc, s).sum() + 2 * log_p(d, 0.0, s)) / len(x)

    best = optimize.minimize(loss, [0.0, -1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    at = [family.loc.item(), family.log_scale.item()]
    assert loss(at) == pytest.approx(best.fun, abs=1e-8)


def test_weights_count_rows(data):
    x = coded(data.train)[:120]
    weights = torch.arange(120) % 3
    start = ColumnsMixture(2, data.schema)
    pv.fit_em(start, rows_of(x), epochs=1, seed=0)
    weighted, repeated = (ColumnsMixture(2, data.schema) for _ in range(2))
    for each in (weighted, repeated):
        each.load_state_dict(start.state_dict())
    pv.fit_em(weighted, rows_of(x), weights=weights.double(), start="current", epochs=8, tolerance=0.0)
    pv.fit_em(repeated, rows_of(x.repeat_interleave(weights, 0)), start="current", epochs=8, tolerance=0.0)
    torch.testing.assert_close(weighted.log_density(x), repeated.log_density(x), rtol=0, atol=1e-9)


def test_the_density_of_what_was_observed_is_the_marginal(data, fitted):
    """Summed over the levels of a column that is missing, and integrated over a number."""
    mixture, x = fitted[0], coded(data.train)
    names = [column.name for column in data.schema.modelled]
    x = x[~x.isnan().any(1)][:5]
    for name in ("city", "real"):
        at, hidden = names.index(name), x.clone()
        hidden[:, at] = math.nan
        if name == "real":
            values = torch.linspace(-8, 8, 4001, dtype=torch.float64)
            measure = math.log(values[1] - values[0])
        else:
            values, measure = torch.arange(len(data.schema[name].levels) + 1).double(), 0.0
        each = []
        for value in values:
            filled = x.clone()
            filled[:, at] = value
            each.append(filled)
        log_px = mixture.log_density(torch.cat(each)).reshape(len(values), -1)
        atol = 2e-4 if name == "city" else 1e-6  # one more level has 1e-4 on top
        torch.testing.assert_close(log_px.logsumexp(0) + measure, mixture.log_density(hidden), rtol=0, atol=atol)


def test_planted_classes_are_found():
    frame, c = planted(900, seed=3)
    data = pv.load_data(frame, columns=KINDS)
    torch.manual_seed(0)
    mixture = ColumnsMixture(3, data.schema)
    pv.fit_em(mixture, data.train, num_starts=2, seed=0)
    label, truth = mixture.predict(data.train), torch.from_numpy(c)[data.train.index]
    best = max(
        float((torch.tensor(order)[label] == truth).double().mean()) for order in itertools.permutations(range(3))
    )
    assert best > 0.99
    torch.testing.assert_close(mixture.weights.sort().values, torch.tensor([0.2, 0.3, 0.5]).double(), atol=0.05, rtol=0)


def test_draws_have_the_density_and_the_types_of_the_table(data, fitted):
    mixture = fitted[0]
    x = mixture.sample(20_000, seed=0)
    names = [column.name for column in data.schema.modelled]
    frame = data.preparation.to_frame(x)
    assert list(frame.columns) == names
    assert (frame["count"] == frame["count"].round()).all()
    assert (frame["count"] >= 0).all()
    assert set(frame["kind"]) == {"a", "b", "c"}
    assert frame["positive"].min() > 0
    assert str(frame["day"].dtype).startswith("datetime64")
    means = (mixture.weights[:, None] * mixture.means).sum(0)
    for name in ("real", "count", "step", "day"):
        at = names.index(name)
        error = x[:, at].double().std() / math.sqrt(len(x))
        assert abs(x[:, at].double().mean() - means[at]) < 4.5 * error
    at = names.index("kind")
    (probs,) = [
        family.logits[:, j].softmax(-1).detach()
        for i, family in enumerate(mixture.families)
        for j, column in enumerate(mixture.columns_of(i).tolist())
        if column == at and isinstance(family, LevelColumns)
    ]
    expected = (mixture.weights[:, None] * probs[:, :3]).sum(0)
    found = torch.bincount(x[:, at].long(), minlength=3) / len(x)
    torch.testing.assert_close(found.double(), expected, atol=0.015, rtol=0)
    at = names.index("revenue")
    zero = next(family for family in mixture.families if isinstance(family, ZeroOrLogNormalColumns))
    share = float(mixture.weights @ zero.zero_logits.detach().sigmoid()[:, 0])
    assert float((x[:, at] == 0).double().mean()) == pytest.approx(share, abs=0.015)


def test_it_is_saved_with_its_columns(data, fitted, tmp_path):
    pv.save(fitted[0], tmp_path)
    loaded = pv.load(tmp_path)
    assert torch.equal(loaded.log_prob(data.test), fitted[0].log_prob(data.test))
    assert repr(loaded) == repr(fitted[0])


def test_gradients_go_the_same_way_as_em(data, fitted):
    """Fisher's identity: at EM's maximum the gradient of log p(x) + log prior is zero."""
    mixture = ColumnsMixture(2, data.schema)
    pv.fit_em(mixture, data.train, epochs=3000, tolerance=1e-13, seed=0)
    total = mixture.log_density(coded(data.train)).sum() + mixture.log_prior()
    total.backward()
    largest = max(float(value.grad.abs().max()) for value in mixture.parameters())
    assert largest < 0.02 * len(data.train) ** 0.5


def test_online_em_comes_near(data):
    batched, whole = (ColumnsMixture(3, data.schema) for _ in range(2))
    pv.fit_em(batched, data.train, batch_size=64, epochs=20, seed=0)
    pv.fit_em(whole, data.train, seed=0)
    assert batched.log_prob(data.train).mean() > whole.log_prob(data.train).mean() - 0.3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ColumnsMixture(0, real_schema(2)), "one component or more"),
        (lambda: ColumnsMixture(2, real_schema(2), prior_rows=-1.0), "must not be negative"),
        (lambda: ColumnsMixture(2, Schema([Column("c", "real")])), "coding='columns'"),
        (lambda: pv.fit_em(ColumnsMixture(2, real_schema(2)), torch.zeros(5, 3)), "2 features"),
        (
            lambda: pv.fit_em(
                ColumnsMixture(2, Schema([Column("n", "count")], coding="columns")), torch.full((9, 1), 0.5)
            ),
            "outside the support",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_every_verb_takes_rows_with_gaps(data, fitted):
    """The program's model and guide with a mask, against `log_prob` of the split."""
    mixture, expected = fitted[0], fitted[0].log_prob(data.test)
    assert data.test.mask is not None
    for found in (pv.exact_evidence(mixture, data.test), pv.log_evidence(mixture, data.test, num_samples=20)):
        torch.testing.assert_close(found.log_px, expected, rtol=0, atol=1e-10)
    (row,) = pv.compare({"columns": mixture}, data.test)
    assert row["log_px"] == pytest.approx(float(expected.mean()))


def test_a_fit_by_gradients_counts_what_was_observed(data):
    by_em, by_gradients = ColumnsMixture(2, data.schema), ColumnsMixture(2, data.schema)
    pv.fit_em(by_em, data.train, seed=0)
    result = pv.fit(by_gradients, data.train, epochs=60, learning_rate=0.03, batch_size=120, seed=0)
    assert result.history[-1]["elbo"] == pytest.approx(by_em.elbo(data.train).mean().item(), abs=0.1)


def test_the_number_of_components_is_chosen_by_cross_validation(data):
    found = pv.select_mixture(data, components=(1, 3), num_starts=2)
    assert isinstance(found.mixture, ColumnsMixture)
    assert [score.num_components for score in found.scores] == [1, 3]
    assert found.best.num_components == 3
    with pytest.raises(InputError, match="give the data set"):
        pv.select_mixture(data.train)
