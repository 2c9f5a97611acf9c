"""The modes of each row's log p(x, u) by Newton's method with Levenberg damping, and the normals around them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, RowLatents

CONVERGED = 1e-6  # nats that another Newton step would gain at most
COLUMNS = 32  # of a Hessian that are computed in one pass
FIRST_DAMPING, MIN_DAMPING = 1e-3, 1e-9  # of the largest curvature
Draw = Callable[[], RowLatents]
START_DRAWS = 16  # draws whose mean is a start
MAX_ROUNDING_ERRORS = 10  # by so many, in units of machine epsilon, a value may seem to fall
MIN_CURVATURE = 1e-8  # eigenvalues of −H are raised to this


@dataclass
class Expansion:
    """log p(x, u) to second order at u (n, K): `value` (n,), `slope` (n, K) and `curvature` −H (n, K, K).

    u is on the program's device, the rest float64 on the CPU, as not every accelerator has doubles.
    """

    u: RowLatents
    value: PerRow
    slope: RowLatents
    curvature: Tensor

    @property
    def finite(self) -> Tensor:
        """Where all three are finite, (n,)."""
        return self.value.isfinite() & self.slope.isfinite().all(-1) & self.curvature.isfinite().all(-1).all(-1)

    def take(self, index: Tensor) -> "Expansion":
        """The expansion of some rows."""
        return Expansion(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, other: "Expansion") -> None:
        """Overwrite some rows.

        Args:
            index: which, (m,).
            other: the expansion of these m rows.
        """
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)


def _expand(joint: UnconstrainedJoint, u: RowLatents) -> Expansion:
    """The expansion at u, by automatic differentiation."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = joint.at(u).log_joint
        slope = torch.autograd.grad(value.sum(), u, create_graph=True)[0] + 0 * u  # a constant slope has no graph
        hessian = _jacobian(slope, u)
    value, slope, hessian = (part.detach().cpu().double() for part in (value, slope, hessian))
    return Expansion(u.detach(), value, slope, -(hessian + hessian.mT) / 2)


def _jacobian(slope: RowLatents, u: RowLatents) -> Tensor:
    """The derivatives of a row's slope (n, K) by its u (n, K), (n, K, K), several columns in one pass."""
    units = torch.eye(u.shape[-1]).to(u)[:, None].expand(-1, *u.shape)
    try:
        passes = [
            torch.autograd.grad(slope, u, some, retain_graph=True, is_grads_batched=True)[0]
            for some in units.split(COLUMNS)
        ]
        return torch.cat(passes).movedim(0, -1)
    except RuntimeError:  # an operation that has no rule for several gradients
        columns = [torch.autograd.grad(slope, u, unit, retain_graph=True)[0] for unit in units]
        return torch.stack(columns, -1)


def highest_mode(joint: UnconstrainedJoint, steps: int, starts: int) -> Expansion:
    """The highest of the modes that are reached from several starts, for each row.

    Args:
        joint: the program's log p(x, u) for n rows.
        steps: Newton steps from each start, at most.
        starts: the number of starts.

    Returns:
        The expansion at the modes.
    """
    modes = [maximize(joint, start, steps) for start in _starts(joint, starts)]
    values = torch.stack([mode.value.where(mode.finite, -math.inf) for mode in modes])
    if num_failed := int((values == -math.inf).all(0).sum()):
        raise InputError(
            f"log p(x, z) or its derivatives are not finite at any of {starts} starts for {num_failed} of "
            f"{values.shape[1]} rows; try more starts, or a likelihood with a larger scale"
        )
    best, row = values.argmax(0), torch.arange(values.shape[1])
    stacked = (torch.stack([getattr(mode, field.name) for mode in modes]) for field in fields(Expansion))
    return Expansion(*(values[best, row] for values in stacked))


