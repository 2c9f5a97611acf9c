"""The number of components and the form of covariances of a mixture, chosen by log p(x) of held-out rows.

>>> import pyro_vae as pv
>>> found = pv.select_mixture(pv.load_data("seven-normals"), components=(1, 3, 7), covariance="full", num_starts=2)
>>> found.best.num_components, found.mixture.num_components, [len(score.folds) for score in found.scores]
(7, 7, [5, 5, 5])
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import Dataset, Measure, RowsGiven, Split, as_split
from pyro_vae.data.columns import Schema
from pyro_vae.data.row_weights import relative_weights, weighted_mean
from pyro_vae.errors import InputError
from pyro_vae.inference.em.fit_em import fit_em
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.models.bernoulli_mixture import BernoulliMixture
from pyro_vae.models.columns_mixture import ColumnsMixture
from pyro_vae.models.covariance_forms import COVARIANCES
from pyro_vae.models.exact_density import rows_with_nan
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.gaussian_mixture import GaussianMixture
from pyro_vae.models.regularization import MAX_ROWS, cross_validate, split_rows
from pyro_vae.models.regularized_mixture import RegularizedMixture
from pyro_vae.typing import Rows

AUTO = "auto"
NUM_COMPONENTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 50, 64, 80, 100, 150, 200)
PATIENCE = 3  # numbers of components in a row that score less than the best before them


@dataclass(frozen=True)
class MixtureScore:
    """Held-out log p(x) of a mixture with some number of components.

    Attributes:
        num_components: C.
        covariance: the form of its covariances; empty for bits and for columns with kinds.
        folds: the mean log p(x) of each fold's held-out rows, nats a row.
    """

    num_components: int
    covariance: str
    folds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over folds, nats a row."""
        return statistics.fmean(self.folds)

    @property
    def standard_error(self) -> float:
        """Of the mean, over folds; NaN for one fold."""
        return statistics.stdev(self.folds) / math.sqrt(len(self.folds)) if len(self.folds) > 1 else math.nan

    def __str__(self) -> str:
        size = f"{self.num_components} component" + "s" * (self.num_components > 1)
        return f"{self.covariance}, {size}" if self.covariance else size


@dataclass(frozen=True)
class MixtureSelection:
    """A mixture that was chosen by cross-validation, and what it was chosen from; `plots.plot_selection` draws it.

    Attributes:
        scores: of all that was tried.
        mixture: the best one, fitted to all training rows.
        result: of that fit.
    """

    scores: tuple[MixtureScore, ...]
    mixture: Mixture
    result: FitResult

    @property
    def best(self) -> MixtureScore:
        """The score of the mixture that was chosen."""
        return best_score(self.scores)


def best_score(scores: Iterable[MixtureScore]) -> MixtureScore:
    """The score with the highest mean."""
    return max(scores, key=lambda score: score.mean)


@check_call
def select_mixture(
    data: RowsGiven,
    *,
    components: str | int | Sequence[int] = AUTO,
    covariance: str | Sequence[str] = AUTO,
    num_starts: int = 5,
    num_workers: int = 1,
    seed: int = 0,
    on_scored: Callable[[MixtureScore], object] | None = None,
) -> MixtureSelection:
    """Choose a mixture by five-fold cross-validation on training rows, and fit it to all of them by EM.

    A mixture of normals, whose strengths of regularization are chosen on the same folds for each candidate; where all
    values are 0 or 1, a mixture of bits; where a data set's columns have kinds, a `ColumnsMixture`. Validation and test
    rows are not looked at. With "auto" the number of components grows until three numbers in a row score less than the
    best before them. No more than 5,000 rows are used for the choice. Rows may have missing values, and weights.

    Raises `InputError` where there are too few rows for any candidate.

    Args:
        data: the training rows x (N, D), or a data set.
        components: "auto", a number, or several to choose from.
        covariance: "auto" for all of full, tied, diagonal and spherical, or one or several of them.
        num_starts: of EM, for the mixture that was chosen.
        num_workers: processes; the forms of covariances are scored in parallel.
        seed: of EM.
        on_scored: called with each score, as they come.

    Returns:
        The fitted mixture and all scores.
    """
    train = as_split(data, "train")
    schema = data.schema if isinstance(data, Dataset) and train.measure.counted else None
    scores = score_mixtures(train, components, covariance, num_workers, on_scored, schema)
    mixture = build_mixture(best_score(scores), train.shape[1], schema)
    result = fit_em(mixture, train, num_starts=num_starts, num_workers=num_workers, seed=seed)
    return MixtureSelection(tuple(scores), mixture, result)


def build_mixture(score: MixtureScore, num_features: int, schema: Schema | None = None) -> Mixture:
    """A new mixture of the size and form that a score belongs to.

    Args:
        score: the score.
        num_features: the number D of features.
        schema: the columns, where they have kinds.

    Returns:
        The mixture, not fitted.
    """
    if schema is not None:
        return ColumnsMixture(score.num_components, schema)
    if not score.covariance:
        return BernoulliMixture(score.num_components, num_features)
    return GaussianMixture(score.num_components, num_features, score.covariance)


