"""A guide that is a mixture of normals."""

import torch
from torch import nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import NormalMixture
from pyro_vae.errors import InputError
from pyro_vae.guides.normal import SCALE_FLOOR, check_num_outputs
from pyro_vae.nets import positive
from pyro_vae.part_bases import GuideModule
from pyro_vae.typing import BatchedRows, Distribution


@part
class MixtureGuide(GuideModule):
    r"""A mixture of C normals as guide, $q(z|x) = \sum_c \pi_c(x) \prod_k N(z_k; \mu_{ck}(x), \sigma_{ck}(x)^2)$.

    Samples have pathwise gradients with respect to weights, means and scales (`pyro_vae.distributions.NormalMixture`).
    Learned offsets `apart` of the means, initially draws from N(0, I), make the components different, since equal ones
    would stay equal. Raises `InputError` for fewer than two components.

    Args:
        net: a network from (N, D) to (N, C(2K + 1)): the weights' logits, the means, the raw scales.
        num_latents: the number K of latent dimensions.
        num_components: the number C of components.

    >>> from pyro_vae.nets import mlp
    >>> guide = MixtureGuide(mlp(784, 10, MixtureGuide.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, num_latents: int, num_components: int = 4) -> None:
        super().__init__()
        if num_components < 2:
            raise InputError(f"a mixture guide needs two components or more, got {num_components}")
        self.net, self.num_latents, self.num_components = net, num_latents, num_components
        self.apart = nn.Parameter(torch.randn(num_components, num_latents))

    @staticmethod
    def outputs(num_latents: int, num_components: int = 4) -> int:
        """The number of outputs that the network gives for each row.

        Args:
            num_latents: the number K of latent dimensions.
            num_components: the number C of components.

        Returns:
            C(2K + 1).
        """
        return num_components * (2 * num_latents + 1)

    def forward(self, x: BatchedRows) -> Distribution:
        K, C = self.num_latents, self.num_components
        out = check_num_outputs(self.net(x), self.outputs(K, C), f"MixtureGuide.outputs({K}, num_components={C})")
        logits, loc, raw = out.split([C, C * K, C * K], -1)
        loc, raw = loc.unflatten(-1, (C, K)) + self.apart, raw.unflatten(-1, (C, K))
        return NormalMixture(loc, positive(raw, SCALE_FLOOR), logits)
