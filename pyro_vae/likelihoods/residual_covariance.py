"""The covariance of what a likelihood's means leave unexplained, the same for all latents."""

import torch
from torch import Tensor, nn

from pyro_vae.nets import positive

LARGEST_LOG_SCALE = 5.0
MAX_FACTORS = 8  # as many as the latents of a table have by default
INITIAL_GAIN = 0.1  # of the network's last layer: its outputs begin near a constant


class ResidualCovariance(nn.Module):
    r"""A covariance $L L^T$ by its factor, lower triangular (D, D).

    Args:
        num_features: D.
        floor: the least diagonal element of L.
    """

    def __init__(self, num_features: int, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.raw_tril = nn.Parameter(torch.zeros(num_features, num_features))
        self.raw_diagonal = nn.Parameter(torch.full((num_features,), 0.54))  # softplus gives 1

    def forward(self) -> Tensor:
        """L, (D, D)."""
        return torch.tril(self.raw_tril, -1) + torch.diag(positive(self.raw_diagonal, self.floor))

    @torch.no_grad()
    def init_from_rows(self, rows: Tensor) -> None:
        """L begins at what a quarter of the correlations' principal components, at most eight, leave unexplained.

        Of the whole covariance, latents would have nothing to gain at first: a curved sheet's were all inactive.

        Args:
            rows: some training rows (n, D).
        """
        covariance = shrunk_covariance(rows.detach().cpu().double())
        scale = covariance.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        correlation = covariance / scale[:, None] / scale
        rest = without_factors(correlation, min(len(scale) // 4, MAX_FACTORS))
        factor = scale[:, None] * torch.linalg.cholesky(rest)
        self.raw_tril.copy_(factor)
        above_floor = (factor.diagonal() - self.floor).clamp(min=1e-4)
        self.raw_diagonal.copy_(above_floor + (-torch.expm1(-above_floor)).log())  # softplus gives it


def without_factors(covariance: Tensor, num_factors: int) -> Tensor:
    """A covariance whose largest eigenvalues are lowered to the next one.

    Args:
        covariance: the covariance (D, D).
        num_factors: how many of them, below D.

    Returns:
        The covariance (D, D).

    >>> without_factors(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 1).diagonal().tolist()
    [2.0, 2.0, 1.0]
    """
    values, vectors = torch.linalg.eigh(covariance)
    lowered = values.clamp(max=values[len(values) - 1 - num_factors])
    result: Tensor = vectors @ torch.diag(lowered) @ vectors.T
    return result


def shrunk_covariance(rows: Tensor) -> Tensor:
    r"""The covariance of rows, shrunk toward a multiple of the identity, $(1 - \rho) S + \rho \mu I$ with $\mu =
    \mathrm{tr} S / D$.

    ρ is the one of Ledoit & Wolf (2004), whose expected squared error is least as N and D grow; the numbers are those
    of `sklearn.covariance.LedoitWolf`, whose import takes longer than a short fit.

    Args:
        rows: the rows (N, D).

    Returns:
        The covariance (D, D).
    """
    centred = rows - rows.mean(0)
    num_rows, width = centred.shape
    covariance = centred.T @ centred / num_rows
    mean = covariance.diagonal().mean()
    identity = torch.eye(width, dtype=rows.dtype)
    distance = (covariance - mean * identity).square().sum()
    noise = (centred.square().sum(1).square().sum() / num_rows - covariance.square().sum()) / num_rows
    share = (noise / distance).clamp(0, 1) if distance > 0 else torch.zeros(())
    return (1 - share) * covariance + share * mean * identity


def bounded_scale(log_scale: Tensor) -> Tensor:
    """Scales from their logarithms, from e⁻⁵ to e⁵."""
    return log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).exp()


@torch.no_grad()
def shrink_last_layer(net: nn.Module) -> None:
    """Let a network begin near a constant, its last layer's weights a tenth of what they were.

    Args:
        net: the network.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if layers:
        layers[-1].weight.mul_(INITIAL_GAIN)
