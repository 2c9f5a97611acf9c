"""Refine q row by row: gradient steps on each row's own ELBO from the guide's q(z|x_i); the program does not change.

>>> import pyro_vae as pv
>>> _ = torch.manual_seed(0)
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
>>> vae, x = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide), torch.ones(3, 5)
>>> refined = pv.log_evidence(refine(vae, x), x, rows=torch.arange(3))
>>> bool((refined.elbo > pv.log_evidence(vae, x).elbo).all())
True
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, part_seed, seeded
from pyro_vae.data import RowsGiven, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.posterior.refined_guides import (
    Refined,
    RowNormals,
    RowOutputs,
    full_batch,
    transform_output,
)
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.observed_support import require_inside
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure, require_any_number_of_rows, require_guide_density, require_rows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import Site, sample_sites, unwrap_independent
from pyro_vae.torch_optimizers import without_compiler
from pyro_vae.typing import PerRow, Program

COMPARISON_DRAWS = 256  # on which a row's refined q is compared with the guide's


@dataclass(frozen=True)
class _Settings:
    """The optimizer's settings, checked."""

    steps: int
    learning_rate: float
    num_particles: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.steps, self.num_particles, self.batch_size) < 1 or not self.learning_rate > 0:
            raise InputError(
                "steps, num_particles and batch_size must be one or more and learning_rate positive, got "
                f"{self.steps}, {self.num_particles}, {self.batch_size} and {self.learning_rate}"
            )


@check_call
def refine(
    program: Program,
    x: RowsGiven,
    steps: int = 100,
    *,
    outputs_of: nn.Module | None = None,
    learning_rate: float = 0.05,
    num_particles: int = 8,
    batch_size: int = 1000,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Refined:
    r"""Maximize each row's ELBO over its q_i, $\max_{\mu_i, \Sigma_i} E_{z \sim q_i}[\log p(x_i, z) - \log q_i(z)]$.

    Adam starts from the guide's $q_i = N(\mu_i, \Sigma_i)$. Means (and each log σ) move by about
    `steps * learning_rate / 2` at most. A row keeps the guide's q_i where that has the higher ELBO on 256 draws, the
    same for both. The gain, in nats, is the amortization gap (Cremer et al., arXiv:1801.03558); a semi-amortized VAE
    takes such steps (Kim et al., arXiv:1802.02550). The program is in evaluation mode, and none of its parameters
    changes or gets a gradient. Same seed, same machine, same bits.

    Raises `InputError` for latents that are not `Normal` or `MultivariateNormal`, or not independent given x, and for x
    outside the likelihood's support; `RowsError` where a site lies outside the plate over rows.

    Args:
        program: the program.
        x: a tensor (N, D), a split, or a data set (its test split).
        steps: gradient steps.
        outputs_of: a module of the guide, such as `vae.posterior.net`. Its output (P numbers for each row) is then
            optimized instead of normals, so that a guide of any family, a flow or a mixture, is refined within that
            family.
        learning_rate: Adam's in the first step; it falls to zero as a cosine.
        num_particles: draws of z for each row and step.
        batch_size: rows worked on at once.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them; a split brings its own.
        mask: booleans (N, D), true where a value was observed; a split brings its own.
        seed: seed of the draws.

    Returns:
        A program with the same model, whose guide has a q_i for each row.
    """
    settings = _Settings(steps, learning_rate, num_particles, batch_size, seed)
    full = full_batch(program, as_split(x, "test"), rows=rows, labels=labels, mask=mask)
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        plates = find_plates(program, full)
        require_any_number_of_rows(plates)
        require_guide_density(plates)
        row_dim, tables = require_rows(plates), []
        for index in torch.arange(len(full.x), device=full.x.device).split(batch_size):
            batch = full.take(index)
            plates.check(batch.x, batch.mask)
            require_inside(program, plates, batch)
            tables.append(_refine_batch(program, plates, batch, outputs_of, settings))
    sites = nn.ModuleList(_concatenate(parts) for parts in zip(*tables, strict=True))
    return Refined(program, sites, row_dim, full.rows, outputs_of)


def _refine_batch(
    program: Program, plates: PlateStructure, batch: Batch, outputs_of: nn.Module | None, settings: _Settings
) -> nn.ModuleList:
    """The refined q_i of some rows: one module for each site, or one for the outputs of a module."""
    row_dim = require_rows(plates)
    table: Sequence[RowNormals] | Sequence[RowOutputs] = (
        _normals_of_guide(program, batch, row_dim)
        if outputs_of is None
        else [RowOutputs(_outputs(program, batch, outputs_of))]
    )
    refined = Refined(program, table, row_dim, batch.rows, outputs_of)
    batch = replace(batch, rows=torch.arange(len(batch.x), device=batch.x.device))
    sampler, before = LogWeightSampler(refined, plates, batch), [value.clone() for value in refined.sites.buffers()]
    elbo = _elbo(sampler, batch, settings)
    _optimize(refined, sampler, batch, settings)
    better = _elbo(sampler, batch, settings) > elbo  # false for NaN
    for value, start in zip(refined.sites.buffers(), before, strict=True):
        value[~better] = start[~better]
    return refined.sites


@torch.no_grad()
def _normals_of_guide(program: Program, batch: Batch, row_dim: int) -> list[RowNormals]:
    """The guide's normals for some rows; `InputError` for latents that are not normal, or depend on other draws."""
    twice = [poutine.trace(bind_supported_kwargs(program.guide)).get_trace(batch.x, batch.row_inputs) for _ in range(2)]
    first, second = (sample_sites(trace) for trace in twice)
    if not first:
        raise InputError("the guide draws no latent, so there is nothing to refine")
    for name, site in first.items():
        _require_normal(name, site)
    starts, others = ([RowNormals(site, row_dim) for site in sites.values()] for sites in (first, second))
    for q, other in zip(starts, others, strict=True):
        if not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(q.buffers(), other.buffers(), strict=True)):
            raise InputError(
                f"the guide's {q.site} depends on earlier draws, and refine takes guides whose latents "
                "are independent given x: draw them as one (FullRankNormal has every correlation), or do not refine q"
            )
    return starts


