"""A guide with a point mass at a continuous latent has no density: its numbers are refused, and what works does."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal

import pyro_vae as pv
from pyro_vae.comparison.comparison_table import Fitted, score_held_out
from pyro_vae.data import as_split
from pyro_vae.errors import InputError
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_inputs import Batch

X = torch.tensor([[0.0], [1.0]])
NOISE = 0.1
TRUTH = dist.Normal(0.0, math.hypot(1, NOISE)).log_prob(X[:, 0])


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], NOISE).to_event(1), obs=x)


def with_guide(fn, model=normal_model):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn(x[:, 0]))

    return pv.Program(model, guide)


def delta_program():
    """The posterior's mode, x / (1 + σ²): a MAP fit that has ended."""
    return with_guide(lambda x: dist.Delta(x / (1 + NOISE**2)))


POINTS = {
    "delta": dist.Delta,
    "masked": lambda x: dist.Delta(x).mask(True),
    "expanded": lambda x: dist.Delta(torch.tensor(0.5)).expand_by([len(x)]),
    "transformed": lambda x: dist.TransformedDistribution(dist.Delta(x), [transforms.AffineTransform(0.0, 2.0)]),
    "empirical": lambda x: dist.Empirical(torch.stack([x, x + 1], -1), torch.zeros(len(x), 2)),
}


@pytest.mark.parametrize("name", POINTS)
def test_point_masses_are_found_and_refused(name):
    """+0.465 before for the first, called a lower bound; the truth is −0.924."""
    program = with_guide(POINTS[name])
    assert find_plates(program, Batch(X)).point_masses == ("z",)
    with pytest.raises(pv.errors.PointMassError, match=r"one point of the continuous z .*laplace_approximation"):
        pv.log_evidence(program, X, 50)


