"""Rows that count more than once, starts of several kinds, and starts in processes of their own."""

import math

import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters
from oracles import factor_rows

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.callbacks import CallbackBase
from pyro_vae.models.covariance_forms import COVARIANCES

GIVEN = {"prior_rows": 0.5, "pooled_rows": 1.0}
MODELS = {
    **{
        covariance: (lambda covariance=covariance: (pv.GaussianMixture(3, 3, covariance, **GIVEN), gaussian_clusters()))
        for covariance in COVARIANCES
    },
    "far apart": lambda: (pv.GaussianMixture(3, 3, **GIVEN), gaussian_clusters(spread=1e6)),
    "reg_covar": lambda: (pv.GaussianMixture(3, 3, regularization="reg_covar"), gaussian_clusters()),
    "bits": lambda: (pv.BernoulliMixture(3, 12), bernoulli_clusters()),
    "ppca": lambda: (pv.PPCA(2, 5), factor_rows()),
    "factor analysis": lambda: (pv.FactorAnalysis(2, 5), factor_rows()),
}


def gaps(x):
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    return Split("train", torch.where(missing, math.nan, x), Measure())


@pytest.mark.parametrize("has_gaps", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_weight_of_two_is_a_row_twice(name, has_gaps):
    """Weights 0, 1, 2 and 3 against the rows repeated: the same start, objective, prior and parameters."""
    times = torch.randint(0, 4, (len(MODELS[name]()[1]),), generator=torch.Generator().manual_seed(0))
    found = []
    for weighted in (True, False):
        model, x = MODELS[name]()
        rows = gaps(x).x if has_gaps else x
        rows = rows if weighted else rows.repeat_interleave(times, 0)
        train = Split("train", rows, Measure())
        fitted = pv.fit_em(model, train, epochs=15, weights=times if weighted else None)
        state = torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])
        found.append(([row["objective"] for row in fitted.history], state))
    (weighted, state), (repeated, expected) = found
    assert weighted == pytest.approx(repeated, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(state, expected, rtol=1e-6, atol=1e-6)


def test_weights_of_online_em():
    """A row in ten that counts ten times: the mean of the heavy rows, where plain online EM has that of all."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[::10] += 4
    weights = torch.where(torch.arange(4000) % 10 == 0, 90.0, 1.0)
    expected = (weights[:, None] * x).sum(0) / weights.sum()
    mixture = pv.GaussianMixture(1, 2, regularization="inverse-wishart")
    fitted = pv.fit_em(mixture, x, weights=weights, batch_size=100, epochs=3)
    assert (mixture.means[0] - expected).abs().max() < 0.2
    log_px = mixture.log_prob(x)
    assert fitted.history[-1]["elbo"] == pytest.approx(float((weights * log_px).sum() / weights.sum()))


def test_cross_validation_sees_each_row_once():
    """A row that counts a thousand times would else be in every fold, and ask for no regularization at all."""
    x = gaussian_clusters(n=100)
    chosen = []
    for weights in (None, torch.full((100,), 50.0)):
        mixture = pv.GaussianMixture(3, 3)
        pv.fit_em(mixture, x, weights=weights, epochs=2)
        chosen.append((mixture.prior_rows, mixture.pooled_rows))
    assert chosen[0] == chosen[1]


def test_starts_take_turns_and_the_best_is_kept():
    x, found = gaussian_clusters(n=200, C=6), {}
    for start in ("k-means++", "random", ("k-means++", "random")):
        mixture = pv.GaussianMixture(6, 3, regularization="inverse-wishart")
        fitted = pv.fit_em(mixture, x, start=start, num_starts=4, seed=3)
        first = [row["objective"] for row in fitted.history if row["start"] in (0, 2)]
        second = [row["objective"] for row in fitted.history if row["start"] in (1, 3)]
        found[start] = first, second
    assert found["k-means++", "random"] == (found["k-means++"][0], found["random"][1])


@pytest.mark.parametrize("batch_size", [None, 50])
def test_starts_in_processes_give_what_they_give_in_turn(batch_size):
    x, found = gaussian_clusters(n=200, C=6), []
    for num_workers in (1, 2):
        mixture, seen = pv.GaussianMixture(6, 3, guide=None), []
        fitted = pv.fit_em(
            mixture,
            x,
            valid=x[:50],
            epochs=8,
            num_starts=3,
            start=["k-means++", "random"],
            num_workers=num_workers,
            batch_size=batch_size,
            weights=torch.arange(200.0),
            on_epoch=lambda history, seen=seen: seen.append(history[-1]["objective"]),
        )
        found.append((fitted, seen, mixture.log_prob(x)))
    (one, seen, log_px), (two, seen_there, log_px_there) = found
    numbers = [[(row["objective"], row["valid_elbo"], row["start"]) for row in fitted.history] for fitted in (one, two)]
    assert [row[2] for row in numbers[0]] == [row[2] for row in numbers[1]]
    torch.testing.assert_close(torch.tensor(numbers[0]), torch.tensor(numbers[1]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_px, log_px_there, rtol=0, atol=1e-9)
    assert seen_there == [row["objective"] for row in two.history]
    assert len(seen) == len(seen_there)
    assert one.best_epoch == two.best_epoch
    assert [row["epoch"] for row in two.history] == list(range(1, len(two.history) + 1))


def test_a_callback_ends_starts_in_processes():
    class Stop(CallbackBase):
        def on_epoch(self, fit):
            return True

    mixture = pv.GaussianMixture(6, 3, regularization="inverse-wishart")
    fitted = pv.fit_em(mixture, gaussian_clusters(), num_starts=20, num_workers=2, callbacks=[Stop()])
    assert fitted.stopped == "callback"
    assert {row["start"] for row in fitted.history} == {0}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(3), "a weight for each of 200 rows"),
        (torch.ones(200, 1), "a weight for each of 200 rows"),
        (torch.full((200,), -1.0), "not negative"),
        (torch.full((200,), math.nan), "finite"),
        (torch.zeros(200), "above 0"),
    ],
)
def test_weights_that_cannot_be(weights, words):
    with pytest.raises(InputError, match=words):
        pv.fit_em(pv.GaussianMixture(2, 3, **GIVEN), gaussian_clusters(n=200), weights=weights)


def test_starts_that_cannot_be():
    with pytest.raises(InputError, match="is one start"):
        pv.fit_em(pv.GaussianMixture(2, 3), gaussian_clusters(), start=("current", "random"), num_starts=2)
    with pytest.raises(InputError, match="no start called 'kmeans'"):
        pv.fit_em(pv.GaussianMixture(2, 3), gaussian_clusters(), start=("random", "kmeans"))
    with pytest.raises(InputError, match="num_workers"):
        pv.fit_em(pv.GaussianMixture(2, 3), gaussian_clusters(), num_workers=0)


def test_single_precision_rows_are_computed_in_double():
    """The fit of float32 rows is that of the same numbers in float64, to the last bit."""
    x, states = gaussian_clusters(n=300).float(), []
    for rows in (x, x.double()):
        mixture = pv.GaussianMixture(3, 3)
        pv.fit_em(mixture, rows, num_starts=2)
        states.append(mixture.log_prob(rows))
    assert states[0].dtype == torch.float64
    assert torch.equal(*states)
