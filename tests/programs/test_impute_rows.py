"""Missing values drawn given the observed ones: against conditional normals, quadrature, and sums over components."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import COV, LINEAR, Fixed, conditional_normal, drawn_rows, linear_vae, patterns
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.errors import ImputationWarning, InputError
from pyro_vae.evidence.impute_rows import impute_rows

M = 4000


@pytest.mark.parametrize("name", LINEAR)
def test_draws_are_those_of_the_conditional_normal(name):
    """Means and covariances of every row to five standard errors, whatever the guide is; z's of S points are shared."""
    x = patterns()
    filled = impute_rows(LINEAR[name](), x, M, num_samples=4000, seed=1)
    for i, row in enumerate(x[1:], start=1):
        mean, cov, m = conditional_normal(row)
        drawn = filled.values[:, i, m].float()
        ess = M if filled.ess[i].isnan() else 1 / (1 / M + 1 / float(filled.ess[i]))
        assert ((drawn.mean(0) - mean).abs() < 5 * (cov.diagonal() / ess).sqrt()).all(), (name, i)
        spread = (cov.square() + torch.outer(cov.diagonal(), cov.diagonal())).sqrt()
        assert ((drawn.T.cov().reshape(cov.shape) - cov).abs() < 6 * spread / math.sqrt(ess)).all(), (name, i)
    assert not filled.is_bad.any()
    assert filled.stage[0] == "complete"
    assert torch.equal(filled.values[:, ~x.isnan()].float(), x[~x.isnan()].expand(M, -1))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("method", ["mean", "mode"])
def test_means_are_those_of_the_conditional_normal(name, method):
    x = patterns()
    filled = impute_rows(LINEAR[name](), x, method=method, num_samples=4000)
    assert filled.values.shape == (1, 16, 4)
    for i, row in enumerate(x[1:], start=1):
        mean, cov, m = conditional_normal(row)
        error = 1e-5 if filled.ess[i].isnan() else 5 / math.sqrt(float(filled.ess[i]))
        assert ((filled.values[0, i, m].float() - mean).abs() <= error * cov.diagonal().sqrt()).all(), (name, i)


def test_intervals_cover_what_was_left_out():
    """90 % of the values lie in 90 % intervals of the draws at the true parameters, within four binomial errors."""
    x = drawn_rows(600, seed=3)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(4)) < 0.3
    drawn = impute_rows(linear_vae(), torch.where(missing, math.nan, x), 199).values
    low, high = drawn.kthvalue(10, 0).values, drawn.kthvalue(190, 0).values  # of 200 places the 10th to the 190th
    inside = ((x > low) & (x < high))[missing].double().mean()
    assert abs(float(inside) - 0.9) < 4 * math.sqrt(0.9 * 0.1 / int(missing.sum()))


def mixed_schema():
    return Schema(
        (
            Column("bit", "binary", levels=("no", "yes")),
            Column("count", "count", low=0.0, high=9.0),
            Column("level", "categorical", levels=("a", "b", "c")),
            Column("real", "real"),
        ),
        coding="columns",
    )


def mixed_vae(guide=None):
    torch.manual_seed(0)
    schema = mixed_schema()
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, pv.likelihoods.Columns.num_outputs(schema)))
    with torch.no_grad():
        net[2].weight.mul_(4)
    return pv.VAE(pv.priors.StandardNormal(1), pv.likelihoods.Columns(net, schema), guide or Fixed(dim=1))


def on_grid(vae, row):
    """Points of z, their weights given the observed values by quadrature, and the likelihood there."""
    z = torch.linspace(-8, 8, 4001)[:, None]
    mask = ~row.isnan()
    log_joint = vae.likelihood.masked(z, mask.expand(len(z), -1)).log_prob(row.nan_to_num().expand(len(z), -1))
    weights = (log_joint.double() - z[:, 0].double().square() / 2).softmax(0)
    return z, weights, vae.likelihood(z)


