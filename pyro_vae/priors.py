"""Priors p(z): a part with no input whose forward returns a distribution with event shape (K,)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.recipes import part


@part
class StandardNormal(nn.Module):
    r"""The standard normal prior $p(z) = N(z; 0, I_K)$.

    >>> from pyro_vae.priors import StandardNormal
    >>> StandardNormal(2)().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        if num_latents < 1:
            raise InputError(f"a prior needs at least one latent dimension, got {num_latents}")
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


@part
class Normal(nn.Module):
    r"""A fixed normal prior with independent dimensions, $p(z) = \prod_k N(z_k; \text{loc}_k, \text{scale}_k^2)$.

    `loc` and `scale` are numbers or vectors of length K; `scale` is a standard deviation. Raises `InputError` unless
    every scale is positive and the two lengths agree.

    >>> from pyro_vae.priors import Normal
    >>> Normal(loc=[0.0, 0.0], scale=[1.0, 3.0])().event_shape
    torch.Size([2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Sequence[float] | Tensor | float, scale: Sequence[float] | Tensor | float) -> None:
        super().__init__()
        wide_loc, wide_scale = torch.as_tensor(loc, dtype=torch.float32), torch.as_tensor(scale, dtype=torch.float32)
        try:
            wide_loc, wide_scale = torch.broadcast_tensors(torch.atleast_1d(wide_loc), torch.atleast_1d(wide_scale))
        except RuntimeError as error:
            raise InputError(
                f"loc has {wide_loc.numel()} values and scale {wide_scale.numel()}; give both K values"
            ) from error
        if not (wide_scale > 0).all():
            raise InputError("scale is a standard deviation: every value must be positive")
        self.register_buffer("loc", wide_loc.clone())
        self.register_buffer("scale", wide_scale.clone())

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
