"""Pyro's autoguides and easyguides over the rows' latents: fitted with all rows at once, refused in minibatches, and
the evidence of what they are fitted to against its closed form."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide, easy_guide
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import PointMassError, RowsError

N, WEIGHT, SCALE = 50, torch.tensor([[1.0, 0.5, -1.0], [0.0, 1.0, 0.7]]), 0.5
FIT = {"epochs": 400, "learning_rate": 0.05}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, SCALE).to_event(1), obs=x)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(N, 3, generator=generator)
    return torch.randn(N, 2, generator=generator) @ WEIGHT + SCALE * noise


def log_px(x):
    """Each row's log p(x), from its normal."""
    covariance = WEIGHT.T @ WEIGHT + SCALE**2 * torch.eye(3)
    return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).double()


def posterior_means(x):
    """Each row's E[z | x]."""
    precision = WEIGHT @ WEIGHT.T / SCALE**2 + torch.eye(2)
    return torch.linalg.solve(precision, WEIGHT @ x.T / SCALE**2).T


def easy(model):
    @easy_guide(model)
    def guide(self, x):
        group = self.group("z")
        loc = pyro.param("loc", torch.zeros(len(x), 2))
        scale = pyro.param("scale", torch.ones(len(x), 2), constraint=dist.constraints.positive)
        with self.plate("data", len(x), dim=-1):
            group.sample("z_all", dist.Normal(loc, scale).to_event(1))

    return guide