MIXED_ROWS = torch.tensor(
    [
        [1.0, math.nan, math.nan, math.nan],
        [math.nan, 3.0, math.nan, 1.0],
        [math.nan, math.nan, 2.0, -1.0],
        [math.nan, 0.0, 1.0, math.nan],
        [math.nan, math.nan, math.nan, math.nan],
    ]
)


@torch.no_grad()
@pytest.mark.parametrize("guide", ["wide", "shifted and narrow"])
def test_bits_counts_and_levels_have_their_conditional_probabilities(guide):
    vae = mixed_vae({"wide": Fixed(dim=1), "shifted and narrow": Fixed(-3.0, 0.1, dim=1)}[guide])
    filled = impute_rows(vae, MIXED_ROWS, M, num_samples=800)
    modes = means = None
    if guide == "wide":  # the weights of draws, modes and means are the same
        modes = impute_rows(vae, MIXED_ROWS, method="mode", num_samples=800).values[0]
        means = impute_rows(vae, MIXED_ROWS, method="mean", num_samples=800).values[0]
    for i, row in enumerate(MIXED_ROWS):
        z, weights, likelihood = on_grid(vae, row)
        bound = 4.5 * 0.5 / math.sqrt(1 / (1 / M + 1 / float(filled.ess[i])))
        for column, values in ((0, 2), (1, 6), (2, 3)):
            if not row[column].isnan():
                continue
            at = torch.zeros(values, 1, 4)
            at[:, 0, column] = torch.arange(values)
            probs = (likelihood.each_log_prob(at.expand(-1, len(z), -1))[..., column].exp() * weights).sum(1)
            found = (filled.values[:, i, column, None] == torch.arange(values)).double().mean(0)
            assert ((found - probs).abs() < bound).all(), (i, column, found, probs)
            if means is not None and column != 1 and float(probs.sort().values.diff()[-1]) > 0.05:
                assert modes[i, column] == means[i, column] == probs.argmax()
        for column in (1, 3):
            if means is not None and row[column].isnan():
                mean = float((likelihood.mean[:, column] * weights).sum())
                second = float(((likelihood.variance + likelihood.mean.square())[:, column] * weights).sum())
                error = 5 * math.sqrt((second - mean**2) / float(filled.ess[i]))
                assert abs(float(means[i, column]) - mean) < error
                assert means[i, column] == modes[i, column]


@torch.no_grad()
def test_masked_evidence_is_the_marginal():
    """log p of the observed values equals the quadrature over z that the conditional probabilities divide by."""
    vae, z = mixed_vae(), torch.linspace(-8, 8, 4001)[:, None]
    split = Split("valid", MIXED_ROWS, Measure(given=True))
    split.__dict__["mask"] = ~MIXED_ROWS.isnan()
    split.__dict__["stored"] = MIXED_ROWS.nan_to_num()
    found = pv.auto_evidence(vae, split, 4000, exact=False)
    for i, row in enumerate(MIXED_ROWS):
        likelihood = vae.likelihood.masked(z, (~row.isnan()).expand(len(z), -1))
        log_joint = likelihood.log_prob(row.nan_to_num().expand(len(z), -1)).double() - z[:, 0].double().square() / 2
        exact = float(log_joint.logsumexp(0)) + math.log(16 / 4000 / math.sqrt(2 * math.pi))
        assert abs(float(found.log_px[i]) - exact) < 5 * float(found.mc_se[i]) + 1e-3


