"""Rows scored with and without some of their values, by the same random numbers."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evidence.annealing_from_modes import CHAINS, anneal_chains
from pyro_vae.evidence.impute_blocks import Points
from pyro_vae.evidence.pareto_smoothing import khat_limit, pareto_smoothed
from pyro_vae.evidence.proposal_mixture import Proposal
from pyro_vae.evidence.row_blocks import RowBlock
from pyro_vae.evidence.score_blocks import BLOCK, FINAL, MIN_ANNEALING_ESS, STAGES, BlockScorer, fill_block
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.typing import LogWeights, PerRow, Program

ANNEALING = STAGES.index("annealing")


class PairedScorer(BlockScorer):
    r"""log p(x_A | x_B) of rows as a difference of two estimates, each from a mixture around its own modes.

    Both take the same random numbers, so that where the two posteriors have much the same form, weights rise and fall
    together: the error of the difference is that of $w^{AB}_s / \bar w^{AB} - w^B_s / \bar w^B$ over draws s. Raises
    `InputError` for latents that have no modes.

    Args:
        program: any program whose model takes a mask.
        scored: the rows, with the values of A and B as the observed ones.
        hidden: which values belong to A, of all rows, (N, D).
        num_samples: draws S for each row and each of the two.
        memory_mib: memory for the draws in progress, in MiB.
        use_guide: whether the guide is a component, where it has a density.
    """

    def __init__(
        self,
        program: Program,
        scored: ScoredRows,
        hidden: Tensor,
        num_samples: int,
        memory_mib: float,
        *,
        use_guide: bool = True,
    ) -> None:
        super().__init__(program, scored, num_samples, [], memory_mib, use_guide=use_guide)
        self.hidden = hidden

    def _score_rows(self, first: int, batch: Batch, places: Tensor) -> dict[str, Tensor]:
        given = _without(batch, self.hidden[first + places].to(batch.x.device))
        return self._score_pair(*(self._block(first, fill_block(rows, places)) for rows in (batch, given)))

    def _score_pair(self, joint: RowBlock, given: RowBlock) -> dict[str, Tensor]:
        (around_joint, stage), (around_given, other_stage) = self._find_modes(joint), self._find_modes(given)
        pairs = (joint, around_joint), (given, around_given)
        points = [self._points(*pair) for pair in pairs]
        found = summarize_ratio(points[0].log_weights, points[1].log_weights, self.counts.strata)
        index, ends = (torch.maximum(stage, other_stage) == ANNEALING).nonzero()[:, 0], None
        if len(index):
            above, ends = (Points(*anneal_chains(*pair, index)) for pair in pairs)
            chains = summarize_ratio(above.log_weights, ends.log_weights, [CHAINS])
            chains["is_bad"] = ~(chains["ess"] >= MIN_ANNEALING_ESS)
            for name, values in chains.items():
                found[name][index] = values
        return found | self._given_rest(joint, given, points[1], index, ends)

    def _points(self, block: RowBlock, proposal: Proposal) -> Points:
        u = block.proposal_draws(proposal, FINAL)
        return Points(u, block.weigh(proposal, u, torch.arange(BLOCK)).log_weights)

    def _given_rest(
        self, joint: RowBlock, given: RowBlock, points: Points, index: Tensor, ends: Points | None
    ) -> dict[str, Tensor]:
        """Further numbers of all rows, from weighted points given x_B; those of rows `index` are the chains' ends."""
        return {}

    def require_placeholders_unread(self, rows: Batch | None = None) -> None:
        """`InputError` where the model reads the values of A although its mask leaves them out.

        Args:
            rows: some rows with missing values; by default the first that are scored, without A.
        """
        first = self.scored.first
        hidden = self.hidden[self.scored.kept[: len(first.x)]].to(first.x.device)
        super().require_placeholders_unread(_without(first, hidden) if rows is None else rows)


def _without(batch: Batch, hidden: Tensor) -> Batch:
    """Rows without some of their values."""
    assert batch.mask is not None
    return replace(batch, x=batch.x.masked_fill(hidden, 0.0), mask=batch.mask & ~hidden)


def summarize_ratio(above: LogWeights, below: LogWeights, strata: list[int]) -> dict[str, PerRow]:
    """log of the ratio of two mean weights whose draws are paired.

    Args:
        above: log weights (S, n), nats.
        below: those of the denominator (S, n), draw s by the random numbers of draw s above.
        strata: how many of the draws come from each component of a mixture.

    Returns:
        `log_px`, its error `mc_se`, the larger of the two `khat`, the smaller `ess`, and `is_bad` by k-hat, (n,) each.
    """
    num = len(above)
    pair = [torch.where(each == math.inf, math.nan, each) for each in (above, below)]
    means = [torch.logsumexp(each, 0) - math.log(num) for each in pair]
    weights = [torch.exp(each - mean) for each, mean in zip(pair, means, strict=True)]
    parts = [part for part in (weights[0] - weights[1]).split(strata) if len(part) > 1]
    variance = torch.stack([len(part) * part.var(0) for part in parts]).sum(0)
    khat = np.maximum(*(pareto_smoothed(np.ascontiguousarray(each.T.numpy()))[0] for each in pair))
    ess = torch.stack([num / each.square().mean(0) for each in weights]).amin(0)
    return {
        "log_px": means[0] - means[1],
        "mc_se": variance.sqrt() / num,
        "khat": torch.from_numpy(khat),
        "ess": ess,
        "is_bad": ~torch.from_numpy(khat <= khat_limit(num)),
    }
