"""The gap between log p(x) and the ELBO in two parts: approximation (the family of q) and amortization."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, Split
from pyro_vae.data.row_weights import weighted_mean, weighted_se
from pyro_vae.errors import InputError
from pyro_vae.evidence.annealed_importance import annealed_evidence
from pyro_vae.evidence.exact_log_px import exact_evidence
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.posterior.refine_posterior import refine
from pyro_vae.programs.row_batches import rows_to_score
from pyro_vae.typing import Program


@dataclass(frozen=True)
class Gaps:
    """log p(x) − ELBO of N rows in two parts, nats per row.

    `approximation` (N,) is log p(x) less the ELBO of the best q found in the guide's family, `amortization` (N,) that
    ELBO less the guide's own; `inference` (N,) is their sum. `best_elbo` and `elbo` (N,) are the two ELBOs. With a
    lower bound as `log_px` the approximation gap is one too; a search that stops short puts some of it into that gap.
    """

    log_px: LogPx
    best_elbo: Tensor
    elbo: Tensor

    @property
    def approximation(self) -> Tensor:
        return self.log_px.log_px - self.best_elbo

    @property
    def amortization(self) -> Tensor:
        return self.best_elbo - self.elbo

    @property
    def inference(self) -> Tensor:
        return self.log_px.log_px - self.elbo

    def __repr__(self) -> str:
        weights = self.log_px.weights
        parts = ", ".join(
            f"{name} {weighted_mean(of, weights):.3f} ± {weighted_se(of, weights):.3f}"
            for name, of in {"approximation": self.approximation, "amortization": self.amortization}.items()
        )
        return f"Gaps({len(self.elbo)} rows: {parts} (rows) nats, against log p(x) as {self.log_px.kind})"


@check_call
def inference_gaps(
    program: Program,
    data: RowsGiven,
    log_px: LogPx | None = None,
    *,
    outputs_of: nn.Module | None = None,
    steps: int = 500,
    learning_rate: float = 0.05,
    num_particles: int = 16,
    num_samples: int = 1000,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> Gaps:
    r"""The approximation and the amortization gap of each row (Cremer et al., arXiv:1801.03558).

    $\log p(x) - L[q] = (\log p(x) - L[q^*]) + (L[q^*] - L[q])$ where q* is the best q for the row in the guide's
    family, found by `refine` from the guide's q.

    Raises `InputError` for guides that `refine` does not support, and where `log_px` has another length.

    Args:
        program: the fitted program.
        data: rows x (N, D), a split or a data set, as in `log_evidence`.
        log_px: what was found of the same rows; by default `exact_evidence` where that is possible, and annealing
            elsewhere.
        outputs_of: the module whose outputs `refine` fits for each row.
        steps: its steps.
        learning_rate: its learning rate.
        num_particles: its draws for each row and step.
        num_samples: draws for each ELBO, with common random numbers.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,).
        seed: of the draws.

    Returns:
        The two gaps of each row, nats per row.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> gaps = pv.diagnostics.inference_gaps(vae, (torch.rand(4, 5) < 0.5).float(), steps=50)
    >>> bool((gaps.amortization > 0).all()), bool((gaps.approximation > -0.1).all())
    (True, True)
    """
    split, places = rows_to_score(data, rows, labels)
    if log_px is None:
        log_px = _best_known(program, split, places, seed)
    if len(log_px) != len(split):
        raise InputError(f"log_px is of {len(log_px)} rows, and there are {len(split)}")
    refined = refine(
        program,
        split,
        steps,
        outputs_of=outputs_of,
        learning_rate=learning_rate,
        num_particles=num_particles,
        rows=places,
        seed=seed,
    )
    elbo = log_evidence(program, split, num_samples, rows=places, seed=seed).elbo
    best = log_evidence(refined, split, num_samples, rows=torch.arange(len(split)), seed=seed).elbo
    return Gaps(log_px, best, elbo)


def _best_known(program: Program, split: Split, places: Tensor | None, seed: int) -> LogPx:
    try:
        return exact_evidence(program, split, rows=places, seed=seed)
    except InputError:
        return annealed_evidence(program, split, rows=places, seed=seed)
