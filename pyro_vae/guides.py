"""Guides q(z|x): a part from x (N, D) to a distribution over z with event shape (K,).

Each class says by `outputs(K, …)` how many numbers its network has to give for each row.
"""

import inspect
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import NormalMixture, Observed
from pyro_vae.errors import InputError
from pyro_vae.flows import Autoregressive, Couplings
from pyro_vae.nets import positive
from pyro_vae.recipes import part
from pyro_vae.shapes import Rows

SCALE_FLOOR = 1e-4


@part
class MeanFieldNormal(nn.Module):
    r"""A normal guide, dimensions independent: $q(z|x) = \prod_k N(z_k; \mu_k(x), \sigma_k(x)^2)$ (arXiv 1312.6114).

    `net` maps (N, D) to (N, 2K): the means, then the raw scales, with $\sigma = \mathrm{softplus}(\text{raw}) +
    10^{-4}$, so that no scale reaches zero. Raises `InputError` when the network's last output is odd.

    >>> from pyro_vae.nets import mlp
    >>> MeanFieldNormal(mlp(784, 10, 2 * 5))(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @staticmethod
    def outputs(num_latents: int) -> int:
        return 2 * num_latents

    def forward(self, x: Rows) -> Distribution:
        out = self.net(x)
        if out.shape[-1] % 2:
            raise InputError(
                f"a mean-field guide needs 2K outputs, a mean and a raw scale for each latent; got {out.shape[-1]}"
            )
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, positive(raw, SCALE_FLOOR)).to_event(1)


@part
class FullRankNormal(nn.Module):
    r"""A normal guide with every correlation, $q(z|x) = N(z; \mu(x), L(x) L(x)^T)$, L lower triangular.

    `net` maps (N, D) to (N, K + K(K + 1)/2): the means, then the raw diagonal of L, then what lies below it by rows.
    `FullRankNormal.outputs(K)` says how many. Raises `InputError` for another number.

    >>> from pyro_vae.nets import mlp
    >>> guide = FullRankNormal(mlp(784, 10, FullRankNormal.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    below: Tensor

    def __init__(self, net: nn.Module, num_latents: int) -> None:
        super().__init__()
        self.net, self.num_latents = net, num_latents
        self.register_buffer("below", torch.tril_indices(num_latents, num_latents, -1), persistent=False)

    @staticmethod
    def outputs(num_latents: int) -> int:
        return 2 * num_latents + num_latents * (num_latents - 1) // 2

    def forward(self, x: Rows) -> Distribution:
        K = self.num_latents
        out = _checked(self.net(x), self.outputs(K), f"FullRankNormal.outputs({K})")
        loc, raw, below = out.split([K, K, out.shape[-1] - 2 * K], -1)
        tril = torch.diag_embed(positive(raw, SCALE_FLOOR))
        tril[..., self.below[0], self.below[1]] = below
        return dist.MultivariateNormal(loc, scale_tril=tril)


@part
class LowRankNormal(nn.Module):
    r"""A normal guide with r directions of correlation, $q(z|x) = N(z; \mu, \mathrm{diag}(\sigma^2) + W W^T / r)$.

    `net` maps (N, D) to (N, 2K + K·rank): the means, the raw scales σ, then W (K, rank) by rows.

    >>> from pyro_vae.nets import mlp
    >>> guide = LowRankNormal(mlp(784, 10, LowRankNormal.outputs(5, rank=2)), num_latents=5, rank=2)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, num_latents: int, rank: int = 2) -> None:
        super().__init__()
        if not 1 <= rank <= num_latents:
            raise InputError(f"rank must be from 1 to the {num_latents} latents, got {rank}")
        self.net, self.num_latents, self.rank = net, num_latents, rank

    @staticmethod
    def outputs(num_latents: int, rank: int = 2) -> int:
        return (2 + rank) * num_latents

    def forward(self, x: Rows) -> Distribution:
        K, rank = self.num_latents, self.rank
        out = _checked(self.net(x), self.outputs(K, rank), f"LowRankNormal.outputs({K}, rank={rank})")
        loc, raw, factor = out.split([K, K, K * rank], -1)
        factor = factor.unflatten(-1, (K, rank)) / rank**0.5
        return dist.LowRankMultivariateNormal(loc, factor, positive(raw, SCALE_FLOOR).square())


@part
class FlowGuide(nn.Module):
    r"""A flow as guide, $z = \mu(x) + \sigma(x) \odot f(u; c(x))$ with $u \sim N(0, I)$.

    `net` maps (N, D) to (N, 2K + C): means, raw scales, and a context c of C = `num_context` numbers (2K by default)
    that every layer of f reads. `kind` is `"coupling"`, spline couplings (`pyro_vae.flows.Couplings`,
    arXiv:1906.04032), which score any point in one pass, or `"autoregressive"` (Kingma et al., arXiv:1606.04934), which
    scores points it did not draw one dimension at a time and is refused where that would happen. Coupling layers start
    as the identity: the guide starts as mean-field.

    >>> from pyro_vae.nets import mlp
    >>> guide = FlowGuide(mlp(784, 10, FlowGuide.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(
        self,
        net: nn.Module,
        num_latents: int,
        layers: int = 4,
        hidden: int = 64,
        kind: str = "coupling",
        num_context: int | None = None,
    ) -> None:
        super().__init__()
        kinds: dict[str, Any] = {"coupling": Couplings, "autoregressive": Autoregressive}
        if kind not in kinds:
            raise InputError(f"no flow of kind {kind!r}; try one of {', '.join(kinds)}")
        self.net, self.num_latents, self.kind = net, num_latents, kind
        self.num_context = 2 * num_latents if num_context is None else num_context
        self.flow = kinds[kind](num_latents, self.num_context, layers=layers, hidden=hidden)

    @staticmethod
    def outputs(num_latents: int, num_context: int | None = None) -> int:
        return 2 * num_latents + (2 * num_latents if num_context is None else num_context)

    @property
    def scores_own_draws(self) -> bool:
        """Whether only the guide's own draws are scored in one pass."""
        return self.kind == "autoregressive"

    def forward(self, x: Rows) -> Distribution:
        K = self.num_latents
        expected = self.outputs(K, self.num_context)
        out = _checked(self.net(x), expected, f"FlowGuide.outputs({K}, num_context={self.num_context})")
        loc, raw, context = out.split([K, K, self.num_context], -1)
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        place = dist.transforms.AffineTransform(loc, positive(raw, SCALE_FLOOR), event_dim=1, cache_size=1)
        return dist.TransformedDistribution(base, [*self.flow(context), place])


@part
class MixtureGuide(nn.Module):
    r"""A mixture of C normals as guide, $q(z|x) = \sum_c \pi_c(x) \prod_k N(z_k; \mu_{ck}(x), \sigma_{ck}(x)^2)$.

    `net` maps (N, D) to (N, C(2K + 1)): the weights' logits, the means, the raw scales. Draws carry pathwise gradients
    to all three (`pyro_vae.distributions.NormalMixture`). The means start apart by draws from N(0, I), since equal
    components would stay equal. Raises `InputError` for fewer than two components.

    >>> from pyro_vae.nets import mlp
    >>> guide = MixtureGuide(mlp(784, 10, MixtureGuide.outputs(5)), num_latents=5)
    >>> guide(torch.zeros(3, 784)).event_shape
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, num_latents: int, num_components: int = 4) -> None:
        super().__init__()
        if num_components < 2:
            raise InputError(f"a mixture guide needs two components or more, got {num_components}")
        self.net, self.num_latents, self.num_components = net, num_latents, num_components
        self.apart = nn.Parameter(torch.randn(num_components, num_latents))

    @staticmethod
    def outputs(num_latents: int, num_components: int = 4) -> int:
        return num_components * (2 * num_latents + 1)

    def forward(self, x: Rows) -> Distribution:
        K, C = self.num_latents, self.num_components
        out = _checked(self.net(x), self.outputs(K, C), f"MixtureGuide.outputs({K}, num_components={C})")
        logits, loc, raw = out.split([C, C * K, C * K], -1)
        loc, raw = loc.unflatten(-1, (C, K)) + self.apart, raw.unflatten(-1, (C, K))
        return NormalMixture(loc, positive(raw, SCALE_FLOOR), logits)


@part
class PerRowNormal(nn.Module):
    r"""Variational inference without an encoder: $q(z_i) = \prod_k N(z_{ik}; \mu_{ik}, \sigma_{ik}^2)$ for each row i.

    The parameters (num_rows, K) are found by `rows`, the rows' places in the training set, so such a guide answers for
    training rows and no others: fit without validation rows, and score with `log_evidence(program, x, rows=…)`.

    >>> PerRowNormal(num_rows=100, num_latents=2)(torch.zeros(3, 784), rows=torch.arange(3)).event_shape
    torch.Size([2])
    """

    per_row = True

    def __init__(self, num_rows: int, num_latents: int) -> None:
        super().__init__()
        if num_rows < 1 or num_latents < 1:
            raise InputError(f"expected rows and latents, got {num_rows} and {num_latents}")
        self.loc = nn.Parameter(0.01 * torch.randn(num_rows, num_latents))
        self.raw_scale = nn.Parameter(torch.full((num_rows, num_latents), 0.5413))  # softplus of it is one

    def forward(self, x: Rows, rows: Tensor) -> Distribution:
        rows = _known(rows, len(self.loc))
        return dist.Normal(self.loc[rows], positive(self.raw_scale[rows], SCALE_FLOOR)).to_event(1)


@part
class Categories(nn.Module):
    r"""A guide over labels 0 … C − 1, $q(c|x) = \mathrm{softmax}(\mathrm{net}(x))_c$: a mixture's posterior, amortized.

    `net` maps (N, D) to (N, C). For `GaussianMixture(…, guide=…)` and its like, whose label `fit` then sums out.

    >>> from pyro_vae.nets import mlp
    >>> Categories(mlp(3, 10, 7))(torch.zeros(4, 3)).probs.shape
    torch.Size([4, 7])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Rows) -> Distribution:
        return dist.Categorical(logits=self.net(x))


@part
class PerRowCategories(nn.Module):
    r"""A free $q_i(c)$ over labels 0 … C − 1 for each row i: a table of logits (num_rows, C), uniform at first.

    Rows are found by `rows`, their places in the training set, as in `PerRowNormal`.

    >>> PerRowCategories(num_rows=100, num_components=7)(torch.zeros(4, 3), rows=torch.arange(4)).probs.shape
    torch.Size([4, 7])
    """

    per_row = True

    def __init__(self, num_rows: int, num_components: int) -> None:
        super().__init__()
        if num_rows < 1 or num_components < 1:
            raise InputError(f"expected rows and components, got {num_rows} and {num_components}")
        self.logits = nn.Parameter(torch.zeros(num_rows, num_components))

    def forward(self, x: Rows, rows: Tensor) -> Distribution:
        return dist.Categorical(logits=self.logits[_known(rows, len(self.logits))])


def _known(rows: Tensor, num_rows: int) -> Tensor:
    """Places in a table of so many rows; `InputError` for others."""
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise InputError(f"a guide for {num_rows} rows was asked for rows {int(rows.min())} to {int(rows.max())}")
    return rows


@part
class SeesMask(nn.Module):
    """A guide that is told which values were observed: it sees x and the mask side by side, (N, 2D).

    `guide` is any guide whose network takes 2D values. Without a mask everything counts as observed.

    >>> from pyro_vae.nets import mlp
    >>> guide = SeesMask(MeanFieldNormal(mlp(2 * 6, 8, 2 * 2)))
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


def _checked(out: Tensor, expected: int, call: str) -> Tensor:
    if out.shape[-1] != expected:
        raise InputError(f"this guide's network must give {expected} outputs for each row, {call}; got {out.shape[-1]}")
    return out