def _require_normal(name: str, site: Site) -> None:
    """`InputError` for a site of the guide that `refine` cannot optimize."""
    fn = unwrap_independent(site["fn"])
    kind = "auxiliary " * bool(site["infer"].get("is_auxiliary")) + "masked " * (site["mask"] is not None)
    if kind or not isinstance(fn, Normal | MultivariateNormal):
        raise InputError(
            f"refine optimizes Normal and MultivariateNormal latents, and the guide's {name} is {kind}"
            f"{type(fn).__name__}: name the module whose output is to be optimized (outputs_of=vae.posterior.net), "
            "or do not refine q"
        )


@torch.no_grad()
def _outputs(program: Program, batch: Batch, module: nn.Module) -> Tensor:
    """A module's output for some rows in a run of the guide; `InputError` unless it is called once, for rows."""
    outputs: list[Tensor] = []

    def record(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    with transform_output(module, record):
        bind_supported_kwargs(program.guide)(batch.x, batch.row_inputs)
    if len(outputs) != 1 or outputs[0].dim() != 2 or len(outputs[0]) != len(batch.x):
        shapes = ", ".join(str(tuple(value.shape)) for value in outputs) or "nothing"
        raise InputError(
            f"outputs_of has to be a module that the guide calls once, with one output (n, P) for n = {len(batch.x)} "
            f"rows; it gave {shapes}"
        )
    return outputs[0]


def _optimize(refined: Refined, sampler: LogWeightSampler, batch: Batch, settings: _Settings) -> None:
    """Adam on the buffers of a refined program's sites, in place."""
    loss = Trace_ELBO(settings.num_particles, sampler.plates.nesting + 1, vectorize_particles=sampler.vectorized)
    model, guide = (_RemoveScales()(bind_supported_kwargs(part)) for part in (refined.model, refined.guide))
    variables = [value.requires_grad_() for value in refined.sites.buffers()]
    adam = without_compiler(torch.optim.Adam)(variables, settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    for _ in range(settings.steps):
        adam.zero_grad()
        with torch.enable_grad():
            loss.differentiable_loss(model, guide, batch.x, batch.row_inputs).backward(inputs=variables)
        adam.step()
        schedule.step()
    for value in variables:
        value.requires_grad_(False)


class _RemoveScales(Messenger):
    """Set each site's scale to one: scales belong to a training objective, and a row's ELBO has none."""

    def _pyro_sample(self, msg: Site) -> None:
        msg["scale"] = 1.0


@torch.no_grad()
def _elbo(sampler: LogWeightSampler, batch: Batch, settings: _Settings) -> PerRow:
    """Each row's ELBO (N,) on `COMPARISON_DRAWS` draws, the same for the same seed."""
    num_blocks = -(-COMPARISON_DRAWS // settings.num_particles)
    with seeded(part_seed(settings.seed, 1)):
        parts = [sampler(batch, settings.num_particles).log_weights for _ in range(num_blocks)]
    return torch.cat(parts).mean(0)


def _concatenate(parts: Sequence[nn.Module]) -> nn.Module:
    """One module with the rows of several, its buffers concatenated."""
    joined = copy.deepcopy(parts[0])
    for name, _ in parts[0].named_buffers():
        setattr(joined, name, torch.cat([getattr(part, name) for part in parts]))
    return joined
