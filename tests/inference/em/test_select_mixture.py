"""The size and form of a mixture by cross-validation: against scikit-learn on the same folds, and known clusters."""

import math

import numpy as np
import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.em.select_mixture import MixtureScore, score_mixtures
from pyro_vae.models import regularization
from pyro_vae.plots import plot_selection


@pytest.fixture
def few_strengths(monkeypatch):
    """Fewer strengths of regularization than usual: what is tested here is the choice of a size."""
    monkeypatch.setattr(regularization, "PRIOR_SHARES", (0.03, 1e-6))
    monkeypatch.setattr(regularization, "POOLED_ROWS", (0.0,))


def split(x):
    return Split("train", x, Measure())


def spheres(n=150, D=2):
    """Three spherical clusters of different scales, far apart."""
    g = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 3
    centers, scales = 8.0 * torch.eye(3, D, dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    return centers[label] + scales[label, None] * torch.randn(n, D, generator=g, dtype=torch.float64)


def test_known_clusters_are_found(few_strengths):
    x, seen = spheres(), []
    found = pv.select_mixture(x, covariance=("full", "spherical"), on_scored=seen.append, num_starts=2)
    assert (found.best.num_components, found.best.covariance) == (3, "spherical")
    assert found.mixture.num_components == 3
    assert tuple(seen) == found.scores
    assert max(score.num_components for score in seen) == 6  # three in a row scored less
    assert found.mixture.log_prob(x).mean() == pytest.approx(found.result.history[found.result.best_epoch - 1]["elbo"])
    sizes = sorted(set(np.bincount(found.mixture.predict(x)).tolist()))
    assert sizes[0] > 40


def test_scores_are_scikit_learns_where_regularization_does_not_matter(few_strengths):
    """Many rows of clusters that lie apart: the same folds give the same held-out log p(x) to 0.01 nats."""
    from sklearn.mixture import GaussianMixture

    x = gaussian_clusters(n=3000, C=3, spread=10.0)
    (score,) = score_mixtures(split(x), components=3, covariance="full")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    order = order[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    folds = x.float().double()[order].tensor_split(5)
    for number, (held_out, value) in enumerate(zip(folds, score.folds, strict=True)):
        rest = torch.cat([fold for other, fold in enumerate(folds) if other != number])
        theirs = GaussianMixture(3, n_init=5, random_state=0).fit(rest.numpy())
        assert value == pytest.approx(theirs.score(held_out.numpy()), abs=0.01)


def test_scores_of_a_data_set_are_in_its_original_units_and_of_training_rows_alone():
    data = pv.load_data("pinwheel")
    (score,) = score_mixtures(data.train.head(400), components=5, covariance="full")
    mixture = pv.GaussianMixture(5, 2)
    pv.fit_em(mixture, data.train.head(400), num_starts=5)
    assert score.mean == pytest.approx(float(mixture.log_prob(data.valid).mean()), abs=0.3)
    assert 0 < score.standard_error < 0.3


def test_bits_and_gaps_and_processes():
    x = bernoulli_clusters(n=150)
    holes = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.1, math.nan, x)
    for rows in (x, holes):
        found = pv.select_mixture(split(rows), components=(1, 2), num_starts=2)
        assert isinstance(found.mixture, pv.BernoulliMixture)
        assert [str(score) for score in found.scores] == ["1 component", "2 components"]
        assert found.best.num_components > 1
    z = spheres(n=60)
    z[::7, 1] = math.nan
    one, two = (
        pv.select_mixture(
            split(z), components=(1, 2), covariance=("diagonal", "spherical"), num_starts=2, num_workers=workers
        )
        for workers in (1, 2)
    )
    assert [score.covariance for score in two.scores] == ["diagonal", "diagonal", "spherical", "spherical"]
    for mine, other in zip(one.scores, two.scores, strict=True):
        assert other.folds == pytest.approx(mine.folds, abs=1e-3)  # where EM stops depends on rounding
    torch.testing.assert_close(one.mixture.log_prob(split(z)), two.mixture.log_prob(split(z)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"covariance": "banana"}, "no covariance called 'banana'"),
        ({"components": "many"}, "'auto', a number or several"),
        ({"components": (0, 2)}, "one component or more"),
        ({"components": ()}, "one component or more"),
        ({"components": 30}, "too few"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        pv.select_mixture(spheres(n=60), **settings)


def test_the_picture():
    with pytest.raises(InputError, match="no scores"):
        plot_selection([])
    scores = [MixtureScore(size, form, (-3.0 / size, -3.1)) for form in ("full", "tied") for size in (1, 2)]
    figure = plot_selection(scores)
    assert figure.axes[0].get_title(loc="left") == "Best: full, 2 components"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["full", "tied"]
    one_fold = plot_selection([MixtureScore(1, "", (-3.0,))])
    assert one_fold.axes[0].get_title(loc="left") == "Best: 1 component"
