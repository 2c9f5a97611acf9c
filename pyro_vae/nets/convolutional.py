"""Convolutional networks for images, whose inputs or outputs are rows of their pixels, channel by channel."""

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.data.image_shapes import describe_shape
from pyro_vae.errors import InputError
from pyro_vae.nets.dense import ACTIVATIONS, Offset

Shape = Sequence[int]
Size = tuple[int, int]
_DownBlock = Callable[[int, int, str], nn.Module]  # of channels in, channels out, activation
_UpBlock = Callable[[int, int, str, Size, Size, bool], nn.Module]  # and sizes before and after, whether it is the last


@part
def conv(image_shape: Shape, *channels: int, outputs: int, activation: str = "relu") -> nn.Module:
    """Strided convolutions from an image to a vector, (..., C·H·W) → (..., outputs).

    Two convolutions reduce 28×28 to 7×7; the last layer is linear.

    Args:
        image_shape: (height, width) of the image, H and W, or (channels, height, width), with C channels.
        *channels: those of each 3×3 convolution of stride 2.
        outputs: the number of outputs.
        activation: the nonlinearity between layers, one of `ACTIVATIONS`.

    Returns:
        The network.

    >>> import torch
    >>> conv((28, 28), 32, 64, outputs=40)(torch.zeros(3, 784)).shape
    torch.Size([3, 40])
    """
    return _Encoder(image_shape, channels, outputs, activation, _conv_block)


@part
def conv_transpose(
    inputs: int, *channels: int, image_shape: Shape, maps: int = 1, activation: str = "relu"
) -> nn.Module:
    """Transposed convolutions from a vector to an image, (..., inputs) → (..., maps·C·H·W).

    Args:
        inputs: the number of inputs.
        *channels: those of each layer, from the vector to the image; each doubles height and width.
        image_shape: (height, width) of the image, H and W, or (channels, height, width), with C channels.
        maps: the number of values for each pixel and channel, as images one after the other: 2 for a likelihood with
            `scale="network"`.
        activation: the nonlinearity between layers, one of `ACTIVATIONS`.

    Returns:
        The network.

    >>> import torch
    >>> conv_transpose(20, 64, 32, image_shape=(28, 28))(torch.zeros(3, 20)).shape
    torch.Size([3, 784])
    """
    return _Decoder(inputs, channels, image_shape, maps, activation, _transposed_block)


@part
def resnet(image_shape: Shape, *channels: int, outputs: int, activation: str = "elu") -> nn.Module:
    """Residual blocks from an image to a vector, (..., C·H·W) → (..., outputs); each block halves height and width.

    A block is the sum of two 3×3 convolutions and a 1×1 shortcut (He et al., arXiv:1603.05027).

    Args:
        image_shape: (height, width) of the image, H and W, or (channels, height, width), with C channels.
        *channels: those of each block.
        outputs: the number of outputs.
        activation: the nonlinearity between layers, one of `ACTIVATIONS`.

    Returns:
        The network.

    >>> import torch
    >>> resnet((8, 8), 16, 32, outputs=4)(torch.zeros(3, 64)).shape
    torch.Size([3, 4])
    """
    return _Encoder(image_shape, channels, outputs, activation, _residual_down_block)


@part
def resnet_transpose(
    inputs: int, *channels: int, image_shape: Shape, maps: int = 1, activation: str = "elu"
) -> nn.Module:
    """Residual blocks from a vector to an image, (..., inputs) → (..., maps·C·H·W); each doubles height and width.

    Args:
        inputs: the number of inputs.
        *channels: those of each block, from the vector to the image.
        image_shape: (height, width) of the image, H and W, or (channels, height, width), with C channels.
        maps: the number of values for each pixel and channel, as images one after the other.
        activation: the nonlinearity between layers, one of `ACTIVATIONS`.

    Returns:
        The network.

    >>> import torch
    >>> resnet_transpose(2, 32, 16, image_shape=(8, 8))(torch.zeros(3, 2)).shape
    torch.Size([3, 64])
    """
    return _Decoder(inputs, channels, image_shape, maps, activation, _residual_up_block)