def _starts(joint: UnconstrainedJoint, number: int) -> Iterator[RowLatents]:
    """The mean of the guide's draws, that of the prior's, then draws of each in turn."""
    guide: Draw = partial(_from_guide_if_inside, joint)
    try:
        joint.from_guide()
    except InputError:  # its draws lie outside the support of the model's latents
        guide = joint.from_prior
    sources = guide, joint.from_prior
    for i in range(number):
        draw = sources[i % 2]
        yield draw() if i > 1 else torch.stack([draw() for _ in range(START_DRAWS)]).mean(0)


def _from_guide_if_inside(joint: UnconstrainedJoint) -> RowLatents:
    """A draw of the guide; of the prior where one row's lies outside the support of the model's latents."""
    try:
        return joint.from_guide()
    except InputError:
        return joint.from_prior()


def maximize(joint: UnconstrainedJoint, u: RowLatents, steps: int) -> Expansion:
    """Newton's method: each row's damping falls after a step that gains, and grows after one that does not.

    Args:
        joint: the program's log p(x, u) for n rows.
        u: the start, (n, K).
        steps: the number of steps, at most.

    Returns:
        The expansion where each row's steps ended; not finite where it is not at the start.
    """
    current = _expand(joint, u)
    damping, is_active = torch.full_like(current.value, FIRST_DAMPING), current.finite
    for _ in range(steps):
        active = is_active.nonzero()[:, 0]
        if not len(active):
            break
        before = current.take(active)
        step, gain = _newton_step(before, damping[active])
        batch = joint.batch.take(active.to(u.device))
        after = _expand(joint.over(batch), before.u + step.to(u))
        rounding = MAX_ROUNDING_ERRORS * torch.finfo(u.dtype).eps * (1 + before.value.abs())
        better = after.finite & (after.value >= before.value - rounding)
        current.put(active[better], after.take(better))
        damping[active] = torch.where(better, (damping[active] / 10).clamp(min=MIN_DAMPING), damping[active] * 10)
        is_active[active] = ~(better & (gain < CONVERGED))
    return current


def _newton_step(at: Expansion, damping: PerRow) -> tuple[RowLatents, PerRow]:
    """A damped ascent step, and the gain of an undamped one in nats, infinite where −H is not positive definite."""
    eigenvalues, axes = torch.linalg.eigh(at.curvature)
    components = torch.einsum("nkj,nk->nj", axes, at.slope)
    damped = eigenvalues.abs() + (damping * eigenvalues.abs().amax(-1).clamp(min=1.0))[:, None]
    gain = _gain(eigenvalues, components)
    on_saddle = (eigenvalues[:, 0] < 0) & (gain < CONVERGED)  # leave it along the axis of greatest increase
    move = components / damped
    move[:, 0] += on_saddle * damped[:, 0].rsqrt()
    return torch.einsum("nkj,nj->nk", axes, move), gain.where(eigenvalues[:, 0] > 0, math.inf)


def _gain(eigenvalues: RowLatents, components: RowLatents) -> PerRow:
    """The nats that an undamped Newton step gains, from the slope's components along the axes of −H."""
    return (components.square() / eigenvalues.abs().clamp(min=MIN_CURVATURE)).sum(-1) / 2


def normal_at(mode: Expansion) -> tuple[Tensor, PerRow, Tensor]:
    """The normal's lower triangle (n, K, K), the estimate of log p(x) (n,), and whether it is a mode (n,)."""
    eigenvalues, axes = torch.linalg.eigh(mode.curvature)
    upper = torch.linalg.qr((axes * eigenvalues.abs().clamp(min=MIN_CURVATURE).rsqrt()[:, None]).mT).R
    scale_tril = (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
    half_log_det = eigenvalues.where(eigenvalues > 0, math.nan).log().sum(-1) / 2
    log_px = mode.value + eigenvalues.shape[-1] / 2 * math.log(2 * math.pi) - half_log_det
    gain = _gain(eigenvalues, torch.einsum("nkj,nk->nj", axes, mode.slope))
    return scale_tril, log_px, (eigenvalues[:, 0] > 0) & (gain < CONVERGED)
