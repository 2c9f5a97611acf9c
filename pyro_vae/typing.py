"""Tensor types with named axes: N rows, D features, K latent dimensions, S particles.

In the tests every annotation built from these names is enforced; in production they cost nothing. A name stands for one
size throughout a call: a function from `Rows` to `PerRow` must keep N. `*batch` is any number of leading axes.
"""

from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "N D"]
Latents = Float[Tensor, "*batch K"]
RowLatents = Float[Tensor, "N K"]
PerRow = Float[Tensor, " N"]
LogWeights = Float[Tensor, "S N"]
