"""The plates of a program: which of them is over rows, and which sites lie outside it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.distributions import is_relaxed
from pyro_vae.errors import InputError, PointMassError, RowsError
from pyro_vae.programs.point_masses import find_point_masses
from pyro_vae.programs.program_defaults import no_density_reason
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import (
    discrete_values,
    innermost,
    is_constrained,
    is_point_mass,
    is_static,
    support_of,
    with_scalar_bounds,
)
from pyro_vae.programs.traces import Site, UnconditionObserved, base_constraint, sample_sites, trace_program
from pyro_vae.typing import Program


@dataclass(frozen=True)
class PlateStructure:
    """The plate over a program's rows and the program's other plates, found by running it.

    Attributes:
        row_dim: the dimension of the plate over rows, counted from the right; None where there is none.
        nesting: the number of plate dimensions.
        outside: the names of the sites outside the row plate, which have no value for each row.
        support: the support of x, if the model observes it at one site.
        relaxed: whether the likelihood is marked as no density.
        enumerated: the model's sites that training sums out.
        constrained: the support of each other observed site that has one, the same for every row and draw.
        values: the values of each observed site that counts them, in words, empty for one with a density; and how many
            of a row's values it has. Of a `pyro.factor` it has none.
        point_masses: the continuous latents at which the guide has a point mass and no density.
    """

    row_dim: int | None
    nesting: int
    outside: tuple[str, ...]
    support: Constraint | None
    relaxed: bool
    enumerated: tuple[str, ...]
    constrained: Mapping[str, str] = field(default_factory=dict)
    values: tuple[tuple[str, int], ...] = ()
    point_masses: tuple[str, ...] = ()

    @property
    def is_counting(self) -> bool:
        """Whether what the model observes has probabilities only, no densities: their logarithms are at most 0."""
        return bool(self.values) and all(words for words, _ in self.values) and not self.relaxed

    def row_plate_frame(self, site: Site) -> CondIndepStackFrame | None:
        """The site's frame of the plate over rows, or None where it lies outside.

        A plate over something else may have the same dimension, so the dimension alone does not identify it.
        """
        if self.row_dim is None or site["name"] in self.outside:
            return None
        return next((frame for frame in site["cond_indep_stack"] if frame.dim == self.row_dim), None)

    def rows_to_front(self, site: Site, value: Tensor) -> Tensor:
        """A site's value with its rows in front, the rest flattened.

        Args:
            site: a site inside the row plate.
            value: a tensor of its shape.

        Returns:
            The same numbers, (n, size).
        """
        assert self.row_dim is not None
        return value.movedim(self.row_dim - site["fn"].event_dim, 0).unsqueeze(-1).flatten(1)

    def check(self, x: Tensor) -> None:
        """Raise `InputError` where x is not finite or lies outside the likelihood's support."""
        if not torch.isfinite(x).all():
            row, column = (int(i) for i in torch.nonzero(~torch.isfinite(x))[0][:2])
            raise InputError(
                f"x holds NaN or infinity, first in row {row}, column {column} of a batch; remove or fill such values"
            )
        if self.support is None or not is_static(self.support):  # bounds of single rows are compared by the densities
            return
        if not (inside := self.support.check(x)).all():
            wrong = x[~inside].flatten() if inside.shape == x.shape[: inside.dim()] else x.flatten()
            low, high = wrong.min().item(), wrong.max().item()
            raise InputError(
                f"x holds values outside the support of the likelihood: found {low:.3g} to {high:.3g}, expected "
                f"{_describe(self.support)}"
            )


def _describe(support: Constraint) -> str:
    base = base_constraint(support)
    if base is constraints.boolean:
        return (
            "0 or 1; binarize the data (load_data(…, binarize='stochastic')), choose a likelihood for real values, "
            "or ask for a relaxed one (likelihoods.Bernoulli(…, relaxed=True)), which is not a density"
        )
    return f"values in {base}"


