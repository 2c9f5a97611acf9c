"""The ELBO with free bits: its KL is not penalized below a threshold."""

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.differentiable_elbo import DifferentiableELBO
from pyro_vae.inference.objectives.importance_weighted import reparameterized_sites
from pyro_vae.inference.objectives.row_weights import row_weights_of
from pyro_vae.programs.traces import Site, sample_sites


class FreeBits_ELBO(DifferentiableELBO):
    r"""An ELBO in which the first λ nats of KL are free, $E[\log p(x|z)] - \sum_j \max(\lambda, \mathrm{KL}_j)$.

    $\mathrm{KL}_j$ is the batch's mean for each latent site or dimension (Kingma et al., arXiv:1606.04934). Latents
    with a KL below λ are not pushed further towards the prior. The KL is analytic where there is a closed form, else
    estimated from the draws. Raises `InputError` for latents without a reparameterized sampler or dimensions that
    depend on each other.

    Args:
        free_bits: λ, nats.
        each: what has a KL of its own: a `site`, or a `dimension` of a site, which needs prior and guide with
            independent dimensions.
        num_particles: draws of z for each row and step.
        **options: further keywords of `Trace_ELBO`.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> fitted = pv.fit(vae, torch.ones(20, 5), epochs=2, loss=FreeBits_ELBO(0.1, each="dimension"))
    """

    @check_call
    def __init__(self, free_bits: float, *, each: str = "site", num_particles: int = 1, **options: object) -> None:
        super().__init__(num_particles, **options)
        if not free_bits >= 0:
            raise InputError(f"free_bits must not be negative, got {free_bits}")
        if each not in ("site", "dimension"):
            raise InputError(f"each is 'site' or 'dimension', got {each!r}")
        self.free_bits, self.each = free_bits, each

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        likelihood: Tensor | float = 0.0
        kls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for model, guide in traces:
            latents, observed = reparameterized_sites(model, guide)
            likelihood = likelihood + sum(site["log_prob_sum"] for site in observed)
            for name, site in sample_sites(guide).items():
                kls.setdefault(name, []).append(self._kl(name, latents[name], site))
        loss = -torch.as_tensor(likelihood) / self.num_particles
        for particles in kls.values():
            mean = torch.stack([mean for mean, _ in particles]).mean(0)
            weight = torch.stack([weight for _, weight in particles]).sum() / self.num_particles
            loss = loss + weight * mean.clamp(min=self.free_bits).sum()
        return loss

    def _kl(self, name: str, prior: Site, guide: Site) -> tuple[Tensor, Tensor]:
        """The weighted mean over rows of a site's KL, by dimension or as one number, and the sum of their scales."""
        p: Distribution = prior["fn"]
        q: Distribution = guide["fn"]
        if self.each == "dimension":
            if (bases := independent_dimensions(p, q)) is None:
                raise InputError(
                    f"free bits for each dimension need a prior and a guide with independent dimensions; {name} has "
                    f"{type(p).__name__} and {type(q).__name__}: take each='site'"
                )
            p, q = bases
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(guide["value"]) - p.log_prob(guide["value"])
        rows = guide["unscaled_log_prob"]
        counted, weights = scale_and_mask(torch.ones_like(rows), mask=guide["mask"]), row_weights_of(guide)
        counted = counted if weights is None else counted * weights
        weight = scale_and_mask(torch.ones_like(rows), scale=guide["scale"], mask=guide["mask"]).sum()
        kl = kl * counted.reshape(counted.shape + (1,) * (kl.dim() - rows.dim()))
        return kl.sum(list(range(rows.dim()))) / counted.sum() if rows.dim() else kl, weight


def independent_dimensions(p: object, q: object) -> tuple[Distribution, Distribution] | None:
    """The distributions of each dimension of two distributions over z.

    Args:
        p: a distribution.
        q: another.

    Returns:
        Both with batch shape (…, K), so that each dimension has a KL; None where dimensions depend on each other.
    """
    for fn in (p, q):
        if not isinstance(fn, Independent) or len(fn.event_shape) != 1 or fn.base_dist.event_shape != ():
            return None
    assert isinstance(p, Independent)
    assert isinstance(q, Independent)
    return p.base_dist, q.base_dist


def factorizes(p: object, q: object) -> bool:
    """Whether two distributions over z both have independent dimensions.

    Args:
        p: a distribution.
        q: another.

    Returns:
        Whether each dimension has a KL.
    """
    return independent_dimensions(p, q) is not None
