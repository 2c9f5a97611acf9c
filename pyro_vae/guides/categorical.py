"""A guide over the component labels of a mixture."""

import pyro.distributions as dist
from torch import nn

from pyro_vae.constructor_args import part
from pyro_vae.part_bases import GuideModule
from pyro_vae.typing import Distribution, Rows


@part
class CategoricalGuide(GuideModule):
    r"""A guide over labels 0 … C − 1, $q(c|x) = \mathrm{softmax}(\mathrm{net}(x))_c$: a mixture's posterior, amortized.

    For the guide of `GaussianMixture` and other mixtures, whose label `fit` then sums out.

    Args:
        net: a network from (N, D) to (N, C).

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
