"""Invertible maps of latents, their parameters given by networks: what flow priors and flow guides are made of."""

import math
from typing import Any

import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.spline import ConditionedSpline
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.nets import mlp

BOUND = 5.0  # the splines bend inside [−5, 5] and are the identity outside


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
            made.append(_Coupling(net, self.kept, self.bent, self.bins, context))
        return made


class _Coupling(transforms.SplineCoupling):
    """Pyro's spline coupling, its network reading the kept latents beside a context."""

    def __init__(self, net: nn.Module, kept: int, bent: int, bins: int, context: Tensor | None) -> None:
        nn.Module.__init__(self)
        torch.distributions.Transform.__init__(self, cache_size=1)
        self.split_dim, self.identity = kept, True
        self.upper_spline = _Spline(net, bent, bins, context)  # type: ignore[assignment]

    def __hash__(self) -> int:
        return id(self)


class _Spline:
    """`condition(u)` gives the splines that u and the context ask for."""

    def __init__(self, net: nn.Module, bent: int, bins: int, context: Tensor | None) -> None:
        self.net, self.bent, self.bins, self.context = net, bent, bins, context

    def condition(self, u: Tensor) -> ConditionedSpline:
        bins = self.bins
        out = self.net(beside(u, self.context)).unflatten(-1, (self.bent, 4 * bins - 1))
        widths, heights, lambdas, slopes = out.split([bins, bins, bins, bins - 1], -1)
        even = math.log(math.e - 1)  # softplus of it is one
        knots = F.softmax(widths, -1), F.softmax(heights, -1), F.softplus(slopes + even), torch.sigmoid(lambdas)
        return ConditionedSpline(knots, bound=BOUND, order="linear")


def beside(u: Tensor, context: Tensor | None) -> Tensor:
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
