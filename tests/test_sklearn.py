"""`VAEDensity` keeps scikit-learn's contract, and its numbers are densities in the units of X."""

import copy
import inspect
import pickle

import joblib
import numpy as np
import pandas as pd
import polars
import pyro
import pytest
import torch
import typecheck
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_vae as pv
from pyro_vae.data.customers import customers
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.options import options_of
from pyro_vae.sklearn import VAEDensity
from pyro_vae.workflows import fit_settings
from pyro_vae.workflows.fit_settings import fit_options

SMALL = {"latent_dim": 1, "prior": "standard-normal", "hidden": (4,), "epochs": 1, "random_state": 0}
BY_TABLE = ("latent_dim", "prior", "epochs")  # whose defaults depend on the rows
LINEAR = {
    "prior": "standard-normal",
    "network": "linear",
    "likelihood": "normal",
    "scale": "learned",
    "random_state": 0,
}
X = load_iris().data
FAILED = {
    "check_sample_weight_equivalence_on_dense_data": "a row twice has two draws of z and two places in the order of "
    "rows, and a row of weight 2 has one of each: the fits differ by the noise of their steps"
}


@pytest.fixture
def any_types(monkeypatch):
    """Annotations are not enforced: estimators are made with values of any type, and beartype draws random numbers."""
    monkeypatch.setattr(typecheck, "CHECKED_CALLS", 0)


@parametrize_with_checks(
    [VAEDensity(**SMALL, validation_fraction=0.0)], expected_failed_checks=lambda estimator: FAILED
)
@pytest.mark.usefixtures("any_types")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def with_nan(rows):
    return np.where(rows > 4.9, np.nan, rows)


def test_a_table_gets_the_defaults_of_fit(monkeypatch):
    monkeypatch.setattr(fit_settings, "MIN_TABLE_STEPS", 4)
    vae = VAEDensity(hidden=(4,), batch_size=150, validation_fraction=0.0, random_state=0).fit(X)
    assert vae.n_iter_ == 100
    assert isinstance(vae.program_.prior, pv.priors.MixtureOfNormals)
    assert vae.transform(X).shape[1] == X.shape[1]
    named = VAEDensity(hidden=(4,), prior="standard-normal", epochs=1, random_state=0).fit(X)
    assert isinstance(named.program_.prior, pv.priors.StandardNormal)
    assert named.n_iter_ == 1


@pytest.fixture(scope="module")
def of_iris():
    return VAEDensity(**SMALL).fit(X)


@pytest.fixture(scope="module")
def table():
    return customers(None, 0).values.iloc[:60][["customer_id", "segment", "orders", "satisfaction"]]


@pytest.fixture(scope="module")
def fitted(table):
    return VAEDensity(**SMALL, num_samples=50).fit(table)


def test_defaults_and_help_are_those_of_the_settings():
    parameters = inspect.signature(VAEDensity).parameters
    text = " ".join(VAEDensity.__doc__.split()).lower()
    shared = {name: option for name, option in (fit_options() | options_of(Estimator)).items() if name in parameters}
    assert len(shared) > 12
    for name, option in shared.items():
        assert parameters[name].default == (None if name in BY_TABLE else option.default), name
    same = (
        "latent_dim",
        "likelihood",
        "scale",
        "components",
        "epochs",
        "batch_size",
        "learning_rate",
        "beta",
        "patience",
    )
    for name in same:
        assert f"{name}: {shared[name].help.lower().rstrip('.')}" in text, name


def covariance_of_normal(vae):
    """Mean and covariance of p(x) of a linear decoder with one scale, in the units of X."""
    net, measure = vae.program_.likelihood.net, vae.preparation_.measure
    weight, bias = (net[-1].weight.detach().double(), net[-1].bias.detach().double())
    sigma = vae.program_.likelihood(torch.zeros(1, weight.shape[1])).base_dist.scale.detach().double()[0, 0]
    shift, scale = torch.tensor(measure.shift), torch.tensor(measure.scale)
    inside = weight @ weight.T + sigma**2 * torch.eye(len(weight))
    return (shift + scale * bias).numpy(), (scale[:, None] * inside * scale).numpy()


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_log_px_is_that_of_gaussian_mixture_on_the_same_rows(latent_dim):
    vae = VAEDensity(latent_dim, **LINEAR, epochs=2).fit(X)
    mean, covariance = covariance_of_normal(vae)
    theirs = GaussianMixture(1)
    theirs.weights_, theirs.means_ = np.ones(1), mean[None]
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariance))[None]
    found = vae.log_px(X)
    assert found.measure == "Lebesgue measure on R^4 (original units)"
    assert found.kind == "exact"
    assert_allclose(vae.score_samples(X), theirs.score_samples(X), rtol=0, atol=2e-5)
    assert vae.score(X) == pytest.approx(theirs.score(X), abs=1e-5)


