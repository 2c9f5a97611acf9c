"""Products of layers in bfloat16, inside programs whose weights, sums and densities stay in float32."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.objectives.differentiable_elbo import Arguments, Keywords

LAYERS = frozenset((F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
P = ParamSpec("P")
R = TypeVar("R")
LayerCall = Callable[[], object]


class LayerMode(TorchFunctionMode):
    """A mode that sees the calls of layers, while it is entered or within functions that it is put around."""

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function inside which the mode is entered.

        Args:
            function: a model or a guide.

        Returns:
            A function of the same arguments.
        """

        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return inside


class ReducedProducts(LayerMode):
    """Inside, linear and convolutional layers of float32 take products, also those of their gradients, in bfloat16.

    Input and weight are rounded to bfloat16 (8 significant bits, a relative error of at most 0.4 %), a product's sum is
    kept in float32 and rounded once; the bias, and all other operations, stay in float32. Layers of other types are
    unchanged, and so are products that a program takes itself (`x @ weight`), and those inside torch's attention.

    >>> layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> with ReducedProducts():
    ...     reduced = layer(x)
    >>> reduced.dtype, bool((reduced - layer(x)).abs().max() < 0.05)
    (torch.float32, True)
    """

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        if func in LAYERS:
            return _any_layer(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def reduced_layer(
    func: Callable[..., object],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: object,
    **kwargs: object,
) -> object:
    """A layer with its products in bfloat16; as it is where input or weight is not of float32.

    Args:
        func: one of `LAYERS`.
        input: what it is applied to, as `func` takes it.
        weight: its weight.
        bias: its bias (C,), if it has one; of a linear layer anything that broadcasts.
        *args: its further arguments.
        **kwargs: its further keyword arguments.

    Returns:
        The result, of float32.
    """
    if input.dtype != torch.float32 or weight.dtype != torch.float32:
        return func(input, weight, bias, *args, **kwargs)
    product = func(input.to(torch.bfloat16), weight.to(torch.bfloat16), None, *args, **kwargs)
    assert isinstance(product, Tensor)
    result = product.to(torch.float32)
    if bias is None:
        return result
    return result + (bias if func is F.linear else bias.view(-1, *[1] * (weight.dim() - 2)))


_any_layer: Callable[..., object] = reduced_layer  # with the arguments as torch passes them on


class FindLayers(LayerMode):
    """Keeps every call of a layer, to be made again: as it is, and with reduced products."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[LayerCall, LayerCall]] = []

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        keywords = kwargs or {}
        if func in LAYERS:
            self.calls.append((lambda: func(*args, **keywords), lambda: _any_layer(func, *args, **keywords)))
        return func(*args, **keywords)
