"""The Laplace approximation of each row's posterior: the mode, by damped Newton steps, and the normal that fits it."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import MultivariateNormal, TransformedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform, ReshapeTransform, Transform

from pyro_vae.context import evaluating, seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.posterior.per_row_guides import Tabled, whole_batch
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import find_plates, require_density
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint, transform_to_support
from pyro_vae.typing import PerRow, RowLatents

AT_THE_TOP = 1e-6  # nats that another Newton step would win
FIRST_DAMPING, MIN_DAMPING = 1e-3, 1e-9  # of the largest curvature
AVERAGED = 16  # draws whose mean is a start
ROUNDINGS = 10  # by so many a value may seem to fall
FLAT = 1e-8  # the least curvature that a normal is made of


class Laplace(Tabled):
    r"""A program whose guide is the Laplace approximation of each of N rows' posteriors, $q_i(u) = N(u^*_i, C_i)$.

    u (K) is all of a row's latents side by side in the unconstrained space of `Joint`, so that a constrained latent has
    the normal's image for its q. `mode` (N, K) holds $u^*_i$ and `covariance` (N, K, K) $C_i = (-H_i)^{-1}$. `log_px`
    (N,) is $\log p(x_i, u^*_i) + \frac K2 \log 2\pi - \frac12 \log\det(-H_i)$, nats, float64 on the CPU: exact where
    the posterior is normal, elsewhere an estimate that may lie on either side, no bound. `converged` (N,) says where
    the mode was found. Where $-H_i$ is not even positive definite `log_px` is NaN, and $C_i$ takes its eigenvalues
    without their signs.

    Rows are looked up by `rows` (n,), their places among the N, as in `log_evidence(found, x, rows=torch.arange(N))`,
    which corrects the estimate by importance sampling; a share of the draws from the prior (`prior_share=0.1`) covers
    what lies outside of a normal that is too narrow, and further modes. The guide runs the model to learn where its
    latents stand, so each draw costs two passes of the decoder.
    """

    mode: Tensor
    scale_tril: Tensor
    kind = "estimate"

    def __init__(
        self,
        program: Any,
        events: dict[str, torch.Size],
        row_dim: int,
        places: Tensor | None,
        found: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        super().__init__(program, places)
        self.events, self.row_dim = events, row_dim
        mode, scale_tril, self.log_px, self.converged = found
        self.register_buffer("mode", mode)
        self.register_buffer("scale_tril", scale_tril)

    @property
    def covariance(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    def guide(self, x: Tensor, rows: Tensor | None = None, **row_inputs: Any) -> None:
        rows = self._known(rows, len(self.mode), "approximated")
        with poutine.block(hide_fn=_not_latent), _DrawnAround(self, rows):
            self.model(x, rows=rows, **row_inputs)

    guide.accepts_row_inputs = True  # type: ignore[attr-defined]  # for `bind_supported_kwargs`


def _not_latent(msg: Any) -> bool:
    return msg["type"] == "param" or (msg["type"] == "sample" and msg["is_observed"])


class _DrawnAround(Messenger):
    """The model's latents are drawn from the rows' normals: each site from its own part, given the sites before it."""

    def __init__(self, table: Laplace, rows: Tensor) -> None:
        super().__init__()
        beside = (slice(None), *[None] * (-1 - table.row_dim))  # axes of plates to the right of the rows'
        self.loc, self.tril = table.mode[rows][beside], table.scale_tril[rows][beside]
        sizes = [event.numel() for event in table.events.values()]
        ends = itertools.accumulate(sizes)
        self.cuts = {name: slice(end - size, end) for name, size, end in zip(table.events, sizes, ends, strict=True)}
        self.events = table.events
        self.noise: list[Tensor] = []  # standard normal, what the sites so far came from
        self.under_way: tuple[MultivariateNormal, Transform | None] | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.cuts:
            return
        cut = self.cuts[msg["name"]]
        loc = self.loc[..., cut]
        if self.noise:
            loc = loc + (self.tril[..., cut, : cut.start] @ torch.cat(self.noise, -1)[..., None])[..., 0]
        normal = MultivariateNormal(loc, scale_tril=self.tril[..., cut, cut])
        transform = _from_flat(msg, self.events[msg["name"]])
        self.under_way = normal, transform
        msg["fn"] = normal if transform is None else TransformedDistribution(normal, [transform])

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.cuts or self.under_way is None:
            return
        normal, transform = self.under_way
        u = msg["value"] if transform is None else transform.inv(msg["value"])
        away = (u - normal.loc)[..., None]
        self.noise.append(torch.linalg.solve_triangular(normal.scale_tril, away, upper=False)[..., 0])


def _from_flat(site: Any, event: torch.Size) -> Transform | None:
    """The map from a vector of reals, which fill `event`, to what a site can be; None where the vector is it."""
    to_site = inner = transform_to_support(site)
    if len(event) != 1:
        return ComposeTransform([ReshapeTransform(torch.Size([event.numel()]), event), to_site])
    while isinstance(inner, IndependentTransform):
        inner = inner.base_transform
    return None if isinstance(inner, ComposeTransform) and not inner.parts else to_site


def laplace(
    program: Any,
    x: Dataset | Split | Tensor,
    *,
    steps: int = 50,
    starts: int = 4,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    batch_size: int = 1000,
    seed: int = 0,
) -> Laplace:
    r"""The Laplace approximation of each row's posterior, $N(u^*_i, (-H_i)^{-1})$, $u^*_i = \arg\max \log p(x_i, u)$.

    H is the Hessian at the mode (Laplace 1774; Tierney & Kadane 1986), by second derivatives through the program, K
    passes of them. The mode is sought by Newton's steps with Levenberg's damping, at most `steps` from each of
    `starts` places: the mean of some draws of the guide, that of some draws of the prior, then draws of the two in
    turn; the highest top counts, so more starts see more modes. Any program will do whose latents are continuous and
    lie in one plate over rows. Modes are those of the density over the unconstrained space, its Jacobian counted.
    Arguments and row inputs as in `refine`; none of the program's parameters moves. Same seed, same machine, same bits.

    Raises `InputError` for discrete latents, for latents in a plate beside that over rows, and where no start has a
    finite density; `RowsError` where a site lies outside the plate over rows.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> x = torch.ones(3, 5)
    >>> found, exact = laplace(vae, x), pv.exact_evidence(vae, x)
    >>> bool(found.converged.all()), bool((found.log_px - exact.log_px).abs().max() < 0.2)
    (True, True)
    >>> sampled = pv.log_evidence(found, x, rows=torch.arange(3))
    >>> bool((sampled.log_px - exact.log_px).abs().max() < 0.05)
    True
    """
    if min(steps, starts, batch_size) < 1:
        raise InputError(f"steps, starts and batch_size must be one or more, got {steps}, {starts} and {batch_size}")
    require_density(program)
    split = as_split(x, "test")
    whole = whole_batch(program, split, rows=rows, labels=labels, mask=mask)
    tops = []
    with use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        plates = find_plates(program, whole)
        for index in torch.arange(len(whole.x), device=whole.x.device).split(batch_size):
            batch = whole.take(index)
            plates.check(batch.x)
            with torch.no_grad():
                joint = UnconstrainedJoint(program, plates, batch)
                events = _events(joint)
                tops.append(_highest(joint, steps, starts))
    top = _Place(*(torch.cat([getattr(part, field.name) for part in tops]) for field in fields(_Place)))
    scale_tril, log_px, converged = _normal_at(top)
    found = top.u, scale_tril.to(top.u), log_px + split.log_jacobian, converged
    return Laplace(program, events, joint.row_dim, whole.rows, found)


def _events(joint: UnconstrainedJoint) -> dict[str, torch.Size]:
    """The shape of each latent's u for one row; `InputError` where another plate is part of it."""
    events = {}
    for name, shape in joint.shapes.items():
        plates, events[name] = shape[: -1 - joint.row_dim], shape[-1 - joint.row_dim :]
        if plates.numel() > 1:
            raise InputError(
                f"the latent {name} lies in another plate beside that over rows, and its elements share one normal "
                "here: make them one event (.to_event) in place of the plate"
            )
    return events


