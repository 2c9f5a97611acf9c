"""A guide over the component labels of a mixture."""

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import nn

from pyro_vae.constructor_args import part
from pyro_vae.typing import Rows


@part
class CategoricalGuide(nn.Module):
    r"""A guide over labels 0 … C − 1, $q(c|x) = \mathrm{softmax}(\mathrm{net}(x))_c$: a mixture's posterior, amortized.

    `net` maps (N, D) to (N, C). For the guide of `GaussianMixture` and other mixtures, whose label `fit` then sums out.

    >>> import torch
    >>> from pyro_vae.nets import mlp
    >>> CategoricalGuide(mlp(3, 10, 7))(torch.zeros(4, 3)).probs.shape
    torch.Size([4, 7])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Rows) -> Distribution:
        return dist.Categorical(logits=self.net(x))
