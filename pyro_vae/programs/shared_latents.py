"""log p(x | z) of N rows at S points that they share, (N, S): one run of the model, and one matrix product."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_vae.distributions import BernoulliVector, Observed
from pyro_vae.distributions.exponential_families import Elements, exponential_form
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import Site, sample_sites
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, Program, RowLatents

MAX_PRODUCT_ERROR = 1e-6  # nats by which the matrix may differ from the program by the product's own rounding
MAX_ROUNDING_ERRORS = 50  # and by the program's, in units of its machine epsilon for each value
BYTES_PER_NUMBER = 48  # of work in progress: six numbers in float64 for each parameter, and for each entry
NUM_TRIED_ROWS = 8  # whose entries are computed value by value where the likelihood is no exponential family


@dataclass(frozen=True)
class SharedPoints:
    """Log densities of N rows at S points, nats, float64.

    Attributes:
        likelihood: log p(x_i | z_s), (N, S).
        prior: log p(u_s) over the unconstrained space, the Jacobian counted, (S,).
    """

    likelihood: Float[Tensor, "N S"]
    prior: Float[Tensor, " S"]

    @property
    def log_joint(self) -> Float[Tensor, "N S"]:
        """log p(x_i, u_s), (N, S)."""
        return self.likelihood + self.prior


class SharedLatents:
    r"""log p(x_i | z_s) of N rows at S points of the unconstrained space that all rows share.

    The model runs once, on the S points as if they were rows, each with the first row's x and row inputs. A likelihood
    that is an exponential family in x costs one matrix product,
    $\log p(x_i | z_s) = T(x_i)·η(z_s) - A(z_s) + \log h(x_i)$ in float64; another is computed value by value. Values
    that were not observed are left out of the product by their mask.

    That is right only where no parameter of likelihood and prior depends on the row; `find` tests it. To be used where
    the program's functions run: within `use_param_store(program)`, without gradients and without Pyro's validation.

    Args:
        joint: the program's densities for the N rows.
        memory: for the work in progress, bytes.
        bytes_per_point: what a run of the program writes for one row.
    """

    def __init__(self, joint: UnconstrainedJoint, memory: float = 2**26, bytes_per_point: int = 0) -> None:
        self.joint, self.memory = joint, memory
        self.num_rows, self.dim = len(joint.batch.x), joint.dim
        trace, _ = joint.trace(joint.from_prior())
        sites = sample_sites(trace).items()
        self.sites = {name: _ObservedSite(site, joint.row_dim) for name, site in sites if site["is_observed"]}
        self.is_product = all(site.is_exponential for site in self.sites.values())
        numbers = self.num_rows + sum(site.num_values for site in self.sites.values())
        self.points_per_run = max(1, int(memory // (BYTES_PER_NUMBER * numbers + bytes_per_point)))

    @classmethod
    def find(
        cls,
        program: Program,
        plates: PlateStructure,
        batch: Batch,
        memory: float = 2**26,
        bytes_per_point: int = 0,
    ) -> "SharedLatents | None":
        """The densities of rows, if for every row they are the program's at draws of guide and prior.

        Args:
            program: any program with continuous latents.
            plates: its plates.
            batch: the N rows with their inputs.
            memory: for the work in progress, bytes.
            bytes_per_point: what a run of the program writes for one row.

        Returns:
            None where the likelihood or the prior depends on the row.
        """
        if plates.enumerated:  # what a row's sum is over depends on its x
            return None
        joint = UnconstrainedJoint(program, plates, batch)
        draws = [joint.proposal().u, joint.from_prior(), joint.from_prior()]
        try:
            shared = cls(joint, memory, bytes_per_point)
            return shared if all(shared.agrees(u) for u in draws) else None
        except Exception:  # any error of the program's own code, or of a distribution, on other shapes
            return None

    def agrees(self, u: RowLatents) -> bool:
        """Whether log p(x_i | z_i) and log p(u_i) are the program's own to rounding, for every row.

        The model runs on N points in both cases, so that a network's outputs are the same bits.

        Args:
            u: a point (K,) for each row, (N, K).
        """
        known, (sites, prior) = self.joint.at(u), self._run(u)
        rows = torch.arange(self.num_rows if self.is_product else min(self.num_rows, NUM_TRIED_ROWS))
        likelihood = self._likelihood(sites, rows).diagonal()
        checks = [(likelihood, known.likelihood[: len(rows)]), (prior, known.prior)]
        if not self.is_product:
            paired = [site.paired(sites[name]["fn"]) for name, site in self.sites.items()]
            checks.append((torch.stack(paired).sum(0), known.likelihood))
        return all(self._close(found, expected.double()) for found, expected in checks)

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        epsilon = torch.finfo(self.joint.batch.x.dtype).eps
        num_values = 1 + sum(site.num_values for site in self.sites.values())
        allowed = MAX_PRODUCT_ERROR + MAX_ROUNDING_ERRORS * epsilon * (num_values + expected.abs())
        return bool((((found - expected).abs() <= allowed) | (found == expected)).all())

    def at(self, u: Float[Tensor, "S K"], rows: Tensor | None = None) -> SharedPoints:
        """The log densities of rows at points.

        Args:
            u: the points, (S, K).
            rows: indices (n,) of the rows; None for all.

        Returns:
            The log densities, (n, S) and (S,).
        """
        parts = []
        for points in u.split(self.points_per_run):
            sites, prior = self._run(points.to(self.joint.batch.x))
            parts.append((self._likelihood(sites, rows), prior))
        likelihoods, priors = zip(*parts, strict=True)
        return SharedPoints(torch.cat(likelihoods, 1), torch.cat(priors))

    def points(self, batch_of_rows: int) -> UnconstrainedJoint:
        """The program's densities for copies of the first row, which stand for points."""
        first = torch.zeros(batch_of_rows, dtype=torch.long, device=self.joint.batch.x.device)
        return self.joint.over(self.joint.batch.take(first))

    def _run(self, u: Tensor) -> tuple[dict[str, Site], Tensor]:
        """The sites of a run of the model at points (S, K), and log p(u), (S,)."""
        joint = self.points(len(u))
        trace, jacobian = joint.trace(u)
        return sample_sites(trace), joint.log_prior(trace, jacobian).double()

    def _likelihood(self, sites: dict[str, Site], rows: Tensor | None) -> Tensor:
        terms = [site.log_prob(sites[name]["fn"], rows, self.memory) for name, site in self.sites.items()]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


