"""Single columns of rows given the others: log p, what it is expected to be, and a first guess for all columns."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.evidence.impute_blocks import Points, choose_points, observed_at, taken
from pyro_vae.evidence.paired_blocks import PairedScorer
from pyro_vae.evidence.row_blocks import RowBlock, key
from pyro_vae.evidence.score_blocks import BLOCK, FINAL, BlockScorer
from pyro_vae.programs.observed_values import ObservedValues
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.typing import Program

NUM_POINTS = 64  # of the latents given the other columns, drawn by their weights
NUM_VALUES, NUM_ROUGH_VALUES = 32, 8  # of a column, drawn at these points
NUM_WIDE, NUM_VALUES_OF_WIDE = 50, 16  # numbers of a row above which a column has fewer values
EXPECTING = 400  # a stream of random numbers


class ColumnScorer(PairedScorer):
    r"""log p(x_d | x_−d) of pairs of a row and a column, and its expectation under the model.

    In addition to the numbers of `PairedScorer`: `expected`, $E[\log p(X_d | x_{-d})]$ for $X_d \sim p(x_d | x_{-d})$,
    in the units of the prepared rows, by 32 draws (16 in wide rows) whose density is a mixture over 64 latents, and its
    standard error `expected_se`.
    """

    def _given_rest(
        self, joint: RowBlock, given: RowBlock, points: Points, index: Tensor, ends: Points | None
    ) -> dict[str, Tensor]:
        seed, rows = self.scored.seed, given.first + torch.arange(BLOCK)
        u = taken(points.u, choose_points(points.log_weights, NUM_POINTS, seed, rows))
        if ends is not None:
            u[:, index] = taken(ends.u, choose_points(ends.log_weights, NUM_POINTS, seed, rows[index]))
        assert joint.batch.mask is not None
        assert given.batch.mask is not None
        hidden = joint.batch.mask & ~given.batch.mask
        with seeded(key(seed, EXPECTING, given.first)):
            observed = observed_at(self.joint, given.batch, u)
            num = NUM_VALUES if hidden.shape[1] <= NUM_WIDE else NUM_VALUES_OF_WIDE
            log_probs = _log_probs_of_draws(observed, num, lambda each: torch.where(hidden, each, 0.0).sum(-1))
        return {"expected": log_probs.mean(0), "expected_se": log_probs.std(0) / math.sqrt(num)}


class ColumnShortlist(BlockScorer):
    r"""A first guess of `log_px` − `expected` for all columns of rows, from draws given the whole row.

    $p(x_d | x_{-d}) = 1 / E_{z|x}[1 / p(x_d | z)]$, the conditional predictive ordinate (Gelfand, Dey & Chang 1992),
    whose variance is large where x_d has moved the posterior; the expectation is that under the same posterior.

    Args:
        program: any program.
        scored: the rows.
        columns: the numbers of a row that each of the C columns has.
        num_samples: draws S for each row.
        memory_mib: memory for the draws in progress, in MiB.
        use_guide: whether the guide is a component, where it has a density.
    """

    def __init__(
        self,
        program: Program,
        scored: ScoredRows,
        columns: Sequence[slice],
        num_samples: int,
        memory_mib: float,
        *,
        use_guide: bool = True,
    ) -> None:
        super().__init__(program, scored, num_samples, [], memory_mib, use_guide=use_guide)
        self.columns = columns

    def _score(self, block: RowBlock) -> dict[str, Tensor]:
        seed, rows = self.scored.seed, block.first + torch.arange(BLOCK)
        proposal, _ = self._find_modes(block)
        u = block.proposal_draws(proposal, FINAL)
        log_weights = block.weigh(proposal, u, torch.arange(BLOCK)).log_weights
        u = taken(u, choose_points(log_weights, NUM_POINTS, seed, rows))
        with seeded(key(seed, EXPECTING, block.first)):
            observed = observed_at(self.joint, block.batch, u, given_others=True)
            expected = _log_probs_of_draws(observed, NUM_ROUGH_VALUES, self._by_column).mean(0)
        own = self._by_column(_at_points(observed, block.batch.x)).cpu().double()
        log_px = math.log(NUM_POINTS) - torch.logsumexp(-own, 0)
        return {"relative": log_px - expected}

    def _by_column(self, each: Tensor) -> Tensor:
        """Sums over the numbers of each column, (…, C)."""
        if len(self.columns) == each.shape[-1]:
            return each
        return torch.stack([each[..., numbers].sum(-1) for numbers in self.columns], -1)


def _at_points(observed: ObservedValues, x: Tensor) -> Tensor:
    """log p of each value of rows (n, D) at each point, (S, n, D)."""
    return observed.each_log_prob(x.repeat(NUM_POINTS, 1)).reshape(NUM_POINTS, *x.shape)


def _log_probs_of_draws(observed: ObservedValues, num: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """log of the mean over points of densities (n, …) of draws of x, `num` of them, each made at one of the points."""
    drawn = observed.draw().unflatten(0, (NUM_POINTS, BLOCK))[:num]
    found = [torch.logsumexp(reduce(_at_points(observed, x)), 0) for x in drawn]
    return torch.stack(found).cpu().double() - math.log(NUM_POINTS)
