"""Parts of the kernel of Hamiltonian Monte Carlo by themselves; what it leaves invariant is in test_fit_mcem.py."""

import torch

from pyro_vae.inference.posterior.hmc import state_at


def test_terms_may_share_what_they_are_computed_from_and_need_not_depend_on_u():
    u = torch.tensor([[1.0, 2.0], [3.0, -1.0]])

    def terms(at):
        squares = at.square().sum(-1)
        return [squares, 3 * squares, 5 * torch.ones(2, requires_grad=True)]

    state = state_at(terms, u)
    assert torch.equal(state.gradients, torch.stack([2 * u, 6 * u, torch.zeros(2, 2)]))
    assert torch.equal(state.terms[2], torch.full((2,), 5.0))
    assert not state.u.requires_grad