@dataclass
class _Place:
    """log p(x, u) to second order at u (n, K): `value` (n,), `slope` (n, K) and `curvature` −H (n, K, K).

    u where the program works, the rest float64 on the CPU, as not every accelerator has doubles.
    """

    u: RowLatents
    value: PerRow
    slope: RowLatents
    curvature: Tensor

    @property
    def finite(self) -> Tensor:
        return self.value.isfinite() & self.slope.isfinite().all(-1) & self.curvature.isfinite().all(-1).all(-1)

    def take(self, index: Tensor) -> "_Place":
        return _Place(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, other: "_Place") -> None:
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)


def _place(joint: UnconstrainedJoint, u: RowLatents) -> _Place:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        point = joint.at(u)
        value = point.likelihood + point.prior
        slope = torch.autograd.grad(value.sum(), u, create_graph=True)[0] + 0 * u  # a constant slope has no graph
        columns = [torch.autograd.grad(one.sum(), u, retain_graph=True)[0] for one in slope.unbind(-1)]
    value, slope, hessian = (one.detach().cpu().double() for one in (value, slope, torch.stack(columns, -1)))
    return _Place(u.detach(), value, slope, -(hessian + hessian.mT) / 2)


def _highest(joint: UnconstrainedJoint, steps: int, starts: int) -> _Place:
    """The highest of the tops that are reached from several starts, for each row."""
    tops = [_climb(joint, start, steps) for start in _starts(joint, starts)]
    heights = torch.stack([top.value.where(top.finite, -math.inf) for top in tops])
    if dead := int((heights == -math.inf).all(0).sum()):
        raise InputError(
            f"log p(x, z) or its derivatives are not finite at any of {starts} starts for {dead} of "
            f"{heights.shape[1]} rows; try more starts, or a likelihood with a larger scale"
        )
    best, row = heights.argmax(0), torch.arange(heights.shape[1])
    return _Place(*(torch.stack([getattr(top, field.name) for top in tops])[best, row] for field in fields(_Place)))


