"""Arguments beside x: a user's own inputs reach model and guide from every verb, row by row; what is not taken is
refused; inputs are checked before the program runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Measure

N, WEIGHT, SCALE = 30, torch.tensor([1.0, -0.5, 0.8]), 0.6
EXPOSURE = torch.rand(N, generator=torch.Generator().manual_seed(1)) + 0.5
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


class Exposed:
    """x = exposure · z · w + ε: a row's density depends on an input of its own, by which every row is checked."""

    def model(self, x, exposure):
        assert exposure.shape == (len(x),)
        weight = pyro.param("loading", WEIGHT)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(exposure[..., None] * z * weight, SCALE).to_event(1), obs=x)

    def guide(self, x, exposure):
        assert exposure.shape == (len(x),)
        weight = pyro.param("weight", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * (x @ WEIGHT)[:, None], 0.8).to_event(1))


def program():
    own = Exposed()
    return pv.Program(own.model, own.guide)


def split(rows=slice(None), name="train"):
    return pv.Split(name, X[rows], Measure(given=True), inputs={"exposure": EXPOSURE[rows]})


def log_px(rows=slice(None)):
    weights = EXPOSURE[rows, None] * WEIGHT
    covariance = weights[:, :, None] * weights[:, None, :] + SCALE**2 * torch.eye(3)
    return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(X[rows]).double()


ESTIMATES = {
    "log_evidence": (lambda p, s: pv.log_evidence(p, s, 5000).log_px, 0.05),
    "auto_evidence": (lambda p, s: pv.auto_evidence(p, s, exact=False).log_px, 0.06),
    "exact_evidence": (lambda p, s: pv.exact_evidence(p, s).log_px, 1e-4),
    "annealed_evidence": (lambda p, s: pv.annealed_evidence(p, s, 100).log_px, 0.2),
    "laplace_approximation": (lambda p, s: pv.laplace_approximation(p, s).log_px, 1e-3),
    "refine": (lambda p, s: pv.log_evidence(pv.refine(p, s, 20), s, 2000, rows=torch.arange(len(s))).log_px, 0.1),
}
VERBS = {
    "fit": lambda p, s: pv.fit(p, s, valid=split(slice(5), "valid"), epochs=2, batch_size=7),
    "fit_mcem": lambda p, s: pv.fit_mcem(p, s, epochs=1),
    "nuts": lambda p, s: pv.nuts(p, s.head(2), 5, warmup=5, num_chains=2),
    "arviz": lambda p, s: pv.to_inference_data(p, s, 30),
    "aggregate": lambda p, s: pv.diagnostics.aggregate(p, s),
    "usage": lambda p, s: pv.diagnostics.measure_latent_usage(p, s),
    "two-sample": lambda p, s: pv.diagnostics.two_sample(p, s),
    "gaps": lambda p, s: pv.diagnostics.inference_gaps(p, s, steps=2, num_samples=30),
    "score": lambda p, s: pv.score(p, s, split(slice(25), "valid")),
    "compare": lambda p, s: pv.compare({"own": p}, s),
    "encode": lambda p, s: p.encode(s.x, **s.inputs),
    "reconstruct": lambda p, s: p.reconstruct(s.x, **s.inputs),
    "sample": lambda p, s: p.sample(N, **s.inputs),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_every_estimate_has_the_rows_own_input(name):
    """Row by row against the closed form: an input that came to another row would show."""
    estimate, error = ESTIMATES[name]
    assert (estimate(program(), split()) - log_px()).abs().max() < error


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_passes_it_on(name):
    VERBS[name](program(), split())


def test_it_stays_with_its_row():
    """In a head, in chosen rows, in chunks."""
    whole = split()
    assert torch.equal(whole.head(4).inputs["exposure"], EXPOSURE[:4])
    assert torch.equal(whole.take(torch.tensor([7, 2])).inputs["exposure"], EXPOSURE[[7, 2]])
    assert torch.equal(torch.cat([part.inputs["exposure"] for part in whole.chunks(8)]), EXPOSURE)
    some = torch.tensor([3, 1, 20])
    found = pv.exact_evidence(program(), whole.take(some)).log_px
    assert (found - log_px(some)).abs().max() < 1e-4


def test_what_is_not_taken_or_does_not_fit_is_refused():
    with pytest.raises(pv.InputError, match="neither model nor guide takes length"):
        pv.fit(program(), pv.Split("train", X, inputs={"exposure": EXPOSURE, "length": EXPOSURE}), epochs=1)
    with pytest.raises(pv.InputError, match="neither model nor guide takes length"):
        pv.log_evidence(program(), pv.Split("test", X, inputs={"exposure": EXPOSURE, "length": EXPOSURE}))
    with pytest.raises(pv.InputError, match="30 rows of x, got 4 exposure"):
        pv.Split("train", X, inputs={"exposure": EXPOSURE[:4]})
    with pytest.raises(pv.InputError, match="may not be called labels"):
        pv.Split("train", X, inputs={"labels": EXPOSURE})
    with pytest.raises(pv.InputError, match="exposure takes a tensor with one entry for each of the 30 rows"):
        program().encode(X, exposure=EXPOSURE[:4])
    with pytest.raises(pv.InputError, match=r"asks for exposure(.|\n)*inputs="):
        pv.log_evidence(program(), X)


def without_mask():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * WEIGHT, SCALE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x[:, :1], pyro.param("scale", torch.ones(1))).to_event(1))

    return pv.Program(model, guide)


