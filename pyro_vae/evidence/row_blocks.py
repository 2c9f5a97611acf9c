"""Blocks of rows with draws and log weights that do not depend on the other rows."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.context_managers import derived_seed, keyed_generator, seeded
from pyro_vae.evidence.pareto_smoothing import pareto_smoothed
from pyro_vae.evidence.proposal_mixture import DEGREES_OF_FREEDOM, Counts, Proposal
from pyro_vae.programs.repeated_rows import RepeatedRows, joint_at_draws
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import LogWeights, PerRow


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of n rows and their log densities, (S, n) nats each, float64 on the CPU.

    Attributes:
        likelihood: log p(x|u).
        prior: log p(u).
        guide: log q(u|x); None where the guide has no density.
        log_weights: log p(x, u) less that of the mixture.
    """

    likelihood: LogWeights
    prior: LogWeights
    guide: LogWeights | None
    log_weights: LogWeights


class RowBlock:
    """Some rows in a row of a split, and draws for them that depend on no other row.

    Random numbers are keyed by a seed and a row's number. Those of the Student-t distributions are drawn row by row.
    The guide's and the prior's draws are made for all rows of the block in one call: as blocks begin at fixed numbers
    and have one size, a row has the same place in the stream whatever the other rows are, unless a sampler takes more
    random numbers for some rows than for others (rejection, as for Gamma). Then they are drawn one row a call.

    Args:
        joint: the program's log p(x, u) for some rows.
        batch: the n rows of a whole block, with their inputs.
        first: the number of the first row.
        seed: the seed.
        vectorized: whether the program supports a plate over draws.
        one_call: whether the rows' draws can be made in one call.
        chunk: points at which densities are computed in one call.
    """

    def __init__(
        self,
        joint: UnconstrainedJoint,
        batch: Batch,
        first: int,
        seed: int,
        *,
        vectorized: bool,
        one_call: bool,
        chunk: int,
    ) -> None:
        self._joint, self.batch, self.first, self.seed = joint, batch, first, seed
        self.vectorized, self.one_call, self.chunk = vectorized, one_call, chunk

    def joint(self, index: Tensor | None = None) -> UnconstrainedJoint:
        """log p(x, u) of some rows, or all, at one point of each."""
        return self._joint.over(self.batch if index is None else self.batch.take(index))

    def at_draws(self, draws: int, batch: Batch) -> UnconstrainedJoint | RepeatedRows:
        """log p(x, u) at several points of each row.

        Args:
            draws: the number S of points.
            batch: the rows.

        Returns:
            The densities at u (S, n, K).
        """
        return joint_at_draws(self._joint, batch, draws, vectorized=self.vectorized)

    def draw(self, component: str, draws: int, stream: int) -> Tensor:
        """Draws (S, n, K) from the guide or the prior.

        Args:
            component: `guide` or `prior`.
            draws: S.
            stream: a number of the stream of random numbers.

        Returns:
            Points u.
        """
        if self.one_call:
            return self._draw(component, draws, self.batch, key(self.seed, stream, self.first))
        rows = torch.arange(len(self.batch.x), device=self.batch.x.device).split(1)
        return torch.cat(
            [
                self._draw(component, draws, self.batch.take(row), key(self.seed, stream, self.first + i))
                for i, row in enumerate(rows)
            ],
            1,
        )

    def _draw(self, component: str, draws: int, batch: Batch, seed: int) -> Tensor:
        with seeded(seed):
            joint = self.at_draws(draws, batch)
            return joint.from_guide() if component == "guide" else joint.from_prior()

    def proposal_draws(self, proposal: Proposal, stream: int) -> Tensor:
        """Draws from all rows' mixtures: the guide's first, then the modes', then the prior's.

        Args:
            proposal: the mixtures.
            stream: a number of the stream of random numbers; the next one is used as well.

        Returns:
            Points u, (S, n, K).
        """
        counts, like, dim = proposal.counts, self.batch.x, proposal.modes[0].loc.shape[-1]
        normal, chi_square = (
            torch.from_numpy(np.stack(noise, 1)).to(like)
            for noise in zip(
                *(self._noise(row, stream, counts.student_t, dim) for row in range(len(like))), strict=True
            )
        )
        parts = [proposal.student_t_draws(normal, chi_square)]
        if counts.guide:
            parts.insert(0, self.draw("guide", counts.guide, stream))
        if counts.prior:
            parts.append(self.draw("prior", counts.prior, stream + 1))
        return torch.cat(parts)

    def _noise(self, row: int, stream: int, draws: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """A row's standard normal numbers (S, K) and χ² numbers (S,)."""
        generator = keyed_generator(self.seed, stream, self.first + row)
        return generator.standard_normal((draws, dim)), generator.chisquare(DEGREES_OF_FREEDOM, draws)

    def log_joint(self, u: Tensor) -> LogWeights:
        """log p(x, u) (S, n) at points (S, n, K), nats, on their device."""
        points = u.split(max(1, self.chunk // len(self.batch.x)))
        return torch.cat([self.at_draws(len(some), self.batch).at(some).log_joint for some in points])

    def weigh(self, proposal: Proposal, u: Tensor, index: Tensor) -> WeightedDraws:
        """The log weights of draws for some rows.

        Args:
            proposal: the mixtures of all n rows.
            u: their draws, (S, n, K).
            index: the rows that are wanted, (m,).

        Returns:
            Log densities and weights, (S, m).
        """
        batch, some, u = self.batch.take(index), proposal.take(index), u[:, index]
        has_guide, size = proposal.counts.guide > 0, max(1, self.chunk // len(index))
        parts: list[tuple[Tensor, ...]] = []
        for points in u.split(size):
            at = self.at_draws(len(points), batch).at(points, guide=has_guide)
            mixture = some.log_prob(points, at.prior, at.guide)
            terms = [at.likelihood, at.prior, at.log_joint - mixture, *([] if at.guide is None else [at.guide])]
            parts.append(tuple(term.cpu().double() for term in terms))
        likelihood, prior, log_weights, *guide = (torch.cat(column) for column in zip(*parts, strict=True))
        return WeightedDraws(likelihood, prior, guide[0] if guide else None, log_weights)


def key(*numbers: int) -> int:
    """A seed made of several numbers."""
    return derived_seed(*numbers)


def summarize_mixture(draws: WeightedDraws, counts: Counts, sizes: list[int]) -> dict[str, PerRow]:
    """Every number of `Evidence` from draws of mixtures.

    Args:
        draws: S draws of n rows, the guide's first.
        counts: how many come from each component.
        sizes: the numbers of draws at which IWAE bounds are wanted.

    Returns:
        Tensors (n,) by the name of the field, and each bound as `iwae k`.
    """
    total = counts.total
    log_weights = torch.where(draws.log_weights == math.inf, math.nan, draws.log_weights)  # no density is infinite
    log_px = torch.logsumexp(log_weights, 0) - math.log(total)
    weights = torch.exp(log_weights - log_px)  # their mean is one
    strata = [stratum for stratum in weights.split(counts.strata) if len(stratum) > 1]
    variance = torch.stack([len(stratum) * stratum.var(0) for stratum in strata]).sum(0)
    khat, smoothed = pareto_smoothed(np.ascontiguousarray(log_weights.T.numpy()))
    unknown = torch.full_like(log_px, math.nan)
    summary = {
        "log_px": log_px,
        "elbo": unknown,
        "reconstruction": unknown,
        "kl": unknown,
        "mc_se": variance.sqrt() / total,
        "ess": total / weights.square().mean(0),
        "khat": torch.from_numpy(khat),
        "smoothed": torch.from_numpy(smoothed),
        "highest likelihood": draws.likelihood.nan_to_num(nan=-math.inf).amax(0),
        "no number": log_weights.isnan().double().sum(0),
    }
    if draws.guide is not None and counts.guide:
        likelihood, ratio = (values[: counts.guide] for values in (draws.likelihood, draws.prior - draws.guide))
        guided = likelihood + ratio
        summary |= {"elbo": guided.mean(0), "reconstruction": likelihood.mean(0), "kl": -ratio.mean(0)}
        for k in sizes:
            groups = guided[: counts.guide // k * k].reshape(counts.guide // k, k, -1)
            summary[f"iwae {k}"] = (torch.logsumexp(groups, 1) - math.log(k)).mean(0)
    return summary
