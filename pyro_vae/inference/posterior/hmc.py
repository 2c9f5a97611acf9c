"""A transition of Hamiltonian Monte Carlo for many chains in one batch, used by annealing and Monte-Carlo EM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """The random numbers of a transition of n chains.

    Attributes:
        jitter: uniform numbers of the step sizes, (n, 1).
        momentum: standard normal numbers, (n, K).
        acceptance: uniform numbers (n,); None where they are drawn when they are used.
    """

    jitter: Tensor
    momentum: Tensor
    acceptance: Tensor | None = None

    @classmethod
    def like(cls, u: Tensor) -> "Noise":
        """Numbers from torch's generator for chains at u (n, K)."""
        return cls(torch.rand(len(u), 1, device=u.device, dtype=u.dtype), torch.randn_like(u))


@dataclass
class State:
    """Chains at u (n, K), with the log densities of M terms there (M, n) and their gradients (M, n, K)."""

    u: Tensor
    terms: Tensor
    gradients: Tensor


def state_at(terms_at: Callable[[Tensor], Sequence[Tensor]], u: Tensor) -> State:
    """The terms' values and each row's gradients at u.

    Args:
        terms_at: computes the M terms at u, (n,) each, nats.
        u: a point (n, K) for each chain.

    Returns:
        The chains' state.
    """
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        terms = terms_at(u)
        gradients = [torch.autograd.grad(term.sum(), u, retain_graph=True, allow_unused=True)[0] for term in terms]
    filled = [torch.zeros_like(u) if gradient is None else gradient for gradient in gradients]
    return State(u.detach(), torch.stack([term.detach() for term in terms]), torch.stack(filled))


def transition(
    at: Callable[[Tensor], State],
    state: State,
    coefficients: Tensor,
    step: Tensor,
    num_leapfrog: int,
    noise: Noise | None = None,
) -> tuple[State, Tensor]:
    r"""One step of Hamiltonian Monte Carlo that leaves $f \propto \exp \sum_m c_m t_m(u)$ invariant (Neal, 1206.1901).

    A proposal that is not finite is rejected.

    Args:
        at: computes the state at u (n, K), with the terms $t_m$.
        state: the chains' state.
        coefficients: the $c_m$, (M,).
        step: step sizes (n, K), multiplied for each chain by a random number between 0.8 and 1.2 so that no trajectory
            is periodic.
        num_leapfrog: leapfrog steps of a proposal.
        noise: the random numbers of the transition; by default they are drawn from torch's generator.

    Returns:
        The new state, and the acceptance probability of each proposal, (n,) float64 on the CPU.
    """
    noise = Noise.like(state.u) if noise is None else noise
    step = (0.8 + 0.4 * noise.jitter) * step
    momentum = noise.momentum
    moved, final_momentum = state, momentum
    for _ in range(num_leapfrog):
        final_momentum = final_momentum + 0.5 * step * torch.einsum("m,mnk->nk", coefficients, moved.gradients)
        moved = at(moved.u + step * final_momentum)
        final_momentum = final_momentum + 0.5 * step * torch.einsum("m,mnk->nk", coefficients, moved.gradients)
    energy = coefficients @ moved.terms - coefficients @ state.terms
    energy = energy + 0.5 * (momentum.square() - final_momentum.square()).sum(-1)
    probability = energy.clamp(max=0).exp().nan_to_num(0.0)
    accepted = (torch.rand_like(probability) if noise.acceptance is None else noise.acceptance) < probability
    new = State(
        torch.where(accepted[:, None], moved.u, state.u),
        torch.where(accepted, moved.terms, state.terms),
        torch.where(accepted[:, None], moved.gradients, state.gradients),
    )
    return new, probability.cpu().double()
