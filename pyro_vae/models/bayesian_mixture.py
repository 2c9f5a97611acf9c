"""A mixture of Gaussians with priors on its weights, means and precisions: a program with global latents."""

from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.distributions.normal_wishart import (
    TO_LOWER_CHOLESKY,
    Globals,
    Number,
    PerComponent,
    Responsibilities,
    inverse_cholesky,
    prior_from_settings,
)
from pyro_vae.errors import InputError
from pyro_vae.programs.model_and_guide import Program
from pyro_vae.programs.parameters import device_and_dtype, register_parameters
from pyro_vae.programs.row_inputs import require_taken
from pyro_vae.typing import PerRow, Rows


@part
class BayesianGaussianMixture(Program):
    r"""A Gaussian mixture with priors on all parameters, and a mean-field guide (Attias 1999; Bishop 2006, §10.2).

    $w \sim \mathrm{Dirichlet}(\alpha_0)$, $\Lambda_k \sim \mathrm{Wishart}(\nu_0, W_0)$,
    $m_k \sim N(m_0, (\kappa_0\Lambda_k)^{-1})$; for each row $c_i \sim w$, $x_i \sim N(m_{c_i}, \Lambda_{c_i}^{-1})$.
    The guide is $q(w) \prod_k q(m_k, \Lambda_k) \prod_i q(c_i)$ of the same families, with a table of q(c_i) for the
    rows it is fitted to. Standardize x, or say where it lies. Parameters are float64.

    Two methods maximize the same bound: `fit_cavi` in closed form, and, after `start`, Pyro's SVI with
    `TraceEnum_ELBO(max_plate_nesting=1)`, by `fit` or on its own. The weights, means and precisions couple the rows, so
    a row has no log p(x) of its own; `log_predictive` is a new row's density under q. Raises `InputError` for
    settings outside their range.

    Args:
        num_components: the number C of components.
        num_features: the number D of features.
        num_rows: the number N of rows it is fitted to.
        weight_concentration: α₀, by default 1/C.
        mean_precision: κ₀.
        mean: m₀ (D,), by default zeros.
        df: ν₀, by default D.
        covariance: W₀⁻¹ (D, D), by default the identity.

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
        nn.Module.__init__(self)
        C, D = num_components, num_features
        if min(C, D, num_rows) < 1:
            raise InputError(f"expected one component, feature and row or more, got {C}, {D} and {num_rows}")
        self.num_features: int = D
        self.num_components, self.num_rows = C, num_rows
        prior = prior_from_settings(C, D, weight_concentration, mean_precision, mean, df, covariance)
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
        return Globals(*(self.get_buffer(f"prior_{name}") for name in Globals.__dataclass_fields__))

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
        means, scale_tril = means.unsqueeze(-3), inverse_cholesky(tril @ tril.mT).unsqueeze(-4)  # below the plate
        with pyro.plate("data", len(x)):
            c = pyro.sample("component", dist.Categorical(weights))
            k = c.long()  # `encode` substitutes a mode for c, a float
            row = dist.MultivariateNormal(Vindex(means)[..., k, :], scale_tril=Vindex(scale_tril)[..., k, :, :])
            pyro.sample("x", row, obs=x)

    def guide(self, x: Rows, rows: Tensor | None = None, num_rows: int | None = None) -> None:
        """Draw the globals, and each row's component.

        Held-out rows, which come with `num_rows` and no `rows`, get the best q(c) under q(w, m, Λ).

        Args:
            x: rows (n, D); given alone, they are all rows, in order.
            rows: their indices into the table of q(c), (n,).
            num_rows: the number of training rows.
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
    def start(self, x: Rows, at: Tensor | int = 0, weights: PerRow | None = None) -> None:
        """Start from responsibilities or from k-means, then one update of all factors.

        Raises `InputError` where x is not the N rows of the table or `at` no distribution over components.

        Args:
            x: all rows (N, D).
            at: responsibilities (N, C), or the seed of k-means.
            weights: how often each row counts (N,).
        """
        x = self._all_rows(x)
        given = self._k_means(x, at, weights) if isinstance(at, int) else torch.as_tensor(at).to(x)
        if given.shape != self.logits.shape or (given < 0).any() or not torch.allclose(given.sum(1), given.new_ones(1)):
            raise InputError(
                f"expected responsibilities of shape {tuple(self.logits.shape)}, no less than 0 and summing to 1 in "
                f"each row, got {tuple(given.shape)}"
            )
        self.logits.copy_(given.clamp(min=torch.finfo(given.dtype).eps).log())
        self.update_global(x, weights)
        self.update_local(x)
        self.started.fill_(True)

    def _k_means(self, x: Rows, seed: int, weights: PerRow | None) -> Responsibilities:
        from sklearn.cluster import KMeans

        if len(x) < self.num_components:
            raise InputError(f"{len(x)} rows are too few for {self.num_components} clusters; give responsibilities")
        counts = None if weights is None else weights.cpu().numpy()
        found = KMeans(self.num_components, n_init=1, random_state=seed).fit_predict(x.cpu().numpy(), None, counts)
        return nn.functional.one_hot(torch.as_tensor(found, device=x.device).long(), self.num_components).to(x)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Called by `fit`: `InputError` before `start`, since equal components would stay equal.

        Args:
            mean: is not used.
            rows: are not used.
        """
        if not self.started:
            raise InputError("all components are still equal: call start(x) with all rows before fit, or use fit_cavi")

    @torch.no_grad()
    def update_local(self, x: Rows) -> None:
        """The best q(c) given q(w, m, Λ): the E-step of variational Bayes."""
        self.logits.copy_(self.posterior.scores(self._all_rows(x)).log_softmax(-1))

    @torch.no_grad()
    def update_global(self, x: Rows, weights: PerRow | None = None) -> None:
        """The best q(w, m, Λ) given q(c), conjugate (Bishop 2006, eqs. 10.57 to 10.63).

        Args:
            x: all rows (N, D).
            weights: how often each row counts (N,).
        """
        x, prior, r = self._all_rows(x), self.prior, self.logits.softmax(-1)
        r = r if weights is None else r * weights[:, None].to(r)
        counts = r.sum(0)
        mean_precision = prior.mean_precision + counts
        loc = (prior.mean_precision[:, None] * prior.loc + r.T @ x) / mean_precision[:, None]
        scatters = torch.stack([(x - m).T @ (share[:, None] * (x - m)) for m, share in zip(loc, r.T, strict=True)])
        shift = (loc - prior.loc).unsqueeze(-1)
        prior_terms = torch.cholesky_inverse(prior.scale_tril) + prior.mean_precision[:, None, None] * shift @ shift.mT
        scale_tril = inverse_cholesky(prior_terms + scatters)
        self._set_posterior(Globals(prior.concentration + counts, loc, mean_precision, prior.df + counts, scale_tril))

    def bound(self, x: Tensor | np.ndarray, weights: PerRow | None = None) -> Number:
        """The ELBO of all N rows with every constant, in closed form and differentiable, nats per row.

        Args:
            x: all rows (N, D).
            weights: how often each row counts (N,); the bound is then divided by their sum.

        Returns:
            The bound, ().
        """
        x, posterior, log_r = self._all_rows(torch.as_tensor(x)), self.posterior, self.logits.log_softmax(-1)
        each = log_r.exp() * (posterior.scores(x) - log_r)
        local, num_rows = each.sum(), torch.as_tensor(self.num_rows)
        if weights is not None:
            local, num_rows = (each.sum(-1) * weights.to(each)).sum(), weights.sum().to(each)
        return (local - posterior.kl(self.prior)) / num_rows

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
    def responsibilities(self, x: Split | Tensor | np.ndarray) -> Responsibilities:
        """The best q(c) for any rows given q(w, m, Λ), (N, C)."""
        return self.posterior.scores(self._convert(torch.as_tensor(x[:]))).softmax(-1)

    @torch.no_grad()
    def log_predictive(self, x: Split | Tensor | np.ndarray) -> PerRow:
        r"""log ∫ p(x | w, m, Λ) q(w, m, Λ), (N,) nats: a density of a new row, normalized.

        An estimate of log p(x | training rows), with q for the posterior. A training row is not a new row.
        """
        log_probs: PerRow = self.posterior.predictive().log_prob(self._convert(torch.as_tensor(x[:])))
        return log_probs

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None, **row_inputs: object) -> Rows:
        """New rows, independent draws of the density of `log_predictive`.

        Args:
            n: the number of rows.
            seed: a seed of the random numbers; None continues with torch's generator.
            **row_inputs: none is taken; `InputError` for any.

        Returns:
            Rows (n, D).
        """
        require_taken(self, row_inputs)
        with seeded(seed):
            rows: Rows = self.posterior.predictive().sample((n,))
            return rows
