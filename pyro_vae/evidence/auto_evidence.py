"""log p(x) of each row by the cheapest method that can be believed: exactly, or by importance sampling step by step.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(3, 8, 5))
>>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 6))
>>> vae = pv.VAE(pv.priors.StandardNormal(3), likelihood, guide)
>>> evidence = auto_evidence(vae, torch.ones(3, 5))
>>> evidence.kind, evidence.stages
('lower bound', {'modes': 3})
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import pyro
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven, Split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError, OutsideSupportError, ZeroDensityWarning
from pyro_vae.evidence.evidence_record import EvidenceRecord, finite_or_none
from pyro_vae.evidence.exact_log_px import Exact, exact_evidence
from pyro_vae.evidence.importance_sampling import Evidence, at_zero, log_evidence
from pyro_vae.evidence.log_px_result import LogPx, require_log_probabilities
from pyro_vae.evidence.pareto_smoothing import MIN_DRAWS, khat_limit
from pyro_vae.evidence.score_blocks import MIN_ANNEALING_ESS, STAGES, BlockScorer
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import require_guide_density
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.typing import Program

ZERO_DENSITY, EXACT = "density zero", "exact"  # in place of a stage
EXACT_MEMORY = 4  # times the memory for draws


@dataclass(frozen=True, kw_only=True, repr=False)
class AutoEvidence(Evidence):
    """The results of importance sampling from mixtures, in addition to those of `Evidence`.

    `elbo`, its terms and `iwae` are those of the guide's share of the draws (NaN where the guide has no density of the
    latents alone). `stage` names how each row was scored: `modes`, Student-t distributions at a mode or two of its
    posterior; `more modes`, at those of further starts as well; `annealing`, whose `ess` is that of its chains and
    whose `khat` is NaN; `exact`, by a grid that does not resolve some of the other rows. `densities` is the number of
    log densities log p(x, z) computed for a row, in the mean.
    """

    stage: tuple[str, ...]
    densities: float

    @property
    def stages(self) -> dict[str, int]:
        """How many rows were scored at each stage."""
        return dict(Counter(self.stage))

    @property
    def is_bad(self) -> Tensor:
        """Where log p(x) is not to be trusted, (N,): a k-hat above its limit, or annealing with an ESS below 4."""
        is_bad = ~(self.khat <= khat_limit(self.num_samples))
        is_bad = torch.where(self._is_at("annealing"), self.ess < MIN_ANNEALING_ESS, is_bad)
        return is_bad & ~self._is_at(EXACT)

    def _is_at(self, name: str) -> Tensor:
        return torch.tensor([stage == name for stage in self.stage])

    @property
    def khat_bad(self) -> float | None:
        """The share of rows with a finite log p(x) that is not to be trusted; None where S is too small to say."""
        is_finite = self.log_px.isfinite()
        if self.num_samples < MIN_DRAWS or not is_finite.any():
            return None
        return finite_or_none(weighted_mean(*self._among(is_finite, self.is_bad.double())))

    def to_record(self, about: EvidenceRecord, better: LogPx | None = None) -> EvidenceRecord:
        return replace(super().to_record(about, better), stages=self.stages, densities=self.densities)


@check_call
def auto_evidence(
    program: Program,
    data: RowsGiven,
    num_samples: int = 1000,
    *,
    iwae: Iterable[int] = (),
    exact: bool = True,
    use_guide: bool = True,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 64,
    seed: int | None = 0,
    on_rows: Callable[[int], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Evidence | Exact:
    r"""$\log p(x_i)$ of each row: exactly where that is possible, else by importance sampling with a better proposal.

    Exact is what `exact_evidence` can do, but for grids that are expensive; rows that a shared grid does not resolve
    are sampled, and the result is then a lower bound. Otherwise a row's S draws come from a mixture with fixed counts:
    Student-t distributions with the curvature at a mode or two of its posterior, found by damped Newton steps from the
    guide's mean and from where draws of the prior have mass that the first does not explain; the guide; and the prior.
    Each draw is weighed against the mixture (the balance heuristic, Veach & Guibas 1995), so the mean weight is
    unbiased for $p(x_i)$ and its log a lower bound in expectation. Where pilot draws, which are then thrown away, have
    a k-hat above 0.7, modes are looked for from further starts, and where that does not mend it, the row is annealed
    from its modes (40 temperatures and 16 chains). Discrete latents that the guide leaves out are summed.

    A row's random numbers depend on the seed and on its number among the rows given, not on the other rows, the
    memory or the number of processes. Programs whose guide draws discrete latents, or that have more than
    256 latents, are scored by `log_evidence`.

    Raises `RowsError` where a row has no weight of its own, `InputError` for rows outside the likelihood's support.

    Args:
        program: any program.
        data: a tensor (N, D), a split, or a data set (its test split).
        num_samples: draws S for each row.
        iwae: numbers of draws of the guide at which the bound is wanted.
        exact: whether the exact methods are tried first.
        use_guide: whether draws come from the guide too; without them there is no ELBO, and a guide that is a point
            mass (MAP) is no obstacle.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the draws in progress, in MiB; a grid takes up to four times as much.
        seed: seed of the draws; None is that of 0.
        on_rows: called with the number of rows done.
        group: the processes that share the rows; each gets every result.

    Returns:
        log p(x) (N,), nats per row: an `Exact`, an `AutoEvidence`, or the `Evidence` of `log_evidence`.
    """
    split, rows = rows_to_score(data, rows, labels)
    sizes = sorted({k for k in iwae if k >= 1})
    with (
        torch.no_grad(),
        seeded(seed or 0),
        use_param_store(program),
        evaluating(program),
        pyro.validation_enabled(False),
    ):
        scored = ScoredRows(program, split, rows, group, seed, allow_zero=True, needs_guide=False)
        use_guide = use_guide and scored.program is program  # else its prior has taken the guide's place
        if use_guide:
            require_guide_density(scored.plates)
        known = exact_where_cheap(program, split, rows, memory_mib, seed, group) if exact else None
        own, program = program, scored.program
        if known is not None and not (known.error == math.inf).any():
            return known
        if scored.plates.num_rows is not None:  # rows cannot be worked on in blocks
            return log_evidence(
                own, split, num_samples, iwae=sizes, rows=rows, memory_mib=memory_mib, seed=seed, group=group
            )
        try:
            scorer = BlockScorer(program, scored, num_samples, sizes, memory_mib, use_guide=use_guide)
        except InputError:  # no continuous latents with a transform from the real numbers, or too many
            return log_evidence(
                program, split, num_samples, iwae=sizes, rows=rows, memory_mib=memory_mib, seed=seed, group=group
            )
        try:
            results = scorer.score(on_rows)
        except OutsideSupportError:  # some draws of the guide
            scorer = BlockScorer(program, scored, num_samples, sizes, memory_mib, use_guide=False)
            results = scorer.score(on_rows)
    columns = {name: torch.cat([part[name] for part in results]) for name in results[0]}
    require_log_probabilities(columns["highest likelihood"], "log p(x|z)", scored.plates)
    stages = scored.restore(columns.pop("stage"), len(STAGES)).tolist()
    columns = {name: scored.restore(column, at_zero(name)) for name, column in columns.items()}
    unknown = torch.full_like(columns["log_px"], math.nan)
    found = AutoEvidence(
        log_px=columns["log_px"] + split.log_jacobian,
        mc_se=columns["mc_se"],
        measure=scored.measure,
        elbo=columns["elbo"] + split.log_jacobian,
        reconstruction=columns["reconstruction"] + split.log_jacobian,
        kl=columns["kl"],
        ess=columns["ess"],
        khat=columns["khat"],
        smoothed=columns["smoothed"] + split.log_jacobian,
        iwae={k: columns[f"iwae {k}"] + split.log_jacobian for k in scorer.sizes},
        num_samples=num_samples,
        outside_share=torch.zeros_like(unknown) if scorer.has_guide else unknown,
        prior_share=scorer.counts.prior / num_samples,
        reasons=_reasons(columns["no number"], num_samples) | scored.reasons,
        stage=tuple([*STAGES, ZERO_DENSITY][stage] for stage in stages),
        densities=float(columns["densities"].nanmean()),
        weights=split.weights,
    )
    return found if known is None else _with_exact(found, known)


def _with_exact(found: AutoEvidence, known: Exact) -> AutoEvidence:
    """The same with the exact values of the rows that have one."""
    is_known = known.error != math.inf
    return replace(
        found,
        log_px=torch.where(is_known, known.log_px, found.log_px),
        mc_se=torch.where(is_known, known.mc_se, found.mc_se),
        smoothed=torch.where(is_known, known.log_px, found.smoothed),
        reasons={row: reason for row, reason in found.reasons.items() if not is_known[row]}
        | {row: reason for row, reason in known.reasons.items() if is_known[row]},
        stage=tuple(
            EXACT if is_known[row] and known.log_px[row].isfinite() else stage for row, stage in enumerate(found.stage)
        ),
    )


def _reasons(no_number: Tensor, num_samples: int) -> dict[int, str]:
    """Why each row without a number has none, from how many of its weights are NaN or infinite (N,)."""
    return {
        row: f"log p(x, z) is NaN or infinite in {int(no_number[row])} of {num_samples} draws"
        for row in (no_number > 0).nonzero()[:, 0].tolist()
    }


def exact_where_cheap(
    program: Program, split: Split, rows: Tensor | None, memory_mib: float, seed: int | None, group: ProcessGroup
) -> Exact | None:
    """`exact_evidence` where it applies and is cheap.

    Args:
        program: any program.
        split: the rows (N).
        rows: their indices (N,) in the training set, for programs that take them.
        memory_mib: memory for draws, of which a grid takes four times as much.
        seed: seed of the draws that the methods are checked with.
        group: the processes that share the rows.

    Returns:
        log p(x) (N,), nats per row; None where no method applies.
    """
    memory = EXACT_MEMORY * memory_mib  # with less, points are decoded more than once
    with warnings.catch_warnings(), suppress(InputError):
        warnings.simplefilter("ignore", ZeroDensityWarning)  # it has been given
        return exact_evidence(program, split, rows=rows, memory_mib=memory, seed=seed, cheap=True, group=group)
    return None