@pytest.mark.parametrize(
    "verb",
    [
        lambda p, s: pv.fit(p, s, epochs=1),
        lambda p, s: pv.fit(p, X, valid=s, epochs=1),
        pv.log_evidence,
        pv.exact_evidence,
        pv.auto_evidence,
        pv.laplace_approximation,
        lambda p, s: pv.log_evidence(pv.laplace_approximation(p, X), s, rows=torch.arange(N)),
        lambda p, s: p.encode(s.x, mask=s.mask),
    ],
)
def test_gaps_need_a_model_that_takes_a_mask(verb):
    """A pair of functions was fitted to the zeros in their place, and scored as if these had been observed."""
    with pytest.raises(pv.InputError, match="takes no mask"):
        verb(without_mask(), pv.Split("test", torch.where(X > 2, float("nan"), X)))


def conditional():
    return pv.ConditionalVAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.mlp(1 + 3, 4, 3)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(3 + 3, 4, 2)),
        num_labels=3,
    )


@pytest.mark.parametrize("place", [0, 7, 20])
def test_an_unseen_label_is_refused_wherever_it_stands(place):
    """Before the program runs: among the first rows torch's own error came first."""
    labels = torch.arange(N) % 3
    labels[place] = 3
    rows = pv.Split("test", X, labels=labels)
    verbs = [
        lambda p: pv.fit(p, rows, epochs=1),
        lambda p: pv.log_evidence(p, rows),
        lambda p: pv.exact_evidence(p, rows),
        lambda p: pv.laplace_approximation(p, rows),
        lambda p: pv.diagnostics.measure_latent_usage(p, rows),
        lambda p: p.encode(X, labels=labels),
        lambda p: p.reconstruct(X, labels=labels),
        lambda p: p.sample(N, labels=labels),
    ]
    for verb in verbs:
        with pytest.raises(pv.InputError, match="label"):
            verb(conditional())


def test_gaps_under_a_likelihood_of_positive_numbers():
    """The placeholder of a gap, 0, is no value of a log-normal, and does not count."""

    class Positive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = pv.nets.mlp(1, 4, 3)

        def forward(self, z):
            return dist.LogNormal(self.net(z), 0.5).to_event(1)

    vae = pv.VAE(pv.priors.StandardNormal(1), Positive(), pv.guides.MeanFieldNormal(pv.nets.mlp(3, 4, 2)))
    x = X.exp()
    x[::4, 1] = float("nan")
    x[:8, 2] = float("nan")
    rows = pv.Split("train", x)
    pv.fit(vae, rows, epochs=2)
    found, exact = pv.auto_evidence(vae, rows, exact=False).log_px, pv.exact_evidence(vae, rows).log_px
    assert (found - exact).abs().max() < 0.2
    with torch.no_grad():  # the grid by hand, over the observed values
        z = torch.linspace(-8, 8, 4001)[:, None]
        each = dist.LogNormal(vae.likelihood.net(z)[:, None], 0.5).log_prob(x.nan_to_num(nan=1.0)).double()
        joint = (each * ~x.isnan()).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z).double()
        by_hand = torch.logsumexp(joint, 0) + torch.tensor(16 / 4000, dtype=torch.float64).log()
    assert (exact - by_hand).abs().max() < 1e-3