class _ObservedSite:
    """The N values of an observed site and the mask of those that count, and their density at other points.

    Axes are counted from the right. A site's elements are its numbers, or its one-hot vectors, whose axis is last.
    """

    def __init__(self, site: Site, row_dim: int) -> None:
        base, masks = _unwrap(site["fn"], [])
        if not isinstance(site["mask"], bool | None):
            masks.append(_over_events(site["mask"], site["fn"].event_dim - _element_dim(base)))
        self.element_dim = _element_dim(base)
        value = site["value"].expand(broadcast_shape(site["value"].shape, site["fn"].shape()))
        self.axis = row_dim - site["fn"].event_dim + self.element_dim  # of rows, among those of elements
        self.shape = value.shape[: value.dim() - self.element_dim]
        self.values = value.movedim(self.axis - self.element_dim, 0)
        self.mask: Tensor | None = None
        for mask in masks:
            mask = mask.expand(self.shape).movedim(self.axis, 0)
            self.mask = mask if self.mask is None else self.mask & mask
        self.num_elements = self.shape.numel() // len(self.values)
        self.num_values = max(self.num_elements, value.numel() // len(self.values))
        self.is_exponential = exponential_form(base, self._elements(base, torch.zeros(1, dtype=torch.long))) is not None

    def log_prob(self, fn: Distribution, rows: Tensor | None, memory: float) -> Tensor:
        """log p of rows (n,) under a distribution for S points, (n, S) nats."""
        base, _ = _unwrap(fn, [])
        if (form := exponential_form(base, self._elements(base, rows))) is not None:
            return form.log_prob()
        index = torch.arange(len(self.values)) if rows is None else rows
        size = max(1, int(memory // (BYTES_PER_NUMBER * math.prod(self._shape_at(base)))))
        return torch.cat([self._of_each_value(base, part) for part in index.split(size)])

    def paired(self, fn: Distribution) -> PerRow:
        """log p of each row under a distribution for N points, a point for each, (N,) nats."""
        base, _ = _unwrap(fn, [])
        log_prob = base.log_prob(self.values.movedim(0, self.axis - self.element_dim)).expand(self.shape)
        log_prob = log_prob.double().movedim(self.axis, 0)
        return _masked(log_prob, self.mask).reshape(len(log_prob), -1).sum(-1)

    def _of_each_value(self, base: Distribution, rows: Tensor) -> Tensor:
        value = self.values[rows].unsqueeze(self.axis - self.element_dim)
        shape = self._shape_at(base)
        log_prob = base.log_prob(value).double().expand(len(rows), *shape)
        mask = None if self.mask is None else self.mask[rows].unsqueeze(self.axis)
        by_point = _masked(log_prob, mask).movedim(self.axis, 1)
        return by_point.reshape(*by_point.shape[:2], -1).sum(-1)

    def _shape_at(self, base: Distribution) -> torch.Size:
        """The shape of elements with as many points as the distribution has in place of the rows."""
        shape = list(self.shape)
        shape[self.axis] = _element_shape(base)[self.axis]
        return torch.Size(shape)

    def _elements(self, base: Distribution, rows: Tensor | None) -> Elements:
        values, mask = (
            None if kept is None else (kept if rows is None else kept[rows]) for kept in (self.values, self.mask)
        )
        assert values is not None
        num_points, dim, shape = _element_shape(base)[self.axis], len(_element_shape(base)), self._shape_at(base)

        def by_point(parameter: Tensor) -> Tensor:
            categories = parameter.shape[dim:]
            parameter = parameter.expand(shape + categories).movedim(self.axis - len(categories), 0)
            return parameter.reshape(num_points, -1, *categories).double()

        event = values.shape[values.dim() - self.element_dim :]
        flat = values.reshape(len(values), self.num_elements, *event).double()
        return Elements(flat, by_point, None if mask is None else mask.reshape(len(mask), -1))


def _unwrap(fn: Distribution, masks: list[Tensor]) -> tuple[Distribution, list[Tensor]]:
    """A distribution of single elements, and the masks around it, aligned to elements."""
    if isinstance(fn, Independent):
        return _unwrap(fn.base_dist, masks)
    if isinstance(fn, Observed):
        return _unwrap(fn.values, [*masks, fn.observed])
    if isinstance(fn, MaskedDistribution):
        base, inner = _unwrap(fn.base_dist, masks)
        mask = torch.as_tensor(fn._mask)
        return base, [*inner, _over_events(mask, len(fn.event_shape) - _element_dim(base))]
    return fn, masks


def _over_events(mask: Tensor, dims: int) -> Tensor:
    return mask.reshape(mask.shape + (1,) * dims)


def _element_dim(base: Distribution) -> int:
    return 0 if isinstance(base, BernoulliVector) else len(base.event_shape)


def _element_shape(base: Distribution) -> torch.Size:
    return base.logits.shape if isinstance(base, BernoulliVector) else base.batch_shape


def _masked(log_prob: Tensor, mask: Tensor | None) -> Tensor:
    return log_prob if mask is None else torch.where(mask, log_prob, 0.0)
