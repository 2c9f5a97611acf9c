"""Refine q row by row: gradient steps on each row's own ELBO from where the guide put it, the program left alone."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.weights import Weigher
from pyro_vae.models.program import parameters_of, place_of
from pyro_vae.models.rows import (
    Batch,
    caller,
    evaluating,
    innermost,
    layout_of,
    require_density,
    require_mask,
    require_rows,
    sample_sites,
    seeded,
)
from pyro_vae.shapes import PerRow

JUDGING_DRAWS = 256


class RowNormals(nn.Module):
    r"""One latent site's normal for each of n rows, $z_i = \mu_i + \mathrm{diag}(\sigma_i) U_i u$, $u \sim N(0, I)$.

    Buffers `loc` and `log_scale`, rows first, (n, …, K), and for a `MultivariateNormal` `below` (n, …, K, K), of which
    what lies below the diagonal is that of U, unit lower triangular. Made from the site of a guide's trace.
    """

    loc: Tensor
    log_scale: Tensor
    below: Tensor

    def __init__(self, site: Any, row_dim: int) -> None:
        super().__init__()
        fn, base = site["fn"], innermost(site["fn"])
        self.site, self.row_axis, self.to_event = site["name"], row_dim - fn.event_dim, fn.event_dim - base.event_dim
        self.plates: dict[str, Any] = {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}
        scale, self.full = base.stddev, isinstance(base, MultivariateNormal)
        if self.full:
            scale = base.scale_tril.diagonal(dim1=-2, dim2=-1)
            unit = base.scale_tril / scale[..., None]
            self.register_buffer("below", unit.movedim(self.row_axis - 1, 0).clone())
        self.register_buffer("loc", base.loc.movedim(self.row_axis, 0).clone())
        self.register_buffer("log_scale", scale.log().movedim(self.row_axis, 0).clone())

    def forward(self, rows: Tensor) -> Any:
        loc, scale = (value[rows].movedim(0, self.row_axis) for value in (self.loc, self.log_scale.exp()))
        if not self.full:
            return dist.Normal(loc, scale).to_event(self.to_event)
        unit = self.below[rows].movedim(0, self.row_axis - 1).tril(-1) + torch.eye(loc.shape[-1]).to(loc)
        return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit).to_event(self.to_event)


class RowOutputs(nn.Module):
    """What one module of a guide gives for each of n rows, as a buffer `outputs` (n, P) instead of a network's
    answer."""

    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs.clone())


class Tabled(nn.Module):
    """A program's own model beside another guide: a table with a q for each of N rows, to be looked up by `rows`.

    The model is the program's, given whatever it asks for; `rows` (n,) are places in the x (N, D) that the table was
    made for, and the model is given the `places` that were given then. Raises `InputError` for places outside the N.
    """

    places: Tensor | None

    def __init__(self, program: Any, places: Tensor | None) -> None:
        super().__init__()
        self.program = program
        self.register_buffer("places", places)
        self.training = getattr(program, "training", False)  # or a verb would leave the program in another mode

    def model(self, x: Tensor, **extras: Any) -> Any:
        with parameters_of(self.program):
            return caller(self.program.model)(x, self._own(extras))

    model.passes_extras = True  # type: ignore[attr-defined]  # for `caller`

    def _own(self, extras: dict[str, Any]) -> dict[str, Any]:
        """The extras as the program knows them, `rows` for its own places."""
        rest = {name: value for name, value in extras.items() if name != "rows"}
        known = self.places is not None and "rows" in extras
        return rest | {"rows": self.places[extras["rows"]]} if known else rest  # type: ignore[index]

    def _known(self, rows: Tensor | None, known: int, done: str) -> Tensor:
        if rows is None:
            raise InputError(
                f"a {done} guide asks for rows, the places of x among the rows that were {done}: give rows="
            )
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < known:
            raise InputError(f"{known} rows were {done}; asked for rows {int(rows.min())} to {int(rows.max())}")
        return rows


class Refined(Tabled):
    """A program whose guide is a table: a $q_i(z)$ for each of the N rows that were refined."""

    sites: Any

    def __init__(
        self,
        program: Any,
        sites: list[RowNormals] | list[RowOutputs],
        row_dim: int,
        places: Tensor | None,
        freed: nn.Module | None = None,
    ) -> None:
        super().__init__(program, places)
        self.sites, self.row_dim = nn.ModuleList(sites), row_dim
        self.freed = [freed]  # in a list: it belongs to the program

    def guide(self, x: Tensor, rows: Tensor | None = None, **extras: Any) -> None:
        rows = self._known(rows, len(next(self.sites[0].buffers())), "refined")
        if self.freed[0] is not None:
            self._guide_of_outputs(x, rows, extras)
        else:
            self._guide_of_normals(x, rows)

    guide.passes_extras = True  # type: ignore[attr-defined]  # for `caller`

    def _guide_of_outputs(self, x: Tensor, rows: Tensor, extras: dict[str, Any]) -> None:
        """The program's own guide, but for the freed module, which answers from the table."""
        answer = self.sites[0].outputs[rows]
        with parameters_of(self.program), _answering(self.freed[0], lambda _: answer):
            caller(self.program.guide)(x, self._own(extras | {"rows": rows}))

    def _guide_of_normals(self, x: Tensor, rows: Tensor) -> None:
        frames = {name: frame for q in self.sites for name, frame in q.plates.items()}
        sizes = {name: len(x) if frame.dim == self.row_dim else frame.size for name, frame in frames.items()}
        plates = {name: pyro.plate(name, sizes[name], dim=frame.dim) for name, frame in frames.items()}
        for q in self.sites:
            with ExitStack() as inside:
                for name in q.plates:
                    inside.enter_context(plates[name])
                pyro.sample(q.site, q(rows))


