"""Multivariate normals of one correlation and scales of their own, their marginals and conditionals."""

import math
from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.stable_densities import Normal, in_float64


class ScaledMultivariateNormal(TorchDistribution):
    r"""Normals with covariance $S L L^T S$, $S = \mathrm{diag}(s)$: L is shared, s is not.

    The marginal of observed values is $N(x_o; \mu_o, S_o (L L^T)_{oo} S_o)$: for each pattern of gaps one factor of
    $(L L^T)_{oo}$, which does not depend on μ and s.

    Args:
        loc: μ, (..., D).
        scale: s, (..., D).
        tril: L, lower triangular (D, D), or one for each row (N, D, D).

    >>> wide = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> ScaledMultivariateNormal(torch.zeros(2), torch.ones(2), wide).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    arg_constraints = {"loc": constraints.real_vector}  # noqa: RUF012 - torch.distributions looks for this attribute
    support = constraints.real_vector
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, tril: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.tril = tril
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ScaledMultivariateNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return ScaledMultivariateNormal(self.loc.expand(shape), self.scale.expand(shape), self.tril)

    def log_prob(self, value: Tensor) -> Tensor:
        tril = in_float64(self.tril)
        count = value.new_tensor(self.event_shape[0], dtype=tril.dtype)
        return self._log_prob(self._standard(value), self.scale.log(), tril, count)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """The log density of the observed values alone.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            The log densities (...), 0 where nothing was observed.
        """
        tril = _observed_tril(in_float64(self.tril), observed)
        count = observed.sum(-1).to(tril.dtype)
        return self._log_prob(self._standard(value) * observed, self.scale.log() * observed, tril, count)

    def _standard(self, value: Tensor) -> Tensor:
        return (in_float64(value) - in_float64(self.loc)) / in_float64(self.scale)

    def _log_prob(self, standard: Tensor, log_scale: Tensor, tril: Tensor, count: Tensor) -> Tensor:
        if tril.dim() == 2:  # one factor for all rows
            flat = standard.reshape(-1, standard.shape[-1])
            white = torch.linalg.solve_triangular(tril.mT, flat, upper=True, left=False).reshape(standard.shape)
        else:
            white = torch.linalg.solve_triangular(tril, standard.unsqueeze(-1), upper=False).squeeze(-1)
        half_log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * (white.square().sum(-1) + count * math.log(2 * math.pi)) - half_log_det
        total: Tensor = log_prob.to(self.loc.dtype) - log_scale.sum(-1)
        return total

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            correlated: Tensor = (self.tril @ noise.unsqueeze(-1)).squeeze(-1)
            return self.loc + self.scale * correlated

    def condition(self, value: Tensor, observed: Tensor) -> "ScaledMultivariateNormal":
        """The distribution of all values given those that were observed.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            A distribution of all D values, the observed ones at their value with a scale of 0.
        """
        covariance = in_float64(self.tril @ self.tril.mT)
        tril = _observed_tril(in_float64(self.tril), observed)
        seen = observed.to(covariance.dtype)
        between = covariance * (1 - seen).unsqueeze(-1) * seen.unsqueeze(-2)  # (N, D, D): missing by observed
        residual = self._standard(value) * seen
        weights = torch.cholesky_solve(residual.unsqueeze(-1), tril.expand(*residual.shape[:-1], *tril.shape[-2:]))
        shift = (between @ weights).squeeze(-1).to(self.loc.dtype) * self.scale
        half = torch.linalg.solve_triangular(tril, between.mT, upper=False)
        rest = covariance * (1 - seen).unsqueeze(-1) * (1 - seen).unsqueeze(-2) - half.mT @ half
        factor = torch.linalg.cholesky(rest + torch.diag_embed(seen)).to(self.loc.dtype)
        loc = torch.where(observed, value, self.loc + shift)
        return ScaledMultivariateNormal(loc, self.scale * ~observed, factor)

    def given_others(self, value: Tensor, observed: Tensor) -> "ScaledMultivariateNormal":
        r"""The distribution of each observed value given all other observed ones.

        With the precision P of the observed block of $L L^T$ and $r = (x - \mu) / s$: normal, with mean $x_d - s_d (P
        r)_d / P_{dd}$ and standard deviation $s_d / \sqrt{P_{dd}}$.

        Args:
            value: the values (..., D).
            observed: booleans (N, D).

        Returns:
            Normals of D values that are independent.
        """
        precision = torch.cholesky_inverse(_observed_tril(in_float64(self.tril), observed))
        pull = (precision @ (self._standard(value) * observed).unsqueeze(-1)).squeeze(-1)
        diagonal = precision.diagonal(dim1=-2, dim2=-1)
        loc = value - self.scale * (pull / diagonal).to(value)
        one = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
        return ScaledMultivariateNormal(loc, self.scale * diagonal.rsqrt().to(value), one)

    def each_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each value alone, (..., D)."""
        return Normal(self.loc, self.variance.sqrt(), validate_args=False).log_prob(value)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        variance: Tensor = self.scale.square() * self.tril.square().sum(-1)
        return variance


def _observed_tril(tril: Tensor, observed: Tensor) -> Tensor:
    """The factor of the observed block of $L L^T$ for each row (N, D, D), with ones for the other values."""
    seen = observed.to(tril.dtype)
    block = (tril @ tril.mT) * seen.unsqueeze(-1) * seen.unsqueeze(-2)
    factor: Tensor = torch.linalg.cholesky(block + torch.diag_embed(1 - seen))
    return factor
