"""Normal guides with diagonal, full and low-rank covariance."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import stable_densities
from pyro_vae.errors import InputError
from pyro_vae.nets import positive
from pyro_vae.part_bases import GuideModule
from pyro_vae.typing import BatchedRows, Distribution

SCALE_FLOOR = 1e-4


@part
class MeanFieldNormal(GuideModule):
    r"""A normal guide, dimensions independent: $q(z|x) = \prod_k N(z_k; \mu_k(x), \sigma_k(x)^2)$ (arXiv 1312.6114).

    $\sigma = \mathrm{softplus}(\text{raw}) + 10^{-4}$, so that every scale is positive. Raises `InputError` for an odd
    number of outputs.

    Args:
        net: a network from (N, D) to (N, 2K): the means, then the raw scales.

    >>> from pyro_vae.nets import mlp
    >>> MeanFieldNormal(mlp(784, 10, 2 * 5))(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @staticmethod
    def outputs(num_latents: int) -> int:
        """The number of outputs that the network gives for each row."""
        return 2 * num_latents

    def forward(self, x: BatchedRows) -> Distribution:
        out = self.net(x)
        if out.shape[-1] % 2:
            raise InputError(
                f"a mean-field guide needs 2K outputs, a mean and a raw scale for each latent; got {out.shape[-1]}"
            )
        loc, raw = out.chunk(2, -1)
        q: Distribution = dist.Normal(loc, positive(raw, SCALE_FLOOR)).to_event(1)
        return q


@part
class FullRankNormal(GuideModule):
    r"""A normal guide with full covariance, $q(z|x) = N(z; \mu(x), L(x) L(x)^T)$, L lower triangular.

    Raises `InputError` for another number of outputs than `FullRankNormal.outputs(K)`.

    Args:
        net: a network from (N, D) to (N, K + K(K + 1)/2): the means, then the raw diagonal of L, then its elements
            below the diagonal by rows.
        num_latents: the number K of latent dimensions.

    >>> from pyro_vae.nets import mlp
    >>> guide = FullRankNormal(mlp(784, 10, FullRankNormal.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    below_diagonal: Tensor

    def __init__(self, net: nn.Module, num_latents: int) -> None:
        super().__init__()
        self.net, self.num_latents = net, num_latents
        self.register_buffer("below_diagonal", torch.tril_indices(num_latents, num_latents, -1), persistent=False)

    @staticmethod
    def outputs(num_latents: int) -> int:
        """The number of outputs that the network gives for each row."""
        return 2 * num_latents + num_latents * (num_latents - 1) // 2

    def forward(self, x: BatchedRows) -> Distribution:
        K = self.num_latents
        out = check_num_outputs(self.net(x), self.outputs(K), f"FullRankNormal.outputs({K})")
        loc, raw, off_diagonal = out.split([K, K, out.shape[-1] - 2 * K], -1)
        tril = torch.diag_embed(positive(raw, SCALE_FLOOR))
        tril[..., self.below_diagonal[0], self.below_diagonal[1]] = off_diagonal
        return stable_densities.MultivariateNormal(loc, scale_tril=tril)


@part
class LowRankNormal(GuideModule):
    r"""A normal guide with a covariance of rank r plus a diagonal, $N(z; \mu, \mathrm{diag}(\sigma^2) + W W^T / r)$.

    Args:
        net: a network from (N, D) to (N, 2K + K·rank): the means, the raw scales σ, then W (K, rank) by rows.
        num_latents: the number K of latent dimensions.
        rank: the rank r of W, from 1 to K; by default 2, at most K.

    >>> from pyro_vae.nets import mlp
    >>> guide = LowRankNormal(mlp(784, 10, LowRankNormal.outputs(5, rank=2)), num_latents=5, rank=2)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, num_latents: int, rank: int | None = None) -> None:
        super().__init__()
        rank = min(2, num_latents) if rank is None else rank
        if not 1 <= rank <= num_latents:
            raise InputError(f"rank must be from 1 to the {num_latents} latents, got {rank}")
        self.net, self.num_latents, self.rank = net, num_latents, rank

    @staticmethod
    def outputs(num_latents: int, rank: int | None = None) -> int:
        """The number of outputs that the network gives for each row.

        Args:
            num_latents: the number K of latent dimensions.
            rank: the rank of the covariance's factor, by default 2, at most K.

        Returns:
            2K + K·rank.
        """
        return (2 + (min(2, num_latents) if rank is None else rank)) * num_latents

    def forward(self, x: BatchedRows) -> Distribution:
        K, rank = self.num_latents, self.rank
        out = check_num_outputs(self.net(x), self.outputs(K, rank), f"LowRankNormal.outputs({K}, rank={rank})")
        loc, raw, factor = out.split([K, K, K * rank], -1)
        factor = factor.unflatten(-1, (K, rank)) / rank**0.5
        return stable_densities.LowRankMultivariateNormal(loc, factor, positive(raw, SCALE_FLOOR).square())


def check_num_outputs(out: Tensor, expected: int, call: str) -> Tensor:
    """The outputs of a guide's network, or `InputError` where their number is another than expected.

    Args:
        out: the outputs (N, number).
        expected: the number that the guide needs.
        call: the expression that gives that number, for the message.

    Returns:
        `out` as it is.
    """
    if out.shape[-1] != expected:
        raise InputError(f"this guide's network must give {expected} outputs for each row, {call}; got {out.shape[-1]}")
    return out
