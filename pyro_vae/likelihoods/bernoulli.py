"""Likelihoods of values between 0 and 1: bits, and grey levels with a density."""

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import BernoulliVector, stable_densities
from pyro_vae.nets import init_output_bias
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Distribution, Latents


@part
class Bernoulli(LikelihoodModule):
    r"""Bernoulli pixels, $p(x|z) = \prod_d \mathrm{Bernoulli}(x_d; \mathrm{logits} = f_d(z))$ with a network f.

    The values of x must be 0 or 1.

    Args:
        net: a network from (..., K) to (..., D).
        relaxed: whether grey levels between 0 and 1 are accepted; all results computed from it are then marked as not
            being densities (arXiv:1907.06845).

    >>> from pyro_vae.nets import mlp
    >>> Bernoulli(mlp(2, 10, 784))(torch.zeros(3, 2)).event_shape
    torch.Size([784])
    """

    def __init__(self, net: nn.Module, relaxed: bool = False) -> None:
        super().__init__()
        self.net, self.relaxed = net, relaxed

    def forward(self, z: Latents) -> BernoulliVector:
        return BernoulliVector(self.net(z), self.relaxed)

    def init_from_data(self, mean: Tensor) -> None:
        init_output_bias(self.net, torch.logit(mean.clamp(1e-3, 1 - 1e-3)))


@part
class ContinuousBernoulli(LikelihoodModule):
    r"""Grey levels in [0, 1] with a true density, $p(x|z) \propto \prod_d \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}$.

    $\mathrm{logit}\, \lambda_d = f_d(z)$, and the constant that makes each factor integrate to one (Loaiza-Ganem &
    Cunningham, arXiv:1907.06845). `net` maps (..., K) to (..., D).

    >>> from pyro_vae.nets import mlp
    >>> ContinuousBernoulli(mlp(2, 10, 784))(torch.zeros(3, 2)).log_prob(torch.rand(3, 784)).shape
    torch.Size([3])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Latents) -> Distribution:
        p: Distribution = stable_densities.ContinuousBernoulli(logits=self.net(z)).to_event(1)
        return p

    def init_from_data(self, mean: Tensor) -> None:
        init_output_bias(self.net, torch.logit(mean.clamp(1e-2, 1 - 1e-2)))
