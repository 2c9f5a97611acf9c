"""log p(x, z) and log q(z | x) at points of one unconstrained space, for annealing, quadrature and HMC."""

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_vae.errors import InputError, OutsideSupportError
from pyro_vae.programs.enumeration import enumerate_sites, log_joint_and_prior, require_own_support
from pyro_vae.programs.log_densities import sum_over_plates
from pyro_vae.programs.plates import (
    PlateStructure,
    require_density,
    require_guide_density,
    require_row_plate,
    require_unmasked,
)
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import inside_support, support_of
from pyro_vae.programs.traces import (
    AllDrawn,
    Site,
    StopAfter,
    SubstituteLatents,
    base_constraint,
    is_subsample,
    sample_sites,
)
from pyro_vae.typing import PerPoint, Points, Program, RowLatents


@dataclass(frozen=True)
class Proposal:
    """A draw u (n, K) or (S, n, K), from the guide, or from the prior where the guide has no density on u."""

    u: Points
    is_guide: bool


@dataclass(frozen=True)
class Point:
    """Log densities of n rows at one point each, or at S points, nats.

    Attributes:
        likelihood: log p(x | z), (n,) or (S, n).
        prior: log p over the unconstrained space, the Jacobian counted, (n,) or (S, n).
        guide: log q over the unconstrained space, likewise; None where it was not requested.
    """

    likelihood: PerPoint
    prior: PerPoint
    guide: PerPoint | None = None

    @property
    def log_joint(self) -> PerPoint:
        """log p(x, u), (n,) or (S, n)."""
        return self.likelihood + self.prior


