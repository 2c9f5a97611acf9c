"""log p(x, u) at several points of each row, for programs that do not support a plate over draws."""

from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import Point, UnconstrainedJoint


class RepeatedRows:
    """log p(x, u) at S points of each row for a program that does not support several: its rows are repeated.

    Args:
        joint: the program's log p(x, u) for some rows.
        batch: the n rows.
        draws: S.
    """

    def __init__(self, joint: UnconstrainedJoint, batch: Batch, draws: int) -> None:
        index = torch.arange(len(batch.x), device=batch.x.device).repeat(draws)
        self.joint, self.draws = joint.over(batch.take(index)), draws

    def at(self, u: Tensor, *, guide: bool = False) -> Point:
        point = self.joint.at(u.flatten(0, 1), guide=guide)
        log_q = None if point.guide is None else self._by_draw(point.guide)
        return replace(point, likelihood=self._by_draw(point.likelihood), prior=self._by_draw(point.prior), guide=log_q)

    def from_guide(self) -> Tensor:
        return self._by_draw(self.joint.from_guide())

    def from_prior(self) -> Tensor:
        return self._by_draw(self.joint.from_prior())

    def _by_draw(self, values: Tensor) -> Tensor:
        return values.reshape(self.draws, -1, *values.shape[1:])


def joint_at_draws(
    joint: UnconstrainedJoint, batch: Batch, draws: int, *, vectorized: bool
) -> UnconstrainedJoint | RepeatedRows:
    """log p(x, u) at S points of each row, u (S, n, K).

    Args:
        joint: the program's log p(x, u) for some rows.
        batch: the n rows.
        draws: S.
        vectorized: whether the program supports a plate over draws (`LogWeightSampler.vectorized`).

    Returns:
        The densities; rows are repeated where draws are not vectorized.
    """
    if vectorized:
        return joint.over(batch, draws)
    return RepeatedRows(joint, batch, draws)
