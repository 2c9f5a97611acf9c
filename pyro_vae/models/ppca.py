"""Linear-Gaussian latent variable models: x = W z + μ + noise, with the posterior and log p(x) in closed form."""

import math
from collections.abc import Iterable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import is_recording
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.models.exact_density import Density, Statistics, add_statistics, check_start, column_scales, rows_with_nan
from pyro_vae.programs.parameters import register_parameters
from pyro_vae.typing import PerRow, RowLatents, Rows

SCALE_FLOOR = 1e-3  # of the noise, in units of the data's scale: a column that is fitted exactly has no maximum
MAX_BLOCK_NUMBERS = 2**22  # in the posterior covariances of a block of rows with missing values


class _LinearGaussian(Density):
    """The base of both models: z ~ N(0, I), x | z ~ N(W z + μ, diag(σ²)), and the exact posterior as guide."""

    center: Tensor
    floor: Tensor
    supports_missing, accelerated = True, True
    start_noise = 1.0  # the noise's scale at EM's start, in units of the data's scale

    def __init__(self, num_latents: int, num_features: int, num_scales: int) -> None:
        super().__init__(num_features)
        if not 1 <= num_latents < num_features:
            most = f"1 to {num_features - 1} latents" if num_features > 1 else "two features or more"
            raise InputError(f"expected {most} for {num_features} features, got {num_latents}")
        self.num_latents = num_latents
        self.weight = nn.Parameter(torch.randn(num_features, num_latents, dtype=torch.float64))
        self.loc = nn.Parameter(torch.zeros(num_features, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(num_scales, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("floor", torch.full((num_features,), SCALE_FLOOR, dtype=torch.float64))

    def extra_repr(self) -> str:
        return f"num_latents={self.num_latents}, num_features={self.num_features}"

    def model(self, x: Rows) -> None:
        register_parameters(self, "linear")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc.new_zeros(self.num_latents), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.loc, self.scale).to_event(1), obs=x)

    def guide(self, x: Rows) -> None:
        with pyro.plate("data", len(x)), torch.no_grad():
            pyro.sample("z", self.posterior(x))

    @property
    def scale(self) -> Tensor:
        """The noise's standard deviation, (D,)."""
        return self.log_scale.exp().expand(self.num_features)

    @property
    def num_free(self) -> int:
        K, D = self.num_latents, self.num_features
        return D + D * K - K * (K - 1) // 2 + len(self.log_scale)  # W is known up to a rotation

    @property
    def block_rows(self) -> int:
        return max(64, min(4096, MAX_BLOCK_NUMBERS // (self.num_latents + 1) ** 2))

    def posterior(self, x: Rows) -> dist.MultivariateNormal:
        r"""$p(z|x) = N(M^{-1} W^T \Psi^{-1} (x - \mu), M^{-1})$ with $M = I + W^T \Psi^{-1} W$, Ψ = diag(σ²).

        Of a row with NaN, where a value is missing, x, W and Ψ are those of its other columns.
        """
        factor, mean, _ = self._solve(x)
        return dist.MultivariateNormal(mean, covariance_matrix=torch.cholesky_inverse(factor))

    def _solve(self, x: Rows) -> tuple[Tensor, RowLatents, PerRow]:
        """The Cholesky factor of M, (K, K) or of each row (n, K, K), posterior means (n, K), and log p(x) (n,)."""
        if not is_recording() and x.isnan().any():  # model and guide get rows without NaN
            return self._solve_observed(x)
        D, scale = self.num_features, self.scale
        weight, residual = self.weight / scale[:, None], (x - self.loc) / scale
        factor = torch.linalg.cholesky(torch.eye(self.num_latents).to(weight) + weight.T @ weight)
        mean = torch.cholesky_solve((residual @ weight).T, factor).T
        distance = (residual - mean @ weight.T).square().sum(1) + mean.square().sum(1)
        log_det = scale.log().sum() + factor.diagonal().log().sum()
        return factor, mean, -0.5 * distance - log_det - D / 2 * math.log(2 * math.pi)

    def _solve_observed(self, x: Rows) -> tuple[Tensor, RowLatents, PerRow]:
        """The same of rows with missing values: each row has an M of its own."""
        is_observed, scale, K = ~x.isnan(), self.scale, self.num_latents
        observed, weight = is_observed.to(scale), self.weight / scale[:, None]
        residual = torch.where(is_observed, (x - self.loc) / scale, 0.0)
        products = (weight[:, :, None] * weight[:, None]).reshape(-1, K * K)
        factor = torch.linalg.cholesky(torch.eye(K).to(weight) + (observed @ products).reshape(-1, K, K))
        mean = torch.cholesky_solve((residual @ weight)[..., None], factor)[..., 0]
        distance = (residual - observed * (mean @ weight.T)).square().sum(1) + mean.square().sum(1)
        log_det = observed @ scale.log() + factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return factor, mean, -0.5 * distance - log_det - 0.5 * math.log(2 * math.pi) * observed.sum(1)

    def log_density(self, x: Rows) -> PerRow:
        return self._solve(x)[2]

    @torch.no_grad()
    def draw_missing(self, x: Rows, num: int) -> Tensor:
        """Draws of x given the observed values of each row: z from its posterior, and x given z.

        Args:
            x: rows (n, D), NaN where a value is missing.
            num: the number of draws.

        Returns:
            Draws (num, n, D).
        """
        z = self.posterior(x).sample(torch.Size([num])).expand(num, len(x), -1)
        mean = z @ self.weight.T + self.loc
        return mean + self.scale * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)

    @torch.no_grad()
    def mean_missing(self, x: Rows) -> Rows:
        """E[x] given the observed values of rows (n, D), NaN where a value is missing."""
        return self._solve(x)[1] @ self.weight.T + self.loc

    @torch.no_grad()
    def transform(self, x: RowsGiven) -> RowLatents:
        """Posterior means of z (N, K)."""
        split, blocks = self.rows_of(x), torch.arange(len(self.rows_of(x))).split(self.block_rows)
        return torch.cat([self._solve(rows_with_nan(split, rows).to(self.loc))[1] for rows in blocks])

    @torch.no_grad()
    def e_step(
        self, blocks: Iterable[Tensor], hard: bool = False, weights: Tensor | None = None
    ) -> tuple[Statistics, PerRow]:
        """Sums of products of z and 1 (`zz`), of these with x (`xz`), and of x² (`xx`); z in expectation.

        With missing values the sums of each column go over the rows that have it, so `zz` is (D, K + 1, K + 1).

        Args:
            blocks: blocks of rows (n, D), NaN where a value is missing.
            hard: `InputError` where it is set.
            weights: how often each row counts (N,).

        Returns:
            The statistics and log p(x) of each row (N,), nats.
        """
        if hard:
            raise InputError("hard EM is for latents with finitely many values, not for a linear-Gaussian model")
        total, log_px_blocks, done = None, [], 0
        for x in blocks:
            factor, mean, log_px = self._solve(x)
            counts = torch.ones_like(log_px) if weights is None else weights[done : done + len(x)]
            done += len(x)
            total = add_statistics(total, self._statistics(x, factor, mean, counts))
            log_px_blocks.append(log_px)
        return total or {}, torch.cat(log_px_blocks)

    def _statistics(self, x: Rows, factor: Tensor, mean: RowLatents, counts: PerRow) -> Statistics:
        z = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
        centered, weighted = (x - self.center).nan_to_num(), z * counts[:, None]
        if factor.dim() == 2:
            zz = weighted.T @ z
            zz[:-1, :-1] += counts.sum() * torch.cholesky_inverse(factor)
        else:
            each = z[:, :, None] * z[:, None]
            each[:, :-1, :-1] += torch.cholesky_inverse(factor)
            observed = (~x.isnan()).to(z) * counts[:, None]
            zz = (observed.T @ each.flatten(1)).reshape(-1, *each.shape[1:])
            latent = (counts @ each.flatten(1)).reshape(each.shape[1:])
            return {"latent": latent, "zz": zz, "xz": centered.T @ weighted, "xx": counts @ centered.square()}
        return {"latent": zz, "zz": zz, "xz": centered.T @ weighted, "xx": counts @ centered.square()}

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> None:
        """W and μ by least squares of x on [z, 1], then the residual noise, and W in units in which z ~ N(0, I).

        The last is parameter-expanded EM (Liu, Rubin & Wu 1998): of z ~ N(m, R) the maximum is the posterior's mean
        and covariance over rows, and Wm + μ and W chol(R) give the same density of x. Without it W grows or shrinks by
        a share of σ² / |W|² in each step.
        """
        xz, zz, latent = statistics["xz"], statistics["zz"], statistics["latent"]
        solution = torch.linalg.solve(zz, xz.T).T if zz.dim() == 2 else torch.linalg.solve(zz, xz)
        mean = latent[:-1, -1] / latent[-1, -1]
        factor = torch.linalg.cholesky(latent[:-1, :-1] / latent[-1, -1] - torch.outer(mean, mean))
        self.weight.copy_(solution[:, :-1] @ factor)
        self.loc.copy_(self.center + solution[:, -1] + solution[:, :-1] @ mean)
        self._set_scale(statistics["xx"] - (solution * xz).sum(1), zz[..., -1, -1].expand(self.num_features))

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        self._set_scale(self.scale.square(), torch.ones_like(self.floor))

    def _set_scale(self, squares: Tensor, counts: Tensor) -> None:
        """Set the noise's scale, above its floor, to sums of squared residuals (D,) over numbers of values (D,)."""
        raise NotImplementedError

    @torch.no_grad()
    def start_em(self, mean: Tensor, rows: Rows, kind: str, seed: int) -> None:
        """μ at the mean, where its maximum is; W random, in the scale of the data."""
        check_start(kind)
        rows = rows.to(self.loc)
        self.center.copy_(mean)
        self.floor.copy_(SCALE_FLOOR * column_scales(rows))
        if kind != "current":
            noise = torch.randn(
                self.weight.shape, generator=torch.Generator().manual_seed(seed % 2**32), dtype=torch.float64
            )
            self.loc.copy_(mean)
            self.weight.copy_(column_scales(rows)[:, None] * noise.to(self.weight) / math.sqrt(self.num_latents))
            self._set_scale((self.start_noise * column_scales(rows)).square(), torch.ones_like(self.floor))
        self.started.fill_(True)


@part
class PPCA(_LinearGaussian):
    r"""Probabilistic principal component analysis, $x = W z + \mu + \sigma \epsilon$ (Tipping & Bishop 1999).

    $\log p(x) = \log N(x; \mu, W W^T + \sigma^2 I)$ and the posterior are exact; `fit_em` maximizes by EM,
    `fit_closed_form` computes the maximum from the covariance's eigenvectors. The linear VAE with a learned scale is
    the same model (Lucas et al., arXiv:1911.02469). W is `weight` (D, K), μ `loc` (D,).

    Args:
        num_latents: the number K < D of latent dimensions.
        num_features: the number D of features.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("swiss-roll")
    >>> ppca = PPCA(num_latents=2, num_features=3)
    >>> fitted = pv.fit_closed_form(ppca, data)
    >>> ppca.transform(data.test.x).shape, ppca.sample(4).shape
    (torch.Size([500, 2]), torch.Size([4, 3]))
    """

    start_noise = 0.0  # so the floor: a direction whose variance is below that of the noise fades

    def __init__(self, num_latents: int, num_features: int) -> None:
        super().__init__(num_latents, num_features, 1)

    def _set_scale(self, squares: Tensor, counts: Tensor) -> None:
        variance, floor = squares.sum() / counts.sum(), self.floor.square().mean()
        self.log_scale.copy_(variance.clamp(min=floor).log()[None] / 2)

    @torch.no_grad()
    def maximize_exactly(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the parameters to the maximum of the likelihood.

        Args:
            mean: the data's mean (D,).
            covariance: its covariance (D, D), over N.
        """
        K = self.num_latents
        values, vectors = torch.linalg.eigh(covariance)
        variance = values[:-K].mean().clamp(min=self.floor.square().mean())
        self.loc.copy_(mean)
        self.weight.copy_(vectors[:, -K:] * (values[-K:] - variance).clamp(min=0).sqrt())
        self.log_scale.copy_(variance.log()[None] / 2)


@part
class FactorAnalysis(_LinearGaussian):
    r"""Factor analysis, $x = W z + \mu + \mathrm{diag}(\sigma) \epsilon$: each feature has its own noise scale.

    $\log p(x) = \log N(x; \mu, W W^T + \mathrm{diag}(\sigma^2))$ and the posterior are exact; `fit_em` maximizes by EM
    (Rubin & Thayer 1982). A noise is kept above 10⁻³ of its column's standard deviation: the likelihood is unbounded
    where one reaches zero.

    Args:
        num_latents: the number K < D of latent dimensions.
        num_features: the number D of features.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("swiss-roll")
    >>> factors = FactorAnalysis(num_latents=1, num_features=3)
    >>> fitted = pv.fit_em(factors, data, seed=0)
    >>> factors.scale.shape, bool(fitted.history[-1]["elbo"] > fitted.history[0]["elbo"])
    (torch.Size([3]), True)
    """

    def __init__(self, num_latents: int, num_features: int) -> None:
        super().__init__(num_latents, num_features, num_features)

    def _set_scale(self, squares: Tensor, counts: Tensor) -> None:
        self.log_scale.copy_(torch.maximum(squares / counts, self.floor.square()).log() / 2)