def score_mixtures(
    train: Split,
    components: str | int | Sequence[int] = AUTO,
    covariance: str | Sequence[str] = AUTO,
    num_workers: int = 1,
    on_scored: Callable[[MixtureScore], object] | None = None,
    schema: Schema | None = None,
) -> list[MixtureScore]:
    """Held-out log p(x) of mixtures, as `select_mixture` compares them.

    Args:
        train: training rows.
        components: as there.
        covariance: as there.
        num_workers: processes.
        on_scored: called with each score, as they come.
        schema: the columns, where they have kinds.

    Returns:
        The scores, in original units where the rows are standardized; `InputError` where there are none.
    """
    train = train.without_uncounted()
    rows, shift = _rows_to_score(train), weighted_mean(train.log_jacobian, train.weights)
    if train.measure.counted and schema is None:
        raise InputError("these rows are codes of columns with kinds, which a split does not have: give the data set")
    task = rows, shift, _sizes(components), components == AUTO, schema
    forms, scores = ("",) if schema else _forms(rows.x, covariance), []
    if num_workers > 1 and len(forms) > 1:
        from joblib import Parallel, delayed

        jobs = (delayed(_score_sizes)(form, *task) for form in forms)
        for found in Parallel(n_jobs=min(num_workers, len(forms)), return_as="generator")(jobs):
            scores += found
            for score in found:
                if on_scored is not None:
                    on_scored(score)
    else:
        for form in forms:
            scores += _score_sizes(form, *task, on_scored)
    if not scores:
        raise InputError(f"{len(rows.x)} rows are too few to choose a mixture by cross-validation: give its size")
    return scores


@dataclass(frozen=True)
class _ScoredRows:
    """Rows x (N, D), NaN where a value is missing, and their weights (N,), with the mean 1, or None."""

    x: Rows
    weights: Tensor | None


def _rows_to_score(train: Split) -> _ScoredRows:
    """Training rows in random order, as many as are used for the choice."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:MAX_ROWS]
    weights = None if train.weights is None else relative_weights(train.weights[order])
    return _ScoredRows(rows_with_nan(train, order).double(), weights)


def _forms(rows: Rows, covariance: str | Sequence[str]) -> tuple[str, ...]:
    if not bool(((rows != 0) & (rows != 1) & ~rows.isnan()).any()):
        return ("",)  # bits
    forms = COVARIANCES if covariance == AUTO else (covariance,) if isinstance(covariance, str) else tuple(covariance)
    if unknown := [form for form in forms if form not in COVARIANCES]:
        raise InputError(f"no covariance called {unknown[0]!r}; try auto, or one of {', '.join(COVARIANCES)}")
    return forms


def _sizes(components: str | int | Sequence[int]) -> tuple[int, ...]:
    if components == AUTO:
        return NUM_COMPONENTS
    if isinstance(components, str):
        raise InputError(f"components are 'auto', a number or several, got {components!r}")
    sizes = (components,) if isinstance(components, int) else tuple(components)
    if not sizes or min(sizes) < 1:
        raise InputError(f"expected one component or more, got {components}")
    return sizes


def _score_sizes(
    form: str,
    rows: _ScoredRows,
    shift: float,
    sizes: Sequence[int],
    is_auto: bool,
    schema: Schema | None,
    on_scored: Callable[[MixtureScore], object] | None = None,
) -> list[MixtureScore]:
    """The scores of mixtures of one form; with `is_auto` up to where they fall."""
    found: list[MixtureScore] = []
    for size in sizes:
        folds = _fold_scores(build_mixture(MixtureScore(size, form, ()), rows.x.shape[1], schema), rows)
        if not folds:
            break  # too few rows, or too much work
        found.append(MixtureScore(size, form, tuple(value + shift for value in folds)))
        if on_scored is not None:
            on_scored(found[-1])
        if is_auto and len(found) - 1 - found.index(best_score(found)) >= PATIENCE:
            break
    return found


def _fold_scores(mixture: Mixture, rows: _ScoredRows) -> tuple[float, ...]:
    """The weighted mean log p(x) of each fold's held-out rows; none where the rows are too few."""
    if isinstance(mixture, RegularizedMixture):
        found = cross_validate(mixture, rows.x, rows.weights)
        return () if found is None else found.fold_scores[found.best_index]
    if len(rows.x) < 2 * mixture.num_components:
        return ()
    scores = []
    for index, held_out in split_rows(torch.arange(len(rows.x))):
        fit_em(mixture, _with_gaps(rows, index), tolerance=1e-4, num_starts=2)
        scored = _with_gaps(rows, held_out)
        scores.append(weighted_mean(mixture.log_prob(scored), scored.weights))
    return tuple(scores)


def _with_gaps(rows: _ScoredRows, index: Tensor) -> Split:
    """Some of the rows, whose NaN are missing values."""
    return Split("train", rows.x[index], Measure(), weights=None if rows.weights is None else rows.weights[index])
