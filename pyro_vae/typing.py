"""The axis vocabulary, written once: N rows, D features, K latent dimensions, S particles.

Under test every annotation built from these names is enforced; in production they cost nothing. A name stands for one
size throughout a call: a function that takes `Rows` and gives `PerRow` must keep N. `*batch` is any number of leading
axes.
"""

from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "N D"]
Latents = Float[Tensor, "*batch K"]
RowLatents = Float[Tensor, "N K"]
PerRow = Float[Tensor, " N"]
LogWeights = Float[Tensor, "S N"]
