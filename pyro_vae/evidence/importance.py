"""Importance-sampled log p(x) for each row of any program, with its bounds, its errors and its diagnostics."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.distributions import Levels
from pyro_vae.errors import InputError
from pyro_vae.evidence.psis import TOO_FEW, khat_limit, pareto_khat
from pyro_vae.inference.weights import Weigher
from pyro_vae.models.program import parameters_of, place_of
from pyro_vae.models.rows import Batch, Layout, evaluating, layout_of, require_mask, seeded
from pyro_vae.shapes import LogWeights, PerRow

ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Evidence:
    """What S draws from the guide say about N rows.

    Nats per row, float64 on the CPU, the Jacobian of standardization counted.
    `log_px` (N,) is log of the mean weight, a lower bound on log p(x) in expectation (the IWAE bound at S). `elbo` (N,)
    is the mean log weight, `reconstruction` (N,) − `kl` (N,) its two terms. `iwae` maps a number of draws k to the
    bound (N,) at k. `mc_se` (N,) is the Monte-Carlo standard error of `log_px`, `ess` (N,) the effective number of the
    S draws, `khat` (N,) the Pareto shape of their tail (NaN where S < 25). `measure` names what the density is against;
    only equal measures may be compared.
    """

    log_px: Tensor
    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    mc_se: Tensor
    ess: Tensor
    khat: Tensor
    iwae: dict[int, Tensor]
    num_samples: int
    measure: str
    kind: str = "lower bound"

    @property
    def log_px_se(self) -> float:
        """Standard error over rows: how well these N rows stand for the population, nats. NaN for one row."""
        return float(self.log_px.std() / math.sqrt(len(self.log_px))) if len(self.log_px) > 1 else math.nan

    @property
    def log_px_mc_se(self) -> float:
        """Monte-Carlo standard error of the mean: how well S draws stand for the integrals, nats."""
        return float(self.mc_se.square().sum().sqrt() / len(self.mc_se))

    @property
    def khat_bad(self) -> float | None:
        """The share of rows whose k-hat is above the limit for S; None where S is too small to say."""
        return None if self.num_samples < TOO_FEW else float((self.khat > khat_limit(self.num_samples)).double().mean())

    def __len__(self) -> int:
        return len(self.log_px)

    def __repr__(self) -> str:
        return (
            f"Evidence({len(self)} rows, S = {self.num_samples}: log p(x) {self.log_px.mean():.2f} ± "
            f"{self.log_px_se:.2f} (rows) "
            f"± {self.log_px_mc_se:.3f} (Monte Carlo) nats, {self.kind}; ELBO {self.elbo.mean():.2f}; {self.measure})"
        )


def log_evidence(
    program: Any,
    data: Dataset | Split | Tensor,
    num_samples: int = 1000,
    *,
    iwae: Iterable[int] = (),
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 128,
    seed: int | None = 0,
) -> Evidence:
    r"""Importance-sampled $\log p(x_i)$ of each row with the program's guide as proposal.

    $\log \hat p(x_i) = \log \frac1S \sum_s w_{si}$ with $w_{si} = p(x_i, z_{si}) / q(z_{si} | x_i)$ and $z_{si} \sim
    q(z | x_i)$: unbiased for $p(x_i)$, so a lower bound on $\log p(x_i)$ in expectation, the bound of Burda et al.
    (arXiv:1509.00519). Weights come from traces, (S, N), for any program whose sites share one plate over rows. `data`
    is a tensor (N, D), a split, or a data set (its test split). Work goes in chunks of rows and draws under
    `memory_mib`, so memory is flat in S and N; `iwae` asks for the bound at further numbers of
    draws. `rows` (N,) are the rows' places in the training set and `labels` (N,) their labels, for programs that ask.

    Raises `RowsError` where a row has no weight of its own (a global latent), `InputError` for rows the likelihood
    cannot give.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
    >>> found = pv.log_evidence(vae, torch.ones(3, 5), num_samples=100)
    >>> bool((found.log_px >= found.elbo).all()), found.khat.shape
    (True, torch.Size([3]))
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be one or more, got {num_samples}")
    if not memory_mib > 0:
        raise InputError(f"memory_mib must be positive, got {memory_mib}")
    split = as_split(data, "test")
    if labels is not None:
        split = replace(split, labels=labels)
    if rows is None and split.name == "train":
        rows = torch.arange(len(split))
    sizes = sorted({k for k in iwae if 1 <= k < num_samples})
    with torch.no_grad(), parameters_of(program), seeded(seed), evaluating(program):
        columns, layout = _weigh(program, split, rows, num_samples, sizes, memory_mib)
    bounds = {k: columns.pop(f"iwae {k}") + split.log_jacobian for k in sizes}
    for name in ("log_px", "elbo", "reconstruction"):
        columns[name] = columns[name] + split.log_jacobian
    bounds[num_samples] = columns["log_px"]
    return Evidence(**columns, iwae=bounds, num_samples=num_samples, measure=measure_of(split, layout))


