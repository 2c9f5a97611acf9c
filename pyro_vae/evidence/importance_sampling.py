"""Importance-sampled log p(x) for each row of any program, with its bounds, its errors and its diagnostics.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
>>> evidence = pv.log_evidence(vae, torch.ones(3, 5), num_samples=100)
>>> bool((evidence.log_px >= evidence.elbo).all()), evidence.khat.shape
(True, torch.Size([3]))
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import EvidenceRecord, finite_or_none, mean_or_none
from pyro_vae.evidence.log_px_result import LogPx, require_log_probabilities
from pyro_vae.evidence.pareto_smoothing import MIN_DRAWS, khat_limit, pareto_smoothed
from pyro_vae.evidence.proposal_mixture import log_mixture
from pyro_vae.evidence.recorded_weights import RecordedWeights
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import require_guide_density
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.typing import LogWeights, PerRow, Program

MAX_BATCH_SIZE = 128
TERMS = ("log p(x|z)", "log p(z) − log q(z|x)")


@dataclass(frozen=True, kw_only=True, repr=False)
class Evidence(LogPx):
    """The results of importance sampling with S draws for N rows, in addition to those of `LogPx`.

    `log_px` (N,) is log of the mean weight, a lower bound on log p(x) in expectation (the IWAE bound at S). `elbo` (N,)
    is the mean log weight of the guide's draws, `reconstruction` (N,) − `kl` (N,) its two terms; latents that the guide
    enumerates are summed inside each weight, and the ELBO is then the expectation over them under the guide. `iwae`
    maps a number of draws k to the bound (N,) at k. `smoothed` (N,) is log of the mean weight with its largest weights
    Pareto-smoothed, an estimate and no bound (NaN where S < 25). `ess` (N,) is the effective number of the S draws,
    `khat` (N,) the Pareto shape of their tail (NaN where S < 25). `prior_share` is the share of the draws that came
    from the prior. `outside_share` (N,) is the share of the guide's draws at which the prior's density is zero, as
    outside its support: their weights are zero, and count in the mean, and the tail of k-hat is that of the others.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    ess: Tensor
    khat: Tensor
    smoothed: Tensor
    iwae: dict[int, Tensor]
    num_samples: int
    outside_share: Tensor
    prior_share: float = 0.0
    kind: str = "lower bound"

    @property
    def khat_bad(self) -> float | None:
        """The share of rows with a finite log p(x) whose k-hat is above the limit for S; None where S is too small."""
        if self.num_samples < MIN_DRAWS:
            return None
        is_good = self.khat <= khat_limit(self.num_samples)
        return finite_or_none(weighted_mean(*self._among(self.log_px.isfinite(), (~is_good).double())))

    def to_record(self, about: EvidenceRecord, better: LogPx | None = None) -> EvidenceRecord:
        """The means over rows as the record of a program on a split.

        Args:
            about: the record with what is known of the program, its fit and its rows.
            better: log p(x) of the same rows by another method, where there is one.

        Returns:
            `about` with all numbers of this estimate, nats per row; log p(x) and its errors are those of `better`.
        """
        known = LogPx.to_record(self if better is None else better, about)
        elbo, log_px = mean_or_none(self.elbo, self.weights), known.log_px
        return replace(
            known,
            elbo=elbo,
            reconstruction=mean_or_none(self.reconstruction, self.weights),
            kl=mean_or_none(self.kl, self.weights),
            prior_share=self.prior_share,
            smoothed=mean_or_none(self.smoothed, self.weights),
            iwae={str(k): mean_or_none(bound, self.weights) for k, bound in self.iwae.items()},
            bound=elbo,
            gap=None if log_px is None or elbo is None else log_px - elbo,
            khat_bad=self.khat_bad,
            num_samples=self.num_samples,
            outside_share=mean_or_none(self.outside_share, self.weights) or None,
        )

    def __repr__(self) -> str:
        known = ~self.elbo.isnan()
        elbo = f"ELBO {weighted_mean(*self._among(known, self.elbo)):.2f}, " if known.any() else ""
        return self._describe(f"{elbo}S = {self.num_samples}")


