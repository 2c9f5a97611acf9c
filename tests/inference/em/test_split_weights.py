"""The weights of a split in EM, closed forms, coordinate ascent, Monte-Carlo EM and the choice of a mixture."""

import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters
from oracles import factor_rows
from row_noise import NoisyVAE

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.inference.em.fit_mcem import fit_mcem
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture


def split(x, weights=None, name="train"):
    return Split(name, x, Measure(given=True), weights=weights)


def counts_of(x, low=1):
    return torch.randint(low, 4, (len(x),), generator=torch.Generator().manual_seed(0))


def flat_parameters(model):
    return torch.cat([value.detach().double().flatten() for value in model.parameters()])


MODELS = {
    "mixture": lambda: (pv.GaussianMixture(3, 3, prior_rows=0.0), gaussian_clusters()),
    "bits": lambda: (pv.BernoulliMixture(3, 12, prior_rows=0.0), bernoulli_clusters()),
    "ppca": lambda: (pv.PPCA(2, 5), factor_rows()),
    "factor analysis": lambda: (pv.FactorAnalysis(2, 5), factor_rows()),
}


@pytest.mark.parametrize("low", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_em_with_whole_weights_is_em_of_copies(name, low):
    """From the same parameters: the history and the parameters of rows with weights, and of copies."""
    _, x = MODELS[name]()
    counts = counts_of(x, low)
    absurd = torch.where((counts == 0)[:, None] & (name != "bits"), 1e30, x)
    found = []
    for rows in (split(absurd, counts), split(x.repeat_interleave(counts, 0))):
        model, _ = MODELS[name]()
        pv.fit_em(model, x[::2], epochs=2)
        fitted = pv.fit_em(model, rows, start="current", epochs=8, valid=split(x, counts_of(x), "valid"))
        found.append((torch.tensor([[row.elbo, row.valid_elbo] for row in fitted.history]), flat_parameters(model)))
    for weighted, copied in zip(*found, strict=True):
        torch.testing.assert_close(weighted, copied, rtol=1e-10, atol=1e-10)


def test_a_prior_is_that_of_as_many_rows_whatever_the_scale_of_weights():
    x = gaussian_clusters()
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(3)) + 0.1
    states = []
    for factor in (1.0, 1000.0):
        model = pv.GaussianMixture(3, 3, prior_rows=5.0)
        pv.fit_em(model, x, epochs=1)
        pv.fit_em(model, split(x, factor * weights), start="current", epochs=5)
        states.append(flat_parameters(model))
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-6)


def test_closed_form_with_whole_weights_is_that_of_copies():
    x = factor_rows()
    counts = counts_of(x, low=0)
    absurd = torch.where((counts == 0)[:, None], torch.nan, x)
    models = [pv.PPCA(2, 5), pv.PPCA(2, 5)]
    results = [
        pv.fit_closed_form(model, rows)
        for model, rows in zip(models, (split(absurd, counts), split(x.repeat_interleave(counts, 0))), strict=True)
    ]
    assert results[0].history[0].elbo == pytest.approx(results[1].history[0].elbo, rel=1e-10)
    torch.testing.assert_close(*(model.weight @ model.weight.T for model in models), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(model.loc for model in models), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(model.scale for model in models), rtol=1e-10, atol=1e-10)


def test_both_kinds_of_weights_are_refused():
    x = factor_rows()
    with pytest.raises(InputError, match="weights of their own"):
        pv.fit_em(pv.PPCA(2, 5), split(x, counts_of(x)), weights=counts_of(x))


def bayesian(num_rows):
    return BayesianGaussianMixture(3, 3, num_rows)