@contextmanager
def _answering(module: Any, answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, what a module gives is passed through a function."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: answer(output))
    try:
        yield
    finally:
        handle.remove()


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
    with parameters_of(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        layout = layout_of(program, whole)
        row_dim, blocks = require_rows(layout), []
        for index in torch.arange(len(whole.x), device=device).split(batch_size):
            batch = whole.take(index)
            layout.check(batch.x)
            if outputs_of is None:
                table: Any = _start(program, batch, row_dim)
            else:
                table = [RowOutputs(_outputs(program, batch, outputs_of))]
            block = Refined(program, table, row_dim, batch.rows, outputs_of)
            batch = replace(batch, rows=torch.arange(len(index), device=device))
            weigher, before = Weigher(block, layout, batch), [value.clone() for value in block.sites.buffers()]
            elbo = _elbo(weigher, batch, num_particles, seed + 1)
            _climb(weigher, batch, steps, learning_rate, num_particles)
            better = _elbo(weigher, batch, num_particles, seed + 1) > elbo  # false for NaN
            for value, start in zip(block.sites.buffers(), before, strict=True):
                value[~better] = start[~better]
            blocks.append(block.sites)
    tables = [_joined(parts) for parts in zip(*blocks, strict=True)]
    return Refined(program, tables, row_dim, whole.rows, outputs_of)


def whole_batch(program: Any, split: Split, **asked: Tensor | None) -> Batch:
    """All rows of a split where the program works, with what belongs to them; `InputError` where it does not fit."""
    given = split.extras(slice(None)) | {name: value for name, value in asked.items() if value is not None}
    if wrong := [f"{len(value)} {name}" for name, value in given.items() if len(value) != len(split)]:
        raise InputError(f"expected one for each of the {len(split)} rows of x, got {', '.join(wrong)}")
    require_density(program)
    require_mask(program, given.get("mask"))
    place = place_of(program, like=split[:1])
    given = {name: value.to(place.device) for name, value in given.items()}
    return Batch(split.x.to(place), num_rows=len(split), **given)  # type: ignore[arg-type]


@torch.no_grad()
def _start(program: Any, batch: Batch, row_dim: int) -> list[RowNormals]:
    """The guide's answer for some rows; `InputError` for latents that are not normal, or depend on other draws."""
    twice = [poutine.trace(caller(program.guide)).get_trace(batch.x, batch.extras) for _ in range(2)]
    first, second = (sample_sites(trace) for trace in twice)
    if not first:
        raise InputError("the guide draws no latent, so there is nothing to refine")
    for name, site in first.items():
        fn = innermost(site["fn"])
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
        caller(program.guide)(batch.x, batch.extras)
    if len(seen) != 1 or seen[0].dim() != 2 or len(seen[0]) != len(batch.x):
        shapes = ", ".join(str(tuple(value.shape)) for value in seen) or "nothing"
        raise InputError(
            f"outputs_of has to be a module that the guide asks once, for one answer (n, P) for n = {len(batch.x)} "
            f"rows; it gave {shapes}"
        )
    return seen[0]


def _climb(weigher: Weigher, batch: Batch, steps: int, learning_rate: float, num_particles: int) -> None:
    loss = Trace_ELBO(num_particles, weigher.layout.nesting + 1, vectorize_particles=weigher.side_by_side)
    model, guide = (_Unscaled()(caller(part)) for part in (weigher.program.model, weigher.program.guide))
    free = [value.requires_grad_() for value in weigher.program.sites.buffers()]
    adam = torch.optim.Adam(free, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        with torch.enable_grad():
            loss.differentiable_loss(model, guide, batch.x, batch.extras).backward(inputs=free)
        adam.step()
        schedule.step()
    for value in free:
        value.requires_grad_(False)


class _Unscaled(Messenger):
    """Scales belong to the objective of a fit: a row's ELBO has none."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


@torch.no_grad()
def _elbo(weigher: Weigher, batch: Batch, at_once: int, seed: int) -> PerRow:
    """Each row's ELBO (N,) on `JUDGING_DRAWS` draws that follow from the seed."""
    with seeded(seed):
        parts = [weigher(batch, at_once).log_weights for _ in range(-(-JUDGING_DRAWS // at_once))]
    return torch.cat(parts).mean(0)


def _joined(parts: Any) -> Any:
    whole = copy.deepcopy(parts[0])
    for name, _ in parts[0].named_buffers():
        setattr(whole, name, torch.cat([getattr(part, name) for part in parts]))
    return whole
