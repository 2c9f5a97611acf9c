"""Priors p(z): modules whose forward, without input, returns a distribution with event shape (K,)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.distributions import Mixture, NormalMixture, stable_densities
from pyro_vae.errors import InputError
from pyro_vae.flows import Couplings
from pyro_vae.nets import positive
from pyro_vae.part_bases import PriorModule, is_per_row, scores_only_own_samples
from pyro_vae.typing import Distribution, Guide

SCALE_FLOOR = 1e-4
Values = Sequence[float] | Tensor | float


@part
class StandardNormal(PriorModule):
    r"""The standard normal prior $p(z) = N(z; 0, I_K)$.

    >>> from pyro_vae.priors import StandardNormal
    >>> StandardNormal(2)().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        _check_latents(num_latents)
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)
        self.register_buffer("scale", torch.ones(num_latents), persistent=False)

    def forward(self) -> Distribution:
        p: Distribution = dist.Normal(self.loc, self.scale).to_event(1)
        return p


class _LocScale(PriorModule):
    """Independent dimensions, each with a location and a scale, fixed or learned."""

    family: type[dist.Normal] | type[dist.Laplace]
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Values, scale: Values, learned: bool = False) -> None:
        super().__init__()
        locs, scales = (torch.as_tensor(value, dtype=torch.float32) for value in (loc, scale))
        try:
            locs, scales = torch.broadcast_tensors(torch.atleast_1d(locs), torch.atleast_1d(scales))
        except RuntimeError as error:
            raise InputError(f"loc has {locs.numel()} values and scale {scales.numel()}; give both K values") from error
        if not (scales > 0).all():
            raise InputError("every scale must be positive")
        self.learned = learned
        if learned:
            self.loc, self.log_scale = nn.Parameter(locs.clone()), nn.Parameter(scales.log())
        else:
            self.register_buffer("loc", locs.clone())
            self.register_buffer("scale", scales.clone())

    def forward(self) -> Distribution:
        scale = self.log_scale.exp() if self.learned else self.scale
        p: Distribution = self.family(self.loc, scale).to_event(1)
        return p


@part
class Normal(_LocScale):
    r"""A normal prior with independent dimensions, $p(z) = \prod_k N(z_k; \text{loc}_k, \text{scale}_k^2)$.

    Raises `InputError` unless every scale is positive and the two lengths agree.

    Args:
        loc: the mean, a number or K numbers.
        scale: the standard deviation, a number or K numbers.
        learned: whether `loc` and `scale` are initial values of parameters.

    >>> from pyro_vae.priors import Normal
    >>> Normal(loc=[0.0, 0.0], scale=[1.0, 3.0])().event_shape
    torch.Size([2])
    """

    family = stable_densities.Normal

    @classmethod
    def standard(cls, num_latents: int) -> "Normal":
        """A learned normal prior of K = `num_latents` dimensions, initially N(0, I)."""
        return cls([0.0] * num_latents, 1.0, learned=True)


@part
class Laplace(_LocScale):
    r"""A Laplace prior, $p(z) = \prod_k \frac{1}{2 b_k} e^{-|z_k - \text{loc}_k| / b_k}$ with b the `scale`.

    A sparse prior: most latents are close to `loc` and a few far from it. Errors as `Normal`.

    Args:
        loc: the location, a number or K numbers.
        scale: the Laplace scale b, the standard deviation divided by √2; a number or K numbers.
        learned: whether `loc` and `scale` are initial values of parameters.

    >>> Laplace([0.0, 0.0], 1.0)().log_prob(torch.zeros(2))
    tensor(-1.3863)
    """

    family = dist.Laplace

    @classmethod
    def standard(cls, num_latents: int) -> "Laplace":
        """A fixed Laplace prior of K = `num_latents` dimensions with mean zero and variance one."""
        return cls([0.0] * num_latents, 0.5**0.5)