@torch.no_grad()
def find_plates(program: Program, batch: Batch) -> PlateStructure:
    """Find the row plate by running the program on two rows and on three: it is the plate whose size changed.

    Raises `InputError` where model and guide do not draw the same latents.

    Args:
        program: any program.
        batch: some rows with their inputs.

    Returns:
        The plates of model and guide.
    """
    with seeded(0), evaluating(program):
        two, three = (
            [sample_sites(trace) for trace in trace_program(program, batch.take(index))]
            for index in _probe_indices(batch)
        )
        plates = _plate_structure(two, three, batch, enumerated=_check_pair(*three))

        def draw_again() -> Mapping[str, Site]:
            return sample_sites(trace_program(program, batch.take(_probe_indices(batch)[1]))[1])

        return replace(plates, point_masses=find_point_masses(three[0], three[1], draw_again))


@torch.no_grad()
def find_model_plates(program: Program, batch: Batch) -> PlateStructure:
    """Find the row plate from the model alone, which is all that sampling needs.

    Args:
        program: any program.
        batch: rows whose x holds placeholders, with their inputs.

    Returns:
        The plates of the model.
    """
    model = UnconditionObserved()(bind_supported_kwargs(program.model))
    with seeded(0), evaluating(program), pyro.validation_enabled(False):
        traces = [
            poutine.trace(model).get_trace(part.x, part.row_inputs) for part in map(batch.take, _probe_indices(batch))
        ]
    two, three = ([sample_sites(trace)] for trace in traces)
    return _plate_structure(two, three, batch, enumerated=())


def _probe_indices(batch: Batch) -> list[Tensor]:
    """Indices of two and of three rows, repeated where the batch has fewer."""
    return [torch.arange(n, device=batch.x.device) % len(batch.x) for n in (2, 3)]


