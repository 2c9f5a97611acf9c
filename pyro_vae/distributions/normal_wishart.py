"""Dirichlet and normal–Wishart distributions over a Bayesian mixture's weights, means and precisions."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints, kl_divergence, transform_to

from pyro_vae.distributions.wishart import WishartCholesky
from pyro_vae.errors import InputError
from pyro_vae.typing import Rows

PerComponent = Float[Tensor, " C"]
Responsibilities = Float[Tensor, "N C"]
Number = Float[Tensor, ""]
TO_LOWER_CHOLESKY = transform_to(
    constraints.lower_cholesky
)  # from an unconstrained matrix to a lower triangle with a positive diagonal


@dataclass(frozen=True)
class Globals:
    r"""Dirichlet(w) $\prod_k$ Normal–Wishart(m_k, Λ_k) over the global parameters, the form of prior and posterior.

    w ~ Dirichlet(`concentration` (C,)), Λ_k ~ Wishart(`df` (C,), T_k T_kᵀ) with T = `scale_tril` (C, D, D), and
    m_k | Λ_k ~ N(`loc` (C, D), (κ_k Λ_k)⁻¹) with κ = `mean_precision` (C,).
    """

    concentration: PerComponent
    loc: Float[Tensor, "C D"]
    mean_precision: PerComponent
    df: PerComponent
    scale_tril: Float[Tensor, "C D D"]

    @property
    def wishart(self) -> WishartCholesky:
        return WishartCholesky(self.df, self.scale_tril)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """The Pyro sites: weights (..., C), means (..., C, D), and the precisions' Cholesky factors (..., C, D, D)."""
        weights = pyro.sample("weights", dist.Dirichlet(self.concentration))
        with pyro.plate("components", len(self.loc)):
            tril = pyro.sample("precision_tril", self.wishart)
            precision = self.mean_precision[:, None, None] * tril @ tril.mT
            means = pyro.sample("means", dist.MultivariateNormal(self.loc, precision_matrix=precision))
        return weights, means, tril

    def scores(self, x: Rows) -> Responsibilities:
        r"""E[log w_k + log N(x_i; m_k, Λ_k⁻¹)], (N, C): the logits of the best q(c_i) (Bishop 2006, eq. 10.46)."""
        size = x.shape[1]
        pairs = zip(self.loc, self.scale_tril, strict=True)  # one component at a time: memory is flat in C
        squares = torch.stack([((x - loc) @ tril).square().sum(-1) for loc, tril in pairs], -1)
        log_weights = self.concentration.digamma() - self.concentration.sum().digamma()
        log_det = self.wishart.mean_log_det - size * torch.log(2 * self.loc.new_tensor(torch.pi))
        return log_weights + (log_det - size / self.mean_precision - self.df * squares) / 2

    def kl(self, prior: "Globals") -> Number:
        """KL(self ‖ prior) over weights, means and precisions, nats."""
        shift = ((self.loc - prior.loc).unsqueeze(-2) @ self.scale_tril).squeeze(-2).square().sum(-1)
        ratio = prior.mean_precision / self.mean_precision
        kl_means = (self.loc.shape[1] * (ratio - 1 - ratio.log()) + prior.mean_precision * self.df * shift) / 2
        kl_weights = kl_divergence(dist.Dirichlet(self.concentration), dist.Dirichlet(prior.concentration))
        return kl_weights + (kl_means + kl_divergence(self.wishart, prior.wishart)).sum()

    def predictive(self) -> dist.MixtureSameFamily:
        r"""p(x_new) with the globals integrated out: a mixture of Student's t (Bishop 2006, eq. 10.81)."""
        df = self.df + 1 - self.loc.shape[1]
        spread = ((1 + self.mean_precision) / (self.mean_precision * df))[:, None, None]
        scale_tril = inverse_cholesky(self.scale_tril @ self.scale_tril.mT) * spread.sqrt()
        components = dist.MultivariateStudentT(df, self.loc, scale_tril)
        return dist.MixtureSameFamily(dist.Categorical(self.concentration), components)


def inverse_cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a matrix's inverse, (..., D, D)."""
    return dist.MultivariateNormal(matrix.new_zeros(matrix.shape[-1]), precision_matrix=matrix).scale_tril


def prior_from_settings(
    num_components: int,
    num_features: int,
    weight_concentration: float | None,
    mean_precision: float,
    mean: Tensor | Sequence[float] | None,
    df: float | None,
    covariance: Tensor | Sequence[Sequence[float]] | None,
) -> Globals:
    """The prior with the same settings for every component; `InputError` for settings outside their range.

    Args:
        num_components: the number C of components.
        num_features: the number D of features.
        weight_concentration: α₀, by default 1/C.
        mean_precision: κ₀.
        mean: m₀ (D,), by default zeros.
        df: ν₀, by default D.
        covariance: W₀⁻¹ (D, D), by default the identity.

    Returns:
        The prior over weights, means and precisions.
    """
    C, D, concentration = num_components, num_features, weight_concentration
    concentration, df = 1 / C if concentration is None else concentration, D if df is None else df
    loc = torch.as_tensor([0.0] * D if mean is None else mean, dtype=torch.float64)
    scatter = torch.as_tensor(torch.eye(D) if covariance is None else covariance, dtype=torch.float64)
    if not (concentration > 0 and mean_precision > 0 and df > D - 1):
        raise InputError(
            "expected a weight_concentration and a mean_precision above 0 and a df above "
            f"{D - 1}, got {concentration}, {mean_precision} and {df}"
        )
    if loc.shape != (D,) or scatter.shape != (D, D) or not constraints.positive_definite.check(scatter):
        raise InputError(
            f"expected a mean of shape ({D},) and a positive definite covariance of shape ({D}, {D}), got "
            f"{tuple(loc.shape)} and {tuple(scatter.shape)}"
        )
    one = torch.ones(C, dtype=torch.float64)
    tril = inverse_cholesky(scatter)
    return Globals(one * concentration, loc.repeat(C, 1), one * mean_precision, one * df, tril.repeat(C, 1, 1))
