"""Missing values drawn block by block: latents by their importance weights, then x given the latents."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.context_managers import keyed_generator, seeded
from pyro_vae.evidence.annealing_from_modes import CHAINS, anneal_chains
from pyro_vae.evidence.pareto_smoothing import khat_limit, pareto_smoothed
from pyro_vae.evidence.proposal_mixture import Proposal
from pyro_vae.evidence.row_blocks import RowBlock, key
from pyro_vae.evidence.score_blocks import BLOCK, FINAL, STAGES, STARTS, BlockScorer
from pyro_vae.programs.observed_values import Expected, LevelProbs, ObservedValues
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import LogWeights, PerRow, Program

METHODS = ("draws", "mean", "mode")
TURNS = 4  # of annealing, of 16 chains each
MIN_ESS_SHARE = 0.25  # of the chains: fewer that count, and their points are not to be trusted
ANNEALING = STAGES.index("annealing")
RESAMPLING, DRAWING = 200, 201  # streams of random numbers


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        method: draws, mean or mode.
        num_imputations: M, the number of draws of each missing value.
        num_samples: S, the number of weighted points of each row's latents.
        seed: of all random numbers.
        memory_mib: for the points in progress, in MiB.
    """

    method: str
    num_imputations: int
    num_samples: int
    seed: int
    memory_mib: float


@dataclass(frozen=True)
class Points:
    """Weighted points of the latents of n rows.

    Attributes:
        u: the points, (S, n, K).
        log_weights: their log weights, (S, n) nats.
    """

    u: Tensor
    log_weights: LogWeights


class WeightedMean:
    """Sums over points, weighted by row: E[x], and the probabilities of levels."""

    def __init__(self) -> None:
        self.total: Expected | None = None

    def add(self, found: Expected, weights: Tensor) -> None:
        """Count points in.

        Args:
            found: what x is expected to be at S points of n rows, (S·n, D), points first.
            weights: theirs (S, n), which add up to one over all points.
        """
        mean = _weighted(found.mean, weights)
        levels = tuple(replace(each, probs=_weighted(each.probs, weights)) for each in found.levels)
        if self.total is not None:
            mean = mean + self.total.mean
            before = zip(levels, self.total.levels, strict=True)
            levels = tuple(LevelProbs(one.columns, one.probs + other.probs) for one, other in before)
        self.total = Expected(mean, levels, found.is_bit)

    def values(self, method: str) -> Tensor:
        """One value for each: the mean, or the mode of bits; of levels always the most probable, (n, D).

        Args:
            method: mean or mode.

        Returns:
            The values.
        """
        assert self.total is not None
        values = self.total.mean.clone()
        if method == "mode":
            values = torch.where(self.total.is_bit, (values > 0.5).to(values), values)
        for each in self.total.levels:
            values[:, each.columns] = each.probs.argmax(-1).to(values)
        return values


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    by_point = values.reshape(*weights.shape, *values.shape[1:]).double()
    # a point of weight zero counts nowhere, whatever its mean is
    shares = weights.reshape(*weights.shape, *[1] * (values.dim() - 1))
    return torch.where(shares > 0, by_point * shares, 0.0).sum(0)


def choose_points(log_weights: LogWeights, num: int, seed: int, rows: Tensor) -> Tensor:
    """Which points are drawn, independently and with the probabilities of their weights.

    Args:
        log_weights: of the points (S, n), nats.
        num: the number M of draws of each row.
        seed: of the random numbers, which are keyed by row.
        rows: the rows' numbers (n,).

    Returns:
        The points' numbers (M, n); 0 for a row whose weights are all zero, or not numbers.
    """
    chosen = torch.zeros(num, log_weights.shape[1], dtype=torch.long)
    for place, (row, probs) in enumerate(zip(rows.tolist(), normalized(log_weights).T.numpy(), strict=True)):
        if np.isfinite(probs).all():
            generator = keyed_generator(seed, RESAMPLING, row)
            chosen[:, place] = torch.from_numpy(generator.choice(len(probs), num, p=probs / probs.sum()))
    return chosen


def normalized(log_weights: LogWeights) -> LogWeights:
    """The weights (S, n) of points, which add up to one; NaN in a row whose weights are all zero."""
    return log_weights.double().nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf).softmax(0)


def effective_draws(log_weights: LogWeights) -> PerRow:
    """The effective number of points (n,)."""
    return 1 / normalized(log_weights).square().sum(0)


def khat_of(log_weights: LogWeights) -> PerRow:
    """The Pareto shape of the tail of the points' weights, (n,)."""
    khat, _ = pareto_smoothed(np.ascontiguousarray(log_weights.T.numpy()))
    return torch.from_numpy(khat)


