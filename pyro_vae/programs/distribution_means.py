"""The mean of a site's distribution, whatever kind it is."""

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import Distribution as TorchDistribution

from pyro_vae.distributions import Observed
from pyro_vae.errors import InputError
from pyro_vae.programs.traces import unwrap_independent
from pyro_vae.typing import Distribution


def distribution_mean(fn: Distribution, draws: int = 64) -> Tensor:
    """The mean of a site's distribution, the mode of categories; `InputError` where it has neither.

    Args:
        fn: any Pyro distribution.
        draws: the number of draws whose mean is taken where there is none in closed form.

    Returns:
        A tensor of the distribution's shape.
    """
    if isinstance(fn, Observed):
        fn = fn.values  # of all values, where some were not observed
    assert isinstance(fn, TorchDistribution)
    mean = mean_in_closed_form(fn)
    if mean is None:
        drawn: Tensor = fn.sample(torch.Size([draws]))
        return drawn.mean(0)
    if mean.isnan().any() and isinstance(unwrap_independent(fn), Categorical):
        mode: Tensor = fn.mode
        return mode.to(torch.get_default_dtype())  # a category has no mean: the most probable one
    if mean.isnan().any():
        raise InputError(f"a {type(fn).__name__} has no mean to encode or reconstruct with")
    return mean


def mean_in_closed_form(fn: Distribution | TorchDistribution) -> Tensor | None:
    """The mean of a distribution; None where it has none in closed form."""
    assert isinstance(fn, TorchDistribution)
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        return None
    return mean
