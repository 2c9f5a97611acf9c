"""Networks of linear layers; activations, positive outputs and the initial output bias of all networks."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@part
def mlp(*sizes: int, activation: str = "tanh") -> nn.Sequential:
    r"""A multi-layer perceptron from `sizes[0]` inputs to `sizes[-1]` outputs, the last layer linear.

    $h_{l+1} = a(W_l h_l + b_l)$ for the hidden layers. Shapes (..., sizes[0]) → (..., sizes[-1]). With two sizes it is
    a linear map. Weights and biases have torch's initialization, uniform within $\pm 1/\sqrt{\text{inputs}}$: with two
    latents as inputs this is wide enough for tanh units to be nonlinear, as Glorot's range is not (7 nats of validation
    ELBO on `mnist-5k`).

    Raises `InputError` for fewer than two sizes, a size below one, or an unknown activation.

    >>> import torch
    >>> from pyro_vae.nets import mlp
    >>> mlp(784, 500, 40)(torch.zeros(3, 784)).shape
    torch.Size([3, 40])
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise InputError(f"mlp needs at least an input and an output size, each one or more; got {sizes}")
    if activation not in ACTIVATIONS:
        raise InputError(f"no activation called {activation!r}; try one of {', '.join(ACTIVATIONS)}")
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


@part
def linear(inputs: int, outputs: int) -> nn.Sequential:
    """One linear map, (..., inputs) → (..., outputs): with normal parts on both sides, factor analysis.

    Args:
        inputs: the number of inputs.
        outputs: the number of outputs.

    Returns:
        The network.

    >>> linear(3, 2)(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    return mlp(inputs, outputs)


class Gated(nn.Module):
    r"""A gated layer, $(W h + b) \odot \sigma(V h + c)$ (Dauphin et al., arXiv:1612.08083).

    Args:
        inputs: the number of inputs.
        outputs: the number of outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = self.value(h)
        return value * torch.sigmoid(self.gate(h))


@part
def gated_mlp(*sizes: int) -> nn.Sequential:
    r"""A perceptron with gated hidden layers, $h_{l+1} = (W_l h_l + b_l) \odot \sigma(V_l h_l + c_l)$.

    The network of the VampPrior paper (Tomczak & Welling, arXiv:1705.07120). Shapes (..., sizes[0]) → (..., sizes[-1]).

    >>> gated_mlp(784, 300, 300, 40)(torch.zeros(3, 784)).shape
    torch.Size([3, 40])
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise InputError(f"gated_mlp needs at least an input and an output size, each one or more; got {sizes}")
    hidden = [Gated(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes[:-1])]
    return nn.Sequential(*hidden, nn.Linear(sizes[-2], sizes[-1]))


class Log1p(nn.Module):
    """log(1 + x), which brings large counts into the usual range of inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(x)


@part
def log1p(net: nn.Module) -> nn.Sequential:
    """A network of log(1 + x) in place of x: for encoders of counts.

    >>> log1p(mlp(3, 2))(torch.tensor([[0.0, 10.0, 1e6]])).shape
    torch.Size([1, 2])
    """
    return nn.Sequential(Log1p(), net)


@part
class AppendedInputs(nn.Module):
    """A network of the first D inputs, and a second one of its outputs and the inputs after them, (..., D + C).

    So an image's network, which takes pixels only, takes the indicator of a label too.

    Args:
        net: a network of the first D inputs, with H outputs.
        head: a network from H + C inputs.
        num_features: the number D.

    >>> AppendedInputs(mlp(6, 8), mlp(8 + 2, 4), num_features=6)(torch.zeros(3, 6 + 2)).shape
    torch.Size([3, 4])
    """

    def __init__(self, net: nn.Module, head: nn.Module, num_features: int) -> None:
        super().__init__()
        self.net, self.head, self.num_features = net, head, num_features

    def forward(self, x: Tensor) -> Tensor:
        features, appended = self.net(x[..., : self.num_features]), x[..., self.num_features :]
        out: Tensor = self.head(torch.cat([torch.relu(features), appended], -1))
        return out


def positive(raw: Tensor, floor: float) -> Tensor:
    """A scale above a floor from any real number.

    Args:
        raw: real numbers.
        floor: the least scale.

    Returns:
        softplus(raw) + floor.
    """
    return F.softplus(raw) + floor


class Offset(nn.Module):
    """A learned bias for each output, for networks whose last layer shares its bias among outputs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.bias


def init_output_bias(net: nn.Module, values: Tensor) -> None:
    """Set the bias of the network's last layer, unless it is absent, frozen or of another size.

    Args:
        net: the network.
        values: a value for each output.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, (nn.Linear, Offset))]
    bias = layers[-1].bias if layers else None
    if bias is not None and bias.requires_grad and bias.shape == values.shape:
        with torch.no_grad():
            bias.copy_(values)