class UnconstrainedJoint:
    r"""A program's densities as functions of u (n, K), a row's continuous latents, unconstrained and concatenated.

    Site by site, $z = T(u)$ with T the map from the reals to the site's support (`biject_to`), so
    that $\int p(x, T(u)) |\det T'(u)| du = p(x)$. The program's sites must share one plate over rows.

    With `draws` S, u holds several points of each row, (S, n, K), under a plate to the left of all of the program's
    own, and log densities are (S, n); the program must support that (`LogWeightSampler.vectorized`).

    Args:
        program: any program that has a density.
        plates: its plates.
        batch: the rows (n, D) with their inputs.
        draws: the number S of points of each row; None for one point, without an axis of draws.
    """

    def __init__(self, program: Program, plates: PlateStructure, batch: Batch, draws: int | None = None) -> None:
        require_density(program)
        self.program, self.plates, self.batch, self.draws = program, plates, batch, draws
        self.row_dim = require_row_plate(plates)
        require_unmasked(plates)
        self.points = torch.Size([len(batch.x)] if draws is None else [draws, len(batch.x)])
        self.guide_site: Site | None = None  # the guide's site where it has only one, whose density is then reused
        drawn = poutine.trace(bind_supported_kwargs(program.model)).get_trace(batch.x, batch.row_inputs)
        latents = {name: site for name, site in sample_sites(drawn).items() if not site["is_observed"]}
        self._set_shapes({name: site for name, site in latents.items() if name not in plates.enumerated})

    def _set_shapes(self, sites: dict[str, Site]) -> None:
        if not sites:
            raise InputError("the model draws no latent, so log p(x) is its log-likelihood")
        self.shapes: dict[str, torch.Size] = {}
        self.axes: dict[str, int] = {}
        self.batch_dims = {name: len(site["fn"].batch_shape) for name, site in sites.items()}
        for name, site in sites.items():
            u = transform_to_support(site).inv(site["value"])
            self.axes[name] = self.row_dim - site["fn"].event_dim
            self.shapes[name] = u.movedim(self.axes[name], 0).shape[1:]
        self.sizes = {name: shape.numel() for name, shape in self.shapes.items()}
        self.value_sizes = {name: site["value"].numel() // len(self.batch.x) for name, site in sites.items()}
        self.dim = sum(self.sizes.values())

    def at(self, u: Points, *, guide: bool = False) -> Point:
        """The log densities at some points, differentiable in them.

        Args:
            u: a point (K,) for each row, (n, K), or (S, n, K) with draws.
            guide: whether the guide's density is computed as well.

        Returns:
            The log densities, (n,) or (S, n) nats each.
        """
        trace, jacobian = self.trace(u)
        trace.compute_log_prob()
        sites = sample_sites(trace)
        if self.plates.enumerated:
            joint, prior = (term.expand(self.points) for term in log_joint_and_prior(trace, self._kept))
            likelihood: Tensor | int = torch.where(joint == -torch.inf, joint, joint - prior)
        else:
            likelihood = sum(self._per_row(site) for site in sites.values() if site["is_observed"])
            prior = torch.as_tensor(sum(self._per_row(site) for site in sites.values() if not site["is_observed"]))
        prior = prior + jacobian
        values = {name: sites[name]["value"] for name in self.sizes}
        log_q = self._guide_at(values) + jacobian if guide else None
        return Point(torch.as_tensor(likelihood).expand(self.points), prior, log_q)

    def _trace(
        self, function: Callable[..., object], *handlers: Callable[..., Any], latents_only: bool = False
    ) -> Trace:
        """A run of the model or the guide within handlers; of latents only, it ends with the last of them."""
        call = bind_supported_kwargs(function)
        for handler in handlers:
            call = handler(call)
        if latents_only:
            call = StopAfter(self.sizes)(call)
        if self.draws is not None:
            call = pyro.plate("_draws", self.draws, dim=-self.plates.nesting - 1)(call)
        tracer = poutine.trace(call)
        with suppress(AllDrawn):
            tracer(self.batch.x, self.batch.row_inputs)
        found: Trace = tracer.trace
        return found

    def trace(self, u: Points) -> tuple[Trace, PerPoint]:
        """A run of the model at some points, without its log densities, and the log Jacobians.

        Args:
            u: a point (K,) for each row, (n, K), or (S, n, K) with draws.

        Returns:
            The trace, and log |det T'(u)| at each point, (n,) or (S, n).
        """
        substitute = _SubstituteUnconstrained(self, u)
        trace = self._trace(self.program.model, partial(enumerate_sites, plates=self.plates), substitute)
        return trace, sum(substitute.jacobians, u.new_zeros(self.points))

    def over(self, batch: Batch, draws: int | None = None) -> "UnconstrainedJoint":
        """The same space for other rows, without a run of the model to find its shape.

        Args:
            batch: the rows.
            draws: the number S of points of each row; None for one point.

        Returns:
            Their densities.
        """
        other = copy(self)
        other.batch, other.draws, other.guide_site = batch, draws, None
        other.points = torch.Size([len(batch.x)] if draws is None else [draws, len(batch.x)])
        return other

    def log_prior(self, trace: Trace, jacobian: PerPoint) -> PerPoint:
        """log p(u) of each row from a run of the model.

        Args:
            trace: a run by the method `trace`.
            jacobian: its log Jacobians, (n,).

        Returns:
            log p over the unconstrained space, (n,) nats.
        """
        sites = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}
        trace.compute_log_prob(site_filter=lambda name, _: name in sites)
        return sum((self._per_row(site) for site in sites.values()), jacobian)

    @property
    def _kept(self) -> set[int]:
        """The dimensions of rows and draws."""
        return {self.row_dim, -self.plates.nesting - 1}

    def _per_row(self, site: Site, *, on_support: bool = True) -> Tensor:
        return sum_over_plates(site, self._kept, on_support=on_support).expand(self.points)

    def _guide_at(self, values: dict[str, Tensor]) -> Tensor:
        require_guide_density(self.plates)
        if self.guide_site is not None:
            site = self.guide_site
            value = values[site["name"]]
            log_prob = site["fn"].log_prob(value)
            return self._per_row(
                {"fn": site["fn"], "value": value, "unscaled_log_prob": log_prob, "mask": site["mask"]}
            )
        trace = self._trace(self.program.guide, SubstituteLatents(values))
        trace.compute_log_prob()
        sites = sample_sites(trace)
        if auxiliary := sites.keys() - values.keys():
            raise InputError(
                f"the guide's auxiliary {', '.join(sorted(auxiliary))} leave it without a density of z alone"
            )
        if len(sites) == 1:  # a single site depends on x alone, which does not change
            self.guide_site = next(iter(sites.values()))
        return torch.as_tensor(sum(self._per_row(site) for site in sites.values()))

    def values(self, u: RowLatents) -> dict[str, Tensor]:
        """The latents' constrained values at u by site, rows first, (n, size) each, with sizes `value_sizes`."""
        sites = sample_sites(self._trace(self.program.model, _SubstituteUnconstrained(self, u), latents_only=True))
        return {name: sites[name]["value"].movedim(axis, 0).reshape(len(u), -1) for name, axis in self.axes.items()}

    @torch.no_grad()
    def from_guide(self) -> Points:
        """A draw of u from the guide for each point."""
        guide = sample_sites(self._trace(self.program.guide))
        values = {name: site["value"] for name, site in guide.items() if name in self.sizes}
        trace = self._trace(self.program.model, SubstituteLatents(values), latents_only=True)
        sites = sample_sites(trace)
        for name in values:
            inside = inside_support(sites[name]["fn"], values[name])
            if inside is not None and not inside[0].all():
                raise OutsideSupportError(
                    f"the guide draws {name} outside the model's support for it, "
                    f"{support_of(sites[name]['fn'])}: give it a distribution with that support, or start from the "
                    "prior (annealing: start='prior')"
                )
        return self._flatten(trace)

    @torch.no_grad()
    def proposal(self) -> Proposal:
        """A draw from the guide, or from the prior where the guide draws outside the support or has a point mass."""
        if not self.plates.point_masses:
            try:
                return Proposal(self.from_guide(), is_guide=True)
            except InputError:
                pass
        return Proposal(self.from_prior(), is_guide=False)

    @torch.no_grad()
    def from_prior(self) -> Points:
        """A draw of u from the prior for each point."""
        return self._flatten(self._trace(self.program.model, latents_only=True))

    def flat(self, values: dict[str, Tensor]) -> Points:
        """The latents' values as u, by the transforms of the model's sites."""
        return self._flatten(self._trace(self.program.model, SubstituteLatents(values), latents_only=True))

    def _flatten(self, trace: Trace) -> Points:
        parts, sites, leading = [], sample_sites(trace), [len(self.batch.x), *self.points[:-1], -1]
        for name, axis in self.axes.items():
            site = sites[name]
            u = transform_to_support(site).inv(site["value"])
            parts.append(u.movedim(axis, 0).reshape(leading))
        flat = torch.cat(parts, -1)
        return flat if self.draws is None else flat.movedim(0, 1)

    def in_site_shape(self, name: str, u: Points) -> Tensor:
        """A latent's part of u in the shape that its site has in a trace.

        Args:
            name: the latent.
            u: its part, (n, k) or (S, n, k).

        Returns:
            The same numbers; rows and draws are at the dimensions of their plates.
        """
        lead = u.shape[:-1]
        value = u.reshape(*lead, *self.shapes[name]).movedim(len(lead) - 1, self.axes[name])
        if self.draws is None:
            return value
        return value.reshape(self.draws, *[1] * (self.plates.nesting - self.batch_dims[name]), *value.shape[1:])