def test_a_scaler_before_it_changes_log_px_by_its_jacobian(of_iris):
    pipeline = Pipeline([("scale", StandardScaler()), ("vae", VAEDensity(**SMALL))]).fit(X)
    jacobian = np.log(pipeline["scale"].scale_).sum()
    assert_allclose(pipeline.score_samples(X) - jacobian, of_iris.score_samples(X), atol=1e-4)
    assert pipeline.transform(X).shape == (150, 1)
    assert_allclose(pipeline.inverse_transform(np.zeros((1, 1)))[0], X.mean(0), atol=3)


@pytest.mark.filterwarnings("ignore:.* is multi-threaded, use of fork")  # from Python 3.12
def test_grid_search_by_score_finds_the_number_of_latents():
    g, loadings = np.random.default_rng(0), np.array([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]])
    rows = g.normal(size=(200, 2)) @ loadings + g.normal(size=(200, 4))
    vae = VAEDensity(**LINEAR, epochs=60, learning_rate=0.1, batch_size=50, validation_fraction=0.0)
    with joblib.parallel_config("multiprocessing"):  # by a fork, which imports nothing
        search = GridSearchCV(vae, {"latent_dim": [1, 2]}, cv=2, n_jobs=2).fit(rows)
    one, two = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"latent_dim": 2}
    assert two > one + 0.2
    true = multivariate_normal(np.zeros(4), loadings.T @ loadings + np.eye(4)).logpdf(rows).mean()
    assert two < true + 0.1  # which no model is above, but by chance


STATES = {
    "torch": lambda: torch.get_rng_state().tolist(),
    "numpy": lambda: np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global one
    "param store": lambda: list(pyro.get_param_store()),
}


def test_no_global_state_is_touched_and_the_same_seed_gives_the_same_numbers(table, fitted, of_iris):
    before = {name: state() for name, state in STATES.items()}
    assert_array_equal(fitted.score_samples(table[:8]), fitted.score_samples(table[:8]))
    again = VAEDensity(**SMALL).fit(X)
    assert_array_equal(again.score_samples(X), of_iris.score_samples(X))
    assert_array_equal(again.impute(with_nan(X[:9])), of_iris.impute(with_nan(X[:9])))
    assert_array_equal(again.sample(5, random_state=1), of_iris.sample(5, random_state=1))
    flow = VAEDensity(**SMALL, guide="flow", validation_fraction=0.0).fit(X)  # its means are those of draws
    assert_array_equal(flow.transform(X[:5]), flow.transform(X[:5]))
    assert {name: state() for name, state in STATES.items()} == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_copies_give_the_same_numbers(copied, fitted, table):
    other = copied(fitted)
    assert_array_equal(other.score_samples(table[:5]), fitted.score_samples(table[:5]))
    pd.testing.assert_frame_equal(other.sample(3, random_state=0), fitted.sample(3, random_state=0))


def test_a_generator_gives_the_seed():
    states = np.random.RandomState(3), np.random.RandomState(3)
    first, second = (VAEDensity(**SMALL | {"random_state": state}).fit(X) for state in states)
    assert_array_equal(first.transform(X), second.transform(X))


def test_rows_of_a_frame_come_back_as_they_are(table, fitted):
    names = [name for name in table if name != "customer_id"]  # which names rows
    assert {column.name: column.kind for column in fitted.schema_}["segment"] == "categorical"
    drawn, decoded = fitted.sample(6, random_state=0), fitted.inverse_transform(np.zeros((2, 1)))
    assert list(drawn) == list(decoded) == names
    assert set(drawn["segment"]) <= set(table["segment"])
    assert drawn.dtypes["orders"] == table.dtypes["orders"]
    filled = fitted.impute(table[:30])
    assert list(filled) == list(table)
    assert not filled.isna().any().any()
    known = table[:30].notna()
    assert filled[known].equals(table[:30][known])