@part
class MixtureOfNormals(PriorModule):
    r"""A learned mixture of C normals, $p(z) = \sum_c \pi_c \prod_k N(z_k; \mu_{ck}, \sigma_{ck}^2)$.

    Weights, means and scales are learned; initial means are draws from N(0, I), initial scales one. Raises `InputError`
    for fewer than one component.

    Args:
        num_latents: the number K of latent dimensions.
        num_components: the number C of components.

    >>> MixtureOfNormals(num_latents=2, num_components=5)().log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(self, num_latents: int, num_components: int = 10) -> None:
        super().__init__()
        _check_latents(num_latents)
        _check_components(num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, num_latents))
        self.raw_scale = nn.Parameter(torch.full((num_components, num_latents), 0.5413))  # softplus(0.5413) = 1

    def forward(self) -> Distribution:
        return NormalMixture(self.loc, positive(self.raw_scale, SCALE_FLOOR), self.logits)


@part
class VampPrior(PriorModule):
    r"""The variational mixture of posteriors, $p(z) = \frac1C \sum_c q_\phi(z | u_c)$.

    Tomczak & Welling, arXiv:1705.07120. The pseudo-inputs $u_c$ (C, D) are learned; a VAE's first fit initializes them
    with training rows. Raises `InputError` for a guide that scores other points than its samples slowly, or that needs
    more than x.

    Args:
        guide: the guide of the VAE, which registers its parameters; the prior does not.
        num_pseudo: the number C of pseudo-inputs.
        num_features: the number D of features.

    >>> import pyro_vae as pv
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 2 * 2))
    >>> prior = VampPrior(guide, num_pseudo=4, num_features=6)
    >>> vae = pv.VAE(prior, pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), guide)
    >>> prior().log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(self, guide: Guide, num_pseudo: int, num_features: int) -> None:
        super().__init__()
        _check_components(num_pseudo)
        if scores_only_own_samples(guide):
            raise InputError(
                "a VampPrior scores points that its guide did not sample, which an inverse autoregressive flow does "
                "one dimension at a time; use FlowGuide(…, kind='coupling')"
            )
        if is_per_row(guide):
            raise InputError(
                "a VampPrior applies the guide to pseudo-inputs, which a guide with parameters for each row cannot take"
            )
        self.shared_parts = [guide]  # in a list, so that only the VAE registers them
        self.pseudo = nn.Parameter(torch.rand(num_pseudo, num_features))

    def forward(self) -> Distribution:
        components = self.shared_parts[0](self.pseudo)
        return Mixture(dist.Categorical(logits=self.pseudo.new_zeros(len(self.pseudo))), components)

    def init_from_data(self, rows: Tensor) -> None:
        """Set the pseudo-inputs to these rows (n, D), repeated where n < C, unless they are frozen."""
        if not self.pseudo.requires_grad:
            return
        with torch.no_grad():
            self.pseudo.copy_(rows[torch.arange(len(self.pseudo)) % len(rows)])


@part
class FlowPrior(PriorModule):
    r"""A normalizing flow as prior, $z = f(u)$ with $u \sim N(0, I)$ and spline coupling layers f.

    Chen et al. (arXiv:1611.02731) use autoregressive layers, which sample one dimension at a time; couplings
    (`pyro_vae.flows.Couplings`) sample and score in one pass.

    Args:
        num_latents: the number K of latent dimensions.
        layers: the number of couplings.
        hidden: the number of units of the one hidden layer of each.

    >>> FlowPrior(num_latents=2)().log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    loc: Tensor

    def __init__(self, num_latents: int, layers: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.flow = Couplings(num_latents, layers=layers, hidden=hidden)
        self.register_buffer("loc", torch.zeros(num_latents), persistent=False)

    def forward(self) -> Distribution:
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        p: Distribution = dist.TransformedDistribution(base, self.flow())
        return p


def _check_latents(num_latents: int) -> None:
    if num_latents < 1:
        raise InputError(f"a prior needs at least one latent dimension, got {num_latents}")


def _check_components(num_components: int) -> None:
    if num_components < 1:
        raise InputError(f"a mixture needs at least one component, got {num_components}")