class _Encoder(nn.Module):
    def __init__(
        self, image_shape: Shape, channels: tuple[int, ...], outputs: int, activation: str, block: _DownBlock
    ) -> None:
        super().__init__()
        self.image_shape = _check_arguments(image_shape, channels, activation)
        sizes = _halved_sizes(self.image_shape[1:], len(channels))
        layers = [block(a, b, activation) for a, b in itertools.pairwise((self.image_shape[0], *channels))]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * sizes[-1][0] * sizes[-1][1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != math.prod(self.image_shape):
            shape = describe_shape(self.image_shape[self.image_shape[0] == 1 :])
            raise InputError(f"a network for images of {shape} was given rows of {x.shape[-1]} values")
        out: Tensor = self.body(x.reshape(-1, *self.image_shape))
        return out.reshape(*x.shape[:-1], -1)


class _Decoder(nn.Module):
    def __init__(
        self, inputs: int, channels: tuple[int, ...], image_shape: Shape, maps: int, activation: str, block: _UpBlock
    ) -> None:
        super().__init__()
        shape = _check_arguments(image_shape, channels, activation)
        sizes = _halved_sizes(shape[1:], len(channels))[::-1]
        first = channels[0] * sizes[0][0] * sizes[0][1]
        layers: list[nn.Module] = [nn.Linear(inputs, first), ACTIVATIONS[activation]()]
        layers.append(nn.Unflatten(1, (channels[0], *sizes[0])))
        steps = zip(itertools.pairwise((*channels, maps * shape[0])), itertools.pairwise(sizes), strict=True)
        for i, ((a, b), (small, large)) in enumerate(steps):
            layers.append(block(a, b, activation, small, large, i == len(channels) - 1))
        self.body = nn.Sequential(*layers, nn.Flatten(), Offset(maps * math.prod(shape)))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.body(z.reshape(-1, z.shape[-1]))
        return out.reshape(*z.shape[:-1], -1)


def _check_arguments(image_shape: Shape, channels: tuple[int, ...], activation: str) -> tuple[int, int, int]:
    """Channels, height and width; `InputError` for what makes no network."""
    if len(image_shape) not in (2, 3) or min(image_shape) < 1:
        raise InputError(f"image_shape is (height, width) or (channels, height, width), got {tuple(image_shape)}")
    if not channels or min(channels) < 1:
        raise InputError(f"a network for images needs one or more channels, each one or more; got {channels}")
    if activation not in ACTIVATIONS:
        raise InputError(f"no activation called {activation!r}; try one of {', '.join(ACTIVATIONS)}")
    *num_channels, height, width = (int(size) for size in image_shape)
    return num_channels[0] if num_channels else 1, height, width


def _halved_sizes(shape: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """The sizes of an image after 0, 1, … `times` strides of 2.

    >>> _halved_sizes((28, 20), 3)
    [(28, 20), (14, 10), (7, 5), (4, 3)]
    """
    sizes = [shape]
    for _ in range(times):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _conv_block(a: int, b: int, activation: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), ACTIVATIONS[activation]())


def _transposed_block(a: int, b: int, activation: str, small: Size, large: Size, last: bool) -> nn.Module:
    odd = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
    layer = nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=odd)
    return layer if last else nn.Sequential(layer, ACTIVATIONS[activation]())


class _Residual(nn.Module):
    """h → shortcut(h) + body(h)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.shortcut(h) + self.body(h)
        return out


def _residual_down_block(a: int, b: int, activation: str) -> nn.Module:
    act = ACTIVATIONS[activation]
    body = nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), act(), nn.Conv2d(b, b, 3, padding=1))
    return nn.Sequential(_Residual(body, nn.Conv2d(a, b, 1, stride=2)), act())


def _residual_up_block(a: int, b: int, activation: str, small: Size, large: Size, last: bool) -> nn.Module:
    act = ACTIVATIONS[activation]
    body = nn.Sequential(nn.Upsample(large), nn.Conv2d(a, a, 3, padding=1), act(), nn.Conv2d(a, b, 3, padding=1))
    block = _Residual(body, nn.Sequential(nn.Upsample(large), nn.Conv2d(a, b, 1)))
    return block if last else nn.Sequential(block, act())
