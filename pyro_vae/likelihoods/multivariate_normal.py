"""A likelihood of real columns whose residuals are correlated: a VAE on top of the best single normal."""

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions.scaled_normal import ScaledMultivariateNormal
from pyro_vae.errors import InputError
from pyro_vae.nets import init_output_bias, positive
from pyro_vae.part_bases import LikelihoodModule
from pyro_vae.typing import Latents

SCALE_FLOOR = 0.01
LARGEST_LOG_SCALE = 5.0
INITIAL_GAIN = 0.1  # of the network's last layer: a fit begins at the single normal


@part
class MultivariateNormal(LikelihoodModule):
    r"""Real columns with one correlation of their residuals, $p(x|z) = N(x; f(z), S(z) L L^T S(z))$.

    $S(z) = \mathrm{diag}(e^{g(z)})$. L is learned and the same for all z; the network gives the means and the scales. A
    fit begins at the normal with the training rows' mean and covariance (shrunk after Ledoit & Wolf 2004), so that
    latents have to explain only what one normal does not. Missing values are integrated out exactly.

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
        self.net, self.num_features, self.floor = net, num_features, floor
        self.raw_tril = nn.Parameter(torch.zeros(num_features, num_features))
        self.raw_diagonal = nn.Parameter(torch.full((num_features,), 0.54))  # softplus gives 1

    @classmethod
    def outputs_per_value(cls) -> int:
        """The number of outputs for each value: a mean, and the logarithm of a scale."""
        return 2

    def tril(self) -> Tensor:
        """L, (D, D)."""
        return torch.tril(self.raw_tril, -1) + torch.diag(positive(self.raw_diagonal, self.floor))

    def forward(self, z: Latents) -> ScaledMultivariateNormal:
        return self._distribution(z, None)

    def masked(self, z: Latents, mask: Tensor) -> ScaledMultivariateNormal:
        """The density of the observed values only: the others are integrated out.

        Args:
            z: latents (..., K).
            mask: booleans (N, D), true where a value was observed.

        Returns:
            A distribution with event shape (D,).
        """
        return self._distribution(z, mask.bool())

    def _distribution(self, z: Latents, mask: Tensor | None) -> ScaledMultivariateNormal:
        out: Tensor = self.net(z)
        if out.shape[-1] != 2 * self.num_features:
            raise InputError(f"expected a network with {2 * self.num_features} outputs, got {out.shape[-1]}")
        loc, log_scale = out.chunk(2, -1)
        scale = log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).exp()
        return ScaledMultivariateNormal(loc, scale, self.tril(), mask)

    def init_from_data(self, mean: Tensor) -> None:
        """Means begin at those of the data, scales at 1.

        Args:
            mean: the mean (D,) of the training rows.
        """
        init_output_bias(self.net, torch.cat([mean, torch.zeros_like(mean)]))

    @torch.no_grad()
    def init_from_rows(self, rows: Tensor) -> None:
        """L begins at the factor of the rows' covariance, and the network at a constant.

        Args:
            rows: some training rows (n, D).
        """
        from sklearn.covariance import LedoitWolf

        values = rows.detach().cpu().double().numpy()
        covariance = torch.from_numpy(LedoitWolf().fit(values).covariance_)
        factor = torch.linalg.cholesky(covariance).to(self.raw_tril)
        self.raw_tril.copy_(factor)
        self.raw_diagonal.copy_((factor.diagonal() - self.floor).clamp(min=1e-4).expm1().log())
        layers = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
        if layers:
            layers[-1].weight.mul_(INITIAL_GAIN)
