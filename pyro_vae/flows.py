"""Invertible maps of latents, their parameters given by networks: what flow priors and flow guides are made of."""

import math
from typing import Any

import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.nets import mlp

BOUND = 5.0  # the splines bend inside [−5, 5] and are the identity outside
LEAST, MIN_PLACE = 1e-3, 0.025  # of shares of [−5, 5] and slopes; of places λ between two knots
EVEN = math.log(math.e - 1)  # softplus of it is one
END = math.log(math.expm1(1 - 2 * LEAST))  # makes a slope of 1 − 1e-3 at −5 and 5, as Pyro has it


class Couplings(nn.Module):
    r"""Coupling layers of rational splines, half of the K latents bent by what the other half and a context say.

    Each layer leaves $u_{1:k}$ as it is and sends each of the others through a monotone spline whose knots are a
    network's output at $(u_{1:k}, c)$ (Durkan et al., arXiv:1906.04032; the linear rational splines of Dolatabadi et
    al., arXiv:2001.05168); the order of dimensions is turned round between layers. With one latent its spline depends
    on the context alone. Starts near the identity, but for the order of dimensions.

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
        self.kept, self.bins = num_latents // 2, bins
        self.bent = num_latents - self.kept
        self.nets = nn.ModuleList(
            mlp(max(1, self.kept + num_context), hidden, self.bent * (4 * bins - 1), activation="relu")
            for _ in range(layers)
        )
        for net in self.nets:
            last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        self.register_buffer("turned", torch.arange(num_latents).flip(0), persistent=False)

    def forward(self, context: Tensor | None = None) -> list[torch.distributions.Transform]:
        """The layers, base first, given a context (..., num_context)."""
        made: list[torch.distributions.Transform] = []
        for i, net in enumerate(self.nets):
            if i and self.kept:
                made.append(transforms.Permute(self.turned, cache_size=1))
            made.append(_Coupling(net, self.kept, self.bins, context))
        return made


class _Coupling(torch.distributions.Transform):
    """One layer: the last latents through the splines that the kept ones and the context ask for."""

    domain = codomain = torch.distributions.constraints.real_vector
    bijective = True

    def __init__(self, net: nn.Module, kept: int, bins: int, context: Tensor | None) -> None:
        super().__init__(cache_size=1)
        self.net, self.kept, self.bins, self.context = net, kept, bins, context

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_det = self._bend(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x, log_det = self._bend(y, inverse=True)
        self._log_det = -log_det
        return x

    def _bend(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        kept = x[..., : self.kept]
        raw = self.net(concat(kept, self.context)).unflatten(-1, (-1, 4 * self.bins - 1))
        x = x.expand(*raw.shape[:-2], -1)
        bent, log_slope = rational_spline(x[..., self.kept :], raw, inverse)
        return torch.cat([x[..., : self.kept], bent], -1) if self.kept else bent, log_slope.sum(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Kept from the call that made y of x or x of y; computed afresh for any other x."""
        if x is not self._cached_x_y[0]:
            self(x)
        return self._log_det


