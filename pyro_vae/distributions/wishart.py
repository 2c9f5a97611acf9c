"""The Wishart distribution of a precision matrix, by its Cholesky factor."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints, register_kl


class WishartCholesky(TorchDistribution):
    r"""The Cholesky factor L of $\Lambda = L L^\top \sim \mathrm{Wishart}(\nu, T T^\top)$, a density over L.

    E[Λ] = ν T Tᵀ. Drawn as T A, with
    $A_{dd}^2 \sim \chi^2_{\nu - d + 1}$ and standard normals below the diagonal (Bartlett 1933; Odell & Feiveson 1966).
    `torch.distributions.Wishart` (2.13) redraws every sample that is positive definite, with a warning, hence this.

    Args:
        df: ν > D − 1, (...).
        scale_tril: T, lower triangular, (..., D, D).
        validate_args: whether arguments and values are checked, as in torch.

    >>> tril = WishartCholesky(torch.tensor(5.0), 2 * torch.eye(3)).sample((1000,))
    >>> bool(((tril @ tril.mT).mean(0) - 20 * torch.eye(3)).abs().max() < 3)
    True
    """

    support = constraints.lower_cholesky
    has_rsample = True

    def __init__(self, df: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        batch_shape, event_shape = broadcast_shape(df.shape, scale_tril.shape[:-2]), scale_tril.shape[-2:]
        self.df, self.scale_tril = df.expand(batch_shape), scale_tril.expand(batch_shape + event_shape)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        above = constraints.greater_than(self.scale_tril.shape[-1] - 1)
        return {"df": above, "scale_tril": constraints.lower_cholesky}

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "WishartCholesky":
        scale_tril = self.scale_tril.expand(torch.Size(batch_shape) + self.event_shape)
        return WishartCholesky(self.df.expand(torch.Size(batch_shape)), scale_tril, validate_args=False)

    @property
    def _indices(self) -> Tensor:
        return torch.arange(self.event_shape[-1], dtype=self.df.dtype, device=self.df.device)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        diagonal: Tensor = dist.Chi2(self.df.unsqueeze(-1) - self._indices).rsample(shape).sqrt()
        below = torch.randn(self._extended_shape(shape), dtype=diagonal.dtype, device=diagonal.device).tril(-1)
        return self.scale_tril @ (below + diagonal.diag_embed())

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        size, nu = self.event_shape[-1], self.df
        value_terms = ((nu.unsqueeze(-1) - 1 - self._indices) * value.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
        whitened: Tensor = torch.linalg.solve_triangular(self.scale_tril, value, upper=False)
        two = torch.log(nu.new_tensor(2.0)) * size * (1 - nu / 2)
        scale = nu * _half_log_det(self.scale_tril)
        return two + value_terms - whitened.square().sum((-2, -1)) / 2 - scale - torch.mvlgamma(nu / 2, size)

    @property
    def mean_log_det(self) -> Tensor:
        """E[log |Λ|], (...)."""
        size = self.event_shape[-1]
        digammas = torch.digamma((self.df.unsqueeze(-1) - self._indices) / 2).sum(-1)
        return digammas + size * torch.log(self.df.new_tensor(2.0)) + 2 * _half_log_det(self.scale_tril)


def _half_log_det(tril: Tensor) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _kl_wishart(q: WishartCholesky, p: WishartCholesky) -> Tensor:
    """The KL between the Wisharts, which does not change from Λ to its Cholesky factor."""
    size = q.event_shape[-1]
    trace: Tensor = torch.linalg.solve_triangular(p.scale_tril, q.scale_tril, upper=False).square().sum((-2, -1))
    log_det_terms = (q.df - p.df) / 2 * q.mean_log_det + q.df / 2 * (trace - size)
    scale_terms = p.df * _half_log_det(p.scale_tril) - q.df * _half_log_det(q.scale_tril)
    power_terms = torch.log(q.df.new_tensor(2.0)) * size * (p.df - q.df) / 2
    return log_det_terms + scale_terms + power_terms + torch.mvlgamma(p.df / 2, size) - torch.mvlgamma(q.df / 2, size)


register_kl(WishartCholesky, WishartCholesky)(_kl_wishart)
