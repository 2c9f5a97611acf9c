"""Lines through a latent space: whitened codes, interpolation between two codes, and the length of its decodings."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import seeded
from pyro_vae.errors import InputError
from pyro_vae.typing import Latents, PerRow, RowLatents

DECODE_BATCH_SIZE = 8192
MIN_VARIANCE_SHARE = 1e-10  # of the largest: a direction with less has only rounding
OPPOSITE = 1e-5


@dataclass(frozen=True)
class Whitening:
    r"""An affine map that gives codes mean zero and unit covariance, $w = \mathrm{diag}(s)^{-1} V^T (z - m)$.

    `mean` m (K,), `directions` V (K, R) and `scales` s (R,), the principal directions of the codes and the standard
    deviations along them, largest first, float64. R < K where codes do not vary in some direction.
    """

    mean: Tensor
    directions: Tensor
    scales: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes (..., K) in whitened coordinates (..., R)."""
        return ((codes.double() - self.mean) @ self.directions / self.scales).to(codes.dtype)

    def back(self, white: Tensor) -> Tensor:
        """The codes (..., K) at whitened coordinates (..., R)."""
        return (self.mean + (white.double() * self.scales) @ self.directions.T).to(white.dtype)


def whiten(codes: RowLatents) -> Whitening:
    """The whitening of some codes (N, K), by their mean and their covariance (divided by N).

    Whitening changes what "as far apart" means, and so which pairs of codes are compared and in what unit a distance is
    given: an autoencoder's codes have no scale of their own. It does not change what is straight: a line stays a line.

    Raises `InputError` for fewer than two codes, or where all are the same.

    >>> codes = torch.randn(500, 3) @ torch.randn(3, 3) + 5
    >>> bool(torch.allclose(whiten(codes)(codes).T.cov(correction=0), torch.eye(3), atol=1e-3))
    True
    """
    at = require_codes(codes)
    mean = at.mean(0)
    variances, directions = torch.linalg.eigh((at - mean).T @ (at - mean) / len(at))
    kept = (variances > MIN_VARIANCE_SHARE * variances[-1]) & (variances > 0)
    if not kept.any():
        raise InputError("all codes are the same: there is no spread to measure them by")
    return Whitening(mean, directions[:, kept].flip(1), variances[kept].sqrt().flip(0))


def require_codes(codes: object, at_least: int = 2) -> Tensor:
    """Codes as float64 on the CPU; `InputError` for another shape, too few, or values that are not finite.

    Args:
        codes: codes (N, K).
        at_least: the smallest N.

    Returns:
        The codes (N, K).
    """
    if not isinstance(codes, Tensor) or codes.dim() != 2 or codes.shape[1] == 0:
        found = tuple(codes.shape) if isinstance(codes, Tensor | np.ndarray) else ()
        raise InputError(f"expected codes of shape (N, K), got {found or type(codes)}")
    if len(codes) < at_least:
        raise InputError(f"expected {at_least} codes or more, got {len(codes)}")
    if not torch.isfinite(codes).all():
        raise InputError("codes hold NaN or infinity; look at the rows they belong to")
    return codes.detach().cpu().double()


def draws_around(codes: RowLatents, num_draws: int, distribution: str = "normal", *, seed: int | None = 0) -> Tensor:
    """Points to decode where there is no prior: draws from a Normal fitted to codes, or from their box.

    The same seed gives the same whitened draws for any codes of as many directions.

    Args:
        codes: codes (N, K).
        num_draws: the number M of points.
        distribution: `normal`, with the codes' mean and covariance, or `box`, uniform over the smallest box that holds
            them; `InputError` for another name.
        seed: of the draws.

    Returns:
        The points (M, K).

    >>> draws_around(torch.randn(50, 2), 10, "box").shape
    torch.Size([10, 2])
    """
    with seeded(seed):
        if distribution == "normal":
            around = whiten(codes)
            return around.back(torch.randn(num_draws, len(around.scales), dtype=codes.dtype))
        if distribution == "box":
            low, high = codes.detach().cpu().amin(0), codes.detach().cpu().amax(0)
            return low + (high - low) * torch.rand(num_draws, codes.shape[1], dtype=codes.dtype)
    raise InputError(f"expected distribution='normal' or 'box', got {distribution!r}")


@check_call
def interpolate(start: Latents, end: Latents, steps: int = 10, method: str = "straight") -> Tensor:
    r"""Points from one code to another, both ends included.

    `straight` is $(1 - t) a + t b$. `spherical` turns the direction evenly along the great circle and changes the
    length evenly: $[(1 - t)|a| + t|b|]\,[\sin((1 - t)\theta)\, \hat a + \sin(t\theta)\, \hat b] / \sin\theta$ with θ
    the angle between a and b. Between codes of one length it is that of White (arXiv:1609.04468) and keeps the length,
    where draws of a normal prior in many dimensions lie, and a straight line does not; for other lengths his swings far
    out when they point away from each other. Where one vector is zero it is the straight line.

    Raises `InputError` for opposite vectors, between which every great circle is as short, and for steps below one.

    Args:
        start: codes (..., K) at t = 0.
        end: codes (..., K) at t = 1.
        steps: equal steps of t between them.
        method: `straight` or `spherical`.

    Returns:
        The points (steps + 1, ..., K).

    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> bool(torch.allclose(interpolate(a, b, 4, "spherical").norm(dim=-1), torch.ones(5)))
    True
    """
    if steps < 1 or start.shape != end.shape:
        raise InputError(
            f"expected one step or more between codes of one shape, got {steps}, {tuple(start.shape)} and "
            f"{tuple(end.shape)}"
        )
    t = torch.linspace(0, 1, steps + 1, dtype=start.dtype, device=start.device)
    t = t.reshape(-1, *[1] * start.dim())
    if method == "straight":
        return (1 - t) * start + t * end
    if method != "spherical":
        raise InputError(f"expected method='straight' or 'spherical', got {method!r}")
    angle = _angle(start, end)
    sizes = [vector.norm(dim=-1, keepdim=True) for vector in (start, end)]
    curved = (angle > 1e-6) & (sizes[0] > 0) & (sizes[1] > 0)
    sine, size = torch.where(curved, angle.sin(), 1.0), (1 - t) * sizes[0] + t * sizes[1]
    units = [vector / torch.where(curved, length, 1.0) for vector, length in zip((start, end), sizes, strict=True)]
    parts = [torch.where(curved, size * (part * angle).sin() / sine, part) for part in (1 - t, t)]
    return torch.where(curved, parts[0] * units[0] + parts[1] * units[1], (1 - t) * start + t * end)


