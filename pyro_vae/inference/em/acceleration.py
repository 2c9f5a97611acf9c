"""Extrapolation of the steps of a fit that converges slowly, kept only where the objective does not fall.

>>> x = torch.ones(1, dtype=torch.float64)
>>> steps = ExtrapolatedSteps([x])
>>> for _ in range(60):
...     _ = steps.evaluate(x.clone, lambda value: -abs(float(value)))
...     _ = x.mul_(0.99)  # in 60 steps to 0.55
...     steps.extrapolate()
>>> abs(float(x)) < 1e-6
True
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

T = TypeVar("T")

FIRST_MAX_STEP, GROWTH = 4.0, 4.0  # of the largest step, while steps are accepted


class ExtrapolatedSteps:
    """The steps of a fit, some of them extrapolated: where the objective falls after one, it is taken back.

    Args:
        parameters: the tensors that a step sets.
        clamp: called after they were extrapolated, to move them into the range that a step keeps.
    """

    def __init__(self, parameters: Sequence[Tensor], clamp: Callable[[], None] = lambda: None) -> None:
        self.parameters, self.clamp, self.squarem = parameters, clamp, Squarem()
        self.reset()

    def reset(self) -> None:
        """Begin again, after the parameters were set otherwise."""
        self.before: Tensor | None = None  # the parameters that an extrapolated step is taken back to
        self.lowest = -float("inf")  # the objective that it must not fall below
        self.is_cycle_complete = True  # whether a gain is judged now: a single small step says nothing of the next one
        self.squarem.reset()

    def evaluate(self, compute: Callable[[], T], objective: Callable[[T], float]) -> T:
        """Compute at the current parameters, or at those before an extrapolated step that lowers the objective.

        Args:
            compute: what is wanted at the current parameters.
            objective: the objective, given what was computed.

        Returns:
            What was computed.
        """
        found = None
        if self.before is not None:
            found = _computed(compute)
            is_better = found is not None and objective(found) >= self.lowest  # False for NaN
            self.squarem.judge(is_better)
            if not is_better:
                found = None
                self._set(self.before)
            self.before = None
        found = compute() if found is None else found
        self.lowest = objective(found)
        return found

    def extrapolate(self) -> None:
        """After a step: go further in its direction, where three of them tell how far."""
        if not self.parameters:
            return
        point = parameters_to_vector(self.parameters)
        self.is_cycle_complete = len(self.squarem.points) == 2
        if (further := self.squarem.add(point)) is not None:
            self.before = point
            self._set(further)
            self.clamp()

    def _set(self, vector: Tensor) -> None:
        for parameter, values in zip(self.parameters, vector.split([p.numel() for p in self.parameters]), strict=True):
            parameter.copy_(values.view_as(parameter))


def _computed(compute: Callable[[], T]) -> T | None:
    """What was computed; None at parameters that it cannot be computed at."""
    try:
        return compute()
    except torch.linalg.LinAlgError:
        return None


class Squarem:
    r"""Squared extrapolation of a fixed-point iteration, scheme S3 (Varadhan & Roland 2008).

    From three consecutive points with $r = \theta_1 - \theta_0$ and $v = (\theta_2 - \theta_1) - r$ it goes to
    $\theta_0 - 2 \alpha r + \alpha^2 v$, $\alpha = -|r| / |v|$, no further than a largest step, which grows where it
    was taken and shrinks where the objective fell. With $\alpha = -1$ that is $\theta_2$.
    """

    def __init__(self) -> None:
        self.max_step, self.is_largest = FIRST_MAX_STEP, False  # whether the last step was the largest one allowed
        self.reset()

    def reset(self) -> None:
        """Forget the points: the next ones belong to another path."""
        self.points: list[Tensor] = []

    def add(self, point: Tensor) -> Tensor | None:
        """Add the point after a step.

        Args:
            point: the parameters as a vector (P,).

        Returns:
            The extrapolated point (P,) after each third one; None where there is nothing to gain.
        """
        self.points.append(point)
        if len(self.points) < 3:
            return None
        zero, one, two = self.points
        self.reset()
        r = one - zero
        v = two - one - r
        step = float(r.norm() / v.norm())
        if not 1 < step < float("inf"):
            return None
        self.is_largest = step >= self.max_step
        step = min(step, self.max_step)
        return zero + 2 * step * r + step**2 * v

    def judge(self, accepted: bool) -> None:
        """Say whether the objective at the extrapolated point was accepted: the largest step follows."""
        if not accepted:
            self.max_step = max(1.0, self.max_step / GROWTH)
        elif self.is_largest:
            self.max_step *= GROWTH
