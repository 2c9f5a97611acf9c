"""Normalizing-flow guides: a normal transformed by coupling or autoregressive layers."""

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError
from pyro_vae.flows import Autoregressive, Couplings
from pyro_vae.guides.normal import SCALE_FLOOR, check_num_outputs
from pyro_vae.nets import positive
from pyro_vae.part_bases import GuideModule
from pyro_vae.typing import BatchedRows, Distribution


@part
class FlowGuide(GuideModule):
    r"""A normalizing flow as guide, $z = \mu(x) + \sigma(x) \odot f(u; c(x))$ with $u \sim N(0, I)$.

    Coupling layers are initially the identity, so that the guide is initially mean-field.

    Args:
        net: a network from (N, D) to (N, 2K + C): means, raw scales, and a context c that every layer of f reads.
        num_latents: the number K of latent dimensions.
        layers: the number of layers of f.
        hidden: the number of units of the one hidden layer of each.
        kind: `"coupling"`, spline couplings (`pyro_vae.flows.Couplings`, arXiv:1906.04032), which score any point in
            one pass, or `"autoregressive"` (Kingma et al., arXiv:1606.04934), which scores other points than its
            samples one dimension at a time and is an error where that would be needed.
        num_context: the number C of numbers in the context, by default 2K.

    >>> from pyro_vae.nets import mlp
    >>> guide = FlowGuide(mlp(784, 10, FlowGuide.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(
        self,
        net: nn.Module,
        num_latents: int,
        layers: int = 4,
        hidden: int = 64,
        kind: str = "coupling",
        num_context: int | None = None,
    ) -> None:
        super().__init__()
        flows: dict[str, type[Couplings] | type[Autoregressive]] = {
            "coupling": Couplings,
            "autoregressive": Autoregressive,
        }
        if kind not in flows:
            raise InputError(f"no flow of kind {kind!r}; try one of {', '.join(flows)}")
        self.net, self.num_latents, self.kind = net, num_latents, kind
        self.num_context = 2 * num_latents if num_context is None else num_context
        self.flow = flows[kind](num_latents, self.num_context, layers=layers, hidden=hidden)

    @staticmethod
    def outputs(num_latents: int, num_context: int | None = None) -> int:
        """The number of outputs that the network gives for each row.

        Args:
            num_latents: the number K of latent dimensions.
            num_context: the number C of numbers in the context, by default 2K.

        Returns:
            2K + C.
        """
        return 2 * num_latents + (2 * num_latents if num_context is None else num_context)

    @property
    def scores_only_own_samples(self) -> bool:
        """Whether the guide scores only its own samples in one pass."""
        return self.kind == "autoregressive"

    def forward(self, x: BatchedRows) -> Distribution:
        K = self.num_latents
        expected = self.outputs(K, self.num_context)
        out = check_num_outputs(self.net(x), expected, f"FlowGuide.outputs({K}, num_context={self.num_context})")
        loc, raw, context = out.split([K, K, self.num_context], -1)
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = dist.transforms.AffineTransform(loc, positive(raw, SCALE_FLOOR), event_dim=1, cache_size=1)
        q: Distribution = dist.TransformedDistribution(base, [*self.flow(context), affine])
        return q
