"""Annealed importance sampling with Hamiltonian transitions, and bidirectional Monte Carlo, both batched.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
>>> x = torch.ones(3, 5)
>>> annealed, exact = pv.annealed_evidence(vae, x, 50, start="prior"), pv.exact_evidence(vae, x)
>>> bool((annealed.log_px - exact.log_px).abs().max() < 0.2)
True
>>> bounds = pv.bidirectional(vae, num_rows=10, num_temperatures=20, num_features=5)
>>> bool(abs(bounds.gap) < 0.5), bounds.x.shape
(True, torch.Size([10, 5]))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Measure, RowsGiven, Split
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.evidence.annealing_schedule import Path, Plan
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.program_defaults import num_features_of
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.sample_rows import simulate
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Program


@dataclass(frozen=True, kw_only=True, repr=False)
class Annealed(LogPx):
    """The results of annealing, in addition to those of `LogPx`.

    `log_px` (N,) is log of the mean weight of `num_chains` chains, a lower bound in expectation; `ess` (N,) is
    their effective number, `acceptance` (N,) the share of Hamiltonian proposals accepted.
    """

    ess: Tensor
    acceptance: Tensor
    num_chains: int
    num_temperatures: int
    start: str
    kind: str = "lower bound"

    def __repr__(self) -> str:
        how = f"{self.num_chains} chains, {self.num_temperatures} temperatures from the {self.start}"
        return self._describe(f"{how}, {self.acceptance.mean():.0%} accepted")


@dataclass(frozen=True, repr=False)
class Sandwich:
    """Rows x (N, D) drawn from the model, and two bounds on each row's log p(x), in expectation: `lower`, `upper`.

    All chains of a row's upper bound start from the same exact draw of z, so their spread is not its error:
    `upper.mc_se` is NaN, and `gap_se`, over rows, is the error to report.
    """

    x: Tensor
    labels: Tensor | None
    lower: Annealed
    upper: LogPx

    @property
    def gap(self) -> float:
        """Mean upper − mean lower bound, nats: at least the error of any estimate between them, in expectation."""
        return float((self.upper.log_px - self.lower.log_px).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of `gap` over rows; it includes the Monte-Carlo error of the chains."""
        gaps = self.upper.log_px - self.lower.log_px
        return float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else math.nan

    def __repr__(self) -> str:
        return (
            f"Sandwich({len(self.lower)} simulated rows: log p(x) from {self.lower.log_px.mean():.2f} to "
            f"{self.upper.log_px.mean():.2f} nats, {self.gap:.3f} ± {self.gap_se:.3f} apart)"
        )