def _starts(joint: UnconstrainedJoint, number: int) -> Iterator[RowLatents]:
    """The mean of the guide's draws, that of the prior's, then draws of each in turn."""
    try:
        joint.from_guide()
        sources = joint.from_guide, joint.from_prior
    except InputError:  # its draws are none the model could have
        sources = joint.from_prior, joint.from_prior
    for i in range(number):
        draw = sources[i % 2]
        yield draw() if i > 1 else torch.stack([draw() for _ in range(AVERAGED)]).mean(0)


def _climb(joint: UnconstrainedJoint, u: RowLatents, steps: int) -> _Place:
    """Newton's steps from u: each row's damping falls where they rise, and grows where they do not."""
    here = _place(joint, u)
    damping, under_way = torch.full_like(here.value, FIRST_DAMPING), here.finite
    for _ in range(steps):
        left = under_way.nonzero()[:, 0]
        if not len(left):
            break
        now = here.take(left)
        step, gain = _step(now, damping[left])
        batch = joint.batch.take(left.to(u.device))
        there = _place(UnconstrainedJoint(joint.program, joint.plates, batch), now.u + step.to(u))
        rounding = ROUNDINGS * torch.finfo(u.dtype).eps * (1 + now.value.abs())
        better = there.finite & (there.value >= now.value - rounding)
        here.put(left[better], there.take(better))
        damping[left] = torch.where(better, (damping[left] / 10).clamp(min=MIN_DAMPING), damping[left] * 10)
        under_way[left] = ~(better & (gain < AT_THE_TOP))
    return here


def _step(at: _Place, damping: PerRow) -> tuple[RowLatents, PerRow]:
    """The damped step, always uphill, and what an undamped one would win in nats, infinite where −H is no metric."""
    bends, axes = torch.linalg.eigh(at.curvature)
    along = torch.einsum("nkj,nk->nj", axes, at.slope)
    bent = bends.abs() + (damping * bends.abs().amax(-1).clamp(min=1.0))[:, None]
    gain = _gain(bends, along)
    stuck = (bends[:, 0] < 0) & (gain < AT_THE_TOP)  # on a saddle: leave it where it falls off fastest
    move = along / bent
    move[:, 0] += stuck * bent[:, 0].rsqrt()
    return torch.einsum("nkj,nj->nk", axes, move), gain.where(bends[:, 0] > 0, math.inf)


def _gain(bends: RowLatents, along: RowLatents) -> PerRow:
    return (along.square() / bends.abs().clamp(min=FLAT)).sum(-1) / 2


def _normal_at(top: _Place) -> tuple[Tensor, PerRow, Tensor]:
    """The normal's lower triangle (n, K, K), the estimate of log p(x) (n,), and whether the top is one (n,)."""
    bends, axes = torch.linalg.eigh(top.curvature)
    upper = torch.linalg.qr((axes * bends.abs().clamp(min=FLAT).rsqrt()[:, None]).mT).R
    scale_tril = (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
    halves = bends.where(bends > 0, math.nan).log().sum(-1) / 2
    log_px = top.value + bends.shape[-1] / 2 * math.log(2 * math.pi) - halves
    gain = _gain(bends, torch.einsum("nkj,nk->nj", axes, top.slope))
    return scale_tril, log_px, (bends[:, 0] > 0) & (gain < AT_THE_TOP)
