"""Normalizing flows: invertible maps of latents with parameters from networks, for flow priors and flow guides.

>>> x, raw = torch.randn(5, 3), torch.randn(5, 3, 4 * 8 - 1)
>>> y, log_slope = rational_spline(x, raw)
>>> back, log_back = rational_spline(y, raw, inverse=True)
>>> bool(torch.allclose(back, x, atol=1e-3)), bool(torch.allclose(log_back, -log_slope, atol=1e-2))
(True, True)
"""

import math
from typing import cast

import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from pyro.nn import ConditionalAutoRegressiveNN
from torch import LongTensor, Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.nets import mlp

MAX_LAYERS = 1000  # each is a network of its own
BOUND = 5.0  # the splines map [−5, 5] to itself and are the identity outside
MIN_SIZE = 1e-3  # of slopes, and of widths and heights as shares of [−5, 5]
MIN_LAMBDA = 0.025
UNIT_RAW_SLOPE = math.log(math.e - 1)  # softplus of it is one
BOUNDARY_RAW_SLOPE = math.log(math.expm1(1 - 2 * MIN_SIZE))  # of the slope 1 − 1e-3 at −5 and 5, as in Pyro


class Couplings(nn.Module):
    r"""Coupling layers of rational splines: half of the K latents are transformed given the other half and a context.

    Each layer leaves $u_{1:k}$ unchanged and maps each of the others by a monotone spline whose knots are a network's
    output at $(u_{1:k}, c)$ (Durkan et al., arXiv:1906.04032; the linear rational splines of Dolatabadi et al.,
    arXiv:2001.05168); the order of dimensions is reversed between layers. With one latent, its spline depends on the
    context only. Initially near the identity, except for the order of dimensions.

    Args:
        num_latents: the number K of latents.
        num_context: the number of values of the context c.
        layers: the number of layers.
        hidden: the number of units of the one hidden layer of each network.
        bins: the number B of bins of a spline.

    >>> _ = torch.manual_seed(0)
    >>> flow = Couplings(num_latents=3, num_context=2, layers=2)
    >>> u = torch.randn(5, 3)
    >>> z = transforms.ComposeTransform(flow(torch.zeros(5, 2)))(u)
    >>> z.shape, bool((z - u.flip(-1)).abs().max() < 0.5)
    (torch.Size([5, 3]), True)
    """

    def __init__(
        self, num_latents: int, num_context: int = 0, layers: int = 4, hidden: int = 64, bins: int = 8
    ) -> None:
        super().__init__()
        check_flow(num_latents, layers, hidden)
        if bins < 2:
            raise InputError(f"a spline needs two bins or more, got {bins}")
        self.num_unchanged, self.bins = num_latents // 2, bins
        self.num_transformed = num_latents - self.num_unchanged
        num_inputs = max(1, self.num_unchanged + num_context)
        self.nets = nn.ModuleList(
            mlp(num_inputs, hidden, self.num_transformed * (4 * bins - 1), activation="relu") for _ in range(layers)
        )
        for net in self.nets:
            last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        self.register_buffer("reversed_order", torch.arange(num_latents).flip(0), persistent=False)

    def forward(self, context: Tensor | None = None) -> list[torch.distributions.Transform]:
        """The layers in order from the base, given a context (..., num_context)."""
        layers: list[torch.distributions.Transform] = []
        for i, net in enumerate(self.nets):
            if i and self.num_unchanged:
                layers.append(transforms.Permute(self.reversed_order, cache_size=1))
            layers.append(_Coupling(net, self.num_unchanged, self.bins, context))
        return layers


