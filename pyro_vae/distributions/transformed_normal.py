"""Values that are correlated normals after a transform of each: none, the logarithm, or the logit."""

import math
from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.real_columns import LogitNormal, LogNormal
from pyro_vae.distributions.scaled_normal import ScaledMultivariateNormal


class TransformedNormal(TorchDistribution):
    r"""D values that are normal with one correlation after a transform of each: none, the logarithm, or the logit.

    $\log p(x) = \log N(T(x); \mu, S L L^T S) + \sum_d \log |T_d'(x_d)|$; −∞ where a logarithm has no value.

    Args:
        normal: the distribution of T(x).
        is_log: booleans (D,), of the values whose logarithm is normal.
        is_logit: booleans (D,), of those whose logit is.
    """

    arg_constraints = {}  # noqa: RUF012 - torch.distributions looks for this attribute
    support = constraints.real_vector

    def __init__(self, normal: ScaledMultivariateNormal, is_log: Tensor, is_logit: Tensor) -> None:
        self.normal, self.is_log, self.is_logit = normal, is_log, is_logit
        super().__init__(normal.batch_shape, normal.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "TransformedNormal":
        return TransformedNormal(self.normal.expand(batch_shape), self.is_log, self.is_logit)

    def transform(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """T(x) and log |T'(x)|, (..., D); NaN and −∞ outside the support.

        Args:
            value: the values (..., D).

        Returns:
            The two.
        """
        transformed, log_slope, is_inside = self._transform(value)
        return torch.where(is_inside, transformed, math.nan), torch.where(is_inside, log_slope, -math.inf)

    def _transform(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, those of 0.5 outside the support, and whether each value is inside."""
        is_bounded = self.is_log | self.is_logit
        is_inside = torch.where(is_bounded, value > 0, True) & (~self.is_logit | (value < 1))
        safe = torch.where(is_inside, value, 0.5)
        log = torch.where(is_bounded, safe, 1.0).log()
        log_rest = torch.log1p(torch.where(self.is_logit, -safe, 0.0))
        return torch.where(is_bounded, log - log_rest, safe), -(log + log_rest), is_inside

    def log_prob(self, value: Tensor) -> Tensor:
        return self.observed_log_prob(value, None)

    def observed_log_prob(self, value: Tensor, observed: Tensor | None) -> Tensor:
        """The log density of the observed values alone.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D); None where all were.

        Returns:
            The log densities (...), 0 where nothing was observed.
        """
        transformed, log_slope, is_inside = self._transform(value)
        if observed is None:
            log_prob = self.normal.log_prob(transformed)
        else:
            is_inside, log_slope = is_inside | ~observed, torch.where(observed, log_slope, 0.0)
            log_prob = self.normal.observed_log_prob(torch.where(observed, transformed, 0.0), observed)
        return torch.where(is_inside.all(-1), log_prob + log_slope.sum(-1), -math.inf)

    def each_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each value alone, (..., D)."""
        transformed, log_slope, is_inside = self._transform(value)
        return torch.where(is_inside, self.normal.each_log_prob(transformed) + log_slope, -math.inf)

    def condition(self, value: Tensor, observed: Tensor) -> "TransformedNormal":
        """The distribution of all values given those that were observed.

        Args:
            value: the values (..., D), of which only the observed ones count.
            observed: booleans (N, D).

        Returns:
            A distribution of all D values, the observed ones at their value.
        """
        transformed = torch.where(observed, self.transform(value)[0], 0.0)
        return TransformedNormal(self.normal.condition(transformed, observed), self.is_log, self.is_logit)

    def given_others(self, value: Tensor, observed: Tensor) -> "TransformedNormal":
        """The distribution of each observed value given all other observed ones.

        Args:
            value: the values (..., D).
            observed: booleans (N, D).

        Returns:
            A distribution of D values that are independent.
        """
        transformed = torch.where(observed, self.transform(value)[0], 0.0)
        return TransformedNormal(self.normal.given_others(transformed, observed), self.is_log, self.is_logit)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        normal = self.normal.sample(sample_shape)
        positive = torch.where(self.is_log, normal, 0.0).exp()
        return torch.where(self.is_logit, torch.sigmoid(normal), torch.where(self.is_log, positive, normal))

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        loc, variance = self.normal.loc, self.normal.variance
        mean, spread = loc, variance
        for chosen, kind in ((self.is_log, LogNormal), (self.is_logit, LogitNormal)):
            each = kind(torch.where(chosen, loc, 0.0), torch.where(chosen, variance, 0.0).sqrt())
            mean, spread = torch.where(chosen, each.mean, mean), torch.where(chosen, each.variance, spread)
        return mean, spread
