"""NUTS on p(z | x) of a few rows: a reference for q where no exact posterior is known.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
>>> posterior = pv.nuts(vae, torch.ones(1, 5), num_samples=50, warmup=50, num_chains=2)
>>> posterior.draws.shape, posterior.guide.shape
(torch.Size([2, 50, 1, 2]), torch.Size([100, 1, 2]))
"""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.arviz_compat import rhat_and_ess
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Program

MAX_ROWS = 64


@dataclass(frozen=True)
class Posterior:
    """Draws of the latents of N rows from p(z | x) by NUTS, and as many from q(z | x).

    `draws` (chains, S, N, K) and `guide` (chains · S, N, K), latent sites concatenated, `names` (K,). `rhat` (N, K)
    should be below 1.01 and `ess` (N, K) above a few hundred; `divergences` counts transitions that failed.
    """

    draws: Tensor
    guide: Tensor
    rhat: Tensor
    ess: Tensor
    divergences: int
    names: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Whether all r-hats are below 1.01, effective sizes above 100 a chain and no transition diverged."""
        return bool(self.rhat.max() < 1.01 and self.ess.min() > 100 * len(self.draws) and not self.divergences)

    def __repr__(self) -> str:
        chains, num, rows, dim = self.draws.shape
        return (
            f"Posterior({rows} rows, {dim} latents, {chains} chains of {num}: r-hat up to {self.rhat.max():.3f}, "
            f"ESS from {self.ess.min():.0f}, {self.divergences} divergences)"
        )


@check_call
def nuts(
    program: Program,
    data: RowsGiven,
    num_samples: int = 500,
    *,
    warmup: int = 500,
    num_chains: int = 4,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> Posterior:
    r"""Draws from $p(z_i | x_i)$ of a few rows by Pyro's NUTS (Hoffman & Gelman, arXiv:1111.4246), and draws from q.

    All rows are sampled jointly, since they are independent given the parameters; chains run one after the other, each
    from a draw of the guide. r-hat and effective sample size are ArviZ's, rank-normalized (Vehtari et al.,
    arXiv:1903.08008). It takes seconds to minutes: choose a few rows. A chain can stay in one of several modes that are
    far apart: r-hat shows where chains differ, and nothing shows where all miss the same mode.

    Raises `InputError` for discrete latents and for more than 64 rows.

    Args:
        program: a program with continuous latents.
        data: a tensor (N, D), a split, or a data set (its test split).
        num_samples: draws S of each chain.
        warmup: steps before them, in which step sizes are adapted.
        num_chains: chains.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        seed: seed of the draws.

    Returns:
        The draws of both, with the chains' diagnostics.
    """
    if min(num_samples, warmup) < 4 or num_chains < 1:
        raise InputError(f"expected 4 draws or more and a chain, got {num_samples}, {warmup} and {num_chains}")
    split, rows = rows_to_score(data, rows, labels)
    if len(split) > MAX_ROWS:
        raise InputError(f"NUTS takes a few rows, {MAX_ROWS} at most; got {len(split)}")
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        scored = ScoredRows(program, split, rows)
        (batch,) = scored.batches(len(split))
        joint = UnconstrainedJoint(program, scored.plates, batch)
        guide_u = torch.stack([joint.from_guide() for _ in range(num_chains * num_samples)])  # first: it may fail
        u, divergences = _run_chains(joint, num_samples, warmup, num_chains)
        draws = _constrained(joint, u.flatten(0, 1)).unflatten(0, (num_chains, num_samples))
        guide = _constrained(joint, guide_u)
    names = tuple(f"{name}[{i}]" if size > 1 else name for name, size in joint.value_sizes.items() for i in range(size))
    rhat, ess = _rhat_and_ess(draws)
    return Posterior(draws.cpu(), guide.cpu(), rhat, ess, divergences, names)


def _run_chains(joint: UnconstrainedJoint, num_samples: int, warmup: int, num_chains: int) -> tuple[Tensor, int]:
    """Draws of u by NUTS, (chains, S, n, K), and the number of divergent transitions."""

    def potential_energy(at: dict[str, Tensor]) -> Tensor:
        return -joint.at(at["u"]).log_joint.sum()

    chains, divergences = [], 0
    for _ in range(num_chains):
        start = {"u": joint.proposal().u}
        mcmc = MCMC(
            NUTS(potential_fn=potential_energy), num_samples, warmup, initial_params=start, disable_progbar=True
        )
        mcmc.run()
        chains.append(mcmc.get_samples()["u"])
        divergences += sum(len(steps) for steps in mcmc.diagnostics().get("divergences", {}).values())
    return torch.stack(chains), divergences


def _rhat_and_ess(draws: Tensor) -> tuple[Tensor, Tensor]:
    """r-hat (N, K), NaN for a single chain, and effective sample sizes (N, K) of draws (chains, S, N, K)."""
    rhat, ess = rhat_and_ess(draws.flatten(2).cpu().double().numpy())
    if len(draws) == 1:
        rhat = np.full_like(ess, math.nan)
    shape = draws.shape[2:]
    return torch.from_numpy(rhat).reshape(shape), torch.from_numpy(ess).reshape(shape)


@torch.no_grad()
def _constrained(joint: UnconstrainedJoint, u: Tensor) -> Tensor:
    """Points u (S, n, K) as values of the latents, sites concatenated, (S, n, K')."""
    return torch.stack([torch.cat(list(joint.values(point).values()), -1) for point in u])
