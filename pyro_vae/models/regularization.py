"""Mixtures whose covariances are regularized, as strongly as log p(x) of held-out rows says."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.typing import Rows

REGULARIZATIONS = ("auto", "inverse-wishart", "reg_covar")
FOLDS = 5
MAX_ROWS, MIN_ROWS_PER_COMPONENT = 5000, 4  # that are used, the first after shuffling
MAX_OPERATIONS = 2e12  # of all products, about a minute of two cores
PASSES_OF_A_PATH = 200  # over the rows
PRIOR_SHARES = (0.5, 0.25, 0.12, 0.06, 0.03, 0.01, 1e-3, 1e-4, 1e-6)  # prior rows, relative to the rows of a component
POOLED_ROWS = (8.0, 2.0, 0.5, 0.0)  # relative to the number of features
STARTS, EPOCHS, TOLERANCE = 4, 30, 3e-4  # of EM in each fold
Pair = tuple[float, float]  # `prior_rows` and `pooled_rows`


class RegularizedMixture(Mixture):
    """A mixture whose covariances are regularized in two strengths, both in rows.

    Attributes:
        covariance: the form of the covariances.
        regularization: a name of `REGULARIZATIONS`, or "fixed" where a strength was given.
        prior_rows: the strength toward a diagonal covariance.
        pooled_rows: the strength toward one that all components share.
        uncounted_rows: rows that are not counted, so that inverses of covariances are unbiased.
        reg_covar: what scikit-learn's rule adds to the variances.
    """

    covariance: str
    regularization: str
    reg_covar: float
    strengths: Tensor  # the three numbers of rows: a state of the fit, not a setting

    @property
    def prior_rows(self) -> float:
        return float(self.strengths[0])

    @property
    def pooled_rows(self) -> float:
        return float(self.strengths[1])

    @property
    def uncounted_rows(self) -> float:
        return float(self.strengths[2])

    def set_regularization(
        self, name: str, usual_rows: float, prior_rows: float | None, pooled_rows: float | None, reg_covar: float | None
    ) -> None:
        """Set how covariances are regularized; `InputError` for settings that contradict.

        Args:
            name: one of `REGULARIZATIONS`.
            usual_rows: `prior_rows` where none is given.
            prior_rows: the strength toward a diagonal covariance, where it is given.
            pooled_rows: the strength toward a common one, where it is given.
            reg_covar: what scikit-learn's rule adds, where it is given.
        """
        if name not in REGULARIZATIONS:
            raise InputError(f"no regularization called {name!r}; try one of {', '.join(REGULARIZATIONS)}")
        given = {"prior_rows": prior_rows, "pooled_rows": pooled_rows, "reg_covar": reg_covar}
        for what, value in given.items():
            if value is not None and not value >= 0:
                raise InputError(f"{what} must not be negative, got {value}")
        is_given = prior_rows is not None or pooled_rows is not None
        if reg_covar is not None and name != "reg_covar":
            raise InputError("reg_covar goes with regularization='reg_covar'")
        if is_given and name != "auto":
            raise InputError(f"prior_rows and pooled_rows do not go with regularization={name!r}: leave one out")
        self.regularization = "fixed" if is_given else name
        self.reg_covar = 1e-6 if reg_covar is None else float(reg_covar)
        first = prior_rows or 0.0 if is_given else usual_rows
        strengths = torch.tensor([first, pooled_rows or 0.0, 0.0], dtype=torch.float64)
        self.register_buffer("strengths", strengths)

    def set_strengths(self, strengths: Pair, num_rows: int) -> None:
        """Set both strengths, and as many uncounted rows as leave a component without rows half of its prior.

        Args:
            strengths: `prior_rows` and `pooled_rows`.
            num_rows: the number N of training rows.
        """
        is_one = self.num_components == 1 or self.covariance == "tied"
        size = self.num_features if self.covariance in ("full", "tied") else 1
        uncounted = min(size + 1.0, num_rows / 2 if is_one else sum(strengths) / 2)
        self.strengths.copy_(torch.tensor([*strengths, uncounted]))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Files of 0.1.0 have no strengths: these stay as they are."""
        state_dict.setdefault(f"{prefix}strengths", self.strengths)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def choose_regularization(self, rows: Rows) -> None:
        if self.regularization == "auto" and (found := cross_validate(self, rows)) is not None:
            self.set_strengths(found.best, len(rows))