@check_call
def annealed_evidence(
    program: Program,
    data: RowsGiven,
    num_temperatures: int = 500,
    *,
    num_chains: int = 16,
    num_leapfrog: int = 5,
    start: str = "guide",
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 256,
    seed: int | None = 0,
    on_rows: Callable[[int], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Annealed:
    r"""$\log p(x_i)$ of each row by annealed importance sampling (Neal, physics/9803008; Wu et al., arXiv:1611.04273).

    Chains go from $f_0$, which is the guide (or the prior, `start="prior"`), through $f_t = f_0^{1-\beta_t} p(x,
    z)^{\beta_t}$ to the posterior. Each step is a Hamiltonian transition that leaves $f_t$ invariant, and $w = \prod_t
    f_t(z_{t-1}) / f_{t-1}(z_{t-1})$. As $E[w] = p(x)$, log of the mean weight of the chains is a lower bound on log
    p(x) in expectation; `num_temperatures` tightens it. Temperatures, and step sizes for each row and temperature, are
    tuned in a pilot run of other chains and then fixed, so the weights stay unbiased. Constrained latents are sampled
    in unconstrained space. Cost: `num_temperatures * num_leapfrog * num_chains` gradients a row, and a quarter of it
    for the pilot run.

    Raises `InputError` for discrete latents, `RowsError` where a row has no weight of its own.

    Args:
        program: a program with continuous latents.
        data: a tensor (N, D), a split, or a data set (its test split).
        num_temperatures: steps from $f_0$ to the posterior.
        num_chains: chains for each row.
        num_leapfrog: leapfrog steps of a transition.
        start: where chains start: `guide` or `prior`.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the chains in progress, in MiB.
        seed: seed of the draws; None leaves the random state as it is.
        on_rows: called with the number of rows done.
        group: the processes that share the rows; each gets every result.

    Returns:
        log p(x) (N,) with its errors, nats per row, and the chains' diagnostics.
    """
    plan = Plan(num_temperatures, num_chains, num_leapfrog, start, memory_mib)
    split, rows = rows_to_score(data, rows, labels)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        needs_guide = start == "guide"
        scored = ScoredRows(program, split, rows, group, seed, allow_zero=True, needs_guide=needs_guide)
        program, done = scored.program, 0

        def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
            nonlocal done
            result, done = Path(program, scored.plates, batch, plan).forward(), done + len(batch.x)
            if on_rows is not None:
                on_rows(done)
            return result

        results = scored.map_batches(plan.batch_size(program, scored.plates, scored.first), of_batch)
    return _annealed(results, split, plan, scored)


@check_call
def bidirectional(
    program: Program,
    num_rows: int = 100,
    num_temperatures: int = 500,
    *,
    num_chains: int = 16,
    num_leapfrog: int = 5,
    start: str = "guide",
    num_features: int | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 256,
    seed: int | None = 0,
) -> Sandwich:
    r"""Rows drawn from the model, and log p(x) of each between two bounds (Grosse et al., arXiv:1511.02543).

    The model draws z and x together, so z is one exact draw from p(z|x). Annealing from f₀ to the posterior gives the
    lower bound; the same path run backwards from that z gives weights with $E[1/w] = 1/p(x)$, and so an upper bound in
    expectation. The distance between the two limits the error of either, and that of any other estimator on the same
    rows x. It is measured on rows of the model, which data need not resemble.

    Raises `InputError` for latents that are not continuous, and for models that do not observe x at one site.

    Args:
        program: a program with continuous latents.
        num_rows: how many rows are drawn.
        num_temperatures: steps from $f_0$ to the posterior.
        num_chains: chains for each row.
        num_leapfrog: leapfrog steps of a transition.
        start: $f_0$: `guide` or `prior`.
        num_features: the width D of a row, for a program that has not been fitted.
        labels: labels (num_rows,), for programs that take them.
        memory_mib: memory for the chains in progress, in MiB.
        seed: seed of the draws; None leaves the random state as it is.

    Returns:
        The rows, and both bounds on log p(x) of each, nats per row.
    """
    plan = Plan(num_temperatures, num_chains, num_leapfrog, start, memory_mib)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        split, latents = _simulated_split(program, num_rows, num_features, labels)
        scored = ScoredRows(program, split, None, needs_guide=start == "guide")
        program = scored.program
        size = plan.batch_size(program, scored.plates, scored.first)
        u = UnconstrainedJoint(program, scored.plates, scored.batch(0, num_rows)).flat(latents)
        lower, upper = [], []
        for batch, exact in zip(scored.batches(size), u.split(size), strict=True):
            path = Path(program, scored.plates, batch, plan)
            lower.append(path.forward())
            upper.append(path.backward(exact))
    lower_bound = _annealed(lower, split, plan, scored)
    log_inverse, _, _ = _mean_weight(-torch.cat(upper, -1))
    unknown = torch.full_like(log_inverse, math.nan)  # chains from one draw do not show the variance over draws
    upper_bound = LogPx(log_px=-log_inverse, mc_se=unknown, measure=scored.measure, kind="upper bound")
    return Sandwich(split.x, labels, lower_bound, upper_bound)


def _simulated_split(
    program: Program, num_rows: int, num_features: int | None, labels: Tensor | None
) -> tuple[Split, dict[str, Tensor]]:
    """Rows drawn from the model, and the latents they were drawn with, by site."""
    if num_rows < 1:
        raise InputError(f"expected one row or more to simulate, got {num_rows}")
    width = num_features or num_features_of(program)
    if width is None:
        raise InputError("the width of a row is unknown, since this program has not been fitted: give num_features")
    device, dtype = device_and_dtype(program)
    if labels is not None and len(labels) != num_rows:
        raise InputError(f"expected a label for each of the {num_rows} rows, got {len(labels)}")
    x = torch.zeros(num_rows, width, device=device, dtype=dtype)
    with torch.no_grad():
        x, latents = simulate(program, Batch(x, labels=None if labels is None else labels.to(device)))
    return Split("simulated", x.cpu(), Measure(given=True), labels), latents


def _annealed(results: list[tuple[Tensor, Tensor]], split: Split, plan: Plan, scored: ScoredRows) -> Annealed:
    log_weights, acceptance = (torch.cat(parts, -1) for parts in zip(*results, strict=True))
    log_px, mc_se, ess = _mean_weight(log_weights)
    wrong = scored.restore((log_weights.isnan() | (log_weights == math.inf)).double().sum(0), 0.0)
    rows = wrong.nonzero()[:, 0].tolist()
    reasons = {
        row: f"the log weight is NaN or infinite in {int(wrong[row])} of {plan.num_chains} chains" for row in rows
    }
    return Annealed(
        log_px=scored.restore(log_px) + split.log_jacobian,
        mc_se=scored.restore(mc_se, 0.0),
        measure=scored.measure,
        reasons=reasons | scored.reasons,
        ess=scored.restore(ess, math.nan),
        acceptance=scored.restore(acceptance, math.nan),
        num_chains=plan.num_chains,
        num_temperatures=plan.num_temperatures,
        start=plan.start,
        weights=split.weights,
    )


def _mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log of the mean weight (N,), its standard error over chains, and the effective number of chains."""
    chains = len(log_weights)
    log_weights = torch.where(log_weights == math.inf, math.nan, log_weights)
    mean = torch.logsumexp(log_weights, 0) - math.log(chains)
    weights = torch.exp(log_weights - mean)
    mc_se = weights.std(0) / math.sqrt(chains) if chains > 1 else mean * math.nan
    return mean, mc_se, chains / weights.square().mean(0)