def by_hand(model):
    """No class of Pyro's: a parameter for each row of the batch at hand."""

    def guide(x):
        loc = pyro.param("loc", torch.zeros(len(x), 2))
        scale = pyro.param("scale", torch.ones(len(x), 2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return guide


def in_a_list(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    return guide


BY_ROW = {"AutoNormal": AutoNormal, "AutoGuideList": in_a_list, "easyguide": easy, "parameters": by_hand}
JOINT = {
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal,
    "AutoIAFNormal": AutoIAFNormal,
}
ALL = {**BY_ROW, **JOINT, "AutoDelta": AutoDelta}


@pytest.mark.parametrize("name", BY_ROW)
def test_a_guide_that_factorizes_over_rows(name, rows):
    """Every number is that of the closed form, row by row: the guide is of each row's own posterior."""
    program = pv.Program(model, BY_ROW[name](model))
    fitted = pv.fit(program, rows, batch_size=N, **FIT)
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    found = pv.log_evidence(program, rows, num_samples=3000)
    assert (found.log_px - log_px(rows)).abs().max() < 0.15
    assert abs(float((found.log_px - log_px(rows)).mean())) < 0.02
    assert (found.elbo <= log_px(rows) + 0.05).all()
    assert (program.encode(rows) - posterior_means(rows)).abs().max() < 0.2
    assert program.reconstruct(rows).shape == rows.shape
    assert program.sample(7).shape == (7, 3)
    assert pv.diagnostics.measure_latent_usage(program, rows).active.all()


@pytest.mark.parametrize("name", JOINT)
def test_a_guide_that_draws_all_rows_together(name, rows):
    """It is fitted; a row has no weight of its own, and what needs no guide gives the closed form."""
    program = pv.Program(model, JOINT[name](model))
    fitted = pv.fit(program, rows, batch_size=N, epochs=40, learning_rate=0.03)
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    assert program.encode(rows).shape == (N, 2)
    assert program.reconstruct(rows).shape == rows.shape
    for verb in (pv.log_evidence, pv.diagnostics.measure_latent_usage):
        with pytest.raises(RowsError, match="draws the latents of all rows together"):
            verb(program, rows)


@pytest.mark.parametrize("name", ALL)
def test_what_needs_no_guide(name, rows):
    """Also for other rows than those that the guide is of, and before the guide has run."""
    program = pv.Program(model, ALL[name](model))
    exact = log_px(rows)
    assert (pv.exact_evidence(program, rows[:20]).log_px - exact[:20]).abs().max() < 1e-4
    pv.fit(program, rows, batch_size=N, epochs=2)
    assert (pv.exact_evidence(program, rows).log_px - exact).abs().max() < 1e-4
    assert (pv.laplace_approximation(program, rows[:20]).log_px - exact[:20]).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["AutoNormal", "AutoIAFNormal", "parameters"])
def test_draws_that_need_no_guide(name, rows):
    program, exact = pv.Program(model, ALL[name](model)), log_px(rows)
    assert (pv.auto_evidence(program, rows[:20], exact=False).log_px - exact[:20]).abs().max() < 0.05
    annealed = pv.annealed_evidence(program, rows[:3], 60, num_chains=8, start="prior").log_px
    assert (annealed - exact[:3]).abs().max() < 0.5


def test_bounds_on_both_sides_without_the_guide(rows):
    program = pv.Program(model, AutoIAFNormal(model))
    pv.fit(program, rows, batch_size=N, epochs=2)
    found = pv.bidirectional(program, 4, 60, start="prior")
    exact = log_px(found.x)
    assert (found.lower.log_px - exact).abs().max() < 0.5
    assert (found.upper.log_px - exact).abs().max() < 0.5


@pytest.mark.parametrize("name", ALL)
def test_minibatches_are_refused_and_leave_nothing_behind(name, rows):
    program = pv.Program(model, ALL[name](model))
    for refused in ({"batch_size": 10}, {"batch_size": N, "valid": rows[:5]}):
        with pytest.raises(RowsError, match=r"batch_size=len\(x\)(.|\n)*per-row guides"):
            pv.fit(program, rows, epochs=1, **refused)
    pv.fit(program, rows, epochs=1, batch_size=N)  # the guide is of all rows, as if nothing had been asked before


@pytest.mark.parametrize("name", ALL)
def test_another_number_of_rows_is_refused_in_words(name, rows):
    program = pv.Program(model, ALL[name](model))
    pv.fit(program, rows, epochs=1, batch_size=N)
    verbs = (
        program.encode,
        program.reconstruct,
        lambda x: pv.log_evidence(program, x, 10),
        lambda x: pv.fit(program, x),
    )
    for verb in verbs:
        with pytest.raises(RowsError, match="20"):
            verb(rows[:20])


def test_one_row_is_a_number_of_rows_too(rows):
    """A guide of one row broadcasts, and would encode every row as the first."""
    program = pv.Program(model, AutoNormal(model))
    pv.fit(program, rows[:1], epochs=2)
    assert program.encode(rows[:1]).shape == (1, 2)
    with pytest.raises(RowsError, match="1 rows, and x has 20"):
        program.encode(rows[:20])


def test_a_point_mass_is_one_still(rows):
    program = pv.Program(model, AutoDelta(model))
    pv.fit(program, rows, batch_size=N, epochs=2)
    with pytest.raises(PointMassError):
        pv.log_evidence(program, rows)


def test_a_global_latent_is_fitted_in_minibatches(rows):
    def with_global(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 5.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    for guide in (AutoNormal(with_global), AutoDiagonalNormal(with_global), AutoIAFNormal(with_global)):
        program = pv.Program(with_global, guide)
        pv.fit(program, rows, batch_size=10, epochs=2)
        with pytest.raises(RowsError, match="loc lies outside"):
            pv.log_evidence(program, rows)


def test_an_autoguide_takes_what_the_model_takes(rows):
    def labelled(x, labels, exposure=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            assert labels.shape == exposure.shape == (len(x),)
            pyro.sample("x", dist.Normal(z @ WEIGHT + labels[:, None], SCALE).to_event(1), obs=x)

    split = pv.Split("train", rows, labels=torch.zeros(N), inputs={"exposure": torch.ones(N)})
    program = pv.Program(labelled, AutoNormal(labelled))
    pv.fit(program, split, batch_size=N, **FIT)
    assert abs(float((pv.log_evidence(program, split).log_px - log_px(rows)).mean())) < 0.02


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda program: pickle.loads(pickle.dumps(program))])
@pytest.mark.parametrize("fitted", [False, True])
def test_an_autoguide_travels(travel, fitted, rows):
    """Pyro's copies lose the autoguide's model, and so does the original."""
    program = pv.Program(model, AutoNormal(model))
    if fitted:
        pv.fit(program, rows, batch_size=N, epochs=3)
    other = travel(program)
    for each in (program, other):
        pv.fit(each, rows, batch_size=N, epochs=2, seed=1)
    assert torch.equal(program.encode(rows), other.encode(rows))


def test_a_network_with_random_weights(rows):
    from pyro.nn import PyroModule, PyroSample

    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(self, x):
            mean = self.linear(x[:, :2])[:, 0]
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, SCALE), obs=x[:, 2])

    regression = Regression()
    program = pv.Program(regression, AutoDiagonalNormal(regression))
    fitted = pv.fit(program, rows, batch_size=10, epochs=20, learning_rate=0.03)
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    with pytest.raises(RowsError, match="global latent"):
        pv.log_evidence(program, rows)


def test_a_saved_autoguide_is_loaded_before_it_has_run(rows, tmp_path):
    """Its parameters do not exist yet: they wait for its first run."""
    program = pv.Program(model, AutoNormal(model))
    pv.fit(program, rows, batch_size=N, epochs=5)
    pv.save(program, tmp_path)
    build = lambda: pv.Program(model, AutoNormal(model))  # noqa: E731
    again = pv.load(tmp_path, build=build)
    assert torch.equal(again.encode(rows), program.encode(rows))
    found, known = (pv.log_evidence(each, rows, 50).log_px for each in (again, program))
    assert torch.equal(found, known)
    with pytest.raises(RowsError, match="another number of rows"):
        pv.load(tmp_path, build=build).encode(rows[:20])


def test_an_easyguide_class(rows):
    class Guide(EasyGuide):
        def guide(self, x):
            group = self.group("z")
            loc = pyro.param("loc", torch.zeros(len(x), 2))
            with self.plate("data", len(x), dim=-1):
                group.sample("z_all", dist.Normal(loc, 0.5).to_event(1))

    program = pv.Program(model, Guide(model))
    pv.fit(program, rows, batch_size=N, **FIT)
    assert (program.encode(rows) - posterior_means(rows)).abs().max() < 0.2