def _plate_structure(
    two: Sequence[Mapping[str, Site]], three: Sequence[Mapping[str, Site]], batch: Batch, enumerated: tuple[str, ...]
) -> PlateStructure:
    sites = [pair for before, after in zip(two, three, strict=True) for pair in _pairs(before, after)]
    resized = [_resized_dims(before, after) for before, after in sites]
    counts = Counter(dim for dims in resized for dim in dims)
    row_dim = max(counts, key=lambda dim: (counts[dim], dim), default=None)
    outside = [site["name"] for (_, site), dims in zip(sites, resized, strict=True) if row_dim not in dims]
    observed = [site for _, site in sites if site["is_observed"]]
    x = batch.x[_probe_indices(batch)[1]]
    x_sites = [site for site in observed if site["value"].shape == x.shape and bool((site["value"] == x).all())]
    is_checked = len(x_sites) == 1 and x_sites[0]["fn"].support is not None
    others = [site for site in observed if not (is_checked and site is x_sites[0]) and site["name"] not in outside]
    return PlateStructure(
        row_dim=row_dim,
        nesting=max((-dim for _, site in sites for dim in _plate_sizes(site)), default=0),
        outside=tuple(dict.fromkeys(outside)),
        support=with_scalar_bounds(x_sites[0]["fn"].support) if len(x_sites) == 1 else None,
        relaxed=any(is_relaxed(site["fn"]) for site in observed),
        enumerated=enumerated,
        values=tuple(
            (discrete_values(support_of(site["fn"])), site["value"].numel() // 3)
            for site in observed
            if site["name"] not in outside
        ),
        constrained=dict(_static_support(site) for site in others if _has_static_support(site)),
    )


def _has_static_support(site: Site) -> bool:
    return is_constrained(site["fn"]) and is_static(support_of(site["fn"]))


def _static_support(site: Site) -> tuple[str, str]:
    support = support_of(site["fn"])
    return site["name"], "" if support is None else str(innermost(support))


def _check_pair(model: Mapping[str, Site], guide: Mapping[str, Site]) -> tuple[str, ...]:
    """The model's latents that the guide leaves to enumeration; `InputError` where their sites do not match."""
    undrawn = [name for name, site in model.items() if not site["is_observed"] and name not in guide]
    if missing := [name for name in undrawn if not model[name]["infer"].get("enumerate")]:
        raise InputError(
            f"the model draws {', '.join(missing)}, which the guide does not: give the guide a sample site of that name"
        )
    latent = {name for name, site in model.items() if not site["is_observed"]}
    if extra := [name for name, site in guide.items() if name not in latent and not site["infer"].get("is_auxiliary")]:
        raise InputError(
            f"the guide draws {', '.join(extra)}, which is no latent of the model: give the sites the same name, or "
            'mark it as auxiliary (infer={"is_auxiliary": True})'
        )
    _check_auxiliary([site for name, site in guide.items() if name not in latent], guide.values())
    return tuple(undrawn)


def _check_auxiliary(auxiliary: Sequence[Site], guide: Iterable[Site]) -> None:
    """`InputError` for auxiliary draws that no latent is a function of: then log q(z|x) is not known.

    In Pyro's autoguides the latents are functions of one such site, Deltas whose densities are the Jacobians.
    """
    functions = [site for site in guide if is_point_mass(site["fn"])]
    if sum(site["value"].numel() for site in auxiliary) > sum(site["value"].numel() for site in functions):
        raise InputError(
            f"the guide draws {', '.join(site['name'] for site in auxiliary)}, which the model lacks, and its latents "
            "are not functions of that (Deltas), so log q(z|x) is an integral that nothing computes: draw it in the "
            "model too, from a distribution r of your choice (an auxiliary variable), or leave it out"
        )


def _pairs(two: Mapping[str, Site], three: Mapping[str, Site]) -> list[tuple[Site, Site]]:
    if two.keys() != three.keys():
        raise InputError(
            "the program has different sample sites for two rows and for three: a row's sites must not depend on the "
            "others"
        )
    return [(two[name], three[name]) for name in three]


def _resized_dims(two: Site, three: Site) -> set[int]:
    before, after = _plate_sizes(two), _plate_sizes(three)
    return {dim for dim, size in after.items() if size == 3 and before.get(dim) == 2}


def _plate_sizes(site: Site) -> dict[int, int]:
    """The sizes of the vectorized plates around a site by dimension."""
    return {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}


def require_density(program: object) -> None:
    """`InputError` with the program's `no_density` as its reason where it has no p(x)."""
    if reason := no_density_reason(program):
        raise InputError(reason)


def require_rows(plates: PlateStructure) -> int:
    """The row plate's dimension; `RowsError` where a row has no weight of its own, or a latent is not drawn."""
    if plates.enumerated:
        raise RowsError(
            f"the guide must draw {', '.join(plates.enumerated)} for a row to have codes of its own; training and "
            "log p(x) sum it out"
        )
    return require_row_plate(plates)


def require_row_plate(plates: PlateStructure) -> int:
    """The row plate's dimension; `RowsError` with the remedy where a row has no weight of its own."""
    if plates.row_dim is None or plates.outside:
        sites = ", ".join(plates.outside) or "every site"
        raise RowsError(
            f"log p(x) of a row needs every site inside one plate of size len(x), but {sites} lies outside: put it "
            'inside (with pyro.plate("data", len(x)): …), or fix it to a value learned as a parameter (pyro.param); '
            "a global latent couples the rows, and then log p(x) exists only for all of them together"
        )
    return plates.row_dim


def require_guide_density(plates: PlateStructure) -> None:
    """`PointMassError` with what works instead where the guide has a point mass at a continuous latent."""
    if plates.point_masses:
        raise PointMassError(
            f"the guide puts all of q at one point of the continuous {', '.join(plates.point_masses)} (a Delta, as for "
            "MAP), so it has no density: there is no ELBO, no KL and no importance weight. Without the guide work the "
            "Laplace approximation (pv.laplace_approximation; compare --method laplace), annealing from the prior "
            "(pv.annealed_evidence with start='prior'; evaluate --method ais --start prior), and pv.exact_evidence "
            "(evaluate --method exact) where the program allows it"
        )
