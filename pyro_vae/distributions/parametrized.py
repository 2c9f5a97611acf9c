"""Distributions of single values by parameters of their batch shape."""

from collections.abc import Sequence
from typing import Self

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


class Parametrized(TorchDistribution):
    """A distribution of single values whose parameters have its batch shape.

    Args:
        *parameters: the parameters, in the order of the constructor, broadcast with each other.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(self, *parameters: Tensor) -> None:
        self._parameters = torch.broadcast_tensors(*parameters)
        super().__init__(self._parameters[0].shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Self:
        return type(self)(*(each.expand(torch.Size(batch_shape)) for each in self._parameters))


class LocScale(Parametrized):
    """A distribution of single values with a location and a scale.

    Args:
        loc: the location, (...).
        scale: the scale, broadcast with it.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.loc, self.scale = self._parameters
