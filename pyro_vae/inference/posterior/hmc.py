"""A Hamiltonian transition for many chains side by side: what annealing and Monte-Carlo EM move their latents by."""

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
    """The terms' values (n,) and gradients at u, each row's own."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        terms = terms_at(u)
        gradients = [torch.autograd.grad(term.sum(), u, retain_graph=True, allow_unused=True)[0] for term in terms]
    found = [torch.zeros_like(u) if gradient is None else gradient for gradient in gradients]
    return State(u.detach(), torch.stack([term.detach() for term in terms]), torch.stack(found))


def transition(
    at: Callable[[Tensor], State], state: State, counts: Tensor, step: Tensor, num_leapfrog: int
) -> tuple[State, Tensor]:
    r"""One step of Hamiltonian Monte Carlo that leaves $f \propto \exp \sum_m c_m t_m(u)$ as it is (Neal, 1206.1901).

    `at` gives the terms t at u (n, K), `counts` (M,) are the c, `step` (n, K) is the step size, stretched for each
    chain by a number between 0.8 and 1.2 so that no orbit closes. Also the chance with which each proposal was taken,
    (n,) float64 on the CPU; one that is not finite is not taken.
    """
    jitter = 0.8 + 0.4 * torch.rand(len(state.u), 1, device=state.u.device, dtype=state.u.dtype)
    step = jitter * step
    momentum = torch.randn_like(state.u)
    moved, speed = state, momentum
    for _ in range(num_leapfrog):
        speed = speed + 0.5 * step * torch.einsum("m,mnk->nk", counts, moved.gradients)
        moved = at(moved.u + step * speed)
        speed = speed + 0.5 * step * torch.einsum("m,mnk->nk", counts, moved.gradients)
    energy = counts @ moved.terms - counts @ state.terms
    energy = energy + 0.5 * (momentum.square() - speed.square()).sum(-1)
    chance = energy.clamp(max=0).exp().nan_to_num(0.0)
    taken = torch.rand_like(chance) < chance
    kept = State(
        torch.where(taken[:, None], moved.u, state.u),
        torch.where(taken, moved.terms, state.terms),
        torch.where(taken[:, None], moved.gradients, state.gradients),
    )
    return kept, chance.cpu().double()
