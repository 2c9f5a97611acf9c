"""The plates of a program: which of them is over rows, which sites lie outside it, and what that rules out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError, PointMassError, RowsError
from pyro_vae.programs.program_defaults import no_density_reason
from pyro_vae.programs.support import column_support_of, innermost, is_static
from pyro_vae.programs.traces import Site, base_constraint

ONE_SIZE = (
    "a guide with parameters for each row, as one of Pyro's autoguides or easyguides over the rows' latents, is fitted "
    "with all rows in each batch (batch_size=len(x), without validation rows) and gives the latents of these rows "
    "only. For minibatches and new rows take a guide that is a function of x (pv.guides.MeanFieldNormal and the other "
    "per-row guides)"
)


@dataclass(frozen=True)
class PlateStructure:
    """The plate over a program's rows and the program's other plates, found by running it.

    Attributes:
        row_dim: the dimension of the plate over rows, counted from the right; None where there is none.
        nesting: the number of plate dimensions.
        outside: the names of the model's sites and of the guide's latents outside the row plate, which have no value
            for each row.
        support: the support of x, if the model observes it at one site.
        relaxed: whether the likelihood is marked as no density.
        enumerated: the model's sites that training sums out.
        constrained: the support of each other observed site that has one, the same for every row and draw.
        values: the values of each observed site that counts them, in words, empty for one with a density; and how many
            of a row's values it has. Of a `pyro.factor` it has none.
        point_masses: the continuous latents at which the guide has a point mass and no density.
        row_plates: the names of the plates over rows, in the model and in the guide.
        joint: the guide's auxiliary sites that draw the latents of all rows together: q does not factorize over rows.
        num_rows: the number of rows that the program runs for, where it runs for no other; None where for any.
        masked: the model's latents that have a mask: where it is false a latent has no density.
        enumerated_in_guide: the guide's latents inside the row plate that it enumerates.
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
    row_plates: frozenset[str] = frozenset()
    joint: tuple[str, ...] = ()
    num_rows: int | None = None
    masked: tuple[str, ...] = ()
    enumerated_in_guide: tuple[str, ...] = ()

    @property
    def is_counting(self) -> bool:
        """Whether what the model observes has probabilities only, no densities: their logarithms are at most 0."""
        return bool(self.values) and all(words for words, _ in self.values) and not self.relaxed

    def row_plate_frame(self, site: Site) -> CondIndepStackFrame | None:
        """The site's frame of the plate over rows, or None where it lies outside.

        A plate over something else may have the same dimension, so the dimension alone does not identify it.
        """
        frames = (frame for frame in site["cond_indep_stack"] if frame.dim == self.row_dim)
        return next((frame for frame in frames if frame.name in self.row_plates), None)

    def plate_size(self, site: Site) -> int | None:
        """The number of rows that its row plate is a sample of, or has; None where the site lies outside."""
        frame = self.row_plate_frame(site)
        return None if frame is None else frame.full_size if (frame.full_size or 0) > 0 else sized(frame, site)

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

    def code_sites(self, guide: Mapping[str, Site]) -> dict[str, Site]:
        """The guide's sites that are a row's code: latents inside the row plate, auxiliary ones left out.

        A latent that the guide enumerates, a class, is left out where there are others.

        Args:
            guide: the guide's sites by name.

        Returns:
            Those sites by name.
        """
        inside = {name: site for name, site in guide.items() if self.row_plate_frame(site) and not site["is_observed"]}
        latents = {name: site for name, site in inside.items() if not site["infer"].get("is_auxiliary")}
        return {name: site for name, site in latents.items() if name not in self.enumerated_in_guide} or latents

    def concatenate(self, sites: Iterable[Site], value: Callable[[Site], Tensor]) -> Tensor:
        """What the sites inside the row plate have for each row, side by side.

        Args:
            sites: sites of a run; `InputError` where none lies inside.
            value: gives a tensor of a site's shape.

        Returns:
            The numbers (n, D).
        """
        inside = [site for site in sites if self.row_plate_frame(site)]
        if not inside:
            raise InputError("the model observes nothing for each row")
        return torch.cat([self.rows_to_front(site, value(site)) for site in inside], -1)

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise `InputError` where x is not finite or lies outside the likelihood's support.

        Args:
            x: rows (n, D).
            mask: booleans (n, D), true where a value was observed: others are placeholders, which no support concerns.
        """
        if not torch.isfinite(x).all():
            row, column = (int(i) for i in torch.nonzero(~torch.isfinite(x))[0][:2])
            raise InputError(
                f"x holds NaN or infinity, first in row {row}, column {column} of a batch; remove or fill such values"
            )
        if self.support is None or not is_static(self.support):  # bounds of single rows are compared by the densities
            return
        inside = self._inside(self.support, x, mask)
        if not inside.all():
            wrong = x[~inside].flatten() if inside.shape == x.shape[: inside.dim()] else x.flatten()
            low, high = wrong.min().item(), wrong.max().item()
            raise InputError(
                f"x holds values outside the support of the likelihood: found {low:.3g} to {high:.3g}, expected "
                f"{_describe(self.support)}{self._first_outside(self.support, x, mask)}"
            )

    @staticmethod
    def _first_outside(support: Constraint, x: Tensor, mask: Tensor | None) -> str:
        """Where the first value lies that is outside the support, in words; empty where rows have it as a whole."""
        each = innermost(support).check(x)
        outside = ~each if mask is None or each.shape != x.shape else ~each & mask
        if outside.shape != x.shape or x.dim() != 2 or not outside.any():
            return ""
        row, column = (int(i) for i in outside.nonzero()[0])
        columns = column_support_of(support)
        name = f"{column}" if columns is None else columns.values[column]
        return f"; first in row {row} of a batch, column {name}"

    @staticmethod
    def _inside(support: Constraint, x: Tensor, mask: Tensor | None) -> Tensor:
        """Whether each row, or each value where some were not observed, lies inside the support."""
        if mask is None:
            whole: Tensor = support.check(x)
            return whole
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        inside: Tensor = support.check(x)
        return inside | ~mask if inside.shape == mask.shape else inside


def sized(frame: CondIndepStackFrame, site: Site) -> int:
    """The size of a vectorized plate; of one without a size (`pyro.plate("data")`), that of the site's distribution.

    Args:
        frame: the plate's frame.
        site: a site in it.

    Returns:
        The number of rows, or of what else the plate is over.
    """
    assert frame.dim is not None
    if frame.size >= 0:
        return frame.size
    shape = site["fn"].batch_shape
    return shape[frame.dim] if len(shape) >= -frame.dim else 1


def _describe(support: Constraint) -> str:
    base = base_constraint(support)
    if base is constraints.boolean:
        return (
            "0 or 1; binarize the data (load_data(…, binarize='stochastic')), choose a likelihood for real values, "
            "or ask for a relaxed one (likelihoods.Bernoulli(…, relaxed=True)), which is not a density"
        )
    return f"values in {base}"


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


def require_unmasked(plates: PlateStructure) -> None:
    """`InputError` where a latent has no density in some rows, as the padding of a short sequence has none."""
    if plates.masked:
        raise InputError(
            f"{', '.join(plates.masked)} has a mask, and where that is false no density; log p(x) by importance "
            "sampling from the guide works (pv.log_evidence)"
        )


def require_any_number_of_rows(plates: PlateStructure) -> None:
    """`RowsError` where the program runs for one number of rows only."""
    if plates.num_rows is not None:
        raise RowsError(f"this program runs for its {plates.num_rows} rows only: {ONE_SIZE}")


def require_guide_density(plates: PlateStructure) -> None:
    """An error with what works instead where the guide has no density for each row: a point mass, a joint q."""
    without_guide = (
        "annealing from the prior (pv.annealed_evidence with start='prior'; evaluate --method ais --start prior), and "
        "pv.exact_evidence (evaluate --method exact) where the program allows it"
    )
    if plates.joint:
        require_row_plate(plates)
        raise RowsError(
            f"the guide draws the latents of all rows together ({', '.join(plates.joint)}), so q does not factorize "
            f"over rows and no row has a weight or an ELBO of its own. Without the guide work pv.auto_evidence, "
            f"{without_guide}; a guide that factorizes is AutoNormal, or a function of x"
        )
    if plates.point_masses:
        raise PointMassError(
            f"the guide puts all of q at one point of the continuous {', '.join(plates.point_masses)} (a Delta, as for "
            "MAP), so it has no density: there is no ELBO, no KL and no importance weight. Without the guide work the "
            f"Laplace approximation (pv.laplace_approximation; compare --method laplace), {without_guide}"
        )
