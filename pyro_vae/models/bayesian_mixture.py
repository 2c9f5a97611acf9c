"""A mixture of Gaussians with priors on its weights, means and precisions: a program with global latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence, transform_to

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import seeded
from pyro_vae.distributions import WishartCholesky
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype, register_parameters
from pyro_vae.typing import PerRow, Rows

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
        scale_tril = _inverse_cholesky(self.scale_tril @ self.scale_tril.mT) * spread.sqrt()
        components = dist.MultivariateStudentT(df, self.loc, scale_tril)
        return dist.MixtureSameFamily(dist.Categorical(self.concentration), components)


def _inverse_cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a matrix's inverse, (..., D, D)."""
    return dist.MultivariateNormal(matrix.new_zeros(matrix.shape[-1]), precision_matrix=matrix).scale_tril


@part
class BayesianGaussianMixture(nn.Module):
    r"""A Gaussian mixture with priors on all parameters, and a mean-field guide (Attias 1999; Bishop 2006, §10.2).

    $w \sim \mathrm{Dirichlet}(\alpha_0)$, $\Lambda_k \sim \mathrm{Wishart}(\nu_0, W_0)$,
    $m_k \sim N(m_0, (\kappa_0\Lambda_k)^{-1})$; for each row $c_i \sim w$, $x_i \sim N(m_{c_i}, \Lambda_{c_i}^{-1})$.
    The guide is $q(w) \prod_k q(m_k, \Lambda_k) \prod_i q(c_i)$ of the same families, with a table of q(c_i) for the
    `num_rows` rows it is fitted to. α₀ = `weight_concentration` (1/C by default), κ₀ = `mean_precision`, m₀ = `mean`
    (D,) (zeros), ν₀ = `df` (D), W₀⁻¹ = `covariance` (D, D) (identity): standardize x, or say where it lies. Parameters
    are float64.

    Two methods maximize the same bound: `fit_cavi` in closed form, and, after `start`, Pyro's SVI with
    `TraceEnum_ELBO(max_plate_nesting=1)`, by `fit` or on its own. The weights, means and precisions couple the rows, so
    a row has no log p(x) of its own; `log_predictive` is a new row's density under q. Raises `InputError` for
    settings outside their range.

    >>> import pyro_vae as pv
    >>> x = torch.randn(100, 2, dtype=torch.float64) + torch.tensor([[-4.0], [4.0]]).repeat(50, 1)
    >>> mixture = BayesianGaussianMixture(num_components=2, num_features=2, num_rows=100)
    >>> mixture.start(x)
    >>> loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    >>> fitted = pv.fit(mixture, x, epochs=3, batch_size=100, loss=loss)
    >>> mixture.weights.sum().round().item(), mixture.covariances.shape, mixture.responsibilities(x[:5]).shape
    (1.0, torch.Size([2, 2, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        num_components: int,
        num_features: int,
        num_rows: int,
        *,
        weight_concentration: float | None = None,
        mean_precision: float = 1.0,
        mean: Tensor | Sequence[float] | None = None,
        df: float | None = None,
        covariance: Tensor | Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        C, D = num_components, num_features
        if min(C, D, num_rows) < 1:
            raise InputError(f"expected one component, feature and row or more, got {C}, {D} and {num_rows}")
        self.num_components, self.num_features, self.num_rows = C, D, num_rows
        prior = _prior(C, D, weight_concentration, mean_precision, mean, df, covariance)
        for name, value in vars(prior).items():
            self.register_buffer(f"prior_{name}", value)
        self.log_concentration, self.log_mean_precision, self.log_df = (nn.Parameter(torch.empty(C)) for _ in range(3))
        self.loc, self.raw_tril = nn.Parameter(torch.empty(C, D)), nn.Parameter(torch.empty(C, D, D))
        self.logits = nn.Parameter(torch.zeros(num_rows, C))
        self.double()
        self._set_posterior(prior)
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))

    @property
    def prior(self) -> Globals:
        return Globals(*(getattr(self, f"prior_{name}") for name in Globals.__dataclass_fields__))

    @property
    def posterior(self) -> Globals:
        """q(w) Π q(m_k, Λ_k), from the parameters in which it is unconstrained."""
        df = self.num_features - 1 + self.log_df.exp()
        concentration, mean_precision = self.log_concentration.exp(), self.log_mean_precision.exp()
        return Globals(concentration, self.loc, mean_precision, df, TO_LOWER_CHOLESKY(self.raw_tril))

    @torch.no_grad()
    def _set_posterior(self, value: Globals) -> None:
        self.log_concentration.copy_(value.concentration.log())
        self.log_mean_precision.copy_(value.mean_precision.log())
        self.log_df.copy_((value.df - (self.num_features - 1)).log())
        self.loc.copy_(value.loc)
        self.raw_tril.copy_(TO_LOWER_CHOLESKY.inv(value.scale_tril))

    def model(self, x: Rows) -> None:
        weights, means, tril = self.prior.draw()
        means, scale_tril = means.unsqueeze(-3), _inverse_cholesky(tril @ tril.mT).unsqueeze(-4)  # below the plate
        with pyro.plate("data", len(x)):
            c = pyro.sample("component", dist.Categorical(weights))
            k = c.long()  # `encode` substitutes a mode for c, a float
            row = dist.MultivariateNormal(Vindex(means)[..., k, :], scale_tril=Vindex(scale_tril)[..., k, :, :])
            pyro.sample("x", row, obs=x)

    def guide(self, x: Rows, rows: Tensor | None = None, num_rows: int | None = None) -> None:
        """`rows` are indices into the table of q(c); called with x alone, x is all rows, in order.

        Held-out rows, which come with `num_rows` and no `rows`, get the best q(c) under q(w, m, Λ).
        """
        register_parameters(self, "mixture")
        posterior = self.posterior
        posterior.draw()
        if rows is None and num_rows is None and len(x) == self.num_rows:
            rows = torch.arange(len(x), device=x.device)
        logits = posterior.scores(x) if rows is None else self.logits[rows]
        with pyro.plate("data", len(x)):
            pyro.sample("component", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    @torch.no_grad()
    def start(self, x: Rows, at: Tensor | int = 0) -> None:
        """Start from responsibilities `at` (N, C), or from k-means with this seed, then one update of all factors.

        Raises `InputError` where x is not the N rows of the table or `at` no distribution over components.
        """
        x = self._all_rows(x)
        given = self._k_means(x, at) if isinstance(at, int) else torch.as_tensor(at).to(x)
        if given.shape != self.logits.shape or (given < 0).any() or not torch.allclose(given.sum(1), given.new_ones(1)):
            raise InputError(
                f"expected responsibilities of shape {tuple(self.logits.shape)}, no less than 0 and summing to 1 in "
                f"each row, got {tuple(given.shape)}"
            )
        self.logits.copy_(given.clamp(min=torch.finfo(given.dtype).eps).log())
        self.update_global(x)
        self.update_local(x)
        self.started.fill_(True)

    def _k_means(self, x: Rows, seed: int) -> Responsibilities:
        from sklearn.cluster import KMeans

        if len(x) < self.num_components:
            raise InputError(f"{len(x)} rows are too few for {self.num_components} clusters; give responsibilities")
        found = KMeans(self.num_components, n_init=1, random_state=seed).fit_predict(x.cpu().numpy())
        return nn.functional.one_hot(torch.as_tensor(found, device=x.device).long(), self.num_components).to(x)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Called by `fit`: `InputError` before `start`, since equal components would stay equal."""
        if not self.started:
            raise InputError("all components are still equal: call start(x) with all rows before fit, or use fit_cavi")

    @torch.no_grad()
    def update_local(self, x: Rows) -> None:
        """The best q(c) given q(w, m, Λ): the E-step of variational Bayes."""
        self.logits.copy_(self.posterior.scores(self._all_rows(x)).log_softmax(-1))

    @torch.no_grad()
    def update_global(self, x: Rows) -> None:
        """The best q(w, m, Λ) given q(c), conjugate (Bishop 2006, eqs. 10.57 to 10.63)."""
        x, prior, r = self._all_rows(x), self.prior, self.logits.softmax(-1)
        counts = r.sum(0)
        mean_precision = prior.mean_precision + counts
        loc = (prior.mean_precision[:, None] * prior.loc + r.T @ x) / mean_precision[:, None]
        scatters = torch.stack([(x - m).T @ (share[:, None] * (x - m)) for m, share in zip(loc, r.T, strict=True)])
        shift = (loc - prior.loc).unsqueeze(-1)
        prior_terms = torch.cholesky_inverse(prior.scale_tril) + prior.mean_precision[:, None, None] * shift @ shift.mT
        scale_tril = _inverse_cholesky(prior_terms + scatters)
        self._set_posterior(Globals(prior.concentration + counts, loc, mean_precision, prior.df + counts, scale_tril))

    def bound(self, x: Any) -> Number:
        """The ELBO of all N rows with every constant, in closed form and differentiable, nats per row."""
        x, posterior, log_r = self._all_rows(torch.as_tensor(x)), self.posterior, self.logits.log_softmax(-1)
        local = (log_r.exp() * (posterior.scores(x) - log_r)).sum()
        return (local - posterior.kl(self.prior)) / self.num_rows

    def _all_rows(self, x: Rows) -> Rows:
        if x.shape != (self.num_rows, self.num_features):
            raise InputError(f"expected all {self.num_rows} rows of {self.num_features} features, got {tuple(x.shape)}")
        return self._convert(x)

    def _convert(self, x: Tensor) -> Tensor:
        return x.to(*device_and_dtype(self))

    @property
    def weights(self) -> PerComponent:
        """E[w], (C,)."""
        concentration = self.posterior.concentration.detach()
        return concentration / concentration.sum()

    @property
    def means(self) -> Float[Tensor, "C D"]:
        """E[m], (C, D)."""
        return self.loc.detach().clone()

    @property
    def covariances(self) -> Float[Tensor, "C D D"]:
        """E[Λ]⁻¹, (C, D, D)."""
        posterior = self.posterior
        return (torch.cholesky_inverse(posterior.scale_tril) / posterior.df[:, None, None]).detach()

    @torch.no_grad()
    def responsibilities(self, x: Any) -> Responsibilities:
        """The best q(c) for any rows given q(w, m, Λ), (N, C)."""
        return self.posterior.scores(self._convert(torch.as_tensor(x[:]))).softmax(-1)

    @torch.no_grad()
    def log_predictive(self, x: Any) -> PerRow:
        r"""log ∫ p(x | w, m, Λ) q(w, m, Λ), (N,) nats: a density of a new row, normalized.

        An estimate of log p(x | training rows), with q for the posterior. A training row is not a new row.
        """
        return self.posterior.predictive().log_prob(self._convert(torch.as_tensor(x[:])))

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None) -> Rows:
        """n new rows, independent draws of that density, (n, D)."""
        with seeded(seed):
            return self.posterior.predictive().sample((n,))


def _prior(
    C: int, D: int, concentration: float | None, mean_precision: float, mean: Any, df: float | None, covariance: Any
) -> Globals:
    """The prior's settings, checked, each repeated for every component."""
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
    tril = _inverse_cholesky(scatter)
    return Globals(one * concentration, loc.repeat(C, 1), one * mean_precision, one * df, tril.repeat(C, 1, 1))
