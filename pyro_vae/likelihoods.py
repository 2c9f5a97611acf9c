"""Likelihoods p(x|z): a part from z (..., K) to a distribution over x with event shape (D,)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import InputError
from pyro_vae.nets import start_output_at
from pyro_vae.recipes import part
from pyro_vae.shapes import Latents


class BernoulliVector(TorchDistribution):
    r"""D independent Bernoulli values as one event, $\log p(x) = \sum_d x_d l_d - \log(1 + e^{l_d})$ for logits $l$.

    Equal to `dist.Bernoulli(logits=l).to_event(1)`, in one pass over x instead of three. With `relaxed=True` it accepts
    values between 0 and 1 and is then no density: its values do not integrate to one over [0, 1]^D.

    >>> l, x = torch.randn(3, 5), torch.ones(3, 5)
    >>> torch.allclose(BernoulliVector(l).log_prob(x), dist.Bernoulli(logits=l).to_event(1).log_prob(x))
    True
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - torch.distributions looks for this attribute

    def __init__(self, logits: Tensor, relaxed: bool = False, validate_args: bool | None = None) -> None:
        self.logits, self.relaxed = logits, relaxed
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.unit_interval if self.relaxed else constraints.boolean, 1)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "BernoulliVector":
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return BernoulliVector(logits, self.relaxed, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits - F.softplus(self.logits)).sum(-1)


@part
class Bernoulli(nn.Module):
    r"""Bernoulli pixels, $p(x|z) = \prod_d \mathrm{Bernoulli}(x_d; \mathrm{logits} = f_d(z))$ with a network f.

    `net` maps (..., K) to (..., D). The values of x must be 0 or 1; `relaxed=True` accepts grey levels between them,
    and everything computed from it then says that it is not a density (arXiv:1907.06845 tells the story).

    >>> from pyro_vae.nets import mlp
    >>> Bernoulli(mlp(2, 10, 784))(torch.zeros(3, 2)).event_shape
    torch.Size([784])
    """

    def __init__(self, net: nn.Module, relaxed: bool = False) -> None:
        super().__init__()
        self.net, self.relaxed = net, relaxed

    def forward(self, z: Latents) -> BernoulliVector:
        return BernoulliVector(self.net(z), self.relaxed)

    def start_at(self, mean: Tensor) -> None:
        """Let the decoder's output bias give each pixel its mean over the training rows."""
        start_output_at(self.net, torch.logit(mean.clamp(1e-3, 1 - 1e-3)))


@part
class Normal(nn.Module):
    r"""Normal values around a network's output, $p(x|z) = \prod_d N(x_d; f_d(z), \text{scale}^2)$, the scale fixed.

    `net` maps (..., K) to (..., D). `scale` is the standard deviation that the analyst chooses: it decides what the
    reconstruction weighs against the KL term. Raises `InputError` unless it is positive.

    >>> from pyro_vae.nets import mlp
    >>> Normal(mlp(2, 10, 3), scale=0.5)(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).shape
    torch.Size([4])
    """

    def __init__(self, net: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"scale is a standard deviation and must be positive, got {scale}")
        self.net, self.scale = net, scale

    def forward(self, z: Latents) -> Distribution:
        loc = self.net(z)
        return dist.Normal(loc, loc.new_tensor(self.scale)).to_event(1)

    def start_at(self, mean: Tensor) -> None:
        """Let the decoder's output bias be the mean of the training rows."""
        start_output_at(self.net, mean)