class BlockImputer(BlockScorer):
    """Missing values of rows by the proposals of `auto_evidence`: modes, guide, prior, and annealing of the rest.

    Raises `InputError` for latents that are not continuous or summed out, and for values that are not independent
    given the latents.

    Args:
        program: any program.
        scored: the rows, each with a missing value.
        wanted: what is asked for.
        use_guide: whether the guide is a component, where it has a density.
    """

    def __init__(self, program: Program, scored: ScoredRows, wanted: Wanted, *, use_guide: bool) -> None:
        super().__init__(program, scored, wanted.num_samples, [], wanted.memory_mib, use_guide=use_guide)
        self.wanted = wanted

    def _score(self, block: RowBlock) -> dict[str, Tensor]:
        everything = torch.arange(BLOCK)
        proposal, stage = self._find_modes(block)
        u = block.proposal_draws(proposal, FINAL)
        points = Points(u, block.weigh(proposal, u, everything).log_weights)
        khat, ess = khat_of(points.log_weights), effective_draws(points.log_weights)
        is_bad = (stage == ANNEALING) | ~(khat <= khat_limit(self.counts.total))
        index, ends = is_bad.nonzero()[:, 0], None
        if len(index):
            ends = self._annealed(block, proposal, index)
            ess[index], khat[index], stage[index] = effective_draws(ends.log_weights), math.nan, ANNEALING
            is_bad[index] = ~(ess[index] >= MIN_ESS_SHARE * TURNS * CHAINS)
        values = (self._draws if self.wanted.method == "draws" else self._means)(block, points, index, ends)
        return {"values": values, "khat": khat, "ess": ess, "stage": stage, "is_bad": is_bad}

    @staticmethod
    def _annealed(block: RowBlock, proposal: Proposal, index: Tensor) -> Points:
        """The ends of chains of some rows (m,)."""
        turns = [anneal_chains(block, proposal, index, turn) for turn in range(TURNS)]
        u, log_weights = (torch.cat(column) for column in zip(*turns, strict=True))
        return Points(u, log_weights)

    def _draws(self, block: RowBlock, points: Points, index: Tensor, ends: Points | None) -> Tensor:
        """Draws of x, (n, M, D): of rows `index` at the chains' ends, of the others at the mixture's points."""
        num, seed = self.wanted.num_imputations, self.scored.seed
        chosen = taken(points.u, choose_points(points.log_weights, num, seed, block.first + torch.arange(BLOCK)))
        if ends is not None:
            chosen[:, index] = taken(ends.u, choose_points(ends.log_weights, num, seed, block.first + index))
        with seeded(key(seed, DRAWING, block.first)):
            parts = chosen.split(max(1, self.chunk // BLOCK))
            drawn = [observed_at(self.joint, block.batch, some).draw().reshape(len(some), BLOCK, -1) for some in parts]
        return torch.cat(drawn).movedim(1, 0)

    def _means(self, block: RowBlock, points: Points, index: Tensor, ends: Points | None) -> Tensor:
        """The mean or the mode of x, (n, 1, D)."""
        values = self._mean_of(block.batch, points)
        if ends is not None:
            values[index] = self._mean_of(block.batch.take(index.to(block.batch.x.device)), ends)
        return values[:, None]

    def _mean_of(self, batch: Batch, points: Points) -> Tensor:
        found, size = WeightedMean(), max(1, self.chunk // len(batch.x))
        weights = normalized(points.log_weights).to(points.u.device)
        for some, shares in zip(points.u.split(size), weights.split(size), strict=True):
            found.add(observed_at(self.joint, batch, some).expected(), shares)
        return found.values(self.wanted.method)

    def _at_some_point(self, batch: Batch) -> list[Tensor]:
        u = self._block(0, batch).draw("prior", 1, STARTS)
        with seeded(0):
            return [*super()._at_some_point(batch), observed_at(self.joint, batch, u).draw()]


def observed_at(joint: UnconstrainedJoint, batch: Batch, u: Tensor, *, given_others: bool = False) -> ObservedValues:
    """What the model observes at points of latents.

    Args:
        joint: the program's densities.
        batch: the rows (n).
        u: the points (S, n, K).
        given_others: whether correlated values are each conditioned on all others.

    Returns:
        The distributions of S·n rows, points first.
    """
    rows = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(len(u)))
    trace, _ = joint.over(rows).trace(u.flatten(0, 1))
    return ObservedValues(joint.plates, sample_sites(trace).values(), rows, given_others=given_others)


def taken(u: Tensor, chosen: Tensor) -> Tensor:
    """Some of the points of n rows.

    Args:
        u: the points, (S, n, K).
        chosen: the numbers of those that are taken, (M, n).

    Returns:
        Points (M, n, K).
    """
    return u[chosen.to(u.device), torch.arange(u.shape[1], device=u.device)]