def rational_spline(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""Monotone splines of [−5, 5] onto itself, the identity outside: each number's image and its log slope.

    Between knots a and b, where the slopes are $d_a, d_b$, lies c at $x_c = x_a + \lambda (x_b - x_a)$, and either half
    is a ratio of linear functions. With e the half's own knot, a or b, and $(X, Y) = c - e$, $u = x - x_e$,
    $$y = y_e + d_e u s, \quad \log \frac{dy}{dx} = \log(d_e s^2), \quad s = \frac{XY}{Y (X - u) + d_e X u}.$$
    The halves have one slope at c where $(y_c - y_a) / (y_b - y_a) = \lambda \sqrt{d_a} / (\lambda \sqrt{d_a} +
    (1 - \lambda) \sqrt{d_b})$. The inverse is the same with x for y and $1/d_e$ for $d_e$. These are the linear
    rational splines of Dolatabadi et al. (AISTATS 2020, arXiv:2001.05168), their parameters and the least widths,
    heights and slopes as in Pyro's `ConditionedSpline`. No shape depends on a value, so that a graph can be traced.

    `raw` (..., K, 4B − 1) holds for each of the K numbers of x (..., K) what softmax, sigmoid and softplus turn into B
    widths and B heights, B places λ and B − 1 slopes; all zero, it gives nearly the identity.

    >>> x, raw = torch.randn(5, 3), torch.randn(5, 3, 4 * 8 - 1)
    >>> y, log_slope = rational_spline(x, raw)
    >>> back, log_back = rational_spline(y, raw, inverse=True)
    >>> bool(torch.allclose(back, x, atol=1e-3)), bool(torch.allclose(log_back, -log_slope, atol=1e-2))
    (True, True)
    """
    bins = (raw.shape[-1] + 1) // 4
    sizes, raw_places, raw_slopes = raw.split([2 * bins, bins, bins - 1], -1)
    knots = _knots(sizes.unflatten(-1, (2, bins)).movedim((-1, -2), (0, 1)))  # (B + 1, 2, ..., K), of x and of y
    inside = (x >= -BOUND) & (x <= BOUND)
    at, axis = x.clamp(-BOUND, BOUND), int(inverse)

    first = (at >= knots[1:-1, axis].detach()).sum(0, keepdim=True)
    both = torch.cat([first, first + 1])
    a, b = knots.gather(0, both.unsqueeze(1).expand(2, *knots.shape[1:]))
    slopes = F.pad(raw_slopes, (1, 1), value=END - EVEN).movedim(-1, 0).gather(0, both)
    slopes = LEAST + F.softplus(slopes + EVEN)
    place = MIN_PLACE + (1 - 2 * MIN_PLACE) * raw_places.movedim(-1, 0).gather(0, first).sigmoid()

    d_a, d_b = slopes
    in_x = torch.cat([place, 1 - place])
    weights = slopes.sqrt() * in_x
    to_a, to_b = torch.stack([in_x, weights / weights.sum(0)], 1)  # c's distances, in shares of the bin
    later = at > (a + to_a * (b - a))[axis]
    x_e, y_e = torch.where(later, b, a)
    x_reach, y_reach = torch.where(later, -to_b, to_a) * (b - a)
    slope = torch.where(later, d_b, d_a)

    if inverse:
        x_e, y_e, x_reach, y_reach, slope = y_e, x_e, y_reach, x_reach, 1 / slope
    u = at - x_e
    rise = slope * u
    s = x_reach * y_reach / (y_reach * (x_reach - u) + x_reach * rise)
    return torch.where(inside, y_e + rise * s, x), (slope * s.square()).log() * inside


def _knots(raw: Tensor) -> Tensor:
    """Raw sizes of B bins (B, ...) → B + 1 knots from −5 to 5, no bin under a thousandth of that."""
    bins = len(raw)
    knot = torch.arange(bins + 1, dtype=raw.dtype, device=raw.device).unsqueeze(1)
    before = (knot > knot[:bins].mT).to(raw.dtype)
    if_one_takes_all = 2 * BOUND * (LEAST * knot + (1 - LEAST * bins) * before) - BOUND
    return (if_one_takes_all @ raw.softmax(0).flatten(1)).unflatten(1, raw.shape[1:])


def concat(u: Tensor, context: Tensor | None) -> Tensor:
    """u and the context side by side, (..., k) and (..., c) → (..., k + c), each expanded to the other's rows."""
    if context is None:
        return u if u.shape[-1] else u.new_zeros(*u.shape[:-1], 1)
    shape = torch.broadcast_shapes(u.shape[:-1], context.shape[:-1])
    return torch.cat([u.expand(*shape, -1), context.expand(*shape, -1)], -1)


class Autoregressive(nn.Module):
    """Inverse autoregressive layers, each latent scaled and shifted by what those before it and a context say.

    Kingma et al. (arXiv:1606.04934) by Pyro's `AffineAutoregressive`. Drawing and scoring a draw cost one pass a layer;
    scoring any other point costs K of them.
    """

    def __init__(self, num_latents: int, num_context: int, layers: int = 4, hidden: int = 64) -> None:
        super().__init__()
        check_flow(num_latents, layers, hidden)
        if num_latents < 2:
            raise InputError("an autoregressive flow needs two latents or more; with one take couplings, which bend it")
        self.nets = nn.ModuleList(
            ConditionalAutoRegressiveNN(
                num_latents, num_context, [max(hidden, num_latents)], permutation=self._order(num_latents, i)
            )
            for i in range(layers)
        )

    @staticmethod
    def _order(num_latents: int, layer: int) -> Any:
        forwards = torch.arange(num_latents)
        return forwards if layer % 2 == 0 else forwards.flip(0)

    def forward(self, context: Tensor) -> list[torch.distributions.Transform]:
        """The layers, base first, given a context (..., num_context)."""
        return [transforms.ConditionalAffineAutoregressive(net).condition(context) for net in self.nets]


def check_flow(num_latents: int, layers: int, hidden: int) -> None:
    for name, value in (("num_latents", num_latents), ("layers", layers), ("hidden", hidden)):
        if value < 1:
            raise InputError(f"a flow's {name} must be one or more, got {value}")
