"""Rows scored by importance sampling from mixtures, from more modes and by annealing where that is not enough."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError, OutsideSupportError
from pyro_vae.evidence.annealing_from_modes import NUM_DENSITIES, anneal_from_modes
from pyro_vae.evidence.pareto_smoothing import pareto_smoothed
from pyro_vae.evidence.proposal_mixture import Counts, Proposal, StudentT, student_t_at
from pyro_vae.evidence.row_blocks import RowBlock, summarize_mixture
from pyro_vae.inference.posterior.newton_modes import maximize
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.plates import require_guide_density
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import LogWeights, PerRow, Program, RowLatents

STAGES = ("modes", "more modes", "annealing")
BLOCK = 64  # rows that are worked on together; a row's random numbers depend on its place in its block
NEWTON_STEPS = 12
START_DRAWS = 16  # of the guide; a start is their mean
OTHER_START_DRAWS = 64  # of the prior; another start is the one that the first mode's Student-t accounts for least
MIN_MASS = -4.0  # log of the mass around the mode found from there, relative to that of the first, to be kept
PILOT_DRAWS = 150
PILOT_KHAT = 0.7  # of a pilot's draws; above it a row goes to the next stage
EXTRA_STARTS = 2  # of Newton's method for such rows: the pilot's best draw, then draws of the prior
MIN_ANNEALING_ESS = 4.0
MAX_DIM = 256  # latents for which modes are looked for
PRIOR_SCALE_DRAWS, PRIOR_SCALES = 64, 2.0  # a scale is at most so many standard deviations of the prior
STARTS, PILOT, SECOND_PILOT, FINAL = range(0, 8, 2)  # streams of random numbers; a mixture takes two


class BlockScorer:
    """log p(x) of rows, block by block.

    Raises `InputError` for latents that are not continuous, and for more than 256.

    Args:
        program: any program.
        scored: the rows.
        num_samples: draws S for each row.
        sizes: numbers of draws at which IWAE bounds are wanted.
        memory_mib: memory for the draws in progress, in MiB.
        use_guide: whether the guide is a component, where it has a density.
    """

    def __init__(
        self,
        program: Program,
        scored: ScoredRows,
        num_samples: int,
        sizes: list[int],
        memory_mib: float,
        *,
        use_guide: bool = True,
    ) -> None:
        self.scored = scored
        sampler = LogWeightSampler(program, scored.plates, scored.first)
        self.joint = UnconstrainedJoint(program, scored.plates, scored.first)
        if self.joint.dim > MAX_DIM:
            raise InputError(f"{self.joint.dim} latents are too many for a Hessian of each row")
        self.vectorized = sampler.vectorized
        self.chunk = max(BLOCK, int(memory_mib * 2**20 // sampler.bytes_per_weight(scored.first)))
        self.has_guide = use_guide and _has_density(self.joint)
        self.counts, self.pilot_counts = (Counts.of(draws, self.has_guide) for draws in (num_samples, PILOT_DRAWS))
        self.sizes = [k for k in sizes if k <= self.counts.guide]
        first, self.one_call = fill_block(scored.first, torch.arange(len(scored.first.x))), True
        self.one_call = all(self._rows_are_independent(name, first) for name in ("guide", "prior"))
        prior = self._block(0, first).draw("prior", PRIOR_SCALE_DRAWS, STARTS)
        self.largest_scale = PRIOR_SCALES * prior.std((0, 1)).max()

    def _block(self, first: int, batch: Batch) -> RowBlock:
        return RowBlock(
            self.joint,
            batch,
            first,
            self.scored.seed,
            vectorized=self.vectorized,
            one_call=self.one_call,
            chunk=self.chunk,
        )

    def _rows_are_independent(self, component: str, batch: Batch) -> bool:
        """Whether a row's draws, made in one call with others, stay when the others change."""
        if component == "guide" and not self.has_guide:
            return True
        same = batch.take(torch.zeros(BLOCK, dtype=torch.long, device=batch.x.device))
        x = torch.zeros_like(same.x)
        x[::2], x[-1] = 1.0, same.x[-1]
        alone, among = (self._block(0, rows).draw(component, 4, STARTS)[:, -1] for rows in (same, replace(same, x=x)))
        return torch.allclose(alone, among, rtol=1e-3, atol=1e-5)

    def score(self, on_rows: Callable[[int], None] | None = None) -> list[dict[str, Tensor]]:
        """The numbers of all rows, a dictionary of tensors (n,) for each block.

        Args:
            on_rows: called with the number of rows done.

        Returns:
            The blocks in order.
        """
        done = 0

        def of_block(first: int, batch: Batch, places: Tensor) -> dict[str, Tensor]:
            nonlocal done
            found = {name: values[places] for name, values in self._score_rows(first, batch, places).items()}
            done += len(batch.x)
            if on_rows is not None:
                on_rows(done)
            return found

        return self.scored.map_blocks(BLOCK, of_block)

    def require_placeholders_unread(self, rows: Batch | None = None) -> None:
        """`InputError` where the model reads the placeholders of missing values: then nothing is right.

        Args:
            rows: some rows with missing values; by default the first that are scored.
        """
        rows = self.scored.first if rows is None else rows
        batch = rows.take(torch.arange(BLOCK, device=rows.x.device) % len(rows.x))
        if batch.mask is None:
            return
        others = replace(batch, x=torch.where(batch.mask, batch.x, 1.0))
        pairs = zip(self._at_some_point(batch), self._at_some_point(others), strict=True)
        if not all(torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True) for one, other in pairs):
            raise InputError(
                "the model reads the values that are missing, and not only those that its mask marks as observed: let "
                "its likelihood leave them out (likelihood.masked(z, mask))"
            )

    def _at_some_point(self, batch: Batch) -> list[Tensor]:
        """What must not depend on the values that are missing, at a draw of the prior: log p(x, u) (n,)."""
        return [self.joint.over(batch).at(self._block(0, batch).draw("prior", 1, STARTS)[0]).log_joint]

    def _score_rows(self, first: int, batch: Batch, places: Tensor) -> dict[str, Tensor]:
        """The numbers of a whole block, of which those at the rows' places count."""
        return self._score(self._block(first, fill_block(batch, places)))

    def _score(self, block: RowBlock) -> dict[str, Tensor]:
        everything = torch.arange(BLOCK)
        proposal, stage = self._find_modes(block)
        final = block.weigh(proposal, block.proposal_draws(proposal, FINAL), everything)
        summary = summarize_mixture(final, self.counts, self.sizes)
        if len(bad := (stage == STAGES.index("annealing")).nonzero()[:, 0]):
            for name, values in anneal_from_modes(block, proposal, bad).items():
                summary[name][bad] = values
        spent = torch.tensor([0, PILOT_DRAWS, PILOT_DRAWS + NUM_DENSITIES])
        spent += START_DRAWS + OTHER_START_DRAWS + PILOT_DRAWS + self.counts.total
        return summary | {"stage": stage, "densities": spent[stage].double()}

    def _find_modes(self, block: RowBlock) -> tuple[Proposal, Tensor]:
        """Each row's mixture, and its stage (n,): pilot draws say where one mode, or several, are not enough."""
        everything, stage = torch.arange(BLOCK), torch.zeros(BLOCK, dtype=torch.long)
        drawn = block.draw("guide" if self.has_guide else "prior", START_DRAWS, STARTS)
        modes, num_modes = self._two_modes(block, everything, drawn)
        proposal = Proposal(self.pilot_counts, modes, num_modes)
        draws = block.proposal_draws(proposal, PILOT)
        log_weights = block.weigh(proposal, draws, everything).log_weights
        if len(bad := _is_bad(log_weights).nonzero()[:, 0]):
            best = log_weights[:, bad].nan_to_num(-math.inf).argmax(0)
            further = [draws[best, bad], *block.draw("prior", EXTRA_STARTS - 1, STARTS)[:, bad]]
            modes += [modes[0].put(bad, self._mode(block, bad, start)[0]) for start in further]
            stage[bad] = STAGES.index("more modes")
            proposal = Proposal(self.pilot_counts, modes, torch.where(stage > 0, len(modes), num_modes))
            again = block.weigh(proposal, block.proposal_draws(proposal, SECOND_PILOT), bad)
            stage[bad[_is_bad(again.log_weights)]] = STAGES.index("annealing")
        return Proposal(self.counts, modes, proposal.num_modes), stage

    def _two_modes(self, block: RowBlock, everything: Tensor, drawn: Tensor) -> tuple[list[StudentT], Tensor]:
        """The Student-t at the mode near draws (S, n, K), at one far from it, and how many of them count (n,)."""
        first, first_mass = self._mode(block, everything, drawn.mean(0))
        elsewhere = torch.cat([drawn, block.draw("prior", OTHER_START_DRAWS, STARTS)])
        unexplained = (block.log_joint(elsewhere) - first.log_prob(elsewhere)).nan_to_num(-math.inf)
        start = elsewhere[unexplained.argmax(0), everything.to(elsewhere.device)]
        second, second_mass = self._mode(block, everything, start)
        return [first, second], 1 + (second_mass - first_mass > MIN_MASS).long()

    def _mode(self, block: RowBlock, index: Tensor, start: RowLatents) -> tuple[StudentT, PerRow]:
        """The Student-t at the modes that some rows (m,) reach from a start (m, K), and log of the mass there."""
        mode = maximize(block.joint(index), start, NEWTON_STEPS)
        student_t = student_t_at(mode, self.largest_scale, otherwise=start)
        log_det = student_t.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).cpu().double()
        return student_t, torch.where(mode.finite, mode.value + log_det, -math.inf)


