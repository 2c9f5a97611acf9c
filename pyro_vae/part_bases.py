"""What a part may offer beyond its forward: a base for each kind of part, its methods and attributes with defaults.

A part is any callable that returns a Pyro distribution (`pyro_vae.typing`). A part without these bases, a function or a
module of one's own, has the defaults, and where it has a method or attribute of the same name, that one counts: the
functions of this file ask any part.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from pyro_vae.distributions import Observed
from pyro_vae.typing import Distribution, Latents, Likelihood


class PriorModule(nn.Module):
    """The base of priors: modules whose forward, without input, returns a distribution with event shape (K,)."""

    def init_from_data(self, rows: Tensor) -> None:
        """Before a first fit: set initial values from some training rows (n, D). By default nothing is set."""


class LikelihoodModule(nn.Module):
    """The base of likelihoods: modules from z (..., K) to a distribution over x with event shape (D,)."""

    @classmethod
    def outputs_per_value(cls) -> int:
        """The number of outputs that the network gives for each of the D values. By default one."""
        return 1

    def masked(self, z: Latents, mask: Tensor) -> Distribution:
        """The density of the observed values only.

        Args:
            z: latents (..., K).
            mask: booleans (N, D), true where a value was observed.

        Returns:
            A distribution with event shape (D,), whose `log_prob` sums the observed values. By default that of
            independent values.
        """
        return Observed(self(z), mask.bool())

    def init_from_data(self, mean: Tensor) -> None:
        """Before a first fit: set initial values from the mean (D,) of the training rows. By default nothing is set."""

    def init_from_rows(self, rows: Tensor) -> None:
        """Before a first fit: set initial values from some training rows (n, D). By default nothing is set."""


class GuideModule(nn.Module):
    """The base of guides: modules from x (N, D) to a distribution over z with event shape (K,).

    A guide with a network has a static method `outputs(num_latents, …)`, the number of outputs that its network gives
    for each row; its other keywords are the constructor's.
    """

    per_row: ClassVar[bool] = False  # whether the parameters are a table with an entry for each training row

    @property
    def scores_only_own_samples(self) -> bool:
        """Whether `log_prob` is slow, one dimension at a time, at other points than the guide's own samples."""
        return False


def init_part_from_data(part: object, values: Tensor) -> None:
    """Set a part's initial values from data, if it supports that.

    Args:
        part: a likelihood or a prior.
        values: the mean (D,) of the training rows for a likelihood, some rows (n, D) for a prior.
    """
    initialize = getattr(part, "init_from_data", None)  # a compiled module offers it too
    if callable(initialize):
        initialize(values)


def init_likelihood_from_rows(likelihood: object, rows: Tensor) -> None:
    """Set a likelihood's initial values from some rows, if it supports that.

    Args:
        likelihood: the likelihood.
        rows: some training rows (n, D).
    """
    initialize = getattr(likelihood, "init_from_rows", None)
    if callable(initialize):
        initialize(rows)


def masked_likelihood(likelihood: Likelihood, z: Latents, mask: Tensor | None) -> Distribution:
    """p(x|z), of the observed values only where there is a mask.

    Args:
        likelihood: the part p(x|z).
        z: latents (..., K).
        mask: booleans (N, D), true where a value was observed; None where all were.

    Returns:
        A distribution with event shape (D,).
    """
    if mask is None:
        return likelihood(z)
    masked: Callable[[Tensor, Tensor], Distribution] | None = getattr(likelihood, "masked", None)
    return Observed(likelihood(z), mask.bool()) if masked is None else masked(z, mask)


def is_per_row(guide: object) -> bool:
    """Whether a guide has parameters for each training row, and is defined for these rows only."""
    return bool(getattr(guide, "per_row", False))


def scores_only_own_samples(guide: object) -> bool:
    """Whether a guide scores other points than its own samples one dimension at a time."""
    return bool(getattr(guide, "scores_only_own_samples", False))
