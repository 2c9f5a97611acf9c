"""Mixtures with pathwise gradients, and mixtures of components that do not broadcast."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints


class NormalMixture(TorchDistribution):
    r"""A mixture of C normals with pathwise gradients, $\sum_c \pi_c \prod_k N(z_k; \mu_{ck}, \sigma_{ck}^2)$.

    A sample's gradient is implicit: its conditional distribution function is held constant, one dimension after
    another, $dz_k = -dF_k(z_k | z_{<k}) / f_k(z_k | z_{<k})$ (Graves, arXiv:1607.05690; Figurnov et al.,
    arXiv:1805.08498), which reaches weights, means and scales.

    Args:
        loc: means μ, (..., C, K).
        scale: standard deviations σ, (..., C, K).
        logits: of the weights π, (..., C).
        validate_args: whether arguments and values are checked, as in torch.

    >>> z = NormalMixture(torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(3))
    >>> z.log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    arg_constraints = {  # noqa: RUF012 - torch.distributions looks for this attribute
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "logits": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        rows = torch.Size(broadcast_shape(loc.shape[:-2], scale.shape[:-2], logits.shape[:-1]))
        scale = scale.expand(scale.shape[:-2] + loc.shape[-2:])
        self._given = loc, scale, logits, logits.log_softmax(-1)  # without the batch axes of `expand`
        self._expand_parameters(rows)
        super().__init__(rows, loc.shape[-1:], validate_args=validate_args)

    def _expand_parameters(self, rows: torch.Size) -> None:
        loc, scale, logits, log_weights = self._given
        self.loc, self.scale = (value.expand(rows + loc.shape[-2:]) for value in (loc, scale))
        self.logits, self.log_weights = (value.expand(rows + value.shape[-1:]) for value in (logits, log_weights))

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        second = (self.log_weights.exp().unsqueeze(-1) * (self.loc.square() + self.scale.square())).sum(-2)
        return second - self.mean.square()

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "NormalMixture":
        rows = self.loc.expand(*batch_shape, *self.loc.shape[-2:]).shape[:-2]  # −1 leaves an axis as it is
        new = NormalMixture.__new__(NormalMixture)
        new._given = self._given
        new._expand_parameters(rows)
        TorchDistribution.__init__(new, rows, self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, _, log_weights = self._given
        log_norm = log_weights - scale.log().sum(-1) - loc.shape[-1] / 2 * math.log(2 * math.pi)
        if loc.dim() == scale.dim() == 2 and log_norm.dim() == 1:  # the points' axis last: in a third of the time
            points = value.reshape(-1, value.shape[-1]).t().contiguous()
            standard = (points.unsqueeze(1) - loc.t().unsqueeze(-1)) / scale.t().unsqueeze(-1)
            log_prob = torch.logsumexp(log_norm.unsqueeze(-1) - 0.5 * standard.square().sum(0), 0)
            log_prob = log_prob.view(value.shape[:-1])
        else:
            standard = (value.unsqueeze(-2) - loc) / scale
            log_prob = torch.logsumexp(log_norm - 0.5 * standard.square().sum(-1), -1)
        return log_prob.expand(broadcast_shape(self.batch_shape, value.shape[:-1]))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        component = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))[..., None, None]
        component = component.expand(*shape[:-1], 1, shape[-1])
        loc, scale = (
            value.expand(*shape[:-1], *value.shape[-2:]).gather(-2, component).squeeze(-2)
            for value in (self.loc, self.scale)
        )
        return loc + scale * torch.randn_like(loc)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        sample = self.sample(sample_shape)
        if not any(value.requires_grad for value in (self.loc, self.scale, self.logits)):
            return sample
        dimensions, log_weights = [], self.log_weights  # of the components, given the dimensions before k
        for k in range(sample.shape[-1]):
            loc, scale, z = self.loc[..., k], self.scale[..., k], sample[..., k, None]
            weights = log_weights.softmax(-1)
            cdf = (weights * torch.special.ndtr((z - loc) / scale)).sum(-1)
            density = (weights * torch.exp(-0.5 * ((z - loc) / scale).square()) / scale).sum(-1) / math.sqrt(
                2 * math.pi
            )
            tiny = torch.finfo(z.dtype).tiny
            z_k = sample[..., k] - (cdf - cdf.detach()) / density.detach().clamp(min=tiny)
            dimensions.append(z_k)
            standard = (z_k.unsqueeze(-1) - loc) / scale
            log_weights = log_weights - 0.5 * standard.square() - scale.log()
        return torch.stack(dimensions, -1)


class Mixture(dist.MixtureSameFamily):
    """`MixtureSameFamily` for components whose `log_prob` does not broadcast over points."""

    def _pad(self, x: Tensor) -> Tensor:
        event = self._event_ndims
        padded = x.unsqueeze(-1 - event)
        components = self._component_distribution.batch_shape[-1]
        return padded.expand(*padded.shape[: -1 - event], components, *padded.shape[padded.dim() - event :])
