"""How strongly covariances are regularized: the limits, what cross-validation chooses, and what it costs."""

import numpy as np
import pytest
import sklearn.datasets
import torch
from cluster_rows import gaussian_clusters
from sklearn.mixture import GaussianMixture

import pyro_vae as pv
from pyro_vae.errors import InputError
from pyro_vae.models import regularization
from pyro_vae.models.regularization import cross_validate


def test_many_pooled_rows_give_the_tied_covariance():
    x = gaussian_clusters(n=300)
    tied = pv.GaussianMixture(3, 3, "tied", prior_rows=0)
    pv.fit_em(tied, x, tolerance=1e-12)
    full = pv.GaussianMixture(3, 3, prior_rows=0, pooled_rows=1e7)
    full.set_parameters(tied.weights, tied.means, tied.covariances.expand(3, 3, 3))
    full.started.fill_(True)
    pv.fit_em(full, x, start="current", epochs=20)
    torch.testing.assert_close(full.covariances, tied.covariances.expand(3, 3, 3), rtol=1e-3, atol=1e-4)


def held_out(seed, columns):
    """Standardized training and test rows of breast cancer, whose columns are correlated."""
    table = sklearn.datasets.load_breast_cancer().data[:, :columns]
    order = np.random.default_rng(seed).permutation(len(table))
    train, test = table[order[:398]], table[order[398:]]
    mean, scale = train.mean(0), train.std(0)
    return (train - mean) / scale, (test - mean) / scale


def test_correlated_columns_are_not_shrunk_to_independence():
    """At most a tenth of a nat below scikit-learn's best strength, chosen on the test rows; the prior of a usual
    strength toward a diagonal covariance is nats below."""
    behind, usual = [], []
    for seed in range(3):
        train, test = held_out(seed, 10)
        theirs = max(
            GaussianMixture(2, n_init=5, reg_covar=reg, random_state=0).fit(train).score(test)
            for reg in (1e-6, 1e-4, 1e-2, 1e-1)
        )
        x, rest = torch.from_numpy(train), torch.from_numpy(test)
        mixture, before = pv.GaussianMixture(2, 10), pv.GaussianMixture(2, 10, regularization="inverse-wishart")
        for one in (mixture, before):
            pv.fit_em(one, x, num_starts=5)
        behind.append(theirs - float(mixture.log_prob(rest).mean()))
        usual.append(theirs - float(before.log_prob(rest).mean()))
    assert np.mean(behind) < 0.1
    assert np.mean(usual) > 1.0


def test_few_rows_in_many_columns_are_regularized_strongly():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    mixture = pv.GaussianMixture(1, 20)
    pv.fit_em(mixture, x)
    assert mixture.prior_rows >= 6
    truth = torch.distributions.MultivariateNormal(torch.zeros(20).double(), torch.eye(20).double())
    rest = torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    lost = truth.log_prob(rest).mean() - mixture.log_prob(rest).mean()
    free = pv.GaussianMixture(1, 20, prior_rows=0)
    pv.fit_em(free, x)
    assert lost < 0.5 * (truth.log_prob(rest).mean() - free.log_prob(rest).mean())


def test_the_choice_depends_on_the_rows_alone():
    x = gaussian_clusters(n=120)
    chosen = []
    for seed in (0, 1):
        mixture = pv.GaussianMixture(3, 3)
        torch.manual_seed(seed)
        pv.fit_em(mixture, x, seed=seed)
        chosen.append((mixture.prior_rows, mixture.pooled_rows))
    assert chosen[0] == chosen[1]
    assert "prior_rows" in repr(mixture)


def test_scores_are_of_rows_that_were_held_out():
    """One component has a closed form: the moments of the training rows of each fold, and its prior's."""
    x = gaussian_clusters(n=120)
    found = cross_validate(pv.GaussianMixture(1, 3), x)
    assert len(found.tried) == len(found.scores) == len(regularization.PRIOR_SHARES)
    rows = x[torch.randperm(120, generator=torch.Generator().manual_seed(0))].double()
    parts = rows.tensor_split(5)
    for (prior_rows, pooled_rows), score in zip(found.tried, found.scores, strict=True):
        assert pooled_rows == 0
        each = []
        for number, held_out in enumerate(parts):
            train = torch.cat([part for other, part in enumerate(parts) if other != number])
            mean, variance = train.mean(0), train.var(0, correction=0)
            scatter = (train - mean).T @ (train - mean) + prior_rows * variance.diag()
            covariance = scatter / (len(train) + prior_rows - 4)  # D + 1 rows are not counted
            each.append(torch.distributions.MultivariateNormal(mean, covariance).log_prob(held_out).mean())
        assert score == pytest.approx(float(sum(each)) / 5, abs=1e-6)
    assert found.best == found.tried[int(np.argmax(found.scores))]


def test_where_it_would_take_too_long_fewer_rows_or_the_usual_strengths_are_taken(monkeypatch):
    x = gaussian_clusters(n=400)
    monkeypatch.setattr(regularization, "MAX_OPERATIONS", 4 * 3 * 9 * regularization.PASSES_OF_A_PATH * 100)
    assert regularization._Plan.of(pv.GaussianMixture(3, 3), 400) == regularization._Plan(100, 1, there_and_back=False)
    assert cross_validate(pv.GaussianMixture(3, 3), x) is not None
    monkeypatch.setattr(regularization, "MAX_OPERATIONS", 0)
    mixture = pv.GaussianMixture(3, 3)
    pv.fit_em(mixture, x)
    assert (mixture.prior_rows, mixture.pooled_rows) == (9.0, 0.0)
    assert cross_validate(pv.GaussianMixture(3, 3), x[:11]) is None  # fewer than four rows of a component


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularization": "ridge"}, "no regularization called 'ridge'; try one of auto, inverse-wishart, reg_covar"),
        ({"prior_rows": -1.0}, "prior_rows must not be negative"),
        ({"pooled_rows": -1.0}, "pooled_rows must not be negative"),
        ({"pooled_rows": float("nan")}, "pooled_rows must be a finite number"),
        ({"reg_covar": 0.1}, "reg_covar goes with regularization='reg_covar'"),
        ({"regularization": "reg_covar", "prior_rows": 1.0}, "do not go with regularization='reg_covar'"),
    ],
)
def test_settings_that_contradict_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        pv.GaussianMixture(2, 3, **options)
