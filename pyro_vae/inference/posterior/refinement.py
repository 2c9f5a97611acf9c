"""Refine q row by row: gradient steps on each row's own ELBO from where the guide put it, the program left alone."""

import copy
from dataclasses import replace
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from pyro_vae.context import evaluating, seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.posterior.per_row_guides import Refined, RowNormals, RowOutputs, _answering, whole_batch
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import find_plates, require_rows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import sample_sites, unwrap_independent
from pyro_vae.typing import PerRow

JUDGING_DRAWS = 256


def refine(
    program: Any,
    x: Dataset | Split | Tensor,
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
    r"""Climb the ELBO of each row by its own q, $\max_{\mu_i, \Sigma_i} E_{z \sim q_i}[\log p(x_i, z) - \log q_i(z)]$.

    Adam's steps on `num_particles` draws, from the guide's answer $q_i = N(\mu_i, \Sigma_i)$, at a rate that falls to
    zero as a cosine, so that means (and each log σ) move by `steps * learning_rate / 2` or so at most. A row keeps the
    guide's answer where that has the higher ELBO on 256 draws, the same for both. What is won, in nats, is the
    amortization gap (Cremer et al., arXiv:1801.03558); a semi-amortized VAE takes such steps (Kim et al.,
    arXiv:1802.02550). The program is in evaluation mode, and none of its parameters moves or gets a gradient. Shapes: x
    (N, D), `rows` (N,) places in the training set and `labels` (N,) for programs that ask, `mask` (N, D) for x with
    gaps; a split brings its own. Same seed, same machine, same bits.

    `outputs_of` names a module of the guide, such as `vae.posterior.net`, whose answer (P numbers for each row) is
    moved in place of normals: with it a guide of any family, a flow or a mixture, can be refined within that family.

    Raises `InputError` for latents that are not `Normal` or `MultivariateNormal`, or not independent given x, and for x
    that the likelihood cannot give; `RowsError` where a site lies outside the plate over rows.

    >>> import pyro_vae as pv
    >>> _ = torch.manual_seed(0)
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
    >>> vae, x = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide), torch.ones(3, 5)
    >>> found = pv.log_evidence(refine(vae, x), x, rows=torch.arange(3))
    >>> bool((found.elbo > pv.log_evidence(vae, x).elbo).all())
    True
    """
    if min(steps, num_particles, batch_size) < 1 or not learning_rate > 0:
        raise InputError(
            "steps, num_particles and batch_size must be one or more and learning_rate positive, got "
            f"{steps}, {num_particles}, {batch_size} and {learning_rate}"
        )
    whole = whole_batch(program, as_split(x, "test"), rows=rows, labels=labels, mask=mask)
    device = whole.x.device
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        plates = find_plates(program, whole)
        row_dim, blocks = require_rows(plates), []
        for index in torch.arange(len(whole.x), device=device).split(batch_size):
            batch = whole.take(index)
            plates.check(batch.x)
            if outputs_of is None:
                table: Any = _start(program, batch, row_dim)
            else:
                table = [RowOutputs(_outputs(program, batch, outputs_of))]
            block = Refined(program, table, row_dim, batch.rows, outputs_of)
            batch = replace(batch, rows=torch.arange(len(index), device=device))
            weigher, before = LogWeightSampler(block, plates, batch), [value.clone() for value in block.sites.buffers()]
            elbo = _elbo(weigher, batch, num_particles, seed + 1)
            _climb(weigher, batch, steps, learning_rate, num_particles)
            better = _elbo(weigher, batch, num_particles, seed + 1) > elbo  # false for NaN
            for value, start in zip(block.sites.buffers(), before, strict=True):
                value[~better] = start[~better]
            blocks.append(block.sites)
    tables = [_joined(parts) for parts in zip(*blocks, strict=True)]
    return Refined(program, tables, row_dim, whole.rows, outputs_of)


@torch.no_grad()
def _start(program: Any, batch: Batch, row_dim: int) -> list[RowNormals]:
    """The guide's answer for some rows; `InputError` for latents that are not normal, or depend on other draws."""
    twice = [poutine.trace(bind_supported_kwargs(program.guide)).get_trace(batch.x, batch.row_inputs) for _ in range(2)]
    first, second = (sample_sites(trace) for trace in twice)
    if not first:
        raise InputError("the guide draws no latent, so there is nothing to refine")
    for name, site in first.items():
        fn = unwrap_independent(site["fn"])
        odd = "auxiliary " * bool(site["infer"].get("is_auxiliary")) + "masked " * (site["mask"] is not None)
        if odd or not isinstance(fn, Normal | MultivariateNormal):
            raise InputError(
                f"refine moves Normal and MultivariateNormal latents, and the guide's {name} is {odd}"
                f"{type(fn).__name__}: name the module whose answer is to be moved "
                "(outputs_of=vae.posterior.net), or leave q as it is"
            )
    starts, others = ([RowNormals(site, row_dim) for site in sites.values()] for sites in (first, second))
    for q, other in zip(starts, others, strict=True):
        if not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(q.buffers(), other.buffers(), strict=True)):
            raise InputError(
                f"the guide's {q.site} changes with what was drawn before it, and refine takes guides whose latents "
                "are independent given x: draw them as one (FullRankNormal has every correlation), or leave q as it is"
            )
    return starts


@torch.no_grad()
def _outputs(program: Any, batch: Batch, module: nn.Module) -> Tensor:
    """What a module gives for some rows in a run of the guide; `InputError` unless it is asked once, for rows."""
    seen: list[Tensor] = []

    def noted(output: Tensor) -> Tensor:
        seen.append(output)
        return output

    with _answering(module, noted):
        bind_supported_kwargs(program.guide)(batch.x, batch.row_inputs)
    if len(seen) != 1 or seen[0].dim() != 2 or len(seen[0]) != len(batch.x):
        shapes = ", ".join(str(tuple(value.shape)) for value in seen) or "nothing"
        raise InputError(
            f"outputs_of has to be a module that the guide asks once, for one answer (n, P) for n = {len(batch.x)} "
            f"rows; it gave {shapes}"
        )
    return seen[0]


def _climb(weigher: LogWeightSampler, batch: Batch, steps: int, learning_rate: float, num_particles: int) -> None:
    loss = Trace_ELBO(num_particles, weigher.plates.nesting + 1, vectorize_particles=weigher.vectorized)
    model, guide = (_Unscaled()(bind_supported_kwargs(part)) for part in (weigher.program.model, weigher.program.guide))
    free = [value.requires_grad_() for value in weigher.program.sites.buffers()]
    adam = torch.optim.Adam(free, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        with torch.enable_grad():
            loss.differentiable_loss(model, guide, batch.x, batch.row_inputs).backward(inputs=free)
        adam.step()
        schedule.step()
    for value in free:
        value.requires_grad_(False)


class _Unscaled(Messenger):
    """Scales belong to the objective of a fit: a row's ELBO has none."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


@torch.no_grad()
def _elbo(weigher: LogWeightSampler, batch: Batch, at_once: int, seed: int) -> PerRow:
    """Each row's ELBO (N,) on `JUDGING_DRAWS` draws that follow from the seed."""
    with seeded(seed):
        parts = [weigher(batch, at_once).log_weights for _ in range(-(-JUDGING_DRAWS // at_once))]
    return torch.cat(parts).mean(0)


def _joined(parts: Any) -> Any:
    whole = copy.deepcopy(parts[0])
    for name, _ in parts[0].named_buffers():
        setattr(whole, name, torch.cat([getattr(part, name) for part in parts]))
    return whole