def measure_of(split: Split, layout: Layout) -> str:
    """The measure in words, from the data and from what the likelihood says it is a density of."""
    if layout.relaxed:
        return "relaxed Bernoulli on grey levels: not a density"
    if split.measure.binarize != "none" and layout.support is not None and not layout.support.is_discrete:
        return f"Lebesgue measure on R^{split.shape[1]} at values that are only 0 and 1: no probability of pictures"
    if split.measure.binarize == "none" and not split.measure.given and layout.support is not None:
        values = _whole_values(getattr(layout.support, "base_constraint", layout.support))
        seen = "" if split.mask is None else ", observed values only"
        return f"counting measure on {{{values}}}^{split.shape[1]}{seen}" if values else split.measure_name
    return split.measure_name


def _whole_values(support: Constraint) -> str:
    """The values of a discrete support in words, nothing for a continuous one."""
    if isinstance(support, Levels):
        return f"0, …, {support.levels}"
    if support is constraints.nonnegative_integer:
        return "0, 1, 2, …"
    if isinstance(support, constraints.integer_interval):
        return f"{support.lower_bound}, …, {support.upper_bound}"
    return ""


def _weigh(
    program: Any, split: Split, places: Tensor | None, num_samples: int, sizes: list[int], memory_mib: float
) -> tuple[dict[str, Any], Layout]:
    place = place_of(program, like=split[:1])

    def batch_of(start: int, end: int) -> Batch:
        extras: dict[str, Any] = {k: v.to(place.device) for k, v in split.extras(slice(start, end)).items()}
        if places is not None:
            extras["rows"] = places[start:end].to(place.device)
        return Batch(split[start:end].to(place), num_rows=len(split), **extras)

    require_mask(program, split.mask)
    first = batch_of(0, min(len(split), 8))
    layout = layout_of(program, first)
    weigher = Weigher(program, layout, first)
    size, draws = chunks(num_samples, len(split), weigher.bytes_per_weight(first), memory_mib)
    found = []
    for start in range(0, len(split), size):
        batch = batch_of(start, min(start + size, len(split)))
        layout.check(batch.x)
        parts = [weigher(batch, min(draws, num_samples - done)) for done in range(0, num_samples, draws)]
        likelihood, ratio = (
            torch.cat([getattr(part, name).cpu().double() for part in parts])
            for name in ("log_likelihood", "log_ratio")
        )
        found.append(summarize(likelihood, ratio, sizes))
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}, layout


def chunks(num_samples: int, num_rows: int, bytes_per_weight: int, memory_mib: float) -> tuple[int, int]:
    """Rows and draws to hold at once, so that neither the program's work nor the rows' (S, n) weights pass the budget.

    >>> chunks(num_samples=1000, num_rows=10_000, bytes_per_weight=20_000, memory_mib=256)
    (128, 104)
    """
    budget = memory_mib * 2**20
    at_once = max(1, int(budget // bytes_per_weight))
    rows = max(1, min(num_rows, ROWS_AT_ONCE, at_once, int(budget // (64 * num_samples))))
    return rows, max(1, min(num_samples, at_once // rows))


def summarize(log_likelihood: LogWeights, log_ratio: LogWeights, sizes: Iterable[int] = ()) -> dict[str, PerRow]:
    """Every number of `Evidence` from the two parts of the weights, (S, N) each."""
    log_weights = log_likelihood + log_ratio
    num_samples = len(log_weights)
    log_sum = torch.logsumexp(log_weights, 0)
    normalized = torch.exp(log_weights - log_sum)
    ess = 1 / normalized.square().sum(0)
    relative_variance = (num_samples / ess - 1).clamp(min=0) / (num_samples - 1) if num_samples > 1 else ess * math.nan
    summary = {
        "log_px": log_sum - math.log(num_samples),
        "elbo": log_weights.mean(0),
        "reconstruction": log_likelihood.mean(0),
        "kl": -log_ratio.mean(0),
        "mc_se": relative_variance.sqrt(),
        "ess": ess,
        "khat": torch.from_numpy(pareto_khat(np.ascontiguousarray(log_weights.T.numpy()))),
    }
    for k in sizes:
        groups = num_samples // k
        grouped = log_weights[: groups * k].reshape(groups, k, -1)
        summary[f"iwae {k}"] = (torch.logsumexp(grouped, 1) - math.log(k)).mean(0)
    return summary