def two_normals(covariance):
    model = pv.GaussianMixture(2, 3, covariance)
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    full = factor @ factor.mT + 0.3 * torch.eye(3, dtype=torch.float64)
    covariances = {"full": full, "diagonal": full.diagonal(dim1=1, dim2=2)}[covariance]
    model.set_parameters(torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 1, 2], [2, -1, 0.0]]).double(), covariances)
    return model, full if covariance == "full" else covariances.diag_embed()


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_mixture_of_normals_draws_from_its_conditional_mixture(covariance):
    model, full = two_normals(covariance)
    x = torch.tensor([[0.5, math.nan, math.nan], [math.nan, 0.0, 1.0], [math.nan] * 3]).double()
    filled = impute_rows(model, x, 20_000)
    means = impute_rows(model, x, method="mean").values[0]
    assert set(filled.stage) == {"exact"}
    for i, row in enumerate(x):
        log_weights, moments = model.weights.log(), []
        for c in range(2):
            mean, cov, m = conditional_normal(row, model.means[c], full[c])
            moments.append((mean, cov + torch.outer(mean, mean)))
            if (~m).any():
                normal = torch.distributions.MultivariateNormal(model.means[c][~m], full[c][~m][:, ~m])
                log_weights = log_weights + torch.eye(2)[c] * normal.log_prob(row[~m])
        shares = log_weights.softmax(0).double()
        mean = sum(share * first for share, (first, _) in zip(shares, moments, strict=True))
        second = sum(share * square for share, (_, square) in zip(shares, moments, strict=True))
        torch.testing.assert_close(means[i, m], mean, rtol=1e-6, atol=1e-6)
        drawn = filled.values[:, i, m]
        error = (second.diagonal() - mean.square()).sqrt() / math.sqrt(20_000)
        assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
        products = drawn[:, :, None] * drawn[:, None]
        assert ((products.mean(0) - second).abs() < 5 * products.std(0) / math.sqrt(20_000)).all()


def test_a_mixture_of_bits_draws_by_its_responsibilities():
    model = pv.BernoulliMixture(2, 3)
    x = torch.tensor([[1.0, math.nan, math.nan], [math.nan, 0.0, 1.0]])
    filled, means = impute_rows(model, x, 20_000).values, impute_rows(model, x, method="mean").values[0]
    p = model.means
    for i, row in enumerate(x):
        m = row.isnan()
        known = torch.where(row[~m] > 0.5, p[:, ~m], 1 - p[:, ~m]).prod(1) * model.weights
        expected = (known / known.sum()) @ p[:, m]
        torch.testing.assert_close(means[i, m].double(), expected)
        assert ((filled[:, i, m].double().mean(0) - expected).abs() < 5 * 0.5 / math.sqrt(20_000)).all()
    assert torch.equal(impute_rows(model, x, method="mode").values[0], means.round())


LOCS = torch.tensor([[0.0, 0.0], [2.0, 3.0], [-2.0, 1.0]])


def labelled():
    """A discrete latent that the guide draws, with the wrong probabilities, and two values."""

    def model(x, mask=None):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            p = dist.Normal(LOCS[c], 1.0)
            pyro.sample("x", (p if mask is None else p.mask(mask)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.tensor([0.05, 0.05, 0.9]).expand(len(x), -1)))

    return pv.Program(model, guide)


def test_discrete_latents_of_the_guide_are_weighed():
    x = torch.tensor([[1.5, math.nan], [math.nan, 0.0], [math.nan, math.nan]])
    filled = impute_rows(labelled(), x, M, num_samples=4000)
    means = impute_rows(labelled(), x, method="mean", num_samples=2000).values[0]
    assert set(filled.stage) == {"guide and prior"}
    assert not filled.is_bad.any()
    for i, row in enumerate(x):
        m = row.isnan()
        log_px = dist.Normal(LOCS[:, ~m], 1.0).log_prob(row[~m]).sum(1)
        shares = (torch.tensor([0.5, 0.3, 0.2]).log() + log_px).softmax(0)
        mean = shares @ LOCS[:, m]
        spread = (1 + shares @ LOCS[:, m].square() - mean.square()).sqrt()
        error = 5 * spread * math.sqrt(1 / M + 1 / float(filled.ess[i]))
        assert ((filled.values[:, i, m].mean(0) - mean).abs() < error).all()
        assert ((means[i, m] - mean).abs() < error).all()


