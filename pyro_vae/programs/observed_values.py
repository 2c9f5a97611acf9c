"""What a model observes at given latents: draws of x, and what x is expected to be, value by value."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, constraints

from pyro_vae.distributions import Observed
from pyro_vae.distributions.column_vector import ColumnVector
from pyro_vae.distributions.counted_columns import Levels
from pyro_vae.distributions.discrete_values import DependentValues, EachValue
from pyro_vae.errors import InputError
from pyro_vae.programs.distribution_means import mean_in_closed_form
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.support import is_point_mass, support_of
from pyro_vae.programs.traces import Site, base_constraint, in_shape_of, is_input

MEAN_DRAWS = 64  # of a distribution without a mean in closed form


@dataclass(frozen=True)
class LevelProbs:
    """The probabilities of the levels of some of the values of a row.

    Attributes:
        columns: the values' numbers among the D of a row, (c,).
        probs: the probabilities, (n, c, L).
    """

    columns: Tensor
    probs: Tensor


@dataclass(frozen=True)
class Expected:
    """What x is expected to be.

    Attributes:
        mean: E[x] (n, D), of values with levels arbitrary.
        levels: those of values with levels.
        is_bit: which values are 0 or 1, (D,).
    """

    mean: Tensor
    levels: tuple[LevelProbs, ...]
    is_bit: Tensor


class ObservedValues:
    """The sites of a run of a model that observe x, whose missing values are drawn given the latents.

    These are independent of the observed ones given the latents, or their distribution knows its conditionals
    (`DependentValues`: `likelihoods.MultivariateNormal`, `likelihoods.Columns`). Raises `InputError` for other
    distributions of several values, or where what the model observes is not x, column by column.

    Args:
        plates: the program's plates.
        sites: the sites of the run by name.
        batch: its rows (n, D).
        given_others: whether values with one correlation are each conditioned on all others that were observed, in
            place of the missing ones on the observed ones.
    """

    def __init__(
        self, plates: PlateStructure, sites: Iterable[Site], batch: Batch, *, given_others: bool = False
    ) -> None:
        self.plates, self.given_others = plates, given_others
        self._distributions: dict[str, Distribution] = {}
        observed = [site for site in sites if site["is_observed"] and not is_point_mass(site["fn"])]
        self.sites = [site for site in observed if not is_input(site["value"], batch.row_inputs)]
        for site in self.sites:
            _require_independent(site)
        values = plates.concatenate(self.sites, lambda site: site["value"])
        if values.shape != batch.x.shape or not torch.equal(values.to(batch.x.dtype), batch.x):
            raise InputError(
                "missing values are drawn from the sites that observe x, and those of this model do not observe the "
                "columns of x in their order, as they are: let them, or fill the values by the model's own rule"
            )

    def draw(self) -> Tensor:
        """A draw of all values of each row, (n, D)."""
        return self.plates.concatenate(self.sites, lambda site: _draw(self._distribution(site)))

    def expected(self) -> Expected:
        """What x is expected to be, (n, D)."""
        mean = self.plates.concatenate(self.sites, lambda site: _mean(self._distribution(site)))
        levels, bits, start = [], [], 0
        for site in self.sites:
            fn = _unwrapped(self._distribution(site))
            width = self.plates.rows_to_front(site, site["value"]).shape[1]
            levels += [self._moved(site, each, start) for each in _levels_of(fn)]
            bits.append(torch.full((width,), _is_bit(site), device=mean.device))
            start += width
        return Expected(mean, tuple(levels), torch.cat(bits))

    def each_log_prob(self, x: Tensor) -> Tensor:
        """log p of each value given the latents, nats.

        Args:
            x: values in place of the rows' own, (n, D).

        Returns:
            Log densities or probabilities (n, D); of values with one correlation, those of the missing ones alone given
            the observed ones.
        """
        parts, start = [], 0
        for site in filter(self.plates.row_plate_frame, self.sites):
            assert self.plates.row_dim is not None
            axis, own = self.plates.row_dim - site["fn"].event_dim, site["value"]
            width = self.plates.rows_to_front(site, own).shape[1]
            value = x[:, start : start + width].reshape(own.movedim(axis, 0).shape).movedim(0, axis)
            parts.append(self.plates.rows_to_front(site, _each_log_prob(self._distribution(site), value)))
            start += width
        return torch.cat(parts, -1)

    def _distribution(self, site: Site) -> Distribution:
        name = site["name"]
        if name not in self._distributions:  # of correlated values it takes a factor for each row
            self._distributions[name] = _whole(site, given_others=self.given_others)
        return self._distributions[name]

    def _moved(self, site: Site, levels: LevelProbs, start: int) -> LevelProbs:
        """Probabilities with the rows in front, and the values' numbers counted over all sites."""
        assert self.plates.row_dim is not None
        probs = levels.probs.movedim(self.plates.row_dim - site["fn"].event_dim - 1, 0).flatten(1, -2)
        columns = levels.columns if len(levels.columns) else torch.arange(probs.shape[1])
        return LevelProbs(start + columns.to(probs.device), probs)


