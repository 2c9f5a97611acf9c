"""Mixtures of normals that are fitted to the folds of a cross-validation, all at once."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.models.covariance_forms import CovariancePrior
from pyro_vae.models.exact_density import Statistics, add_statistics, column_scales
from pyro_vae.models.regularized_mixture import Pair, RegularizedMixture
from pyro_vae.typing import Rows

MAX_BYTES = 2**28  # of prepared rows, beyond which they are computed anew in each iteration


@dataclass(frozen=True)
class MixtureState:
    """The parameters of a mixture: log weights (C,), means (C, D) and covariances in the shape of their form."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor


def start_state(mixture: RegularizedMixture, rows: Rows, pair: Pair, seed: int) -> MixtureState:
    """A start of EM by k-means++.

    Args:
        mixture: the size and form.
        rows: the rows that are fitted (n, D).
        pair: the strengths of regularization.
        seed: of the start.

    Returns:
        The parameters after the first M-step.
    """
    started = copy.deepcopy(mixture)
    started.set_strengths(pair, len(rows))
    started.start_em(rows.nanmean(0), rows, "k-means++", seed)
    return MixtureState(started.logits.detach().log_softmax(0), started.means, started.covariances)


class FoldMixtures:
    """G mixtures of one size and form, of which each is fitted to its own part of the rows.

    They are one mixture of G·C components whose responsibilities sum to one within each C: one product of the rows'
    features gives the densities of all, and another all their statistics.

    Args:
        mixture: their size and form.
        rows: all rows (N, D), NaN where a value is missing.
        is_fitted: which rows each is fitted to, bool (G, N); the others are held out.
        weights: the rows' weights (N,), with the mean 1; None where each counts once.
    """

    def __init__(
        self, mixture: RegularizedMixture, rows: Rows, is_fitted: Tensor, weights: Tensor | None = None
    ) -> None:
        self.form, self.shape = mixture.covariance, (len(is_fitted), mixture.num_components)
        self.together = mixture.repeated(len(is_fitted))
        self.together.center.copy_(rows.nanmean(0))
        self.together.prior_variance.copy_(column_scales(rows).square())
        factor = mixture.num_components ** (-2 / mixture.num_features)
        self.prior_variance = torch.stack([factor * column_scales(rows[part]).square() for part in is_fitted])
        self.rows = rows.split(self.together.block_rows)
        self.is_fitted = is_fitted.split(self.together.block_rows, 1)
        first = self.together.prepare(self.rows[0])
        can_keep = first.numel() * first.element_size() * len(self.rows) < MAX_BYTES
        self.prepared = [self.together.prepare(block) for block in self.rows] if can_keep else None
        self.weights = None if weights is None else weights.split(self.together.block_rows)
        counted = is_fitted if weights is None else is_fitted * weights
        self.num_fitted, self.num_held_out = (
            counted.sum(1),
            (~is_fitted if weights is None else ~is_fitted * weights).sum(1),
        )

    @torch.no_grad()
    def fit(
        self, strengths: Tensor, states: Sequence[MixtureState], epochs: int, tolerance: float
    ) -> tuple[Tensor, Tensor]:
        """EM of all from some states, until none of them gains more than a tolerance.

        Args:
            strengths: the numbers of rows of each, as in `RegularizedMixture.strengths`, (G, 3).
            states: where they start.
            epochs: iterations at most.
            tolerance: nats per row.

        Returns:
            The objective of each (G,) and log p(x) of its held-out rows (G,), nats per row.
        """
        self.prior = CovariancePrior(self.form, *strengths.unbind(1))
        self.has_pooled = bool((strengths[:, 1] > 0).any())
        self._set(states)
        before = torch.full_like(self.prior_variance[:, 0], -math.inf)
        for epoch in range(epochs):
            statistics, fitted, held_out = self._e_step()
            objective = fitted + self.prior.log_prob(self.prior_variance, self._precisions) / self.num_fitted
            if epoch == epochs - 1 or bool((objective - before < tolerance).all()):
                break
            before = objective
            self._m_step(statistics)
        return objective, held_out

    def states(self) -> list[MixtureState]:
        """The parameters of each."""
        means = self.together.means.clone().unflatten(0, self.shape)
        covariances = self._of_each(self.together.covariances)
        return [MixtureState(*each) for each in zip(self.log_weights, means, covariances, strict=True)]

    @property
    def _precisions(self) -> Tensor:
        return self._of_each(self.together.precisions)

    def _of_each(self, per_component: Tensor) -> Tensor:
        """(G, C, …) of (G·C, …), for a tied covariance (G, …)."""
        each = per_component.unflatten(0, self.shape)
        return each[:, 0] if self.form == "tied" else each

    @torch.no_grad()
    def _set(self, states: Sequence[MixtureState]) -> None:
        self.log_weights = torch.stack([state.log_weights for state in states])
        self.together.loc.copy_(torch.cat([state.means for state in states]))
        self._set_covariances(torch.stack([state.covariances for state in states]))

    def _set_covariances(self, covariances: Tensor) -> None:
        if self.form == "tied":
            covariances = covariances[:, None].expand(-1, self.shape[1], -1, -1)
        self.together.set_covariances(covariances.flatten(0, 1))

    def _e_step(self) -> tuple[Statistics, Tensor, Tensor]:
        """Statistics of each mixture's own rows, and the mean log p(x) of these and of the others, (G,)."""
        table, total = self.together.table(), None
        fitted = held_out = torch.zeros_like(self.prior_variance[:, 0])
        blocks = self.prepared or (self.together.prepare(block) for block in self.rows)
        for number, (prepared, is_fitted) in enumerate(zip(blocks, self.is_fitted, strict=True)):
            log_joint = self.together.log_probs(prepared, table).unflatten(0, self.shape) + self.log_weights[..., None]
            log_px = log_joint.logsumexp(1)
            shares = (log_joint - log_px[:, None]).exp_() * is_fitted[:, None]
            if self.weights is not None:
                log_px, shares = log_px * self.weights[number], shares * self.weights[number]
            total = add_statistics(total, self.together.statistics(prepared, shares.flatten(0, 1), table))
            fitted = fitted + torch.where(is_fitted, log_px, 0.0).sum(1)
            held_out = held_out + torch.where(is_fitted, 0.0, log_px).sum(1)
        return total or {}, fitted / self.num_fitted, held_out / self.num_held_out

    def _m_step(self, statistics: Statistics) -> None:
        counts = statistics["counts"].unflatten(0, self.shape)
        weights = counts / counts.sum(1, keepdim=True)
        self.log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        before = self._precisions if self.has_pooled and self.form != "tied" else None
        scatter = self.together.set_means(statistics).unflatten(0, self.shape)
        if self.form == "tied":
            scatter = scatter.sum(1)
        self._set_covariances(self.prior.mode(scatter, counts, self.prior_variance, before))
