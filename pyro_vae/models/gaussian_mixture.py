"""Mixtures of normals: density, E-step and M-step as products of one matrix of features."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError
from pyro_vae.models.covariance_forms import (
    COVARIANCES,
    log_cholesky,
    log_scales,
    scatter_about_means,
)
from pyro_vae.models.exact_density import Statistics, column_scales
from pyro_vae.models.missing_values import conditional_draws, conditional_means, expected_statistics, observed_log_probs
from pyro_vae.models.mixture_features import coefficients_of, features_of, loses_digits
from pyro_vae.models.regularization import cross_validate
from pyro_vae.models.regularized_mixture import RegularizedMixture
from pyro_vae.typing import Guide, Rows

MAX_BLOCK_FEATURES = 2**22  # numbers in the feature matrix of a block of rows


@part
class GaussianMixture(RegularizedMixture):
    r"""A mixture of normals, $p(x) = \sum_c \pi_c N(x; \mu_c, \Sigma_c)$, with exact density and posterior.

    `fit_em` maximizes the likelihood with a `CovariancePrior` on the Σs: as if each component held $n_1$ more rows of
    covariance $V = C^{-2/D} \mathrm{diag}(\mathrm{var}(x))$ around its mean, and $n_0$ more of a covariance that all
    share. By default both numbers are chosen by cross-validation on the training rows. Parameters are in the units of
    the model's x, standardized where the data set is; `data.train.measure.to_original_units` converts means and draws
    back. Raises `InputError` for settings that contradict.

    Args:
        num_components: the number C of components.
        num_features: the number D of features.
        covariance: full, tied (one Σ for all), diagonal or spherical.
        regularization: "auto", both numbers by cross-validation (`models.regularization`); "inverse-wishart", $n_1$ =
            2d + 3, d = D or 1 the size of a block, the least whole number of degrees of freedom with a mean (Fraley &
            Raftery 2007), and $n_0$ = 0; or "reg_covar", scikit-learn's rule.
        prior_rows: $n_1$, and pooled_rows $n_0$, fixed: without the other one it is 0; 0 is maximum likelihood.
        pooled_rows: $n_0$.
        reg_covar: what "reg_covar" adds to the variances, 1e-6 by default.
        scale: fixes every covariance to scale² I and the weights to 1/C: the model whose limit is k-means.
        guide: a part q(c|x) instead of the exact posterior.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("seven-normals")
    >>> mixture = GaussianMixture(num_components=7, num_features=1)
    >>> fitted = pv.fit_em(mixture, data, seed=0)
    >>> mixture.weights.shape, mixture.responsibilities(data.test.x).shape, mixture.sample(5).shape
    (torch.Size([7]), torch.Size([500, 7]), torch.Size([5, 1]))
    >>> bool(mixture.log_prob(data.test).mean() > -2.9)
    True
    """

    support, supports_missing = constraints.real_vector, True
    center: Tensor
    prior_variance: Tensor

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance: str = "full",
        *,
        regularization: str = "auto",
        prior_rows: float | None = None,
        pooled_rows: float | None = None,
        reg_covar: float | None = None,
        scale: float | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(num_components, num_features, guide)
        if covariance not in COVARIANCES:
            raise InputError(f"no covariance called {covariance!r}; try one of {', '.join(COVARIANCES)}")
        if scale is not None and (covariance != "spherical" or not scale > 0):
            raise InputError(f"scale is a positive number that goes with covariance='spherical', got {scale}")
        C, D, blocks = num_components, num_features, covariance in ("full", "tied")
        self.covariance, self.scale = covariance, scale
        usual = 2.0 * (D if blocks else 1) + 3
        self.set_regularization(regularization, usual, prior_rows, pooled_rows, reg_covar)
        self.loc = nn.Parameter(torch.randn(C, D, dtype=torch.float64))
        shape = {"full": (C, D, D), "tied": (D, D), "diagonal": (C, D), "spherical": (C,)}[covariance]
        self.raw_scale = nn.Parameter(torch.full(shape, math.log(scale or 1.0), dtype=torch.float64))
        if blocks:  # a Cholesky factor with the logarithm of its diagonal
            self.raw_scale.data.zero_()
        if scale is not None:
            self.regularization = "fixed"
            self.strengths.zero_()
            self.raw_scale.requires_grad_(False)
            self.logits.requires_grad_(False)
            self.held = ("logits", "raw_scale")
        self.register_buffer("center", torch.zeros(D, dtype=torch.float64))
        self.register_buffer("prior_variance", torch.ones(D, dtype=torch.float64))

    def extra_repr(self) -> str:
        is_ridge = self.regularization == "reg_covar"
        rows = f"prior_rows={self.prior_rows:g}, pooled_rows={self.pooled_rows:g}"
        strength = f"reg_covar={self.reg_covar:g}" if is_ridge else rows
        return f"{super().extra_repr()}, covariance={self.covariance!r}, {strength}"

    @property
    def num_free(self) -> int:
        C, D = self.num_components, self.num_features
        num_scales = {"full": C * D * (D + 1) // 2, "tied": D * (D + 1) // 2, "diagonal": C * D, "spherical": C}
        return C * D if self.scale is not None else C - 1 + C * D + num_scales[self.covariance]

    @property
    def block_rows(self) -> int:
        width = self.num_features**2 // 2 if self.covariance == "full" else self.num_features
        return max(64, min(2048, MAX_BLOCK_FEATURES // (width + self.num_components)))

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors (C, D, D) of the covariances, those of a tied one (D, D)."""
        return self.raw_scale.tril(-1) + self.raw_scale.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    @property
    def means(self) -> Tensor:
        """(C, D)."""
        return self.loc.detach()

    @property
    def covariances(self) -> Tensor:
        with torch.no_grad():
            if not self._blocks:
                return (2 * self.raw_scale).exp()
            return self.scale_tril @ self.scale_tril.mT

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Set the parameters; fits then start there (EM: `start="current"`).

        Args:
            weights: the components' probabilities (C,), up to a factor.
            means: (C, D).
            covariances: in the shape of that property.
        """
        self.logits.copy_((weights / weights.sum()).log())
        self.loc.copy_(means)
        self.set_covariances(covariances)
        self.center.copy_(self.loc.mean(0))
        self.prior_variance.copy_(column_scales(self.loc).square().clamp(min=torch.finfo(self.loc.dtype).tiny))

    @torch.no_grad()
    def set_covariances(self, covariances: Tensor) -> None:
        self.raw_scale.copy_(log_cholesky(covariances) if self._blocks else log_scales(covariances))

    # log p(x | c) is linear in the features [x_j x_k, x_j, 1] of centred rows: one product gives all components', and
    # another what the M-step needs, with no (n, C, D) array. If terms would cancel, components are solved for.

    def prepare(self, x: Rows) -> Tensor:
        """The features of centred rows, (F, n); the last are x and 1. Rows with NaN stay as they are, (D, n)."""
        if x.isnan().any():
            return x.T.contiguous()
        x = (x - self.center).T.contiguous()
        return features_of(x, self.covariance)

    def table(self) -> Tensor | None:
        """The features' coefficients (C, F); None where features lose too many digits."""
        with torch.no_grad():
            precision = self.precisions if self._blocks else self._precision
            if self._loses_digits(precision):
                return None
        if torch.is_grad_enabled():
            precision = self.precisions if self._blocks else self._precision
        return coefficients_of(self.covariance, precision, self.loc - self.center, self._log_scale)

    @property
    def _blocks(self) -> bool:
        return self.covariance in ("full", "tied")

    @property
    def _precision(self) -> Tensor:
        """Of diagonal and spherical covariances, (C, D)."""
        raw = self.raw_scale if self.covariance == "diagonal" else self.raw_scale[:, None]
        return (-2 * raw).exp().expand(-1, self.num_features)

    @property
    def _log_scale(self) -> Tensor:
        """½ log |Σ_c| (C,), or () where there is one Σ."""
        if self._blocks:
            return self.raw_scale.diagonal(dim1=-2, dim2=-1).sum(-1)
        return self.raw_scale.sum(1) if self.covariance == "diagonal" else self.num_features * self.raw_scale

    def _loses_digits(self, precision: Tensor) -> bool:
        """Whether the terms of log p(x | c) are so large compared with their sum that features lose too many digits."""
        distance = (self.loc - self.center).abs() + self.prior_variance.sqrt()
        return loses_digits(self.covariance, precision, distance)

    def log_probs(self, prepared: Tensor, table: Tensor | None) -> Tensor:
        if len(prepared) == self.num_features:
            return observed_log_probs(prepared, self.loc, self._each_covariance)
        x = prepared[-1 - self.num_features : -1]
        if table is None:
            whitened = (self._whiten(x - (loc - self.center)[:, None], c) for c, loc in enumerate(self.loc))
            distance = torch.stack([block.square().sum(0) for block in whitened])
            constant = self._log_scale + self.num_features / 2 * math.log(2 * math.pi)
            return -0.5 * distance - (constant[:, None] if constant.dim() else constant)
        row_terms = 0.5 * self._whiten(x, 0).square().sum(0) if self.covariance == "tied" else 0.0
        return table @ prepared - row_terms

    def _whiten(self, difference: Tensor, c: int) -> Tensor:
        """Differences (D, n) in units of the component's scale."""
        if not self._blocks:
            return difference * (-self.raw_scale[c]).exp().reshape(-1, 1)
        factor = self.scale_tril if self.covariance == "tied" else self.scale_tril[c]
        whitened: Tensor = torch.linalg.solve_triangular(factor, difference, upper=False)
        return whitened

    def statistics(self, prepared: Tensor, shares: Tensor, table: Tensor | None) -> Statistics:
        """The counts and the first two moments.

        Args:
            prepared: the features (F, n).
            shares: the responsibilities (C, n).
            table: their coefficients; None for moments about each component's mean instead of the centre.

        Returns:
            `counts` (C,), `first` (C, D) and `second`, the last two with `_about_loc` in their names without a table.
        """
        D, about = self.num_features, None if table is None else self.center
        if len(prepared) == D:
            return expected_statistics(prepared, shares, self.loc, self._each_covariance, self.covariance, about)
        x = prepared[-1 - D : -1]
        if table is None:
            return self._statistics_about_loc(x, shares)
        sums = shares @ prepared.T
        second = (x * shares.sum(0)) @ x.T if self.covariance == "tied" else sums[:, : -1 - D]
        return {"counts": sums[:, -1], "first": sums[:, -1 - D : -1], "second": second}

    def _statistics_about_loc(self, x: Tensor, shares: Tensor) -> Statistics:
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.raw_scale)
        for c, share in enumerate(shares):
            difference = x - (self.loc[c] - self.center)[:, None]
            weighted = difference * share
            first[c] = weighted.sum(1)
            outer = weighted @ difference.T if self._blocks else (weighted * difference).sum(1)
            if self.covariance == "tied":
                second += outer
            else:
                second[c] = outer.sum() if self.covariance == "spherical" else outer
        return {"counts": shares.sum(1), "first_about_loc": first, "second_about_loc": second}

    @property
    def _each_covariance(self) -> Tensor:
        """Full (C, D, D) or diagonal (C, D), whatever the form; differentiable."""
        if self._blocks:
            return (self.scale_tril @ self.scale_tril.mT).expand(self.num_components, -1, -1)
        return 1 / self._precision.expand(self.num_components, -1)

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> None:
        if self.scale is None:
            super().m_step(statistics)
        else:
            self.maximize(statistics)

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        scatter = self.set_means(statistics)
        if self.scale is None:
            self.set_covariances(self.regularized(scatter, statistics["counts"]))

    @torch.no_grad()
    def set_means(self, statistics: Statistics) -> Tensor:
        counts, is_about_loc = statistics["counts"], "first_about_loc" in statistics
        first, second = (statistics[name + "_about_loc" * is_about_loc] for name in ("first", "second"))
        is_used = counts[:, None] > 0
        mean = torch.where(
            is_used, first / torch.where(is_used, counts[:, None], 1.0), 0.0 if is_about_loc else self.loc - self.center
        )
        self.loc.copy_(mean + (self.loc if is_about_loc else self.center))
        return scatter_about_means(self.covariance, second, counts, mean)

    def repeated(self, times: int) -> "GaussianMixture":
        form = "full" if self.covariance == "tied" else self.covariance
        return GaussianMixture(times * self.num_components, self.num_features, form, prior_rows=0.0).to(self.loc)

    @torch.no_grad()
    def choose_regularization(self, rows: Rows) -> None:
        if self.regularization == "auto" and (found := cross_validate(self, rows)) is not None:
            self.set_strengths(found.best, len(rows))

    @property
    def precisions(self) -> Tensor:  # differentiable
        return torch.cholesky_inverse(self.scale_tril) if self._blocks else (-2 * self.raw_scale).exp()

    @torch.no_grad()
    def describe_rows(self, mean: Tensor, rows: Rows) -> None:
        rows = rows.to(self.loc)
        self.center.copy_(mean)
        self.prior_variance.copy_(column_scales(rows).square() * self.num_components ** (-2 / self.num_features))

    def move_components(self, components: Tensor, rows: Rows) -> None:
        self.loc[components] = torch.where(rows.isnan(), self.center.to(rows), rows).to(self.loc)
        if self.covariance == "full":
            self.raw_scale[components] = (self.prior_variance.log() / 2).diag()
        elif self.covariance == "diagonal":
            self.raw_scale[components] = self.prior_variance.log() / 2
        elif self.covariance == "spherical" and self.scale is None:
            self.raw_scale[components] = self.prior_variance.mean().log() / 2

    def draw(self, c: Tensor) -> Tensor:
        noise = torch.randn(*c.shape, self.num_features).to(self.loc)
        if self._blocks:
            factor = self.scale_tril if self.covariance == "tied" else self.scale_tril[c]
            return self.loc[c] + (factor @ noise[..., None])[..., 0]
        scale = self.raw_scale.exp()[c]
        return self.loc[c] + (scale if self.covariance == "diagonal" else scale[..., None]) * noise

    def means_given(self, x: Rows) -> Tensor:
        return conditional_means(x, self.loc, self._each_covariance) if self._blocks else super().means_given(x)

    def draw_given(self, c: Tensor, x: Rows) -> Tensor:
        return conditional_draws(c, x, self.loc, self._each_covariance) if self._blocks else self.draw(c)
