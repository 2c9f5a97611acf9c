"""Annealed importance sampling with Hamiltonian transitions, for all rows and chains at once, and its sandwich."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.context import evaluating, seeded
from pyro_vae.data import Dataset, Measure, Split
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.evidence.annealing_schedule import Path, Plan
from pyro_vae.evidence.log_px import LogPx
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.scored_rows import ScoredRows, rows_to_score
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint, simulate


@dataclass(frozen=True, kw_only=True, repr=False)
class Annealed(LogPx):
    """What annealing found, beside what `LogPx` says.

    `log_px` (N,) is log of the mean weight of `num_chains` chains, a lower bound in expectation; `ess` (N,) how many
    chains of equal weight they are worth, `acceptance` (N,) the share of Hamiltonian proposals taken.
    """

    ess: Tensor
    acceptance: Tensor
    num_chains: int
    num_temperatures: int
    start: str
    kind: str = "lower bound"

    def __repr__(self) -> str:
        how = f"{self.num_chains} chains, {self.num_temperatures} temperatures from the {self.start}"
        return self._in_words(f"{how}, {self.acceptance.mean():.0%} accepted")


@dataclass(frozen=True, repr=False)
class Sandwich:
    """Rows x (N, D) drawn from the model, and two bounds on each row's log p(x), in expectation: `lower`, `upper`.

    All chains of a row's upper bound start from the one exact draw of z there is, so their spread is no error of it:
    `upper.mc_se` is NaN, and `gap_se`, over rows, is the error to quote.
    """

    x: Tensor
    labels: Tensor | None
    lower: Annealed
    upper: LogPx

    @property
    def gap(self) -> float:
        """Mean upper − mean lower bound, nats: no estimate between them is further from the truth, in expectation."""
        return float((self.upper.log_px - self.lower.log_px).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of `gap` over rows, chains included."""
        apart = self.upper.log_px - self.lower.log_px
        return float(apart.std() / math.sqrt(len(apart))) if len(apart) > 1 else math.nan

    def __repr__(self) -> str:
        return (
            f"Sandwich({len(self.lower)} simulated rows: log p(x) from {self.lower.log_px.mean():.2f} to "
            f"{self.upper.log_px.mean():.2f} nats, {self.gap:.3f} ± {self.gap_se:.3f} apart)"
        )


def annealed_evidence(
    program: Any,
    data: Dataset | Split | Tensor,
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
    z)^{\beta_t}$ to the posterior, each step a Hamiltonian transition that leaves $f_t$ as it is, and $w = \prod_t
    f_t(z_{t-1}) / f_{t-1}(z_{t-1})$. As $E[w] = p(x)$, log of the mean weight of the chains is a lower bound on log
    p(x) in expectation; `num_temperatures` tightens it. Temperatures, and step sizes for each row and temperature, are
    tuned in a pilot run of other chains and then held, so the weights stay unbiased. Latents must be continuous;
    constrained ones are moved where they are not. Cost: `num_temperatures * num_leapfrog * num_chains` gradients a row,
    and a quarter of it for the pilot; `on_rows` hears how many rows are done. Shapes and row inputs as in
    `log_evidence`;
    nats per row.

    Raises `InputError` for discrete latents, `RowsError` where a row has no weight of its own.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> x = torch.ones(3, 5)
    >>> annealed, exact = pv.annealed_evidence(vae, x, 200, start="prior"), pv.exact_evidence(vae, x)
    >>> bool((annealed.log_px - exact.log_px).abs().max() < 0.2)
    True
    """
    plan = Plan(num_temperatures, num_chains, num_leapfrog, start, memory_mib)
    split, places = rows_to_score(data, rows, labels)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        scored = ScoredRows(program, split, places, group, seed)
        done = 0

        def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
            nonlocal done
            found = Path(program, scored.plates, batch, plan).forward()
            done += len(batch.x)
            if on_rows is not None:
                on_rows(done)
            return found

        size = plan.rows_at_once(program, scored.plates, scored.first)
        found = scored.map_batches(size, of_batch)
    return _annealed(found, split.log_jacobian, plan, scored.measure)


def bidirectional(
    program: Any,
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
    expectation. The distance between the two is the most that either is off, *known* and not assumed: so is that of
    any other estimator on `found.x`. It speaks for rows like the model's own, which data need not be. Arguments as
    in `annealed_evidence`; `labels` (num_rows,) for programs that ask, `num_features` where the program does not know.

    Raises `InputError` for latents that are not continuous, and for models that do not observe x at one site.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> found = pv.bidirectional(vae, num_rows=20, num_temperatures=50, num_features=5)
    >>> bool(abs(found.gap) < 0.5), found.x.shape
    (True, torch.Size([20, 5]))
    """
    plan = Plan(num_temperatures, num_chains, num_leapfrog, start, memory_mib)
    if num_rows < 1:
        raise InputError(f"expected one row or more to simulate, got {num_rows}")
    width = num_features or getattr(program, "num_features", None)
    if width is None:
        raise InputError("how wide is a row? This program has not been fitted: give num_features")
    lower, upper = [], []
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        device, dtype = device_and_dtype(program)
        empty = torch.zeros(num_rows, width, device=device, dtype=dtype)
        if labels is not None and len(labels) != num_rows:
            raise InputError(f"expected a label for each of the {num_rows} rows, got {len(labels)}")
        placeholder = Batch(empty, labels=None if labels is None else labels.to(device))
        with torch.no_grad():
            x, latents = simulate(program, placeholder)
        split = Split("simulated", x.cpu(), Measure(given=True), labels)
        scored = ScoredRows(program, split, None)
        size = plan.rows_at_once(program, scored.plates, scored.first)
        whole = UnconstrainedJoint(program, scored.plates, scored.batch(0, num_rows)).flat(latents)
        for batch, exact in zip(scored.batches(size), whole.split(size), strict=True):
            path = Path(program, scored.plates, batch, plan)
            lower.append(path.forward())
            upper.append(path.backward(exact))
    below = _annealed(lower, split.log_jacobian, plan, scored.measure)
    inverse, _, _ = _mean_weight(-torch.cat(upper, -1))
    unknown = torch.full_like(inverse, math.nan)  # chains that start from one draw do not show how others would do
    above = LogPx(log_px=-inverse, mc_se=unknown, measure=scored.measure, kind="upper bound")
    return Sandwich(split.x, labels, below, above)


def _annealed(found: list[tuple[Tensor, Tensor]], jacobian: Tensor, plan: Plan, measure: str) -> Annealed:
    log_weights, acceptance = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    log_px, mc_se, ess = _mean_weight(log_weights)
    return Annealed(
        log_px=log_px + jacobian,
        mc_se=mc_se,
        measure=measure,
        ess=ess,
        acceptance=acceptance,
        num_chains=plan.num_chains,
        num_temperatures=plan.num_temperatures,
        start=plan.start,
    )


def _mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log of the mean weight (N,), its standard error by the chains' spread, and their effective number."""
    chains = len(log_weights)
    mean = torch.logsumexp(log_weights, 0) - math.log(chains)
    weights = torch.exp(log_weights - mean)
    mc_se = weights.std(0) / math.sqrt(chains) if chains > 1 else mean * math.nan
    return mean, mc_se, chains / weights.square().mean(0)