@dataclass(frozen=True)
class CrossValidation:
    """Strengths that were tried, and what they scored.

    Attributes:
        tried: pairs of (prior_rows, pooled_rows).
        fold_scores: for each pair the mean log p(x) of each fold's held-out rows, nats a row.
    """

    tried: tuple[Pair, ...]
    fold_scores: tuple[tuple[float, ...], ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """The mean over folds for each pair, nats a row."""
        return tuple(sum(folds) / len(folds) for folds in self.fold_scores)

    @property
    def best_index(self) -> int:
        """The number of the pair with the highest score."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def best(self) -> Pair:
        """That pair."""
        return self.tried[self.best_index]


def cross_validate(mixture: RegularizedMixture, rows: Rows) -> CrossValidation | None:
    """Score strengths of regularization on held-out rows.

    In each of five folds EM goes from strong to weak regularization toward the diagonal and back, each fit starting
    where the last one ended, and the fit with the higher objective counts. From the best of these fits it goes along
    strengths toward a common covariance, and from the best of those to the two neighbors of the former strength. Where
    that would take more than `MAX_OPERATIONS`, there is one fold, one way, and fewer rows.

    Args:
        mixture: a mixture; copies of it are fitted.
        rows: the training rows (N, D).

    Returns:
        The strengths and their scores; None where there are too few rows, or too few can be afforded.
    """
    C, D = mixture.num_components, mixture.num_features
    plan = _Plan.of(mixture, len(rows))
    if plan is None:
        return None
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows = rows[order[: plan.num_rows].to(rows.device)].to(mixture.logits)
    folds = [_Fold(copy.deepcopy(mixture), *parts, plan.there_and_back) for parts in split_rows(rows, plan.num_folds)]
    shares = [share * len(rows) / C for share in PRIOR_SHARES]
    pooled = [share * D for share in POOLED_ROWS] if C > 1 and mixture.covariance != "tied" else [0.0]
    middle = len(pooled) // 2
    for fold in folds:
        fold.sweep([(share, pooled[middle]) for share in shares])
    best = _result(folds).best
    for fold in folds:
        fold.follow(best, [(best[0], share) for share in pooled[middle + 1 :]])
        fold.follow(best, [(best[0], share) for share in pooled[:middle][::-1]])
    best = _result(folds).best
    place = shares.index(best[0])
    for fold in folds if best[1] != pooled[middle] else ():
        for share in (*shares[max(place - 1, 0) : place], *shares[place + 1 : place + 2]):
            fold.follow(best, [(share, best[1])])
    return _result(folds)


def _result(folds: Sequence["_Fold"]) -> CrossValidation:
    tried = tuple(folds[0].ended)
    return CrossValidation(tried, tuple(tuple(fold.ended[pair].held_out for fold in folds) for pair in tried))


@dataclass(frozen=True)
class _Plan:
    """How many rows and folds are used, and whether fits go along strengths there and back."""

    num_rows: int
    num_folds: int
    there_and_back: bool

    @classmethod
    def of(cls, mixture: RegularizedMixture, num_rows: int) -> "_Plan | None":
        """The plan for N rows; None where they are too few, or too few can be afforded."""
        C, D = mixture.num_components, mixture.num_features
        per_row = 4 * C * (D**2 if mixture.covariance in ("full", "tied") else D) * PASSES_OF_A_PATH
        wanted = min(num_rows, MAX_ROWS)
        if wanted < MIN_ROWS_PER_COMPONENT * C:
            return None
        if 2 * FOLDS * wanted * per_row <= MAX_OPERATIONS:
            return cls(wanted, FOLDS, there_and_back=True)
        affordable = min(wanted, int(MAX_OPERATIONS // per_row))
        return cls(affordable, 1, there_and_back=False) if affordable >= C * D else None


def split_rows(rows: Tensor, num_folds: int = FOLDS) -> Iterator[tuple[Tensor, Tensor]]:
    """The first of five folds of rows that are shuffled: those that are fitted, and those held out."""
    parts = rows.tensor_split(FOLDS)
    for number, held_out in enumerate(parts[:num_folds]):
        yield torch.cat([part for other, part in enumerate(parts) if other != number]), held_out


@dataclass(frozen=True)
class _Ended:
    """Where a fit ended: its objective and held-out log p(x), nats a row, and the parameters."""

    objective: float
    held_out: float
    state: Mapping[str, Tensor]


class _Fold:
    """A copy of a mixture, rows it is fitted to and rows it is scored on."""

    def __init__(self, mixture: RegularizedMixture, train: Tensor, held_out: Tensor, there_and_back: bool) -> None:
        self.mixture, self.train, self.held_out, self.there_and_back = mixture, train, held_out, there_and_back
        self.ended: dict[Pair, _Ended] = {}

    def sweep(self, pairs: Sequence[Pair]) -> None:
        """Fit along strengths, from the first to the last and back, and keep the fit with the higher objective."""
        for path in (pairs, pairs[::-1])[: 1 + self.there_and_back]:
            self._start(path[0])
            for pair in path:
                ended = self._fit(pair)
                if pair not in self.ended or ended.objective > self.ended[pair].objective:
                    self.ended[pair] = ended

    def follow(self, start: Pair, pairs: Sequence[Pair]) -> None:
        """Fit along strengths from where the fit with others ended."""
        self.mixture.load_state_dict(self.ended[start].state)
        for pair in pairs:
            self.ended[pair] = self._fit(pair)

    def _start(self, pair: Pair) -> None:
        """The best of a few starts."""
        ended = []
        for number in range(STARTS):
            self.mixture.start_em(self.train.nanmean(0), self.train, "k-means++", number)
            ended.append(self._fit(pair))
        self.mixture.load_state_dict(max(ended, key=lambda one: one.objective).state)

    @torch.no_grad()
    def _fit(self, pair: Pair) -> _Ended:
        """EM from the current parameters until it gains little."""
        self.mixture.set_strengths(pair, len(self.train))
        prepared = [self.mixture.prepare(block) for block in self.train.split(self.mixture.block_rows)]
        objective = -math.inf
        for _ in range(EPOCHS):
            statistics, log_px = self.mixture.e_step(prepared)
            before, objective = objective, float(log_px.mean() + self.mixture.log_prior() / len(self.train))
            if objective - before < TOLERANCE:
                break
            self.mixture.m_step(statistics)
        held_out = float(self.mixture.log_density(self.held_out).mean())
        return _Ended(objective, held_out, copy.deepcopy(self.mixture.state_dict()))
