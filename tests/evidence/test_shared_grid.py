"""The grid that rows share: against closed forms, quadrature, and the grid of each row."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.evidence import exact_log_px, shared_grid
from pyro_vae.evidence.grid_quadrature import AdaptiveGrid
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_inputs import checked_batch
from pyro_vae.programs.shared_latents import SharedLatents


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def rows_of_their_own(monkeypatch):
    """How many rows were given to a grid of their own; in these tests rows share one even where a product is none."""
    counted = []
    integrate = shared_grid.AdaptiveGrid.integrate

    def counting(self):
        counted.append(self.num_rows)
        return integrate(self)

    monkeypatch.setattr(shared_grid.AdaptiveGrid, "integrate", counting)
    monkeypatch.setattr(exact_log_px, "_quadratic", lambda joint: None)
    return counted


def grid_of_each_row(monkeypatch, program, x, **inputs):
    with monkeypatch.context() as patch:
        patch.setattr(SharedLatents, "find", classmethod(lambda cls, *args: None))
        return pv.exact_evidence(program, x, **inputs).log_px


def drawn_alike(model):
    """A guide that draws the model's latents from their prior."""
    return lambda x: pyro.poutine.block(model, expose_fn=lambda m: m["type"] == "sample" and not m["is_observed"])(x)


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-2, 1e-3])
@pytest.mark.parametrize(("K", "sites"), [(1, 1), (2, 1), (2, 2)])
def test_linear_gaussian_of_any_width(double, rows_of_their_own, K, sites, noise):
    """Posteriors down to a thousandth of the prior's width, which few of the first cells meet."""
    program = LinearGaussian(K, 6, sites=sites, loc=2.0, scale=0.7, noise=noise)
    x = program.rows(37)
    found = pv.exact_evidence(program, x)
    assert (found.method, rows_of_their_own) == ("grid", [])
    torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-4)
    assert (found.error < shared_grid.MAX_CHANGE).all()  # by the last halving: far above the error itself


def test_batches_and_memory_do_not_matter(double, rows_of_their_own, monkeypatch):
    program = LinearGaussian(2, 6, noise=0.05)
    x = program.rows(50)
    monkeypatch.setattr(exact_log_px, "MAX_ROWS_PER_GRID", 16)  # the last batch has two rows
    for memory_mib in (128, 2):
        found = pv.exact_evidence(program, x, memory_mib=memory_mib)
        torch.testing.assert_close(found.log_px, program.exact(x), rtol=0, atol=1e-4)
    assert rows_of_their_own == []


def test_rows_with_gaps(double, rows_of_their_own):
    """A linear-Gaussian VAE, whose observed values are normal too; one row has no gap, and one only gaps."""
    net = torch.nn.Linear(2, 5)
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(10, 8, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(net, 0.3), guide)
    x, mask = torch.randn(9, 5), torch.rand(9, 5) < 0.6
    mask[0], mask[1] = True, False
    found = pv.exact_evidence(vae, Split("given", torch.where(mask, x, torch.nan), Measure()))
    covariance = (net.weight @ net.weight.T + 0.09 * torch.eye(5)).detach()
    for row, seen, log_px in zip(x, mask, found.log_px, strict=True):
        known = 0.0
        if seen.any():
            normal = dist.MultivariateNormal(net.bias.detach()[seen], covariance[seen][:, seen])
            known = float(normal.log_prob(row[seen]))
        assert abs(float(log_px) - known) < 1e-4
    assert (found.method, rows_of_their_own) == ("grid", [])