def test_frames_of_polars_are_taken_and_given_back(table, fitted):
    frame = polars.from_pandas(table)
    vae = VAEDensity(**SMALL, num_samples=50).fit(frame)
    assert_allclose(vae.score_samples(frame[:10]), fitted.score_samples(table[:10]))
    assert vae.impute(frame[:10]).schema == frame.schema
    assert isinstance(vae.sample(2), polars.DataFrame)
    assert isinstance(vae.set_output(transform="polars").transform(frame[:3]), polars.DataFrame)


def test_arrays_may_lack_values():
    rows = X.copy()
    rows[::7, 2] = np.nan
    vae = VAEDensity(**SMALL).fit(rows)
    assert np.isfinite(vae.score_samples(rows)).all()
    filled = vae.impute(rows, method="mean")
    assert_allclose(filled[~np.isnan(rows)], rows[~np.isnan(rows)])
    assert np.isfinite(filled).all()
    assert vae.sample(3).shape == (3, 4)


def test_every_column_is_modelled_whatever_it_is_called():
    frame = pd.DataFrame(X, columns=["a", "b", "class", "target"])
    assert [column.name for column in VAEDensity(**SMALL).fit(frame).schema_.modelled] == list(frame)
    kinds = {"target": "ignored"}
    assert len(VAEDensity(**SMALL, columns=kinds).fit(frame).schema_.modelled) == 3


def test_rows_of_weight_zero_are_as_if_absent():
    weights = np.where(np.arange(len(X)) % 3, 2.0, 0.0)
    with_weights = VAEDensity(**SMALL).fit(X, sample_weight=weights)
    assert_array_equal(with_weights.transform(X), VAEDensity(**SMALL).fit(X[weights > 0]).transform(X))
    other = VAEDensity(**SMALL).fit(X, sample_weight=np.linspace(0.1, 1, len(X)))
    assert not np.array_equal(other.transform(X), with_weights.transform(X))


def test_it_is_a_part_of_compositions(table):
    columns = ColumnTransformer(
        [
            ("vae", VAEDensity(**SMALL), ["segment", "orders"]),
            ("numbers", PCA(1), make_column_selector("orders")),
        ]
    ).set_output(transform="pandas")
    assert list(columns.fit_transform(table)) == ["vae__vaedensity0", "numbers__pca0"]
    union = FeatureUnion([("vae", VAEDensity(**SMALL)), ("pca", PCA(2))])
    assert union.fit_transform(X).shape == (150, 3)
    assert np.isfinite(cross_val_score(VAEDensity(**SMALL, validation_fraction=0.0), X, cv=2)).all()


WRONG = {  # by what is said
    "no prior called 'x'": lambda fitted: VAEDensity(prior="x").fit(X),
    "hidden must be whole numbers": lambda fitted: VAEDensity(hidden=(0,)).fit(X),
    "epochs must be positive": lambda fitted: VAEDensity(epochs=0).fit(X),
    "num_samples must be one or more": lambda fitted: VAEDensity(num_samples=0).fit(X),
    "no column 'a'": lambda fitted: VAEDensity(columns={"a": "count"}).fit(X),
    "validation_fraction must be from 0": lambda fitted: VAEDensity(validation_fraction=1.0).fit(X),
    "2 or more are needed": lambda fitted: VAEDensity().fit(pd.DataFrame(X[:1])),
    "a lazy frame has no rows yet": lambda fitted: VAEDensity().fit(polars.DataFrame(X).lazy()),
    "Input X contains NaN": lambda fitted: VAEDensity(missing="refuse").fit(with_nan(X)),
    "Input X contains infinity": lambda fitted: VAEDensity().fit(np.full_like(X, np.inf)),
    "fit with --missing mask": lambda fitted: fitted.score_samples(with_nan(X)),
    "expected latents of 1 dimensions": lambda fitted: fitted.inverse_transform(np.zeros((2, 3))),
    "the data frame has no rows": lambda fitted: fitted.transform(pd.DataFrame(X[:0])),
    "no method called 'x'": lambda fitted: fitted.impute(with_nan(X), method="x"),
    "expected one row or more to draw": lambda fitted: fitted.sample(0),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_used_is_said(message, of_iris):
    with pytest.raises(ValueError, match=message):
        WRONG[message](of_iris)
