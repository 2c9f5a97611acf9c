"""Likelihoods of counts."""

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import stable_densities
from pyro_vae.nets import init_output_bias
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Distribution, Latents

LARGEST_LOG_RATE = 30.0  # counts beyond 10¹³ are no counts; without a bound the first steps may overflow


@part
class Poisson(LikelihoodModule):
    r"""Counts, $p(x|z) = \prod_d \mathrm{Poisson}(x_d; \mathrm{rate} = e^{f_d(z)})$. `net` maps (..., K) to (..., D).

    >>> from pyro_vae.nets import mlp
    >>> Poisson(mlp(2, 10, 3))(torch.zeros(4, 2)).log_prob(torch.ones(4, 3)).shape
    torch.Size([4])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Latents) -> Distribution:
        counts: Distribution = stable_densities.LogRatePoisson(self.net(z).clamp(max=LARGEST_LOG_RATE))
        p: Distribution = counts.to_event(1)
        return p

    def init_from_data(self, mean: Tensor) -> None:
        init_output_bias(self.net, mean.clamp(min=1e-3).log())


@part
class NegativeBinomial(LikelihoodModule):
    r"""Overdispersed counts, with mean $e^{f_d(z)}$ and variance mean + mean²/r.

    The total count r is learned, one for each feature; large r is Poisson.

    Args:
        net: a network from (..., K) to (..., D).
        num_features: the number D of features.

    >>> from pyro_vae.nets import mlp
    >>> NegativeBinomial(mlp(2, 10, 3), num_features=3)(torch.zeros(4, 2)).log_prob(torch.ones(4, 3)).shape
    torch.Size([4])
    """

    def __init__(self, net: nn.Module, num_features: int) -> None:
        super().__init__()
        self.net, self.num_features = net, num_features
        self.log_total_count = nn.Parameter(torch.full((num_features,), 1.0))

    def forward(self, z: Latents) -> Distribution:
        total_count = self.log_total_count.clamp(-7.0, 9.0).exp()
        logits = self.net(z).clamp(max=LARGEST_LOG_RATE) - total_count.log()
        p: Distribution = stable_densities.NegativeBinomial(total_count, logits).to_event(1)
        return p

    def init_from_data(self, mean: Tensor) -> None:
        init_output_bias(self.net, mean.clamp(min=1e-3).log())