def test_modes_far_apart(double, rows_of_their_own):
    """x = |z| + noise: two equal modes, of which the guide knows one; the prior holds both."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), 0.02).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 0.02).to_event(1))

    x = torch.tensor([[1.0, 3.0], [0.5, 2.0], [4.0, 4.0]])
    found = pv.exact_evidence(pv.Program(model, guide), x)
    known = dist.Normal(0.0, math.hypot(1, 0.02)).log_prob(x).sum(-1) + 2 * math.log(2)
    assert rows_of_their_own == []
    torch.testing.assert_close(found.log_px, known, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_box_that_is_too_small_grows(double, rows_of_their_own, monkeypatch, scale):
    """A first box that ends within the prior, and rows far outside of it, under a guide that knows nothing of them."""
    monkeypatch.setattr(shared_grid, "BOX_QUANTILES", (0.4, 0.6))

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 0.01).to_event(1))

    x = torch.tensor([[0.0, 0.0], [5.0, -5.0], [9.0, 9.0], [0.0, 30.0]])
    found = pv.exact_evidence(pv.Program(model, guide), x)
    known = dist.Normal(0.0, math.hypot(1, scale)).log_prob(x).sum(-1)
    assert rows_of_their_own == []
    torch.testing.assert_close(found.log_px, known, rtol=0, atol=1e-4)


def student_t(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.StudentT(3.0, 0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def gamma(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Gamma(1.5, 0.5))
        pyro.sample("x", dist.Poisson(z), obs=x[:, 0])


def beta(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Beta(0.7, 2.0))
        pyro.sample("x", dist.Binomial(20, z), obs=x[:, 0])


KNOWN = {
    student_t: (lambda z, x: scipy.stats.t.pdf(z, 3) * scipy.stats.norm.pdf(x, z, 0.5), (-math.inf, math.inf)),
    gamma: (lambda z, x: scipy.stats.gamma.pdf(z, 1.5, scale=2) * scipy.stats.poisson.pmf(x, z), (0, math.inf)),
    beta: (lambda z, x: scipy.stats.beta.pdf(z, 0.7, 2) * scipy.stats.binom.pmf(x, 20, z), (0, 1)),
}


@pytest.mark.parametrize("model", KNOWN)
def test_priors_with_heavy_tails_or_bounds(double, rows_of_their_own, model):
    density, (low, high) = KNOWN[model]
    x = torch.arange(12.0)[:, None] * (5 if model is student_t else 1)
    found = pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
    assert (found.method, rows_of_their_own) == ("grid", [])
    for row, log_px in zip(x[:, 0].tolist(), found.log_px.tolist(), strict=True):
        edges = [low, row - 3, row, row + 3, high] if model is student_t else [low, high]
        pieces = [
            scipy.integrate.quad(density, start, end, args=(row,), epsabs=0, epsrel=1e-10, limit=400)[0]
            for start, end in itertools.pairwise(edges)
        ]
        assert abs(log_px - math.log(sum(pieces))) < 1e-4


@pytest.mark.parametrize("memory_mib", [128, 4])
def test_a_trained_vae_agrees_with_the_grid_of_each_row(rows_of_their_own, monkeypatch, memory_mib):
    data = pv.load_data("digits")
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 60, 64))
    vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 60, 4)))
    pv.fit(vae, data.train, epochs=5, learning_rate=5e-3, progress="none")
    x = data.valid.x[:100]
    found = pv.exact_evidence(vae, x, memory_mib=memory_mib)
    assert rows_of_their_own == []
    torch.testing.assert_close(found.log_px[:6], grid_of_each_row(monkeypatch, vae, x[:6]), rtol=0, atol=2e-4)


def of_label(x, labels):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(labels.float(), 1.0))
        pyro.sample("x", dist.Normal(z + 3 * labels, 0.5), obs=x[:, 0])


def standard_guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.0, 2.0))


@pytest.mark.parametrize("num_labels", [3, 20])
def test_rows_of_one_label_share_a_grid(double, rows_of_their_own, num_labels):
    """Where labels are about as many as rows, each row has a grid of its own."""
    labels = torch.arange(30) % num_labels
    x = torch.randn(30, 1) + 4 * labels[:, None]
    found = pv.exact_evidence(pv.Program(of_label, standard_guide), x, labels=labels)
    known = dist.Normal(4.0 * labels, math.sqrt(1.25)).log_prob(x[:, 0])
    torch.testing.assert_close(found.log_px, known, rtol=0, atol=1e-4)
    assert sum(rows_of_their_own) == (0 if num_labels == 3 else 30)


def test_a_likelihood_that_looks_at_x_has_a_grid_for_each_row(double, rows_of_their_own):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            before = torch.cat([torch.zeros(len(x), 1), x[:, :-1]], 1)
            pyro.sample("x", dist.Normal(z[:, None] + 0.5 * before, 1.0).to_event(1), obs=x)

    x = torch.randn(5, 3)
    residual = x - 0.5 * torch.cat([torch.zeros(5, 1), x[:, :-1]], 1)
    known = dist.MultivariateNormal(torch.zeros(3), torch.ones(3, 3) + torch.eye(3)).log_prob(residual)
    found = pv.exact_evidence(pv.Program(model, drawn_alike(model)), x)
    assert rows_of_their_own == [5]
    torch.testing.assert_close(found.log_px, known, rtol=0, atol=1e-4)


def test_a_spike_that_the_shared_grid_misses_is_found_by_the_guide(double, rows_of_their_own):
    """The guide's draws exceed the shared grid, the row is given its own, and where that misses it too it is said."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            near = (z - 0.3137).abs() < 2e-6
            pyro.sample("x", dist.Normal(torch.where(near, 0.0, 1.0), 0.05), obs=x[:, 0])

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.3137, 1e-6))

    with pytest.raises(pv.InputError, match="guide's draws find more probability"):
        pv.exact_evidence(pv.Program(model, guide), torch.zeros(2, 1))
    assert rows_of_their_own == [2]


def test_a_rows_first_box_is_around_the_draws_of_guide_and_prior():
    guide = pv.guides.MeanFieldNormal(torch.nn.Linear(3, 4))
    with torch.no_grad():
        guide.net.weight.zero_()
        guide.net.bias.copy_(torch.tensor([2.0, -1.0, 0.0, 0.0]))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 3)), guide)
    batch = checked_batch(vae, torch.ones(4, 3), {})
    with torch.no_grad():
        grid = AdaptiveGrid(vae, find_plates(vae, batch), batch, 1000)
    spread = float(torch.nn.functional.softplus(torch.tensor(0.0)))
    assert (grid.low <= torch.tensor([0.0, -1.0]) - 3 * spread).all()  # of the prior around 0, of the guide around −1
    assert (grid.low + grid.width >= torch.tensor([2.0, 0.0]) + 3 * spread).all()
    assert (grid.width < 40).all()


def test_a_doubled_box_has_the_same_centre():
    box = shared_grid._Box(torch.tensor([-1.0, 3.0]), torch.tensor([2.0, 0.5]))
    twice = box.doubled()
    assert torch.equal(twice.width, 2 * box.width)
    assert torch.equal(twice.low + twice.width / 2, box.low + box.width / 2)
