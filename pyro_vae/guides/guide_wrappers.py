"""Guides that wrap a guide: one with the mask as an input, one that refines a proposal by gradient steps."""

import inspect
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError
from pyro_vae.part_bases import GuideModule, masked_likelihood, scores_only_own_samples
from pyro_vae.typing import BatchedRows, Distribution, Guide, Likelihood, Prior, Rows


@part
class MaskAwareGuide(GuideModule):
    """A guide of x and the mask of observed values, concatenated to (N, 2D).

    Without a mask all values count as observed.

    Args:
        guide: any guide whose network has 2D inputs.

    >>> import torch
    >>> from pyro_vae.guides import MeanFieldNormal
    >>> from pyro_vae.nets import mlp
    >>> guide = MaskAwareGuide(MeanFieldNormal(mlp(2 * 6, 8, 2 * 2)))
    >>> guide(torch.zeros(3, 6), mask=torch.zeros(3, 6, dtype=torch.bool)).event_shape
    torch.Size([2])
    """

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.guide = guide

    @property
    def scores_only_own_samples(self) -> bool:
        return scores_only_own_samples(self.guide)

    def forward(self, x: BatchedRows, mask: Tensor | None = None) -> Distribution:
        observed = torch.ones_like(x)
        if mask is not None:
            observed[..., : mask.shape[-1]] = mask.to(x.dtype)  # a label appended to x is always observed
        q: Distribution = self.guide(torch.cat([x, observed], -1))
        return q


@part
class SemiAmortizedNormal(GuideModule):
    r"""Semi-amortized inference: a mean-field `guide` proposes μ and σ, and gradient steps refine them row by row.

    Kim et al., arXiv:1802.02550. Each step increases the ELBO of each row, $E_{z \sim N(\mu,
    \sigma^2)}[\log p(x|z) + \log p(z) - \log q(z)]$, along its natural gradient,
    $\mu \mathrel{+}= \eta\,\sigma^2 \partial_\mu$ and
    $\log\sigma \mathrel{+}= \frac{\eta}{2}\,\partial_{\log\sigma}$ with η = `step_size`, changing no mean by more
    than its σ and no σ by more than a factor e. So η has no unit (with η = 1, one step finds the mean of a normal
    posterior with scale σ), and the steps do not diverge for a sharp likelihood, as plain gradient steps do.

    The expectation is over `num_particles` antithetic pairs μ ± σε for each step, drawn in the constructor, saved with
    the guide and shared by all rows: q depends on x only. With K pairs or more, averages of quadratics are exact. In
    training, gradients flow through the steps to the encoder and the model's parameters, and each step differentiates
    the likelihood's network twice; with a frozen encoder, or without gradients, they do not. Raises `InputError` for a
    guide that gives another distribution, and unless `steps`, `step_size` and `num_particles` are positive.

    Args:
        guide: a guide that returns a `Normal` with independent dimensions, given x and, where its forward has that
            argument, the mask.
        prior: the prior of the VAE, which registers its parameters; the guide does not.
        likelihood: the likelihood of the VAE, likewise.
        steps: the number of steps.
        step_size: η, without unit.
        num_particles: the number of pairs of draws for each step.

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
        guide: Callable[..., Distribution],
        prior: Prior,
        likelihood: Likelihood,
        steps: int = 5,
        step_size: float = 0.3,
        num_particles: int = 1,
    ) -> None:
        super().__init__()
        for name, value in {"steps": steps, "step_size": step_size, "num_particles": num_particles}.items():
            if not value > 0:
                raise InputError(f"{name} must be positive, got {value}")
        self.guide, self.step_size = guide, step_size
        self.shared_parts = (prior, likelihood)  # in a tuple, so that only the VAE registers them
        function = guide.forward if isinstance(guide, nn.Module) else guide
        self.accepts_mask = "mask" in inspect.signature(function).parameters
        with torch.no_grad():
            num_latents = prior().event_shape[-1]
        self.register_buffer("noise", _antithetic_noise(steps, num_particles, num_latents))

    def forward(self, x: Rows, mask: Tensor | None = None) -> Distribution:
        q = self.guide(x, mask=mask) if self.accepts_mask else self.guide(x)
        normal = q.base_dist if isinstance(q, torch.distributions.Independent) else None
        if not isinstance(normal, torch.distributions.Normal) or q.event_shape != self.noise.shape[-1:]:
            raise InputError(
                f"expected a guide that gives a Normal with {self.noise.shape[-1]} independent dimensions, got "
                f"{type(q).__name__} with event shape {tuple(q.event_shape)}; try MeanFieldNormal"
            )
        refined: Distribution = dist.Normal(*self._refine(normal.loc, normal.scale.log(), x, mask)).to_event(1)
        return refined

    def _refine(self, loc: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean and the scale after all steps, differentiable where the proposal's are."""
        differentiable = torch.is_grad_enabled() and (loc.requires_grad or log_scale.requires_grad)
        with torch.enable_grad():
            make_prior, likelihood = self.shared_parts
            prior = make_prior()
            for noise in self.noise:
                if not differentiable:
                    loc, log_scale = loc.detach().requires_grad_(), log_scale.detach().requires_grad_()
                scale = log_scale.exp()
                z = loc + scale * noise
                log_likelihood = masked_likelihood(likelihood, z, mask).log_prob(x)
                elbo = (log_likelihood + prior.log_prob(z)).mean(0).sum() + log_scale.sum()
                loc_grad, log_scale_grad = torch.autograd.grad(elbo, (loc, log_scale), create_graph=differentiable)
                loc = loc + scale * (self.step_size * scale * loc_grad).clamp(-1, 1)
                log_scale = log_scale + (self.step_size / 2 * log_scale_grad).clamp(-1, 1)
        return (loc, log_scale.exp()) if differentiable else (loc.detach(), log_scale.detach().exp())


def _antithetic_noise(steps: int, pairs: int, num_latents: int, seed: int = 0) -> Tensor:
    """Pairs ±ε of noise for each step, (steps, 2 · pairs, 1, K), whose second moments are exactly one.

    With K pairs or more, the products of two dimensions average exactly to zero.
    """
    half = torch.randn(steps, pairs, num_latents, generator=torch.Generator().manual_seed(seed))
    half = torch.linalg.qr(half).Q if pairs >= num_latents else half / half.norm(dim=1, keepdim=True)
    noise: Tensor = pairs**0.5 * torch.cat([half, -half], 1).unsqueeze(2)
    return noise