def _angle(start: Tensor, end: Tensor) -> Tensor:
    """The angle between vectors, (..., 1); zero where one of them is zero."""
    lengths = [vector.norm(dim=-1, keepdim=True) for vector in (start, end)]
    known = (lengths[0] > 0) & (lengths[1] > 0)
    a, b = (torch.where(known, vector / length, 0.0) for vector, length in zip((start, end), lengths, strict=True))
    apart, together = (a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True)
    if (known & (together < OPPOSITE)).any():
        raise InputError(
            "two codes lie on opposite sides of the origin: every great circle between them is as short; try "
            "method='straight'"
        )
    return 2 * torch.atan2(apart, torch.where(known, together, 1.0))


@dataclass(frozen=True)
class Paths:
    """Decoded straight lines between M pairs of codes: `length` (M,) along the line and `chord` (M,) from end to end.

    Both in the units of x, float64. `ratio` (M,) = `length` / `chord` ≥ 1 says how much a line bends in x: 1 for a
    linear decoder; infinite where both ends have the same decoding and the line between them has not, NaN where the
    decoding is constant.
    """

    length: PerRow
    chord: PerRow

    @property
    def ratio(self) -> PerRow:
        return self.length / self.chord

    def __repr__(self) -> str:
        known = self.ratio[torch.isfinite(self.ratio)]
        se = float(known.std() / math.sqrt(len(known))) if len(known) > 1 else math.nan
        return f"Paths({len(self.length)} lines: {known.mean():.3f} ± {se:.3f} times the distance between their ends)"


@torch.no_grad()
def decoded_paths(decode: Callable[[Tensor], Tensor], starts: Tensor, ends: Tensor, *, steps: int = 64) -> Paths:
    r"""How long the decodings $f(z)$ of straight lines are.

    $\sum_j |f(z_{j+1}) - f(z_j)|$ over equal steps, a lower bound on the curve's length that comes near it as
    $1/\text{steps}^2$ (compare Chen et al., arXiv:1711.01204, and Arvanitidis et al., arXiv:1710.11379). Pairs are
    chosen by the caller: `draws_around` gives pairs that are as far apart in whitened coordinates for one latent space
    as for another, which is what makes lengths of two of them comparable; the ratio asks for nothing more than that.
    Memory is flat in M. Raises `InputError` for starts and ends of different shapes.

    Args:
        decode: from z (n, K) to x (n, D).
        starts: where the lines begin (M, K).
        ends: where they end (M, K).
        steps: equal steps of each line.

    Returns:
        The lengths of the lines and the distances of their ends, (M,) each, in units of x.

    >>> f = lambda z: torch.cat([z.cos(), z.sin()], 1)  # a circle
    >>> paths = decoded_paths(f, torch.zeros(1, 1), torch.full((1, 1), torch.pi))
    >>> abs(float(paths.ratio) - torch.pi / 2) < 1e-3
    True
    """
    if starts.dim() != 2 or starts.shape != ends.shape:
        raise InputError(f"expected pairs (M, K) and (M, K), got {tuple(starts.shape)} and {tuple(ends.shape)}")
    lengths, chords = [], []
    size = max(1, DECODE_BATCH_SIZE // (steps + 1))
    for start, end in zip(starts.split(size), ends.split(size), strict=True):
        line = interpolate(start, end, steps)
        x = decode(line.flatten(0, 1)).cpu().double().unflatten(0, line.shape[:2])
        lengths.append(x.diff(dim=0).norm(dim=-1).sum(0))
        chords.append((x[-1] - x[0]).norm(dim=-1))
    return Paths(torch.cat(lengths), torch.cat(chords))


def path_ratio(decode: Callable[[Tensor], Tensor], starts: Tensor, ends: Tensor, *, steps: int = 64) -> Tensor:
    """The length of each decoded line over the distance between its decoded ends: see `decoded_paths`.

    Args:
        decode: from z (n, K) to x (n, D).
        starts: where the lines begin (M, K).
        ends: where they end (M, K).
        steps: equal steps of each line.

    Returns:
        The ratios (M,), at least 1.

    >>> ratio = path_ratio(lambda z: z @ torch.ones(2, 3), torch.randn(4, 2), torch.randn(4, 2))
    >>> bool(((ratio - 1).abs() < 1e-5).all())
    True
    """
    return decoded_paths(decode, starts, ends, steps=steps).ratio