REFUSED = {
    "prior share": lambda program: pv.log_evidence(program, X, 50, prior_share=0.5),
    "prior alone": lambda program: pv.log_evidence(program, X, 50, prior_share=1.0),
    "annealing from the guide": lambda program: pv.annealed_evidence(program, X, 10),
    "score": lambda program: pv.score(program, X, torch.zeros(20, 1)),
    "bidirectional": lambda program: pv.bidirectional(program, 5, 10, num_features=1),
    "arviz": lambda program: pv.to_inference_data(program, X, 10),
    "refine": lambda program: pv.refine(program, X, 2),
    "latent usage": lambda program: pv.diagnostics.measure_latent_usage(program, X),
    "aggregate": lambda program: pv.diagnostics.aggregate(program, X),
    "compare by is": lambda program: score_held_out(Fitted("own", "", program), as_split(X, "valid"), method="is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_estimators_that_need_the_guide_refuse(name):
    with pytest.raises(pv.errors.PointMassError, match="annealing from the prior"):
        REFUSED[name](delta_program())


def test_what_needs_no_density_of_the_guide_works():
    program = delta_program()
    exact, annealed = pv.exact_evidence(program, X), pv.annealed_evidence(program, X, 200, start="prior")
    torch.testing.assert_close(exact.log_px.float(), TRUTH, rtol=0, atol=1e-4)
    assert ((annealed.log_px.float() - TRUTH).abs() < 5 * annealed.mc_se + 0.02).all()
    laplace = pv.laplace_approximation(program, X)
    torch.testing.assert_close(laplace.log_px.float(), TRUTH, rtol=0, atol=1e-4)
    for method in ("auto", "laplace", "exact"):
        found = score_held_out(Fitted("own", "", program), as_split(X, "valid"), method=method)
        torch.testing.assert_close(found.log_px.log_px.float(), TRUTH, rtol=0, atol=0.02)
        assert found.bound is None
    (row,) = pv.compare({"own": program}, as_split(X, "valid"), method="laplace")
    assert (row.elbo, row.kl, row.bound, row.khat_bad) == (None, None, None, 0.0)
    assert row.log_px == pytest.approx(float(TRUTH.mean()), abs=0.01)
    assert pv.nuts(program, X, 50, warmup=50, num_chains=2).draws.shape == (2, 50, 2, 1)


def test_the_grid_works_without_the_guide():
    """A heavy-tailed prior, so that log p(x, z) is not quadratic; the guide's point is the box of no grid."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(5.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    found = pv.exact_evidence(with_guide(dist.Delta, model), X)
    z = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
    joint = dist.StudentT(5.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X.double())
    truth = (joint.exp().sum(1) * (z[1] - z[0])).log()
    assert found.method == "grid"
    torch.testing.assert_close(found.log_px, truth, rtol=0, atol=1e-3)


def test_a_delta_at_a_discrete_latent_is_none():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Delta(torch.ones(len(x))))

    found = pv.log_evidence(pv.Program(model, guide), X, 50)
    joint = math.log(0.5) + dist.Normal(1.0, 1.0).log_prob(X[:, 0])
    torch.testing.assert_close(found.log_px.float(), joint)


def test_a_delta_that_the_model_has_too_is_none():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("twice", dist.Delta(2 * z))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.5**0.5))
            pyro.sample("twice", dist.Delta(2 * z))

    truth = dist.Normal(0.0, 2**0.5).log_prob(X[:, 0])
    found = pv.log_evidence(pv.Program(model, guide), X, 50)
    torch.testing.assert_close(found.log_px.float(), truth, rtol=0, atol=1e-4)


def positive_model(x):
    """Two latents, one of them constrained."""
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], scale[..., None]).to_event(1), obs=x)


def fed_by(num_noise):
    """A guide whose deltas are functions of `num_noise` auxiliary normals for each row, with their Jacobian."""

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = pyro.sample(
                "noise", dist.Normal(torch.zeros(num_noise), 1.0).to_event(1), infer={"is_auxiliary": True}
            )
            noise = noise.expand(*noise.shape[:-1], 2) if num_noise == 1 else noise
            pyro.sample("scale", dist.Delta(noise[..., 0].exp(), log_density=-noise[..., 0]))
            pyro.sample("z", dist.Delta(noise[..., 1]))

    return pv.Program(positive_model, guide)


def test_auxiliary_draws_of_enough_dimensions_are_a_density():
    fed, plain = fed_by(2), pv.Program(positive_model, lambda x: poutine_guide(x))
    assert find_plates(fed, Batch(X)).point_masses == ()
    found, expected = (pv.log_evidence(program, X, 40_000) for program in (fed, plain))
    torch.testing.assert_close(found.log_px, expected.log_px, rtol=0, atol=0.03)
    assert find_plates(fed_by(1), Batch(X)).point_masses == ("scale", "z")


def test_auxiliary_draws_that_no_latent_is_a_function_of_are_refused():
    """Pyro subtracts their log density too: log p(x) came out 2 nats too high, and the ELBO above it."""

    def mixing(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("scale", dist.LogNormal(a, 1.0))
            pyro.sample("z", dist.Normal(a, 1.0))

    program = pv.Program(positive_model, mixing)
    for call in (lambda: pv.log_evidence(program, X, 5), lambda: pv.fit(program, X, epochs=1, progress="none")):
        with pytest.raises(InputError, match="the guide draws a, which the model lacks"):
            call()


def test_a_program_with_an_auxiliary_variable_in_the_model_is_a_program():
    """r(a) in the model makes the weights those of p(x, z, a): the estimate of log p(x) is unbiased again."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 2.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 2.0))
            pyro.sample("z", dist.Normal(x[:, 0] / 2 + 0.1 * a, 1.0))

    truth = dist.Normal(0.0, 2**0.5).log_prob(X[:, 0])
    found = pv.log_evidence(pv.Program(model, guide), X[:, :1], 20_000)
    torch.testing.assert_close(found.log_px.float(), truth, rtol=0, atol=0.05)


def poutine_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("scale", dist.LogNormal(torch.zeros(len(x)), 1.0))
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def global_model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale).expand([1]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (AutoDelta, ("mean", "scale")),
        (AutoNormal, ()),
        (AutoMultivariateNormal, ()),
        (AutoLowRankMultivariateNormal, ()),
    ],
)
def test_pyros_automatic_guides(kind, points):
    program = pv.Program(global_model, kind(global_model))
    assert find_plates(program, Batch(X)).point_masses == points