def transform_to_support(site: Site) -> Transform:
    """The transform from the reals to a site's support; `InputError` where there is none."""
    support = support_of(site["fn"])
    while support is not None and not support.is_discrete:
        try:
            transform: Transform = biject_to(support)
            return transform
        except NotImplementedError:  # a constraint that wraps another, as that of a mixture
            if (inner := base_constraint(support)) is support:
                break
            support = inner
    raise InputError(
        f"the latent {site['name']} takes values in {support}; this needs continuous latents with a "
        "transform from the real numbers"
    )


class _SubstituteUnconstrained(Messenger):
    """Set the model's latents to the transformed point u, and collect their log Jacobians, (n,) each."""

    def __init__(self, joint: UnconstrainedJoint, u: Tensor) -> None:
        super().__init__()
        self.joint = joint
        self.parts: dict[str, Tensor] = dict(zip(joint.sizes, u.split(list(joint.sizes.values()), -1), strict=True))
        self.jacobians: list[Tensor] = []

    def _pyro_sample(self, msg: Site) -> None:
        if msg["is_observed"] or is_subsample(msg) or msg["name"] not in self.parts:
            return
        name, joint = msg["name"], self.joint
        u = joint.in_site_shape(name, self.parts[name])
        transform = transform_to_support(msg)
        num_dims = u.dim() + transform.codomain.event_dim - transform.domain.event_dim
        msg["value"], msg["done"] = require_own_support(transform(u), num_dims, name), True
        jacobian = transform.log_abs_det_jacobian(u, msg["value"])
        if (event_dim := msg["fn"].event_dim - transform.codomain.event_dim) > 0:  # what the transform has not summed
            jacobian = jacobian.flatten(-event_dim).sum(-1)
        self.jacobians.append(joint._per_row({"unscaled_log_prob": jacobian, "mask": None}, on_support=False))
