"""log p(x, z) and log q(z | x) at points of one unconstrained space, for annealing, quadrature and HMC."""

from dataclasses import dataclass

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_vae.errors import InputError
from pyro_vae.programs.plates import PlateStructure, require_density, require_guide_density, require_rows
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import inside_support, support_of
from pyro_vae.programs.traces import (
    Site,
    SubstituteLatents,
    UnconditionObserved,
    base_constraint,
    is_subsample,
    sample_sites,
    sum_over_plates,
)
from pyro_vae.typing import PerRow, Program, RowLatents


@dataclass(frozen=True)
class Proposal:
    """A draw u (n, K) for each row, from the guide, or from the prior where the guide has no density on u."""

    u: RowLatents
    is_guide: bool


@dataclass(frozen=True)
class Point:
    """Log densities of n rows at one point each, nats.

    Attributes:
        likelihood: log p(x | z), (n,).
        prior: log p over the unconstrained space, the Jacobian counted, (n,).
        guide: log q over the unconstrained space, likewise; None where it was not requested.
    """

    likelihood: PerRow
    prior: PerRow
    guide: PerRow | None = None

    @property
    def log_joint(self) -> PerRow:
        """log p(x, u), (n,)."""
        return self.likelihood + self.prior


class UnconstrainedJoint:
    r"""A program's densities as functions of u (n, K), a row's continuous latents, unconstrained and concatenated.

    Site by site, $z = T(u)$ with T the map from the reals to the site's support (`biject_to`), so
    that $\int p(x, T(u)) |\det T'(u)| du = p(x)$. The program's sites must share one plate over rows.

    Args:
        program: any program that has a density.
        plates: its plates.
        batch: the rows (n, D) with their inputs.
    """

    def __init__(self, program: Program, plates: PlateStructure, batch: Batch) -> None:
        require_density(program)
        self.program, self.plates, self.batch = program, plates, batch
        self.row_dim = require_rows(plates)
        self.guide_site: Site | None = None  # the guide's site where it has only one, whose density is then reused
        drawn = poutine.trace(bind_supported_kwargs(program.model)).get_trace(batch.x, batch.row_inputs)
        self._set_shapes({name: site for name, site in sample_sites(drawn).items() if not site["is_observed"]})

    def _set_shapes(self, sites: dict[str, Site]) -> None:
        if not sites:
            raise InputError("the model draws no latent, so log p(x) is its log-likelihood")
        self.shapes: dict[str, torch.Size] = {}
        self.axes: dict[str, int] = {}
        for name, site in sites.items():
            u = transform_to_support(site).inv(site["value"])
            self.axes[name] = self.row_dim - site["fn"].event_dim
            self.shapes[name] = u.movedim(self.axes[name], 0).shape[1:]
        self.sizes = {name: shape.numel() for name, shape in self.shapes.items()}
        self.value_sizes = {name: site["value"].numel() // len(self.batch.x) for name, site in sites.items()}
        self.dim = sum(self.sizes.values())

    def at(self, u: RowLatents, *, guide: bool = False) -> Point:
        """The log densities at some points, differentiable in them.

        Args:
            u: a point (K,) for each row, (n, K).
            guide: whether the guide's density is computed as well.

        Returns:
            The log densities, (n,) nats each.
        """
        substitute = _SubstituteUnconstrained(self, u)
        trace = poutine.trace(substitute(bind_supported_kwargs(self.program.model))).get_trace(
            self.batch.x, self.batch.row_inputs
        )
        trace.compute_log_prob()
        sites = sample_sites(trace)
        likelihood = sum(self._per_row(site) for site in sites.values() if site["is_observed"])
        jacobian = sum(substitute.jacobians, u.new_zeros(len(u)))
        prior = sum(self._per_row(site) for site in sites.values() if not site["is_observed"]) + jacobian
        values = {name: sites[name]["value"] for name in self.sizes}
        return Point(
            torch.as_tensor(likelihood).expand(len(u)), prior, self._guide_at(values) + jacobian if guide else None
        )

    def _per_row(self, site: Site) -> Tensor:
        return sum_over_plates(site, {self.row_dim}).expand(len(self.batch.x))

    def _guide_at(self, values: dict[str, Tensor]) -> Tensor:
        require_guide_density(self.plates)
        if self.guide_site is not None:
            site = self.guide_site
            value = values[site["name"]]
            log_prob = site["fn"].log_prob(value)
            return self._per_row(
                {"fn": site["fn"], "value": value, "unscaled_log_prob": log_prob, "mask": site["mask"]}
            )
        trace = poutine.trace(SubstituteLatents(values)(bind_supported_kwargs(self.program.guide))).get_trace(
            self.batch.x, self.batch.row_inputs
        )
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
        substitute = _SubstituteUnconstrained(self, u)
        trace = poutine.trace(substitute(bind_supported_kwargs(self.program.model))).get_trace(
            self.batch.x, self.batch.row_inputs
        )
        sites = sample_sites(trace)
        return {name: sites[name]["value"].movedim(axis, 0).reshape(len(u), -1) for name, axis in self.axes.items()}

    @torch.no_grad()
    def from_guide(self) -> RowLatents:
        """A draw of u from the guide for each row."""
        guide = sample_sites(
            poutine.trace(bind_supported_kwargs(self.program.guide)).get_trace(self.batch.x, self.batch.row_inputs)
        )
        values = {name: site["value"] for name, site in guide.items() if name in self.sizes}
        given = SubstituteLatents(values)(bind_supported_kwargs(self.program.model))
        trace = poutine.trace(given).get_trace(self.batch.x, self.batch.row_inputs)
        sites = sample_sites(trace)
        for name in values:
            inside = inside_support(sites[name]["fn"], values[name])
            if inside is not None and not inside[0].all():
                raise InputError(
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
    def from_prior(self) -> RowLatents:
        """A draw of u from the prior for each row."""
        return self._flatten(
            poutine.trace(bind_supported_kwargs(self.program.model)).get_trace(self.batch.x, self.batch.row_inputs)
        )

    def flat(self, values: dict[str, Tensor]) -> RowLatents:
        """The latents' values as u, by the transforms of the model's sites."""
        given = SubstituteLatents(values)(bind_supported_kwargs(self.program.model))
        return self._flatten(poutine.trace(given).get_trace(self.batch.x, self.batch.row_inputs))

    def _flatten(self, trace: Trace) -> RowLatents:
        parts, sites = [], sample_sites(trace)
        for name, axis in self.axes.items():
            site = sites[name]
            u = transform_to_support(site).inv(site["value"])
            parts.append(u.movedim(axis, 0).reshape(len(self.batch.x), -1))
        return torch.cat(parts, -1)


def transform_to_support(site: Site) -> Transform:
    """The transform from the reals to a site's support; `InputError` where there is none."""
    support = site["fn"].support
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
        part = self.parts[name]
        u = part.reshape(len(part), *joint.shapes[name]).movedim(0, joint.axes[name])
        transform = transform_to_support(msg)
        msg["value"], msg["done"] = transform(u), True
        jacobian = transform.log_abs_det_jacobian(u, msg["value"])
        row_axis = jacobian.dim() + joint.row_dim  # the axis of rows, from the left, if events were summed
        row_axis -= max(0, msg["fn"].event_dim - transform.codomain.event_dim)
        self.jacobians.append(jacobian.movedim(row_axis, 0).flatten(1).sum(-1) if jacobian.dim() > 1 else jacobian)


def simulate(program: Program, placeholder: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows and their latents, drawn from the model together; `InputError` for several x-sites.

    Args:
        program: any program.
        placeholder: a batch of n rows whose x is not read, with their inputs.

    Returns:
        Rows x (n, D), and the latents' values by site.
    """
    model = UnconditionObserved()(bind_supported_kwargs(program.model))
    sites = sample_sites(poutine.trace(model).get_trace(placeholder.x, placeholder.row_inputs))
    observed = [site for site in sites.values() if site["infer"].get("was_observed")]
    if len(observed) != 1 or observed[0]["value"].shape != placeholder.x.shape:
        raise InputError("simulating rows needs a model that observes x, the whole of it, at one site")
    latents = {name: site["value"] for name, site in sites.items() if site is not observed[0]}
    return observed[0]["value"], latents