@check_call
def log_evidence(
    program: Program,
    data: RowsGiven,
    num_samples: int = 1000,
    *,
    iwae: Iterable[int] = (),
    prior_share: float = 0.0,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 64,
    seed: int | None = 0,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Evidence:
    r"""Importance-sampled $\log p(x_i)$ of each row with the program's guide as proposal.

    $\log \hat p(x_i) = \log \frac1S \sum_s w_{si}$ with $w_{si} = p(x_i, z_{si}) / q(z_{si} | x_i)$ and $z_{si} \sim
    q(z | x_i)$: unbiased for $p(x_i)$, so a lower bound on $\log p(x_i)$ in expectation, the bound of Burda et al.
    (arXiv:1509.00519). Weights come from traces, (S, N), for any program whose sites share one plate over rows. Work
    goes in chunks of rows and draws under `memory_mib`, so memory is flat in S and N.

    With a `prior_share` $\alpha > 0$ the proposal is defensive (Hesterberg 1995; Owen & Zhou 2000): $\alpha S$ draws
    come from the prior, the rest from the guide, and each is weighed against the mixture, $w = p(x, z) / (\alpha p(z) +
    (1 - \alpha) q(z|x))$. No weight then exceeds $p(x|z) / \alpha$, however far from a row's posterior the guide lies;
    where the guide is right this costs a row $\log \frac{1}{1 - \alpha}$ of its ELBO and a share $\alpha$ of its draws.

    Raises `RowsError` where a row has no weight of its own (a global latent), `InputError` for rows outside the
    likelihood's support.

    Args:
        program: any program.
        data: a tensor (N, D), a split, or a data set (its test split).
        num_samples: draws S for each row.
        iwae: further numbers of draws at which the bound is wanted.
        prior_share: $\alpha$, the share of the draws that come from the prior.
        rows: the rows' positions (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the draws in progress, in MiB.
        seed: seed of the draws; None leaves the random state as it is.
        group: the processes that share the rows (`pv.distributed.process_group()` in a script that `torchrun`
            started); each gets every result.

    Returns:
        log p(x) (N,) with the ELBO, its terms, errors and diagnostics, nats per row.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be one or more, got {num_samples}")
    if not memory_mib > 0:
        raise InputError(f"memory_mib must be positive, got {memory_mib}")
    from_prior = _prior_draws(num_samples, prior_share)
    split, rows = rows_to_score(data, rows, labels)
    sizes = sorted({k for k in iwae if 1 <= k < num_samples and k <= num_samples - from_prior})
    with torch.no_grad(), use_param_store(program), seeded(seed), evaluating(program):
        scored = ScoredRows(program, split, rows, group, seed, allow_zero=True)
        require_guide_density(scored.plates)
        columns = _summarize_rows(program, scored, num_samples, from_prior, sizes, memory_mib)
    require_log_probabilities(columns["highest likelihood"], "log p(x|z)", scored.plates)
    columns = {name: scored.restore(column, at_zero(name)) for name, column in columns.items()}
    bounds = {k: columns[f"iwae {k}"] + split.log_jacobian for k in sizes}
    for name in ("log_px", "elbo", "reconstruction", "smoothed"):
        columns[name] = columns[name] + split.log_jacobian
    if not from_prior:
        bounds[num_samples] = columns["log_px"]
    return Evidence(
        log_px=columns["log_px"],
        mc_se=columns["mc_se"],
        measure=scored.measure,
        elbo=columns["elbo"],
        reconstruction=columns["reconstruction"],
        kl=columns["kl"],
        ess=columns["ess"],
        khat=columns["khat"],
        smoothed=columns["smoothed"],
        iwae=bounds,
        num_samples=num_samples,
        outside_share=columns["outside_share"],
        prior_share=from_prior / num_samples,
        reasons=_reasons(columns, num_samples, num_samples - from_prior) | scored.reasons,
        weights=split.weights,
    )


def at_zero(column: str) -> float:
    """The number of a row of density zero: −∞ for bounds and estimates, no error, and no diagnostics."""
    if column == "mc_se":
        return 0.0
    is_bound = column in ("log_px", "elbo", "reconstruction", "smoothed") or column.startswith("iwae")
    return -math.inf if is_bound else math.nan


def _reasons(columns: dict[str, PerRow], num_samples: int, num_guided: int) -> dict[int, str]:
    """Why each row whose log p(x) is not finite has none."""
    reasons = {}
    for row in (~columns["log_px"].isfinite()).nonzero()[:, 0].tolist():
        counts = {term: int(columns[f"not finite: {term}"][row].nan_to_num()) for term in TERMS}
        wrong = [
            f"{term} is NaN or infinite in {count} of {num_samples} draws" for term, count in counts.items() if count
        ]
        outside = int((columns["outside_share"][row].nan_to_num() * num_guided).round())
        zero = f"all weights are zero, {outside} of {num_guided} draws of the guide outside the prior's support"
        reasons[row] = "; ".join(wrong) or zero
    return reasons


def _prior_draws(num_samples: int, share: float) -> int:
    """How many of the draws come from the prior: two or more of either kind, if there are to be both."""
    if not 0 <= share <= 1:
        raise InputError(f"prior_share is a share of the draws, from 0 to 1, got {share}")
    if share in (0, 1):
        return int(share * num_samples)
    if num_samples < 4:
        raise InputError(f"draws from the prior and from the guide need num_samples of 4 or more, got {num_samples}")
    return min(max(round(share * num_samples), 2), num_samples - 2)


def _summarize_rows(
    program: Program, scored: ScoredRows, num_samples: int, from_prior: int, sizes: list[int], memory_mib: float
) -> dict[str, PerRow]:
    """The numbers of `Evidence` for all rows, in batches under the memory budget."""
    sampler = LogWeightSampler(program, scored.plates, scored.first, sum_out=not from_prior)
    size, draws = chunks(num_samples, len(scored.split), sampler.bytes_per_weight(scored.first), memory_mib)
    weigh = RecordedWeights(sampler)
    plan = [
        (prior, min(draws, count - done))
        for prior, count in ((False, num_samples - from_prior), (True, from_prior))
        for done in range(0, count, draws)
    ]

    def of_batch(batch: Batch) -> dict[str, PerRow]:
        # filled in place: small tensors that outlive a chunk would lie between large ones and make the heap grow
        likelihood, ratio = (torch.empty(num_samples, len(batch.x), dtype=torch.float64) for _ in range(2))
        expected = torch.zeros(2, len(batch.x), dtype=torch.float64)
        done = 0
        for prior, count in plan:
            weights = weigh(batch, count, from_prior=prior)
            likelihood[done : done + count] = weights.log_likelihood
            ratio[done : done + count] = weights.log_ratio
            if weights.expected_likelihood is not None and weights.expected_ratio is not None:
                expected += torch.stack([weights.expected_likelihood.sum(0), weights.expected_ratio.sum(0)])
            done += count
        found = summarize(likelihood, ratio, sizes, from_prior)
        return found | _elbo_terms(*expected / num_samples) if sampler.sums_out else found

    results = scored.map_batches(size, of_batch)
    return {name: torch.cat([part[name] for part in results]) for name in results[0]}


def _elbo_terms(reconstruction: PerRow, ratio: PerRow) -> dict[str, PerRow]:
    """The ELBO and its terms of rows where the weights are not those of the ELBO's draws."""
    return {"elbo": reconstruction + ratio, "reconstruction": reconstruction, "kl": -ratio}


def chunks(num_samples: int, num_rows: int, bytes_per_weight: int, memory_mib: float) -> tuple[int, int]:
    """Rows and draws of a chunk, so that neither the program's tensors nor the rows' (S, n) weights exceed the budget.

    Args:
        num_samples: draws S for each row.
        num_rows: all rows N.
        bytes_per_weight: bytes that the program writes for a draw of a row.
        memory_mib: the budget, in MiB.

    Returns:
        The number of rows and the number of draws.

    >>> chunks(num_samples=1000, num_rows=10_000, bytes_per_weight=20_000, memory_mib=256)
    (128, 104)
    """
    budget = memory_mib * 2**20
    weights = max(1, int(budget // bytes_per_weight))
    rows = max(1, min(num_rows, MAX_BATCH_SIZE, weights, int(budget // (64 * num_samples))))
    return rows, max(1, min(num_samples, weights // rows))


def summarize(
    log_likelihood: LogWeights, log_ratio: LogWeights, sizes: Iterable[int] = (), from_prior: int = 0
) -> dict[str, PerRow]:
    """Every number of `Evidence` from the two parts of the weights.

    Args:
        log_likelihood: log p(x | z) of the draws (S, N), nats, those of the prior's draws last.
        log_ratio: log p(z) − log q(z | x) of the same draws (S, N), nats.
        sizes: the numbers of draws at which IWAE bounds are wanted.
        from_prior: how many of the S draws came from the prior.

    Returns:
        Tensors (N,) by the name of the field, and each bound as `iwae k`.
    """
    num_samples = len(log_likelihood)
    num_guided, share = num_samples - from_prior, from_prior / num_samples
    log_weights = log_likelihood + log_ratio
    guided = log_weights[:num_guided]
    if from_prior:
        log_weights = log_likelihood - log_mixture(share, log_ratio)
    log_weights = torch.where(log_weights == math.inf, math.nan, log_weights)  # no density is infinite
    log_sum = torch.logsumexp(log_weights, 0)
    log_px = log_sum - math.log(num_samples)
    weights = torch.exp(log_weights - log_px)  # their mean is one
    strata = [weights[:num_guided], weights[num_guided:]] if from_prior else [weights]
    variance = sum((len(stratum) * stratum.var(0) for stratum in strata if len(stratum) > 1), torch.zeros(()))
    khat, smoothed = pareto_smoothed(np.ascontiguousarray(log_weights.T.numpy()))
    summary = {
        "log_px": log_px,
        "elbo": guided.mean(0),
        "reconstruction": log_likelihood[:num_guided].mean(0),
        "kl": -log_ratio[:num_guided].mean(0),
        "mc_se": variance.sqrt() / num_samples if num_samples > 1 else log_px * math.nan,
        "ess": num_samples / weights.square().mean(0),
        "khat": torch.from_numpy(khat),
        "smoothed": torch.where(log_px == -math.inf, log_px, torch.from_numpy(smoothed)),
        "outside_share": (log_ratio[:num_guided] == -math.inf).double().mean(0),
    }
    summary["highest likelihood"] = log_likelihood.nan_to_num(nan=-math.inf).amax(0)
    for name, term, counted in zip(TERMS, (log_likelihood, log_ratio), (num_samples, num_guided), strict=True):
        is_infinite = term[:counted] == math.inf  # a draw of the prior may lie outside the guide's support
        summary[f"not finite: {name}"] = (term.isnan().sum(0) + is_infinite.sum(0)).double()
    for k in sizes:
        groups = num_guided // k
        grouped = guided[: groups * k].reshape(groups, k, -1)
        summary[f"iwae {k}"] = (torch.logsumexp(grouped, 1) - math.log(k)).mean(0)
    return summary