def _whole(site: Site, *, given_others: bool = False) -> Distribution:
    """The distribution of all values of a site, in the shape of what it observes."""
    fn: Distribution = in_shape_of(site["fn"], site["value"])
    value, observed = site["value"], None
    if isinstance(fn, Observed):
        fn, observed = fn.values, fn.observed
    if isinstance(fn, DependentValues) and given_others:
        everything = torch.ones_like(value, dtype=torch.bool)
        others: Distribution = fn.given_others(value, everything if observed is None else observed)
        return others
    if isinstance(fn, DependentValues) and observed is not None:
        missing: Distribution = fn.condition(value, observed)
        return missing
    batch = value.shape[: value.dim() - len(fn.event_shape)]
    return fn if fn.batch_shape == batch else fn.expand(batch)


def _unwrapped(fn: object) -> object:
    """A distribution without what makes several values one event, or leaves some out."""
    if isinstance(fn, Observed):
        return _unwrapped(fn.values)
    return _unwrapped(fn.base_dist) if isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution) else fn


def _require_independent(site: Site) -> None:
    fn = _unwrapped(site["fn"])
    if isinstance(fn, EachValue | DependentValues) or (isinstance(fn, Distribution) and not fn.event_shape):
        return
    raise InputError(
        f"the values that {site['name']} observes are not independent given the latents ({type(fn).__name__}), so the "
        "missing ones cannot be drawn one by one; give the likelihood independent values (to_event(1))"
    )


def _draw(fn: Distribution) -> Tensor:
    drawn: Tensor = fn.sample()
    return drawn


def _each_log_prob(fn: Distribution, value: Tensor) -> Tensor:
    base = _unwrapped(fn)
    each: Tensor = (
        base.each_log_prob(value) if isinstance(base, EachValue) else cast(Distribution, base).log_prob(value)
    )
    return each.expand(value.shape)


def _mean(fn: Distribution) -> Tensor:
    mean = mean_in_closed_form(fn)
    if mean is None:
        drawn: Tensor = fn.sample(torch.Size([MEAN_DRAWS]))
        return drawn.mean(0)
    return mean


def _levels_of(fn: object) -> list[LevelProbs]:
    """The probabilities (…, c, L) of the values that have levels; no numbers of columns where these are all."""
    if isinstance(fn, ColumnVector):
        pairs = zip(fn.families, fn.columns, strict=True)
        return [LevelProbs(at, each.logits.softmax(-1)) for each, at in pairs if isinstance(each, Levels)]
    if isinstance(fn, Categorical):
        return [LevelProbs(torch.empty(0, dtype=torch.long), fn.probs)]
    return []


def _is_bit(site: Site) -> bool:
    support = support_of(_whole(site))
    return support is not None and base_constraint(support) is constraints.boolean
