"""Pyro's distributions with log densities that keep their digits over the whole range of a dtype.

Sums of large terms that nearly cancel (log-gamma functions of counts, normalizers, squares) are written as differences
of small ones, or are taken in float64; results have the dtype of the parameters.
"""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from torch import Tensor

SMALL_LOGIT = 0.25  # below which functions of a continuous Bernoulli's logit are series
LARGE_T = 1e8  # above which log(1 + t²) = 2 log t in any dtype


def in_float64(value: Tensor) -> Tensor:
    """The tensor in float64, as it is on a device without float64."""
    return value if value.device.type == "mps" else value.double()


class Normal(dist.Normal):
    r"""Normal values, $-\tfrac12 ((x - \mu) / \sigma)^2 - \log \sigma - \tfrac12 \log 2\pi$.

    The ratio is squared, so that neither $(x - \mu)^2$ nor $\sigma^2$ leaves the range of the dtype.

    >>> Normal(torch.tensor(0.0), torch.tensor(1e8)).log_prob(torch.tensor(1e25)) > -1e34
    tensor(True)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        standard: Tensor = (value - self.loc) / self.scale
        return -0.5 * standard.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)


class StudentT(dist.StudentT):
    r"""Student's t, $-\tfrac{\nu + 1}{2} \log(1 + t^2) - \log B$ with $t = (x - \mu) / (\sigma \sqrt\nu)$.

    Above $t = 10^8$ the logarithm is $2 \log t$, and log B, a difference of log-gamma functions, is taken in float64.

    Args:
        df: ν, one or for each value.
        loc: μ, (...).
        scale: σ, one or for each value.
        validate_args: whether arguments and values are checked, as in torch.

    >>> StudentT(torch.tensor(4.0), torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor(1e20))
    tensor(-227.7736)
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(df, loc, scale, validate_args=validate_args)
        self._own_df, self._own_scale = df, scale  # not broadcast: functions of one for all values are taken once

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "StudentT":
        loc = self.loc.expand(torch.Size(batch_shape))
        return StudentT(self._own_df, loc, self._own_scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        df, scale = self._own_df, self._own_scale
        wide = in_float64(df)
        log_beta = (torch.lgamma(wide / 2) - torch.lgamma((wide + 1) / 2) + math.log(math.pi) / 2).to(df.dtype)
        unit = scale * df.sqrt()
        distance, large = (value - self.loc).abs(), LARGE_T * unit
        near, far = torch.minimum(distance, large) / unit, torch.maximum(distance, large) / large
        result: Tensor = -0.5 * (df + 1) * (torch.log1p(near.square()) + 2 * far.log()) - (unit.log() + log_beta)
        return result


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""Grey levels in [0, 1] given logits l, $\log p(x) = -|l| y + \log \frac{|l|}{1 - e^{-|l|}}$.

    y is x where l is negative and 1 − x where it is positive: an exponential density cut at one. torch takes the
    constant at a clamped probability, wrong beyond logits of ±15 in float32 (arXiv:1907.06845 has the same limit).

    Args:
        logits: l, (...).
        validate_args: whether arguments and values are checked, as in torch.

    >>> ContinuousBernoulli(logits=torch.tensor(20.0)).log_prob(torch.tensor(1.0))
    tensor(2.9957)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        size = logits.abs().clamp(min=SMALL_LOGIT)
        from_end = torch.where(logits > 0, 1 - value, value)
        far = size.log() - torch.log(-torch.expm1(-size)) - size * from_end
        near = logits * (value - 0.5) - _log_sinh_ratio(logits)
        return torch.where(logits.abs() < SMALL_LOGIT, near, far)

    @property
    def mean(self) -> Tensor:
        size = self.logits.abs().clamp(min=SMALL_LOGIT)
        from_end = 1 / size - 1 / torch.expm1(size)
        far = torch.where(self.logits > 0, 1 - from_end, from_end)
        small = self.logits.clamp(-SMALL_LOGIT, SMALL_LOGIT)
        near = 0.5 + small / 12 - small**3 / 720 + small**5 / 30240
        return torch.where(self.logits.abs() < SMALL_LOGIT, near, far)

    @property
    def variance(self) -> Tensor:
        size = self.logits.abs().clamp(min=SMALL_LOGIT)
        small = self.logits.clamp(-SMALL_LOGIT, SMALL_LOGIT)
        near = 1 / 12 - small**2 / 240 + small**4 / 6048
        return torch.where(
            self.logits.abs() < SMALL_LOGIT, near, 1 / size.square() - 0.25 / torch.sinh(size / 2).square()
        )

    def cdf(self, value: Tensor) -> Tensor:
        value = value.clamp(0, 1)
        size = self.logits.abs().clamp(min=SMALL_LOGIT / 1e3)
        from_end = torch.where(self.logits > 0, 1 - value, value)
        share = torch.expm1(-size * from_end) / torch.expm1(-size)
        far = torch.where(self.logits > 0, 1 - share, share)
        near = value - self.logits * value * (1 - value) / 2
        return torch.where(self.logits.abs() < SMALL_LOGIT / 1e3, near, far)

    def icdf(self, value: Tensor) -> Tensor:
        size = self.logits.abs().clamp(min=SMALL_LOGIT / 1e3)
        from_end = torch.where(self.logits > 0, 1 - value, value)
        distance = -torch.log1p(from_end * torch.expm1(-size)) / size
        far = torch.where(self.logits > 0, 1 - distance, distance)
        near = value + self.logits * value * (1 - value) / 2
        return torch.where(self.logits.abs() < SMALL_LOGIT / 1e3, near, far)

    def entropy(self) -> Tensor:
        return -self.log_prob(self.mean)  # linear in x


def continuous_bernoulli_log_normalizer(logits: Tensor) -> Tensor:
    r"""$\log \int_0^1 e^{l x} dx$, what a continuous Bernoulli's density is divided by.

    Args:
        logits: l, (...).

    Returns:
        The same shape, nats.

    >>> continuous_bernoulli_log_normalizer(torch.tensor([0.0, 20.0]))
    tensor([ 0.0000, 17.0043])
    """
    size = logits.abs().clamp(min=SMALL_LOGIT)
    far = F.relu(logits) + torch.log(-torch.expm1(-size)) - size.log()
    return torch.where(logits.abs() < SMALL_LOGIT, logits / 2 + _log_sinh_ratio(logits), far)


def _log_sinh_ratio(logits: Tensor) -> Tensor:
    """log(sinh(l/2) / (l/2)) for small logits."""
    square = (logits.clamp(-SMALL_LOGIT, SMALL_LOGIT) / 2).square()
    return square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))


