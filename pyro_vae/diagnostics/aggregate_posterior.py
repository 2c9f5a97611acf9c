"""The aggregate posterior, the mixture of all rows' q(z|x): its draws, its density, its distance from the prior."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.programs.log_densities import sum_over_plates
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import require_density, require_guide_density, require_rows
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import Site, SubstituteLatents, sample_sites, trace_program
from pyro_vae.typing import PerRow, Program, RowLatents

DRAWS_PER_BLOCK = 256
ROWS_PER_BLOCK = 256
REPEATED_ROWS_PER_BLOCK = 16  # where each row is repeated for each draw

Values = dict[str, Tensor]


@dataclass(frozen=True)
class AggregatePosterior:
    """What the mean KL(q(z|x) ‖ p(z)) over N rows is made of, nats per row.

    `kl` = `mutual_information` + `marginal_kl`, draw by draw: the information that z has about its row, at most log N,
    and the KL of the aggregate posterior from the prior. `kl_mc_se`, `mutual_information_mc_se` and `marginal_kl_mc_se`
    are their Monte-Carlo errors, as if the `num_samples` draws were independent (stratifying over rows makes them
    smaller).
    """

    kl: float
    mutual_information: float
    marginal_kl: float
    kl_mc_se: float
    mutual_information_mc_se: float
    marginal_kl_mc_se: float
    num_rows: int
    num_samples: int

    def __repr__(self) -> str:
        return (
            f"AggregatePosterior({self.num_rows} rows, {self.num_samples} draws: "
            f"KL {self.kl:.3f} ± {self.kl_mc_se:.3f} = "
            f"mutual information {self.mutual_information:.3f} ± {self.mutual_information_mc_se:.3f} + "
            f"KL(aggregate ‖ prior) {self.marginal_kl:.3f} ± {self.marginal_kl_mc_se:.3f} nats)"
        )


@check_call
def aggregate(
    program: Program,
    data: RowsGiven,
    num_samples: int = 1000,
    *,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int | None = 0,
) -> AggregatePosterior:
    r"""The aggregate posterior $\bar q(z) = \frac1N \sum_i q(z|x_i)$ against the prior (Hoffman & Johnson 2016).

    $\frac1N \sum_i KL(q(z|x_i) \| p(z)) = I(i; z) + KL(\bar q \| p)$, where $I = E[\log q(z|x_i) - \log \bar q(z)] \leq
    \log N$ is the information that z has about its row. The draws of z come from rows in random order, equally many
    from each; $\log \bar q$ at each is exact, over all N rows. $KL(\bar q \| p)$ falls as rows are added: compare at
    equal N, and where I is near $\log N$ (many latents, few rows) $KL(\bar q \| p)$ is little more than KL − $\log N$
    and does not show holes. All N × `num_samples` densities come from the guide with substituted values, in blocks: any
    program whose sites share one plate over rows.

    Raises `InputError` where there is no density of z (an autoencoder; auxiliary sites), `RowsError` where sites lie
    outside the row plate.

    Rows count alike, whatever weights they have.

    Args:
        program: the fitted program.
        data: rows x (N, D), a split or a data set, as in `log_evidence`.
        num_samples: draws of z altogether.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,).
        seed: of the draws.

    Returns:
        The three terms and their Monte-Carlo errors, nats per row.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> found = aggregate(vae, (torch.rand(40, 5) < 0.5).float())
    >>> found.mutual_information < math.log(40), found.kl > found.mutual_information
    (True, True)
    """
    if num_samples < 2:
        raise InputError(f"num_samples must be two or more, got {num_samples}")
    require_density(program)
    split, places = rows_to_score(data, rows, labels)
    with torch.no_grad(), use_param_store(program), seeded(seed), evaluating(program):
        scored = ScoredRows(program, split, places)
        mixture = _Mixture(program, scored)
        turns = torch.cat([torch.randperm(len(split)) for _ in range(-(-num_samples // len(split)))])[:num_samples]
        everything = scored.batch(0, len(split))
        parts = [
            mixture.log_probs_of_draws(everything.take(turn.to(everything.x.device)))
            for turn in turns.split(DRAWS_PER_BLOCK)
        ]
    own, prior, mixed = (torch.cat(part) for part in zip(*parts, strict=True))
    found = {"kl": own - prior, "mutual_information": own - mixed, "marginal_kl": mixed - prior}
    means = {name: float(value.mean()) for name, value in found.items()}
    errors = {f"{name}_mc_se": float(value.std() / math.sqrt(num_samples)) for name, value in found.items()}
    return AggregatePosterior(**means, **errors, num_rows=len(split), num_samples=num_samples)


def log_aggregate(program: Program, data: RowsGiven, z: Tensor) -> Tensor:
    r"""$\log \bar q(z) = \log \frac1N \sum_i q(z|x_i)$ at some points: where it has holes.

    Raises the same errors as `aggregate`.

    Args:
        program: the fitted program.
        data: rows x (N, D), a split or a data set.
        z: points (M, K), latent sites concatenated, as `encode` returns them.

    Returns:
        $\log \bar q(z)$ at each point, (M,) nats, float64.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> log_aggregate(vae, torch.ones(40, 5), torch.zeros(7, 2)).shape
    torch.Size([7])
    """
    require_density(program)
    split, places = rows_to_score(data, None, None)
    with torch.no_grad(), use_param_store(program), seeded(0), evaluating(program):
        scored = ScoredRows(program, split, places)
        mixture = _Mixture(program, scored)
        blocks = z.to(scored.device, scored.dtype).split(DRAWS_PER_BLOCK)
        return torch.cat([mixture.log_prob(mixture.split_into_sites(some), len(some)) for some in blocks])


class _Mixture:
    """log q(z | x) of many z under many rows, by the guide's trace with substituted values."""

    def __init__(self, program: Program, scored: ScoredRows) -> None:
        self.program, self.scored, self.plates = program, scored, scored.plates
        self.row_dim = require_rows(self.plates)
        require_guide_density(self.plates)
        self.vectorized = LogWeightSampler(program, self.plates, scored.first).vectorized
        model, guide = (sample_sites(trace) for trace in trace_program(program, scored.first))
        latent = {name for name, site in model.items() if not site["is_observed"]}
        if extra := guide.keys() - latent:
            raise InputError(f"the guide's auxiliary {', '.join(sorted(extra))} leave it without a density of z alone")
        self.sites = guide
        self.axes = {name: self.row_dim - site["fn"].event_dim for name, site in guide.items()}

    def log_probs_of_draws(self, batch: Batch) -> tuple[PerRow, PerRow, PerRow]:
        """For a draw from each row's q: its log-density under that q, under the prior, and under the mixture."""
        traces = trace_program(self.program, batch)
        model, guide = (sample_sites(trace) for trace in traces)
        values = {name: site["value"] for name, site in guide.items()}
        own = self._sum_sites(guide.values(), {self.row_dim})
        prior = self._sum_sites((model[name] for name in guide), {self.row_dim})
        n = len(batch.x)
        return own.expand(n).double().cpu(), prior.expand(n).double().cpu(), self.log_prob(values, n)

    def log_prob(self, values: Values, num: int) -> PerRow:
        """The log-density of the mixture at `num` points, (num,) float64."""
        total = torch.full((num,), -math.inf, dtype=torch.float64)
        for batch in self.scored.batches(ROWS_PER_BLOCK if self.vectorized else REPEATED_ROWS_PER_BLOCK):
            pairs = self._log_prob_of_pairs(values, batch, num).double().cpu()
            total = torch.logaddexp(total, pairs.logsumexp(1))
        return total - math.log(len(self.scored.split))

    def _log_prob_of_pairs(self, values: Values, batch: Batch, num: int) -> Tensor:
        """log q(z_s | x_i) of all pairs, (S, n)."""
        n = len(batch.x)
        if self.vectorized:
            left = -self.plates.nesting - 1
            wide = {name: self._expand_to_rows(name, value, n) for name, value in values.items()}
            guide = pyro.plate("_draws", num, dim=left)(bind_supported_kwargs(self.program.guide))
            return self._densities(guide, wide, batch, {left, self.row_dim}).expand(num, n)
        index = torch.arange(n, device=batch.x.device)
        long = {name: value.repeat_interleave(n, self.axes[name]) for name, value in values.items()}
        batch = batch.take(index.repeat(num))
        return self._densities(bind_supported_kwargs(self.program.guide), long, batch, {self.row_dim}).reshape(num, n)

    def _densities(self, guide: Callable[..., object], values: Values, batch: Batch, keep: set[int]) -> Tensor:
        with pyro.validation_enabled(False):
            trace = poutine.trace(SubstituteLatents(values)(guide)).get_trace(batch.x, batch.row_inputs)
            trace.compute_log_prob()
        found = self._sum_sites(sample_sites(trace).values(), keep)
        return found.reshape(found.shape[0], -1) if len(keep) == 2 else found.flatten()

    def _expand_to_rows(self, name: str, value: Tensor, n: int) -> Tensor:
        """A value for each draw, along the row plate, as one for each draw and row: draws to the left of all plates."""
        axis, site = self.axes[name], self.sites[name]
        wide = value.movedim(axis, 0).unsqueeze(axis)
        missing = self.plates.nesting + 1 + site["fn"].event_dim - wide.dim()
        wide = wide.reshape(len(wide), *[1] * missing, *wide.shape[1:])
        return wide.expand(*(n if i - wide.dim() == axis else size for i, size in enumerate(wide.shape)))

    def split_into_sites(self, z: RowLatents) -> Values:
        """Concatenated points split into the sites' values."""
        rows = {name: site["value"].movedim(self.axes[name], 0) for name, site in self.sites.items()}
        sizes = [value[0].numel() for value in rows.values()]
        if z.shape[1] != sum(sizes):
            raise InputError(f"expected points of {sum(sizes)} latents, got {z.shape[1]}")
        parts = zip(rows.items(), z.split(sizes, 1), strict=True)
        return {
            name: part.reshape(-1, *value.shape[1:]).movedim(0, self.axes[name]).to(value.dtype)
            for (name, value), part in parts
        }

    def _sum_sites(self, sites: Iterable[Site], keep: set[int]) -> Tensor:
        return torch.as_tensor(sum(sum_over_plates(site, keep) for site in sites))
