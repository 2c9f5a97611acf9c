"""A likelihood of categories."""

import pyro.distributions as dist
from torch import nn

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Distribution, Latents


@part
class Categorical(LikelihoodModule):
    r"""D values, each one of C categories 0 … C − 1, $p(x|z) = \prod_d \mathrm{softmax}(f_d(z))_{x_d}$.

    Categories have no mean, so `reconstruct` gives the most probable one.

    Args:
        net: a network from (..., K) to (..., D·C), the C logits of each value next to each other.
        num_categories: the number C of categories.

    >>> import torch
    >>> from pyro_vae.nets import mlp
    >>> Categorical(mlp(2, 10, 3 * 4), num_categories=4)(torch.zeros(5, 2)).event_shape
    torch.Size([3])
    """

    def __init__(self, net: nn.Module, num_categories: int) -> None:
        super().__init__()
        if num_categories < 2:
            raise InputError(f"a categorical value needs two categories or more, got {num_categories}")
        self.net, self.num_categories = net, num_categories

    @classmethod
    def outputs_per_value(cls, num_categories: int = 2) -> int:
        """The number of outputs that the network gives for each value: one for each category."""
        return num_categories

    def forward(self, z: Latents) -> Distribution:
        out = self.net(z)
        if out.shape[-1] % self.num_categories:
            raise InputError(
                f"expected D·{self.num_categories} outputs, {self.num_categories} for each value; got {out.shape[-1]}"
            )
        logits = out.unflatten(-1, (-1, self.num_categories))
        p: Distribution = dist.Categorical(logits=logits - logits.detach().amax(-1, keepdim=True)).to_event(1)
        return p