class LogRatePoisson(dist.Poisson):
    r"""Counts with rates $e^r$, $\log p(x) = x r - e^r - \log x!$ in float64.

    In float32 the three terms lose what is left of them: a nat for a count of a million.

    Args:
        log_rate: r, (...).
        validate_args: whether arguments and values are checked, as in torch.

    >>> LogRatePoisson(torch.tensor(1e6).log()).log_prob(torch.tensor(1e6))
    tensor(-7.8267)
    """

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)  # type: ignore[no-untyped-call]  # Pyro's

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LogRatePoisson":
        return LogRatePoisson(self.log_rate.expand(torch.Size(batch_shape)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, log_rate = in_float64(value), in_float64(self.log_rate)
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).to(self.log_rate.dtype)


class NegativeBinomial(dist.NegativeBinomial):
    """Pyro's negative binomial with a positive total count, its density in float64.

    Args:
        total_count: r, broadcast with the logits.
        logits: of the probability of success, (...).
        validate_args: whether arguments and values are checked, as in torch.

    >>> NegativeBinomial(torch.tensor(8000.0), logits=torch.tensor(0.0)).log_prob(torch.tensor(8000.0))
    tensor(-5.7591)
    """

    def __init__(self, total_count: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(total_count, logits=logits, validate_args=validate_args)
        self._own_count = total_count  # not broadcast: that of a column has one log-gamma function

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "NegativeBinomial":
        return NegativeBinomial(self._own_count, self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, count, logits = in_float64(value), in_float64(self._own_count), in_float64(self.logits)
        log_choices = torch.lgamma(count + x) - torch.lgamma(x + 1) - torch.lgamma(count)
        log_prob: Tensor = (count + x) * F.logsigmoid(logits) - count * logits + log_choices
        return log_prob.to(self.logits.dtype)


class MultivariateNormal(dist.MultivariateNormal):
    """Pyro's multivariate normal with a `scale_tril`, whose triangular system is solved in float64.

    In float32 the solution has no correct digit where the rows of L are 10⁷ times its diagonal.

    >>> MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2)).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        loc, tril = in_float64(self.loc), in_float64(self._unbroadcasted_scale_tril)
        wide = dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
        log_prob: Tensor = wide.log_prob(in_float64(value))
        return log_prob.to(self.loc.dtype)


class LowRankMultivariateNormal(dist.LowRankMultivariateNormal):
    r"""Normals with covariance $D + W W^T$; the squared distance is $\min_a |D^{-1/2} (d - W a)|^2 + |a|^2$.

    Woodbury's formula subtracts two squares, which are large where W is large against D; here they are added. The least
    squares problem is solved in float64 by $QR = (D^{-1/2} W; I)$, with $I + W^T D^{-1} W = R^T R$, whose Cholesky
    factor torch takes in the dtype, with an error where W is a thousand times $D^{1/2}$.

    Args:
        loc: the mean (..., K).
        cov_factor: W, (..., K, r).
        cov_diag: the diagonal of D, (..., K).
        validate_args: whether values are checked, as in torch.

    >>> factor, diagonal = torch.tensor([[30.0], [30.0]]), torch.tensor([1e-6, 1e-6])
    >>> LowRankMultivariateNormal(torch.zeros(2), factor, diagonal).log_prob(torch.tensor([30.0, 30.0]))
    tensor(0.8221)
    """

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = broadcast_shape(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.loc, self.cov_diag = (value.expand(batch_shape + loc.shape[-1:]) for value in (loc, cov_diag))
        self.cov_factor = cov_factor.expand(batch_shape + cov_factor.shape[-2:])
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = cov_factor, cov_diag
        scale = in_float64(cov_diag).sqrt()
        factor = in_float64(cov_factor) / scale.unsqueeze(-1)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        q, r = torch.linalg.qr(torch.cat([factor, identity.expand(*factor.shape[:-2], -1, -1)], -2))
        self._scale, self._factor, self._solve = scale, factor, (q, r)
        sign = r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
        self._capacitance_tril = (r * sign).mT.to(loc.dtype)  # torch's, for entropies and divergences
        torch.distributions.Distribution.__init__(self, batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "LowRankMultivariateNormal":
        loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        return LowRankMultivariateNormal(
            loc, self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        (q, r), K = self._solve, self.event_shape[0]
        standard = (in_float64(value) - in_float64(self.loc)) / self._scale
        projected = (q[..., :K, :].mT @ standard.unsqueeze(-1)).squeeze(-1)
        weights = torch.linalg.solve_triangular(r, projected.unsqueeze(-1), upper=True)
        rest = standard - (self._factor @ weights).squeeze(-1)
        half_log_det = r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1) + self._scale.log().sum(-1)
        distance = rest.square().sum(-1) + weights.square().sum((-2, -1))
        log_prob: Tensor = -0.5 * (K * math.log(2 * math.pi) + distance) - half_log_det
        return log_prob.to(self.loc.dtype)
