"""Guides q(z|x): a part from x (N, D) to a distribution over z with event shape (K,)."""

import pyro.distributions as dist
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.recipes import part
from pyro_vae.shapes import Rows

SCALE_FLOOR = 1e-4


@part
class MeanFieldNormal(nn.Module):
    r"""A normal guide, dimensions independent: $q(z|x) = \prod_k N(z_k; \mu_k(x), \sigma_k(x)^2)$ (arXiv 1312.6114).

    `net` maps (N, D) to (N, 2K): the means, then the raw scales, with $\sigma = \mathrm{softplus}(\text{raw}) +
    10^{-4}$, so that no scale reaches zero. Raises `InputError` when the network's last output is odd.

    >>> import torch
    >>> from pyro_vae.nets import mlp
    >>> MeanFieldNormal(mlp(784, 10, 2 * 5))(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Rows) -> Distribution:
        out = self.net(x)
        if out.shape[-1] % 2:
            raise InputError(
                f"a mean-field guide needs 2K outputs, a mean and a raw scale for each latent; got {out.shape[-1]}"
            )
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw) + SCALE_FLOOR).to_event(1)
