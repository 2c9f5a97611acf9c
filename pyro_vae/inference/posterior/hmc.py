"""A transition of Hamiltonian Monte Carlo for many chains in one batch, used by annealing and Monte-Carlo EM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    at: Callable[[Tensor], State], state: State, coefficients: Tensor, step: Tensor, num_leapfrog: int
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

    Returns:
        The new state, and the acceptance probability of each proposal, (n,) float64 on the CPU.
    """
    jitter = 0.8 + 0.4 * torch.rand(len(state.u), 1, device=state.u.device, dtype=state.u.dtype)
    step = jitter * step
    momentum = torch.randn_like(state.u)
    moved, final_momentum = state, momentum
    for _ in range(num_leapfrog):
        final_momentum = final_momentum + 0.5 * step * torch.einsum("m,mnk->nk", coefficients, moved.gradients)
        moved = at(moved.u + step * final_momentum)
        final_momentum = final_momentum + 0.5 * step * torch.einsum("m,mnk->nk", coefficients, moved.gradients)
    energy = coefficients @ moved.terms - coefficients @ state.terms
    energy = energy + 0.5 * (momentum.square() - final_momentum.square()).sum(-1)
    probability = energy.clamp(max=0).exp().nan_to_num(0.0)
    accepted = torch.rand_like(probability) < probability
    new = State(
        torch.where(accepted[:, None], moved.u, state.u),
        torch.where(accepted, moved.terms, state.terms),
        torch.where(accepted[:, None], moved.gradients, state.gradients),
    )
    return new, probability.cpu().double()