def test_coordinate_ascent_with_weights():
    """Copies with the same total weight: the bound and q of the globals; a row of weight 0 is absurd."""
    x = gaussian_clusters()
    half = len(x) // 2
    counts = torch.tensor([2] * half + [0] * (len(x) - half))  # their mean over rows that count is 2
    counts[:10], counts[10:20] = 1, 3
    counted = counts > 0
    copies = x.repeat_interleave(counts, 0)
    start = torch.softmax(x, -1)
    absurd = torch.where(counted[:, None], x, 1e6)
    mixture = bayesian(len(x))
    fitted = fit_cavi(mixture, split(absurd, counts), start=start, epochs=5)
    oracle = bayesian(half)
    weights = counts[counted] / counts[counted].double().mean()
    oracle.start(x[counted], start[counted], weights)
    oracle.update_local(x[counted])
    oracle.update_global(x[counted], weights)
    assert fitted.history[0].elbo == pytest.approx(float(oracle.bound(x[counted], weights).detach()), rel=1e-10)
    bounds = torch.tensor([row.elbo for row in fitted.history])
    assert bool((bounds.diff() > -1e-9).all())
    # one update of the globals from given q(c) is that of copies, with the counts themselves
    one, other = bayesian(len(x)), bayesian(len(copies))
    one.logits.data.copy_(start.log())
    other.logits.data.copy_(start.log().repeat_interleave(counts, 0))
    one.update_global(x, counts)
    other.update_global(copies)
    for a, b in zip(vars(one.posterior).values(), vars(other.posterior).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    one.logits.data.copy_(start.log())
    assert one.bound(x, counts).item() == pytest.approx(other.bound(copies).item(), rel=1e-10)


def test_a_conjugate_program_that_takes_no_weights_is_refused():
    class Own(BayesianGaussianMixture):
        def update_global(self, x):
            super().update_global(x)

    x = gaussian_clusters()
    with pytest.raises(InputError, match="takes no weights"):
        fit_cavi(Own(3, 3, len(x)), split(x, counts_of(x)), epochs=2)


def test_monte_carlo_em_with_weights():
    """The location of a decoder follows the heavy rows."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    weights = torch.where(x[:, 0] > 0, 10.0, 1.0)
    weights[0], x[0] = 0.0, 1e6
    torch.manual_seed(0)
    vae = NoisyVAE()
    fitted = fit_mcem(vae, split(x, weights), epochs=40, batch_size=100, valid=split(x, weights, "valid"))
    plain = NoisyVAE()
    fit_mcem(plain, split(x[1:]), epochs=40, batch_size=100)
    mean = [model.sample(20_000, seed=0).mean(0)[0] for model in (vae, plain)]
    expected = float((weights[1:] * x[1:, 0]).sum() / weights.sum())
    assert float(mean[0]) == pytest.approx(expected, abs=0.12)
    assert float(mean[1]) == pytest.approx(float(x[1:, 0].mean()), abs=0.12)
    assert abs(fitted.history[-1].log_joint - fitted.history[-1].valid_log_joint) < 1.0


@pytest.mark.parametrize("kind", ["normal", "bits"])
def test_choice_of_a_mixture_with_weights(kind):
    """Weights of 0 leave rows out of the choice, equal ones change nothing, others count in the scores."""
    x = (gaussian_clusters() if kind == "normal" else bernoulli_clusters())[:300]
    options = {"components": (1, 2), "covariance": "diagonal", "num_starts": 1}
    plain = pv.select_mixture(split(x), **options)
    equal = pv.select_mixture(split(x, torch.full((len(x),), 0.3)), **options)
    assert equal.scores == plain.scores
    dropped = split(torch.cat([x, x[:50]]), torch.tensor([1.0] * len(x) + [0.0] * 50))
    assert pv.select_mixture(dropped, **options).scores == plain.scores
    heavy = torch.where(torch.arange(len(x)) < 100, 10.0, 0.1)
    scores = pv.select_mixture(split(x, heavy), **options).scores
    alone = pv.select_mixture(split(x[:100]), **options).scores
    assert abs(scores[0].mean - alone[0].mean) < abs(plain.scores[0].mean - alone[0].mean)