def fill_block(batch: Batch, places: Tensor) -> Batch:
    """A whole block with rows at their places, and copies of the first of them at the others.

    Args:
        batch: the rows (n).
        places: their places in the block, (n,).

    Returns:
        The block's rows.
    """
    index = torch.zeros(BLOCK, dtype=torch.long).index_copy_(0, places, torch.arange(len(places)))
    return batch.take(index.to(batch.x.device))


def score_by_modes(make: Callable[[bool], BlockScorer], use_guide: bool) -> list[dict[str, Tensor]] | None:
    """The numbers of all rows by a scorer of rows with missing values, block by block.

    Args:
        make: makes the scorer, with the guide as a component of its mixtures or without.
        use_guide: whether the guide may be one.

    Returns:
        The blocks in order; None for latents that have no modes.
    """
    try:
        scorer = make(use_guide)
    except InputError:  # no continuous latents with a transform from the real numbers, or too many
        return None
    scorer.require_placeholders_unread()
    try:
        return scorer.score()
    except OutsideSupportError:  # some draws of the guide
        return make(False).score()


def has_row_guide(program: Program, scored: ScoredRows) -> bool:
    """Whether the guide gives each row a q with a density.

    Args:
        program: the program.
        scored: its rows.

    Returns:
        False also where the prior has taken the guide's place in `scored.program`.
    """
    if scored.program is not program:
        return False
    try:
        require_guide_density(scored.plates)
    except InputError:
        return False
    return True


def _has_density(joint: UnconstrainedJoint) -> bool:
    """Whether the guide has a density of the latents alone, within the model's support."""
    try:
        joint.at(joint.from_guide(), guide=True)
    except InputError:
        return False
    return True


def _is_bad(log_weights: LogWeights) -> Tensor:
    """Where pilot draws (S, n) say that a proposal is not good enough, (n,)."""
    khat, _ = pareto_smoothed(np.ascontiguousarray(log_weights.T.numpy()))
    return torch.from_numpy(~(khat <= PILOT_KHAT))
