"""How strongly covariances of a mixture are regularized: as log p(x) of held-out rows says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.models.fold_mixtures import FoldMixtures, MixtureState, start_state
from pyro_vae.models.regularized_mixture import Pair, RegularizedMixture
from pyro_vae.typing import PerRow, Rows

FOLDS = 5
MAX_ROWS, MIN_ROWS_PER_COMPONENT = 5000, 4  # that are used, the first after shuffling
MAX_OPERATIONS = 2e12  # of all products, about a minute of two cores
PASSES_OF_A_PATH = 200  # over the rows
PRIOR_SHARES = (0.5, 0.25, 0.12, 0.06, 0.03, 0.01, 1e-3, 1e-4, 1e-6)  # prior rows, relative to the rows of a component
POOLED_ROWS = (8.0, 2.0, 0.5, 0.0)  # relative to the number of features
STARTS, EPOCHS, TOLERANCE = 4, 30, 3e-4  # of EM in each fold


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


def cross_validate(mixture: RegularizedMixture, rows: Rows, weights: PerRow | None = None) -> CrossValidation | None:
    """Score strengths of regularization on held-out rows.

    In each of five folds EM goes from strong to weak regularization toward the diagonal and back, each fit starting
    where the last one ended, and the fit with the higher objective counts. From the best of these fits it goes along
    strengths toward a common covariance, and from the best of those to the two neighbors of the former strength. Where
    that would take more than `MAX_OPERATIONS`, there is one fold, one way, and fewer rows.

    Args:
        mixture: a mixture; copies of it are fitted.
        rows: the training rows (N, D).
        weights: their weights (N,), with the mean 1, in every fit but its start, and in the scores.

    Returns:
        The strengths and their scores; None where there are too few rows, or too few can be afforded.
    """
    C, D = mixture.num_components, mixture.num_features
    plan = _Plan.of(mixture, len(rows))
    if plan is None:
        return None
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    order = order[: plan.num_rows].to(rows.device)
    weights = None if weights is None else weights[order].to(mixture.logits)
    folds = _Folds(mixture, rows[order].to(mixture.logits), plan.num_folds, weights)
    shares = [share * len(rows) / C for share in PRIOR_SHARES]
    pooled = [share * D for share in POOLED_ROWS] if C > 1 and mixture.covariance != "tied" else [0.0]
    middle = len(pooled) // 2
    folds.sweep([(share, pooled[middle]) for share in shares], plan.there_and_back)
    best = folds.result().best
    folds.follow(best, [(best[0], share) for share in pooled[middle + 1 :]])
    folds.follow(best, [(best[0], share) for share in pooled[:middle][::-1]])
    best = folds.result().best
    place = shares.index(best[0])
    for share in (
        (*shares[max(place - 1, 0) : place], *shares[place + 1 : place + 2]) if best[1] != pooled[middle] else ()
    ):
        folds.follow(best, [(share, best[1])])
    return folds.result()


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
    """The first of five folds.

    Args:
        rows: rows (N, D), shuffled, or something else with an entry for each.
        num_folds: how many of the folds.

    Returns:
        Pairs of the rows that are fitted and those that are held out.
    """
    parts = rows.tensor_split(FOLDS)
    for number, held_out in enumerate(parts[:num_folds]):
        yield torch.cat([part for other, part in enumerate(parts) if other != number]), held_out


@dataclass(frozen=True)
class _Ended:
    """Where a fit ended: its objective and held-out log p(x), nats a row, and the parameters."""

    objective: float
    held_out: float
    state: MixtureState


class _Folds:
    """The folds of some rows, and for each pair of strengths where the fits of all folds ended."""

    def __init__(self, mixture: RegularizedMixture, rows: Tensor, num_folds: int, weights: PerRow | None) -> None:
        self.mixture, self.rows, self.num_folds, self.weights = mixture, rows, num_folds, weights
        number = torch.cat([torch.full((len(part),), i) for i, part in enumerate(rows.tensor_split(FOLDS))])
        self.is_fitted = (number != torch.arange(num_folds)[:, None]).to(rows.device)  # (folds, N)
        self.ended: dict[Pair, list[_Ended]] = {}

    def result(self) -> CrossValidation:
        tried = tuple(self.ended)
        return CrossValidation(tried, tuple(tuple(one.held_out for one in self.ended[pair]) for pair in tried))

    def sweep(self, pairs: Sequence[Pair], there_and_back: bool) -> None:
        """Fit along strengths, from the first to the last and back, and keep the fits with the higher objective."""
        paths = [pairs, pairs[::-1]][: 1 + there_and_back]
        states = [state for path in paths for state in self._best_starts(path[0])]
        mixtures = FoldMixtures(self.mixture, self.rows, self.is_fitted.repeat(len(paths), 1), self.weights)
        for step in zip(*paths, strict=True):
            found = self._fit(mixtures, step, states)
            for pair, part in zip(step, _parts(found, self.num_folds), strict=True):
                before = self.ended.get(pair, part)
                self.ended[pair] = [max(each, key=lambda one: one.objective) for each in zip(before, part, strict=True)]
            states = [one.state for one in found]

    def follow(self, start: Pair, pairs: Sequence[Pair]) -> None:
        """Fit along strengths from where the fits with others ended."""
        mixtures, states = (
            FoldMixtures(self.mixture, self.rows, self.is_fitted, self.weights),
            [one.state for one in self.ended[start]],
        )
        for pair in pairs:
            self.ended[pair] = self._fit(mixtures, [pair], states)
            states = [one.state for one in self.ended[pair]]

    def _best_starts(self, pair: Pair) -> list[MixtureState]:
        """The best of a few starts in each fold."""
        mixtures = FoldMixtures(self.mixture, self.rows, self.is_fitted.repeat(STARTS, 1), self.weights)
        states = [
            start_state(self.mixture, self.rows[is_fitted], pair, number)
            for number in range(STARTS)
            for is_fitted in self.is_fitted
        ]
        found = _parts(self._fit(mixtures, [pair] * STARTS, states), self.num_folds)
        return [max(each, key=lambda one: one.objective).state for each in zip(*found, strict=True)]

    def _fit(self, mixtures: FoldMixtures, pairs: Sequence[Pair], states: Sequence[MixtureState]) -> list[_Ended]:
        """EM of all folds with each pair, until it gains little."""
        counts = self.is_fitted.sum(1).tolist()
        strengths = torch.stack([self.mixture.strengths_of(pair, count) for pair in pairs for count in counts])
        objective, held_out = mixtures.fit(strengths, states, EPOCHS, TOLERANCE)
        ended = zip(objective.tolist(), held_out.tolist(), mixtures.states(), strict=True)
        return [_Ended(*each) for each in ended]


def _parts(found: Sequence[_Ended], size: int) -> list[Sequence[_Ended]]:
    return [found[start : start + size] for start in range(0, len(found), size)]
