"""Guides around a guide: one that sees the mask, one that refines what another proposes."""

import inspect
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import Observed
from pyro_vae.errors import InputError
from pyro_vae.typing import Rows


@part
class MaskAwareGuide(nn.Module):
    """A guide that is told which values were observed: it sees x and the mask side by side, (N, 2D).

    `guide` is any guide whose network takes 2D values. Without a mask everything counts as observed.

    >>> import torch
    >>> from pyro_vae.guides import MeanFieldNormal
    >>> from pyro_vae.nets import mlp
    >>> guide = MaskAwareGuide(MeanFieldNormal(mlp(2 * 6, 8, 2 * 2)))
    >>> guide(torch.zeros(3, 6), mask=torch.zeros(3, 6, dtype=torch.bool)).event_shape
    torch.Size([2])
    """

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    @property
    def scores_own_draws(self) -> bool:
        return getattr(self.guide, "scores_own_draws", False)

    def forward(self, x: Rows, mask: Tensor | None = None) -> Distribution:
        seen = torch.ones_like(x)
        if mask is not None:
            seen[..., : mask.shape[-1]] = mask.to(x.dtype)  # what lies beside x, a label, is always observed
        return self.guide(torch.cat([x, seen], -1))


@part
class SemiAmortizedNormal(nn.Module):
    r"""Semi-amortized inference: a mean-field `guide` proposes μ and σ, and gradient steps refine them row by row.

    Kim et al., arXiv:1802.02550. Each of the `steps` climbs a row's own ELBO, $E_{z \sim N(\mu, \sigma^2)}[\log p(x|z)
    + \log p(z) - \log q(z)]$, along its natural gradient, $\mu \mathrel{+}= \eta\,\sigma^2 \partial_\mu$ and
    $\log\sigma \mathrel{+}= \frac{\eta}{2}\,\partial_{\log\sigma}$ with η = `step_size`, moving no mean by more than
    its σ and no σ by more than a factor e. So η has no unit (with η = 1, one step finds the mean of a normal posterior
    whose scale σ is), and a sharp likelihood cannot throw the steps off, as it does plain gradient steps.

    The expectation is over `num_particles` pairs μ ± σε for each step, drawn when the guide is made, kept with it and
    shared by all rows: q is a function of x alone. From K pairs on, every average of a quadratic is exact. In training
    the gradient runs through the steps to the encoder and to the model's parameters, at the cost of differentiating the
    likelihood's network twice for each; with a frozen encoder, or without gradients, it does not. `prior` and
    `likelihood` are the VAE's own, borrowed: the VAE alone registers them. `guide` gives a `Normal` with independent
    dimensions, of x and, where its forward names it, the mask. Raises `InputError` for another guide, and unless
    `steps`, `step_size` and `num_particles` are positive.

    >>> import pyro_vae as pv
    >>> prior, likelihood = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6))
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 2 * 2))
    >>> vae = pv.VAE(prior, likelihood, SemiAmortizedNormal(guide, prior, likelihood))
    >>> vae.encode(torch.ones(3, 6)).shape
    torch.Size([3, 2])
    """

    noise: Tensor

    def __init__(
        self,
        guide: nn.Module,
        prior: Any,
        likelihood: Any,
        steps: int = 5,
        step_size: float = 0.3,
        num_particles: int = 1,
    ) -> None:
        super().__init__()
        for name, value in {"steps": steps, "step_size": step_size, "num_particles": num_particles}.items():
            if not value > 0:
                raise InputError(f"{name} must be positive, got {value}")
        self.guide, self.step_size = guide, step_size
        self.borrowed = [prior, likelihood]  # in a list: used here, registered by the VAE
        self.sees_mask = "mask" in inspect.signature(guide.forward).parameters
        with torch.no_grad():
            num_latents = prior().event_shape[-1]
        self.register_buffer("noise", _balanced(steps, num_particles, num_latents))

    def forward(self, x: Rows, mask: Tensor | None = None) -> Distribution:
        q = self.guide(x, mask=mask) if self.sees_mask else self.guide(x)
        normal = getattr(q, "base_dist", None)
        if not isinstance(normal, torch.distributions.Normal) or q.event_shape != self.noise.shape[-1:]:
            raise InputError(
                f"expected a guide that gives a Normal with {self.noise.shape[-1]} independent dimensions, got "
                f"{type(q).__name__} with event shape {tuple(q.event_shape)}; try MeanFieldNormal"
            )
        return dist.Normal(*self._refined(normal.loc, normal.scale.log(), x, mask)).to_event(1)

    def _refined(self, loc: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean and the scale after all steps, with their gradients where the proposal's have any."""
        learning = torch.is_grad_enabled() and (loc.requires_grad or log_scale.requires_grad)
        with torch.enable_grad():
            prior = self.borrowed[0]()
            for noise in self.noise:
                if not learning:
                    loc, log_scale = loc.detach().requires_grad_(), log_scale.detach().requires_grad_()
                scale = log_scale.exp()
                z = loc + scale * noise
                elbo = (self._of_x(z, mask).log_prob(x) + prior.log_prob(z)).mean(0).sum() + log_scale.sum()
                by_loc, by_log_scale = torch.autograd.grad(elbo, (loc, log_scale), create_graph=learning)
                loc = loc + scale * (self.step_size * scale * by_loc).clamp(-1, 1)
                log_scale = log_scale + (self.step_size / 2 * by_log_scale).clamp(-1, 1)
        return (loc, log_scale.exp()) if learning else (loc.detach(), log_scale.detach().exp())

    def _of_x(self, z: Tensor, mask: Tensor | None) -> Any:
        """p(x | z), or that of the observed values."""
        likelihood = self.borrowed[1]
        if mask is None:
            return likelihood(z)
        return likelihood.masked(z, mask) if hasattr(likelihood, "masked") else Observed(likelihood(z), mask.bool())


def _balanced(steps: int, pairs: int, num_latents: int, seed: int = 0) -> Tensor:
    """Pairs of standard normal noise for each step, (steps, 2 · pairs, 1, K), whose second moments are exactly one.

    With K pairs or more the mixed ones are exactly zero, too.
    """
    half = torch.randn(steps, pairs, num_latents, generator=torch.Generator().manual_seed(seed))
    half = torch.linalg.qr(half).Q if pairs >= num_latents else half / half.norm(dim=1, keepdim=True)
    return pairs**0.5 * torch.cat([half, -half], 1).unsqueeze(2)