class _Coupling(torch.distributions.Transform):
    """One layer: splines of the last latents, with knots from the network of the unchanged ones and the context."""

    domain = codomain = torch.distributions.constraints.real_vector
    bijective = True

    def __init__(self, net: nn.Module, num_unchanged: int, bins: int, context: Tensor | None) -> None:
        super().__init__(cache_size=1)
        self.net, self.num_unchanged, self.bins, self.context = net, num_unchanged, bins, context

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_det = self._transform(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x, log_det = self._transform(y, inverse=True)
        self._log_det = -log_det
        return x

    def _transform(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        unchanged = x[..., : self.num_unchanged]
        raw = self.net(concat(unchanged, self.context)).unflatten(-1, (-1, 4 * self.bins - 1))
        x = x.expand(*raw.shape[:-2], -1)
        y, log_slope = rational_spline(x[..., self.num_unchanged :], raw, inverse)
        return torch.cat([x[..., : self.num_unchanged], y], -1) if self.num_unchanged else y, log_slope.sum(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Cached from the call that computed y from x or x from y; recomputed for any other x."""
        if x is not self._cached_x_y[0]:
            self(x)
        return self._log_det


def rational_spline(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""Monotone splines of [−5, 5] onto itself, the identity outside: the image of each value and its log slope.

    Between knots a and b, with slopes $d_a, d_b$, a point c is at $x_c = x_a + \lambda (x_b - x_a)$, and each half is
    a ratio of linear functions. With e the half's own knot, a or b, and $(X, Y) = c - e$, $u = x - x_e$,
    $$y = y_e + d_e u s, \quad \log \frac{dy}{dx} = \log(d_e s^2), \quad s = \frac{XY}{Y (X - u) + d_e X u}.$$
    The halves have one slope at c where $(y_c - y_a) / (y_b - y_a) = \lambda \sqrt{d_a} / (\lambda \sqrt{d_a} +
    (1 - \lambda) \sqrt{d_b})$. The inverse is the same with x for y and $1/d_e$ for $d_e$. These are the linear
    rational splines of Dolatabadi et al. (AISTATS 2020, arXiv:2001.05168), their parameters and the least widths,
    heights and slopes as in Pyro's `ConditionedSpline`. No shape depends on a value, so that a graph can be traced.

    Args:
        x: values (..., K).
        raw: for each of them, (..., K, 4B − 1), the inputs of softmax for B widths and B heights, of sigmoid for B
            values of λ and of softplus for B − 1 slopes; all zero, they give nearly the identity.
        inverse: whether the inverse is applied.

    Returns:
        The image of each value and its log slope, (..., K) each.
    """
    bins = (raw.shape[-1] + 1) // 4
    sizes, raw_lambda, raw_slopes = raw.split([2 * bins, bins, bins - 1], -1)
    knots = _knots(sizes.unflatten(-1, (2, bins)).movedim((-1, -2), (0, 1)))  # (B + 1, 2, ..., K), of x and of y
    inside = (x >= -BOUND) & (x <= BOUND)
    clamped, axis = x.clamp(-BOUND, BOUND), int(inverse)

    first = (clamped >= knots[1:-1, axis].detach()).sum(0, keepdim=True)
    ends = torch.cat([first, first + 1])
    a, b = knots.gather(0, ends.unsqueeze(1).expand(2, *knots.shape[1:]))
    slopes = _slopes(raw_slopes, ends)
    lam = MIN_LAMBDA + (1 - 2 * MIN_LAMBDA) * raw_lambda.movedim(-1, 0).gather(0, first).sigmoid()
    x_e, y_e, X, Y, slope = _half_of_bin(clamped, axis, a, b, lam, slopes)
    if inverse:
        x_e, y_e, X, Y, slope = y_e, x_e, Y, X, 1 / slope
    u = clamped - x_e
    rise = slope * u
    s = X * Y / (Y * (X - u) + X * rise)
    return torch.where(inside, y_e + rise * s, x), (slope * s.square()).log() * inside


def _knots(raw: Tensor) -> Tensor:
    """Raw sizes of B bins (B, ...) → B + 1 knots from −5 to 5, each bin at least a thousandth of [−5, 5]."""
    bins = len(raw)
    knot = torch.arange(bins + 1, dtype=raw.dtype, device=raw.device).unsqueeze(1)
    is_after = (knot > knot[:bins].mT).to(raw.dtype)
    if_one_has_all = 2 * BOUND * (MIN_SIZE * knot + (1 - MIN_SIZE * bins) * is_after) - BOUND  # (B + 1, B)
    knots: Tensor = (if_one_has_all @ raw.softmax(0).flatten(1)).unflatten(1, raw.shape[1:])
    return knots


def _slopes(raw: Tensor, ends: Tensor) -> Tensor:
    """Raw slopes (..., K, B − 1) of the inner knots → the slopes (2, ..., K) at both ends of a bin."""
    at_ends = F.pad(raw, (1, 1), value=BOUNDARY_RAW_SLOPE - UNIT_RAW_SLOPE).movedim(-1, 0).gather(0, ends)
    return MIN_SIZE + F.softplus(at_ends + UNIT_RAW_SLOPE)


def _half_of_bin(
    x: Tensor, axis: int, a: Tensor, b: Tensor, lam: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The half of bin (a, b) that x is in: its knot (x_e, y_e), the distances (X, Y) to c, and its slope."""
    slope_a, slope_b = slopes
    shares_x = torch.cat([lam, 1 - lam])
    weights = slopes.sqrt() * shares_x
    a_to_c, c_to_b = torch.stack([shares_x, weights / weights.sum(0)], 1)  # as shares of the bin
    is_second = x > (a + a_to_c * (b - a))[axis]
    x_e, y_e = torch.where(is_second, b, a)
    X, Y = torch.where(is_second, -c_to_b, a_to_c) * (b - a)
    return x_e, y_e, X, Y, torch.where(is_second, slope_b, slope_a)


def concat(u: Tensor, context: Tensor | None) -> Tensor:
    """Latents and a context concatenated, each broadcast to the other's rows.

    Args:
        u: latents (..., k).
        context: (..., c), or None.

    Returns:
        (..., k + c); a zero where both are empty.
    """
    if context is None:
        return u if u.shape[-1] else u.new_zeros(*u.shape[:-1], 1)
    shape = broadcast_shape(u.shape[:-1], context.shape[:-1])
    return torch.cat([u.expand(*shape, -1), context.expand(*shape, -1)], -1)


class Autoregressive(nn.Module):
    """Inverse autoregressive layers: each latent is scaled and shifted given those before it and a context.

    Kingma et al. (arXiv:1606.04934) by Pyro's `AffineAutoregressive`. Sampling, and scoring a sample, cost one pass a
    layer; scoring another point costs K passes.

    Args:
        num_latents: the number K of latents, two or more.
        num_context: the number of values of the context.
        layers: the number of layers.
        hidden: the number of units of the one hidden layer of each network.
    """

    def __init__(self, num_latents: int, num_context: int, layers: int = 4, hidden: int = 64) -> None:
        super().__init__()
        check_flow(num_latents, layers, hidden)
        if num_latents < 2:
            raise InputError("an autoregressive flow needs two latents or more; with one use couplings")
        self.nets = nn.ModuleList(
            ConditionalAutoRegressiveNN(
                num_latents, num_context, [max(hidden, num_latents)], permutation=self._order(num_latents, i)
            )
            for i in range(layers)
        )

    @staticmethod
    def _order(num_latents: int, layer: int) -> LongTensor:
        order: Tensor = torch.arange(num_latents)
        return cast(LongTensor, order if layer % 2 == 0 else order.flip(0))

    def forward(self, context: Tensor) -> list[torch.distributions.Transform]:
        """The layers, base first, given a context (..., num_context)."""
        return [transforms.ConditionalAffineAutoregressive(net).condition(context) for net in self.nets]


def check_flow(num_latents: int, layers: int, hidden: int) -> None:
    """`InputError` for sizes of a flow that are not positive, or for more layers than are made one by one.

    Args:
        num_latents: the number K of latents.
        layers: the number of layers.
        hidden: the number of units of the hidden layer of each.
    """
    for name, value in (("num_latents", num_latents), ("layers", layers), ("hidden", hidden)):
        if value < 1:
            raise InputError(f"a flow's {name} must be one or more, got {value}")
    if layers > MAX_LAYERS:
        raise InputError(f"a flow's layers must be {MAX_LAYERS:,} at most, got {layers:,}")
