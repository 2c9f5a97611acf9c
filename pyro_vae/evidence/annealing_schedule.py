"""The annealing path: temperatures, Hamiltonian transitions, and the pilot run that tunes both."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.inference.posterior.hmc import State, state_at, transition
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.plates import PlateStructure, require_guide_density
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Program

PILOT_CHAINS, TARGET_ACCEPT, ADAPTATION_RATE, INITIAL_STEP_SIZE = 4, 0.65, 0.2, 0.5
STEEPNESS = 4.0  # of the sigmoid schedule of temperatures
ADAPTED_SHARE = 0.9  # weight of the adapted temperatures; the rest is that of the sigmoid schedule
SCALE_DRAWS = 32
GRADIENT_MEMORY = 3  # bytes stored for a gradient, for each byte written for a weight


@dataclass(frozen=True)
class Plan:
    """The settings of annealing, checked."""

    num_temperatures: int
    num_chains: int
    num_leapfrog: int
    start: str
    memory_mib: float

    def __post_init__(self) -> None:
        if min(self.num_temperatures, self.num_chains, self.num_leapfrog) < 1 or not self.memory_mib > 0:
            raise InputError(
                "num_temperatures, num_chains, num_leapfrog and memory_mib must be positive, got "
                f"{self.num_temperatures}, {self.num_chains}, {self.num_leapfrog} and {self.memory_mib}"
            )
        if self.start not in ("guide", "prior"):
            raise InputError(f"chains start from the guide or from the prior, not from {self.start!r}")

    def batch_size(self, program: Program, plates: PlateStructure, first: Batch) -> int:
        """How many rows fit in memory with all their chains.

        Args:
            program: the program.
            plates: its plates.
            first: some rows, on which memory is measured.

        Returns:
            The number of rows, one or more.
        """
        bytes_per_chain = GRADIENT_MEMORY * LogWeightSampler(program, plates, first).bytes_per_weight(first)
        return max(1, int(self.memory_mib * 2**20 // (bytes_per_chain * self.num_chains)))


def sigmoid_betas(num_temperatures: int) -> Tensor:
    """From 0 to 1 along a sigmoid: slow at both ends, (T + 1,) float64."""
    rising = torch.sigmoid(STEEPNESS * torch.linspace(-1, 1, num_temperatures + 1, dtype=torch.float64))
    return (rising - rising[0]) / (rising[-1] - rising[0])


class Path:
    """The path from f₀ to p(x, z) for some rows; chains are concatenated, each with all rows.

    Args:
        program: the program.
        plates: its plates.
        batch: the n rows.
        plan: the settings.
    """

    def __init__(self, program: Program, plates: PlateStructure, batch: Batch, plan: Plan) -> None:
        self.program, self.plates, self.batch, self.plan = program, plates, batch, plan
        self.num_rows, self.from_guide = len(batch.x), plan.start == "guide"
        if self.from_guide:
            require_guide_density(plates)
        self.scales = self._scales()
        self.betas, self.log_steps = sigmoid_betas(plan.num_temperatures), torch.empty(0)
        self._tune()

    def _scales(self) -> tuple[Tensor, Tensor]:
        """Standard deviations, for each row, of the guide's draws and of the chains' start, (n, K) each."""
        joint = self._joint(SCALE_DRAWS)
        draws = [joint.from_guide()] * 2 if self.from_guide else [joint.proposal().u, joint.from_prior()]
        guide, first = (u.unflatten(0, (SCALE_DRAWS, -1)).std(0).clamp(min=1e-6) for u in draws)
        return guide, first

    def _scale(self, beta: float) -> Tensor:
        """The standard deviation to expect at β: precisions are interpolated as between normals."""
        guide, first = self.scales
        return ((1 - beta) * first**-2 + beta * guide**-2) ** -0.5

    def _joint(self, chains: int) -> UnconstrainedJoint:
        index = torch.arange(self.num_rows, device=self.batch.x.device).repeat(chains)
        return UnconstrainedJoint(self.program, self.plates, self.batch.take(index))

    def _tune(self) -> None:
        """Tune temperatures and step sizes by a pilot run, whose chains are then discarded.

        Step sizes are adapted to the acceptance rate. Temperatures are spaced evenly in thermodynamic length, the
        integral over β of the standard deviation of d log f_β / dβ, which makes weights vary.
        """
        joint, T = self._joint(PILOT_CHAINS), self.plan.num_temperatures
        state = self._at(joint, joint.from_guide() if self.from_guide else joint.from_prior())
        step = torch.full((self.num_rows,), math.log(INITIAL_STEP_SIZE), dtype=torch.float64)
        steps, deviations = [], [self._deviation(state)]
        for beta in self.betas[1:].tolist():
            steps.append(step)
            state, probability = self._transition(joint, state, beta, step)
            step = step + ADAPTATION_RATE * (probability.reshape(PILOT_CHAINS, -1).mean(0) - TARGET_ACCEPT)
            deviations.append(self._deviation(state))
        before, even = self.betas.numpy(), np.arange(T + 1) / T
        share = _length(before, np.nan_to_num(np.array(deviations), posinf=0.0))
        after = np.interp(even, ADAPTED_SHARE * share + (1 - ADAPTED_SHARE) * even, before)
        table = torch.stack(steps).numpy().T
        self.betas = torch.from_numpy(after)
        self.log_steps = torch.from_numpy(np.stack([np.interp(after[1:], before[1:], row) for row in table], 1))

    def _deviation(self, state: State) -> float:
        """The standard deviation over chains of d log f_β / dβ, its root mean square over rows."""
        terms = state.terms.cpu().double()
        derivative = (self._coefficients(1.0, terms) - self._coefficients(0.0, terms)) @ terms
        return float(derivative.reshape(PILOT_CHAINS, -1).var(0).mean().sqrt())

    def forward(self) -> tuple[Tensor, Tensor]:
        """Log weights (C, n) and the share of proposals accepted (n,)."""
        joint = self._joint(self.plan.num_chains)
        state = self._at(joint, joint.from_guide() if self.from_guide else joint.from_prior())
        log_weights, accepted = self._zeros(), self._zeros()
        for t in range(1, len(self.betas)):
            log_weights += self._increment(state, t)
            if t < len(self.betas) - 1:  # a transition after the last weight would change nothing
                state, probability = self._transition(joint, state, float(self.betas[t]), self.log_steps[t - 1])
                accepted += probability
        shape = (self.plan.num_chains, self.num_rows)
        moves = len(self.betas) - 2
        acceptance = accepted.reshape(shape).mean(0) / moves if moves else accepted[: shape[1]] * math.nan
        return log_weights.reshape(shape), acceptance

    def backward(self, exact: Tensor) -> Tensor:
        """Log weights (C, n) of the path run from exact draws (n, K) of the posteriors back to f₀."""
        joint = self._joint(self.plan.num_chains)
        state = self._at(joint, exact.repeat(self.plan.num_chains, 1))
        log_weights = self._zeros()
        for t in range(len(self.betas) - 1, 0, -1):
            if t < len(self.betas) - 1:
                state, _ = self._transition(joint, state, float(self.betas[t]), self.log_steps[t - 1])
            log_weights += self._increment(state, t)
        return log_weights.reshape(self.plan.num_chains, self.num_rows)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.plan.num_chains * self.num_rows, dtype=torch.float64)

    def _at(self, joint: UnconstrainedJoint, u: Tensor) -> State:
        def terms(u: Tensor) -> list[Tensor]:
            point = joint.at(u, guide=self.from_guide)
            return [term for term in (point.likelihood, point.prior, point.guide) if term is not None]

        return state_at(terms, u)

    def _coefficients(self, beta: float, like: Tensor) -> Tensor:
        """The coefficient of each term in log f_β."""
        coefficients = (beta, beta, 1 - beta) if self.from_guide else (beta, 1.0)
        return torch.tensor(coefficients, dtype=like.dtype, device=like.device)

    def _increment(self, state: State, t: int) -> Tensor:
        """log f_t − log f_{t−1} at the chains' states, (n,) float64 on the CPU."""
        terms = state.terms.cpu().double()
        before, after = (self._coefficients(float(self.betas[s]), terms) for s in (t - 1, t))
        return (after - before) @ terms

    def _transition(
        self, joint: UnconstrainedJoint, state: State, beta: float, log_step: Tensor
    ) -> tuple[State, Tensor]:
        """One Hamiltonian transition that leaves f_β invariant, and the acceptance probabilities (n,)."""
        chains = len(state.u) // self.num_rows
        step = (log_step.exp().to(state.u)[:, None] * self._scale(beta)).repeat(chains, 1)
        coefficients = self._coefficients(beta, state.u)
        return transition(lambda u: self._at(joint, u), state, coefficients, step, self.plan.num_leapfrog)


def _length(betas: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The share of a path's length that lies before each β, from 0 to 1."""
    length = np.concatenate([[0.0], np.cumsum((deviation[1:] + deviation[:-1]) / 2 * np.diff(betas))])
    return length / length[-1] if length[-1] > 0 else np.linspace(0, 1, len(betas))
