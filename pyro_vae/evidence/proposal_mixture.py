r"""Mixtures that rows' latents are drawn from, with a fixed number of draws from each component.

A row's draws come from the guide, from Student-t distributions at modes of its posterior, and from the prior. A draw is
weighed against the whole mixture, $w = p(x, u) / \sum_c \frac{S_c}{S} q_c(u)$, whichever component it came from: the
balance heuristic (Veach & Guibas 1995; Owen & Zhou 2000). The mean weight is unbiased for p(x) as long as the
components do not depend on the draws that are weighed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.posterior.newton_modes import Expansion
from pyro_vae.typing import LogWeights, RowLatents

DEGREES_OF_FREEDOM = 8.0
WIDENING = 1.2  # of the scale of the normal at a mode
GUIDE_SHARE, PRIOR_SHARE = 0.2, 0.1  # of a row's draws; the Student-t distributions have the rest


@dataclass(frozen=True)
class StudentT:
    """A multivariate Student-t for each of n rows.

    Attributes:
        loc: the locations, (n, K).
        scale_tril: lower triangles of the scales, (n, K, K).
    """

    loc: RowLatents
    scale_tril: Tensor

    def draw(self, normal: Tensor, chi_square: Tensor) -> Tensor:
        """Draws from random numbers.

        Args:
            normal: standard normal numbers, (S, n, K).
            chi_square: χ² numbers with as many degrees of freedom as the distribution, (S, n).

        Returns:
            The points, (S, n, K).
        """
        noise = normal * (DEGREES_OF_FREEDOM / chi_square).sqrt()[..., None]
        return self.loc + torch.einsum("nij,snj->sni", self.scale_tril, noise)

    def log_prob(self, u: Tensor) -> LogWeights:
        """The log density (S, n) at points (S, n, K), nats."""
        df, dim = DEGREES_OF_FREEDOM, u.shape[-1]
        noise = torch.linalg.solve_triangular(self.scale_tril, (u - self.loc).permute(1, 2, 0), upper=False)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - dim / 2 * math.log(df * math.pi)
        return constant - (df + dim) / 2 * torch.log1p(noise.square().sum(1).T / df) - log_det

    def take(self, index: Tensor) -> "StudentT":
        """The distributions of some rows."""
        return StudentT(self.loc[index], self.scale_tril[index])

    def put(self, index: Tensor, other: "StudentT") -> "StudentT":
        """The same with others in some rows.

        Args:
            index: which, (m,).
            other: the distributions of these m rows.

        Returns:
            n distributions.
        """
        return StudentT(
            self.loc.index_copy(0, index, other.loc), self.scale_tril.index_copy(0, index, other.scale_tril)
        )


def student_t_at(mode: Expansion, largest_scale: Tensor, otherwise: RowLatents) -> StudentT:
    """The Student-t with the curvature at each row's mode, somewhat wider than the normal there.

    Args:
        mode: the expansions of log p(x, u), (n,) rows; a curvature need not be positive definite.
        largest_scale: the largest standard deviation along any axis, a scalar.
        otherwise: the location, with the largest scale, of rows whose expansion is not finite, (n, K).

    Returns:
        The distributions, on the device of `mode.u`.
    """
    finite = mode.finite
    curvature = torch.where(finite[:, None, None], mode.curvature, 0.0)
    eigenvalues, axes = torch.linalg.eigh(curvature)
    scales = eigenvalues.abs().rsqrt().clamp(max=float(largest_scale))
    upper = torch.linalg.qr((axes * scales[:, None]).mT).R
    tril = WIDENING * (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
    return StudentT(torch.where(finite.to(mode.u.device)[:, None], mode.u, otherwise), tril.to(mode.u))


@dataclass(frozen=True)
class Counts:
    """How many of a row's draws come from each component: the guide, the Student-t distributions, the prior."""

    guide: int
    student_t: int
    prior: int

    @classmethod
    def of(cls, num_samples: int, has_guide: bool) -> "Counts":
        """The counts of S draws, the Student-t distributions' never zero.

        Args:
            num_samples: S.
            has_guide: whether the guide is a component.

        Returns:
            The counts, S together.
        """
        guide = int(GUIDE_SHARE * num_samples) if has_guide else 0
        prior = int(PRIOR_SHARE * num_samples)
        return cls(guide, num_samples - guide - prior, prior)

    @property
    def total(self) -> int:
        return self.guide + self.student_t + self.prior

    @property
    def strata(self) -> list[int]:
        return [count for count in (self.guide, self.student_t, self.prior) if count]


@dataclass(frozen=True)
class Proposal:
    """The components of n rows' mixtures.

    Attributes:
        counts: draws of each kind.
        modes: Student-t distributions of the n rows.
        num_modes: how many of `modes`, from the first, a row's mixture has, (n,).
    """

    counts: Counts
    modes: Sequence[StudentT]
    num_modes: Tensor

    def take(self, index: Tensor) -> "Proposal":
        """The mixtures of some rows."""
        return Proposal(self.counts, [mode.take(index) for mode in self.modes], self.num_modes[index])

    def log_prob(self, u: Tensor, log_prior: Tensor, log_guide: Tensor | None) -> LogWeights:
        """The log density (S, n) of the mixtures.

        Args:
            u: points, (S, n, K).
            log_prior: log p(u), (S, n) nats.
            log_guide: log q(u|x), (S, n) nats; None where the guide is no component.

        Returns:
            log of the weighted sum, nats.
        """
        terms = [] if log_guide is None else [log_guide + _log(self.counts.guide)]
        if self.counts.prior:
            terms.append(log_prior + _log(self.counts.prior))
        for number, mode in enumerate(self.modes):
            terms.append(mode.log_prob(u) + self._draws_of_mode(number).to(u).log())
        return torch.stack(terms).logsumexp(0) - _log(self.counts.total)

    def _draws_of_mode(self, number: int) -> Tensor:
        """How many of a row's draws come from one of its modes, (n,): draw s is that of mode s modulo their number."""
        draws = torch.div(self.counts.student_t - number + self.num_modes - 1, self.num_modes, rounding_mode="floor")
        return torch.where(number < self.num_modes, draws.clamp(min=0), 0)

    def student_t_draws(self, normal: Tensor, chi_square: Tensor) -> Tensor:
        """The draws from each row's modes in turn.

        Args:
            normal: standard normal numbers, (S, n, K).
            chi_square: χ² numbers, (S, n).

        Returns:
            The points, (S, n, K).
        """
        chosen = torch.arange(len(normal), device=normal.device)[:, None] % self.num_modes.to(normal.device)
        u = self.modes[0].draw(normal, chi_square)
        for number, mode in enumerate(self.modes[1:], start=1):
            u = torch.where((chosen == number)[..., None], mode.draw(normal, chi_square), u)
        return u


def _log(count: int) -> float:
    return math.log(count) if count else -math.inf


def log_mixture(share: float, log_ratio: LogWeights) -> LogWeights:
    """log [α p(z) + (1 − α) q(z|x)] − log p(z), without overflow however far q lies.

    Args:
        share: α, from 0 to 1.
        log_ratio: log p(z) − log q(z|x) of draws (S, N), nats.

    Returns:
        The logarithms (S, N).
    """
    if share == 1:
        return torch.zeros_like(log_ratio)
    return torch.logaddexp(torch.full_like(log_ratio, math.log(share)), math.log1p(-share) - log_ratio)
