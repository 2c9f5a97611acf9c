"""Networks: torch modules from vectors to vectors."""

from pyro_vae.nets.column_encoder import ColumnEncoder
from pyro_vae.nets.convolutional import conv, conv_transpose, resnet, resnet_transpose
from pyro_vae.nets.dense import ACTIVATIONS, AppendedInputs, gated_mlp, init_output_bias, linear, log1p, mlp, positive

__all__ = [
    "ACTIVATIONS",
    "AppendedInputs",
    "ColumnEncoder",
    "conv",
    "conv_transpose",
    "gated_mlp",
    "init_output_bias",
    "linear",
    "log1p",
    "mlp",
    "positive",
    "resnet",
    "resnet_transpose",
]
