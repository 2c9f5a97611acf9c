"""Annealed importance sampling of rows from Student-t distributions at the modes of their posteriors.

The start is close to the posterior, so few temperatures are enough, and its scales precondition the transitions.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pyro_vae.context_managers import keyed_generator
from pyro_vae.evidence.annealing_schedule import sigmoid_betas
from pyro_vae.evidence.proposal_mixture import DEGREES_OF_FREEDOM, Counts, Proposal
from pyro_vae.evidence.row_blocks import RowBlock
from pyro_vae.inference.posterior.hmc import Noise, State, state_at, transition
from pyro_vae.typing import LogWeights, PerRow

TEMPERATURES, CHAINS, LEAPFROG = 40, 16, 4
NUM_DENSITIES = TEMPERATURES * CHAINS * LEAPFROG  # that are computed for a row
STEP_SIZE = 0.8  # in units of the scales, for one dimension; it falls with the fourth root of their number
STREAM = 100  # of random numbers


def anneal_from_modes(block: RowBlock, proposal: Proposal, index: Tensor) -> dict[str, PerRow]:
    r"""log p(x) of some rows by annealing from $f_0$, the Student-t distributions of their mixtures.

    Chains go through $f_t = f_0^{1-\beta_t} p(x, u)^{\beta_t}$ by Hamiltonian transitions (Neal, physics/9803008), in
    coordinates in which the chain's Student-t is a standard one. Random numbers are keyed by row.

    Args:
        block: the rows.
        proposal: the mixtures of all rows of the block.
        index: the rows that are annealed, (m,).

    Returns:
        `log_px`, `mc_se`, `ess`, `khat` (NaN) and `smoothed` (equal to `log_px`) of these rows, (m,).
    """
    return _mean_weight(anneal_chains(block, proposal, index)[1])


def anneal_chains(block: RowBlock, proposal: Proposal, index: Tensor, turn: int = 0) -> tuple[Tensor, LogWeights]:
    """The last points of the chains of `anneal_from_modes`, and their log weights.

    Args:
        block: the rows.
        proposal: the mixtures of all rows of the block.
        index: the rows that are annealed, (m,).
        turn: a number of the chains' random numbers, from 0; others are independent.

    Returns:
        Points u (C, m, K), and log weights (C, m), nats.
    """
    start = Proposal(Counts(0, CHAINS, 0), proposal.modes, proposal.num_modes).take(index)
    noise = _RowNoise(block, index, len(start.modes[0].loc[0]), STREAM + turn)
    chosen = torch.arange(CHAINS)[:, None] % start.num_modes
    rows = torch.arange(len(index))
    loc = torch.stack([mode.loc for mode in start.modes])[chosen, rows]
    tril = torch.stack([mode.scale_tril for mode in start.modes])[chosen, rows]
    joint = block.at_draws(CHAINS, block.batch.take(index))

    def points(v: Tensor) -> Tensor:
        return loc + torch.einsum("cnij,cnj->cni", tril, v.reshape(loc.shape))

    def at(v: Tensor) -> State:
        def terms(v: Tensor) -> list[Tensor]:
            u = points(v)
            log_start = start.log_prob(u, torch.empty(0), None)
            return [joint.at(u).log_joint.flatten(), log_start.flatten()]

        return state_at(terms, v)

    state = at(noise.start())
    step = torch.full_like(state.u, STEP_SIZE * state.u.shape[-1] ** -0.25)
    log_weights = torch.zeros(len(state.u), dtype=torch.float64)
    betas = sigmoid_betas(TEMPERATURES).tolist()
    for before, beta in itertools.pairwise(betas):
        difference = (state.terms[0] - state.terms[1]).cpu().double()
        log_weights += (beta - before) * difference
        if beta < 1:
            coefficients = state.u.new_tensor([beta, 1 - beta])
            state, _ = transition(at, state, coefficients, step, LEAPFROG, noise.transition())
    return points(state.u.detach()), log_weights.reshape(CHAINS, -1)


class _RowNoise:
    """Random numbers of rows' chains, chains first, then rows, keyed by row."""

    def __init__(self, block: RowBlock, index: Tensor, dim: int, stream: int) -> None:
        self.generators = [keyed_generator(block.seed, stream, block.first + row) for row in index.tolist()]
        self.dim, self.like = dim, block.batch.x

    def _stack(self, rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows, 1)).flatten(0, 1).to(self.like)

    def _normal(self) -> Tensor:
        return self._stack([generator.standard_normal((CHAINS, self.dim)) for generator in self.generators])

    def _uniform(self) -> Tensor:
        return self._stack([generator.random(CHAINS) for generator in self.generators])

    def start(self) -> Tensor:
        """Standard Student-t points (C·n, K)."""
        df = DEGREES_OF_FREEDOM
        chi_square = self._stack([generator.chisquare(df, CHAINS) for generator in self.generators])
        return self._normal() * (df / chi_square).sqrt()[:, None]

    def transition(self) -> Noise:
        """The numbers of a transition."""
        return Noise(self._uniform()[:, None], self._normal(), self._uniform())


def _mean_weight(log_weights: Tensor) -> dict[str, PerRow]:
    """The results of chains' log weights (C, n)."""
    log_px = torch.logsumexp(log_weights, 0) - math.log(CHAINS)
    weights = torch.exp(log_weights - log_px)
    return {
        "log_px": log_px,
        "mc_se": weights.std(0) / math.sqrt(CHAINS),
        "ess": CHAINS / weights.square().mean(0),
        "khat": torch.full_like(log_px, math.nan),
        "smoothed": log_px,
    }
