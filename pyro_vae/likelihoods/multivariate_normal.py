"""A likelihood of real columns whose residuals are correlated: a VAE on top of the best single normal."""

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions.scaled_normal import ScaledMultivariateNormal
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.residual_covariance import ResidualCovariance, bounded_scale, shrink_last_layer
from pyro_vae.nets import init_output_bias
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Latents

SCALE_FLOOR = 0.01


@part
class MultivariateNormal(LikelihoodModule):
    r"""Real columns with one correlation of their residuals, $p(x|z) = N(x; f(z), S(z) L L^T S(z))$.

    $S(z) = \mathrm{diag}(e^{g(z)})$. L is learned and the same for all z; the network gives the means and the scales. A
    fit begins at the training rows' mean and what a quarter of their principal components leave of their covariance
    (shrunk after Ledoit & Wolf 2004): those are left to the latents. Missing values are integrated out exactly.

    Args:
        net: a network from (..., K) to (..., 2D): means, and logarithms of scales.
        num_features: the number D of columns.
        floor: the least diagonal element of L, in the units of x.

    >>> from pyro_vae.nets import mlp
    >>> MultivariateNormal(mlp(2, 10, 2 * 3), num_features=3)(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).shape
    torch.Size([4])
    """

    def __init__(self, net: nn.Module, num_features: int, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        if not floor > 0:
            raise InputError(f"floor must be positive, got {floor}: without one the likelihood is unbounded")
        self.net, self.num_features = net, num_features
        self.residual = ResidualCovariance(num_features, floor)

    @classmethod
    def outputs_per_value(cls) -> int:
        """The number of outputs for each value: a mean, and the logarithm of a scale."""
        return 2

    def forward(self, z: Latents) -> ScaledMultivariateNormal:
        out: Tensor = self.net(z)
        if out.shape[-1] != 2 * self.num_features:
            raise InputError(f"expected a network with {2 * self.num_features} outputs, got {out.shape[-1]}")
        loc, log_scale = out.chunk(2, -1)
        return ScaledMultivariateNormal(loc, bounded_scale(log_scale), self.residual())

    def init_from_data(self, mean: Tensor) -> None:
        """Means begin at those of the data, scales at 1.

        Args:
            mean: the mean (D,) of the training rows.
        """
        init_output_bias(self.net, torch.cat([mean, torch.zeros_like(mean)]))

    def init_from_rows(self, rows: Tensor) -> None:
        """L begins at the factor of a part of the rows' covariance (`ResidualCovariance`), the network at a constant.

        Args:
            rows: some training rows (n, D).
        """
        self.residual.init_from_rows(rows)
        shrink_last_layer(self.net)
