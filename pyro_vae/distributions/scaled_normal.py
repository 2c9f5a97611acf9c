"""Multivariate normals of one correlation and scales of their own, also of some of their values."""

import math
from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, constraints

from pyro_vae.distributions.stable_densities import in_float64


class ScaledMultivariateNormal(TorchDistribution):
    r"""Normals with covariance $S L L^T S$, $S = \mathrm{diag}(s)$: L is shared, s is not; of the observed values only.

    With a mask the density is that of the observed values, $N(x_o; \mu_o, S_o (L L^T)_{oo} S_o)$: for each pattern of
    gaps one factor of $(L L^T)_{oo}$, which does not depend on μ and s.

    Args:
        loc: μ, (..., D).
        scale: s, (..., D).
        tril: L, lower triangular (D, D).
        mask: booleans (N, D), true where a value was observed; None where all were.

    >>> wide = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> ScaledMultivariateNormal(torch.zeros(2), torch.ones(2), wide).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    arg_constraints = {"loc": constraints.real_vector}  # noqa: RUF012 - torch.distributions looks for this attribute
    support = constraints.real_vector
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, tril: Tensor, mask: Tensor | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.tril, self.observed = tril, mask
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ScaledMultivariateNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return ScaledMultivariateNormal(self.loc.expand(shape), self.scale.expand(shape), self.tril, self.observed)

    def log_prob(self, value: Tensor) -> Tensor:
        residual = (in_float64(value) - in_float64(self.loc)) / in_float64(self.scale)
        tril, log_scale, count = in_float64(self.tril), self.scale.log(), float(self.event_shape[0])
        if self.observed is not None:
            tril = _tril_of_observed(tril, self.observed)
            residual, log_scale = residual * self.observed, log_scale * self.observed
            count = self.observed.sum(-1).to(residual.dtype)  # type: ignore[assignment]  # one for each row
        white = torch.linalg.solve_triangular(tril, residual.unsqueeze(-1), upper=False).squeeze(-1)
        half_log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * (white.square().sum(-1) + count * math.log(2 * math.pi)) - half_log_det
        total: Tensor = log_prob.to(self.loc.dtype) - log_scale.sum(-1)
        return total

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """All values, those that a mask leaves out too."""
        with torch.no_grad():
            noise = torch.randn(
                self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
            )
            correlated: Tensor = noise @ self.tril.mT
            return self.loc + self.scale * correlated

    def condition(self, value: Tensor) -> "ScaledMultivariateNormal":
        """The distribution of the values that the mask leaves out, given those that were observed.

        Args:
            value: the values (..., D), of which only the observed ones count.

        Returns:
            A distribution of all D values, the observed ones at their value with a scale of 0.
        """
        if self.observed is None:
            return ScaledMultivariateNormal(value, torch.zeros_like(value), self.tril)
        covariance = in_float64(self.tril @ self.tril.mT)
        tril = _tril_of_observed(in_float64(self.tril), self.observed)
        seen = self.observed.to(covariance.dtype)
        between = covariance * (1 - seen).unsqueeze(-1) * seen.unsqueeze(-2)  # (N, D, D): missing by observed
        residual = in_float64(value - self.loc) / in_float64(self.scale) * seen
        weights = torch.cholesky_solve(residual.unsqueeze(-1), tril.expand(*residual.shape[:-1], *tril.shape[-2:]))
        shift = (between @ weights).squeeze(-1).to(self.loc.dtype) * self.scale
        half = torch.linalg.solve_triangular(tril, between.mT, upper=False)
        rest = covariance * (1 - seen).unsqueeze(-1) * (1 - seen).unsqueeze(-2) - half.mT @ half
        factor = torch.linalg.cholesky(rest + torch.diag_embed(seen)).to(self.loc.dtype)
        loc = torch.where(self.observed, value, self.loc + shift)
        return ScaledMultivariateNormal(loc, self.scale * ~self.observed, factor)

    def given_others(self, value: Tensor) -> "Independent[Normal]":
        r"""The distribution of each observed value given all other observed ones.

        With the precision P of the observed block of $L L^T$ and $r = (x - \mu) / s$: normal, with mean $x_d - s_d (P
        r)_d / P_{dd}$ and standard deviation $s_d / \sqrt{P_{dd}}$.

        Args:
            value: the values (..., D).

        Returns:
            Independent normals of D values.
        """
        seen = torch.ones_like(value, dtype=torch.bool) if self.observed is None else self.observed
        tril = in_float64(self.tril)
        precision = torch.cholesky_inverse(tril if self.observed is None else _tril_of_observed(tril, seen))
        residual = in_float64(value - self.loc) / in_float64(self.scale) * seen
        pull = (precision @ residual.unsqueeze(-1)).squeeze(-1)
        diagonal = precision.diagonal(dim1=-2, dim2=-1)
        loc = value - self.scale * (pull / diagonal).to(value)
        return Independent(Normal(loc, self.scale * diagonal.rsqrt().to(value), validate_args=False), 1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        variance: Tensor = self.scale.square() * self.tril.square().sum(-1)
        return variance


def _tril_of_observed(tril: Tensor, observed: Tensor) -> Tensor:
    """The factor of the observed block of $L L^T$ for each row (N, D, D), with ones for the other values."""
    seen = observed.to(tril.dtype)
    block = (tril @ tril.mT) * seen.unsqueeze(-1) * seen.unsqueeze(-2)
    factor: Tensor = torch.linalg.cholesky(block + torch.diag_embed(1 - seen))
    return factor