def test_draws_depend_on_the_seed_alone():
    x, vae = patterns(), linear_vae()
    first, again = (impute_rows(vae, x, 3, seed=5, memory_mib=mib).values for mib in (64, 64))
    assert torch.equal(first, again)
    assert not torch.equal(first, impute_rows(vae, x, 3, seed=6).values)
    assert not torch.equal(first[0], first[1])


def test_a_complete_table_comes_back():
    x = drawn_rows(5)
    filled = impute_rows(linear_vae(), x, 2)
    assert torch.equal(filled.values, x.expand(2, -1, -1))
    assert set(filled.stage) == {"complete"}


def correlated(x, mask=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        p = dist.MultivariateNormal(torch.zeros(4), COV)
        pyro.sample("x", p if mask is None else p.mask(mask.all(1)), obs=x + 0 * z.sum())


def reading(x, mask=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        first = pyro.sample("a", dist.Normal(z, 1.0).mask(mask[:, :1]).to_event(1), obs=x[:, :1])
        pyro.sample("b", dist.Normal(first.expand(-1, 3), 1.0).mask(mask[:, 1:]).to_event(1), obs=x[:, 1:])


def permuted(x, mask=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x), 4]).mask(mask).to_event(1), obs=x.flip(1))


def without_mask(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x), 4]).to_event(1), obs=x)


def enumerated(x, mask=None):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        p = dist.Normal(z + c.float()[..., None], 1.0)
        pyro.sample("x", (p if mask is None else p.mask(mask)).to_event(1), obs=x)


def one_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 1]).to_event(1))


def two_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 2]).to_event(1))


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (correlated, two_latents, "not independent given the latents|do not observe the columns"),
        (reading, one_latent, "reads the values that are missing"),
        (permuted, one_latent, "do not observe the columns of x in their order"),
        (without_mask, one_latent, "takes no mask"),
        (enumerated, one_latent, "c is summed out"),
    ],
)
def test_programs_whose_missing_values_cannot_be_drawn_are_refused(model, guide, message):
    with pytest.raises(InputError, match=message):
        impute_rows(pv.Program(model, guide), patterns())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "median"}, "no method called 'median'"),
        ({"method": "mean", "num_imputations": 3}, "several imputations are draws"),
        ({"num_imputations": 0}, "num_imputations must be one or more"),
        ({"num_samples": 10}, "num_samples must be 25 or more"),
        ({"memory_mib": 0}, "memory_mib must be positive"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        impute_rows(linear_vae(), patterns(), **arguments)


def positive_and_real(x, mask=None):
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("a", dist.Exponential(z.exp()).mask(mask[:, :1]).to_event(1), obs=x[:, :1])
        pyro.sample("b", dist.Normal(z, 1.0).mask(mask[:, 1:]).to_event(1), obs=x[:, 1:])


def test_rows_of_density_zero_stay_as_they_are():
    x = torch.tensor([[1.0, math.nan], [-0.5, math.nan], [math.nan, 0.0]])
    with pytest.warns(ImputationWarning, match=r"1 rows have density zero \(rows 1\)"):
        filled = impute_rows(pv.Program(positive_and_real, one_latent), x, 2)
    assert filled.stage[1] == "density zero"
    assert filled.values[:, 1, 1].isnan().all()
    assert filled.values[:, [0, 2]].isfinite().all()
    assert (filled.values[:, 2, 0] > 0).all()


def test_bad_weights_are_named():
    """A guide and a prior far from where the posterior of a discrete latent with many levels is."""

    def model(x, mask=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(1.0))
            p = dist.Normal(torch.stack([z, z], -1), 0.05)
            pyro.sample("x", (p if mask is None else p.mask(mask)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(torch.ones(len(x))))

    with pytest.warns(ImputationWarning, match=r"weights of 1 rows are bad.*\(rows 1\)"):
        filled = impute_rows(pv.Program(model, guide), torch.tensor([[1.0, math.nan], [11.0, math.nan]]), 2)
    assert filled.is_bad.tolist() == [False, True]
