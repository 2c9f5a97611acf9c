"""Guides without a network: a table with the parameters of q for each training row."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import is_recording
from pyro_vae.errors import InputError
from pyro_vae.guides.normal import SCALE_FLOOR
from pyro_vae.nets import positive
from pyro_vae.part_bases import GuideModule
from pyro_vae.typing import Distribution, Rows


@part
class PerRowNormal(GuideModule):
    r"""Variational inference without an encoder: $q(z_i) = \prod_k N(z_{ik}; \mu_{ik}, \sigma_{ik}^2)$ for each row i.

    The parameters (num_rows, K) are indexed by `rows`, the row numbers in the training set, so such a guide is defined
    for training rows only: fit without validation rows, and score with `log_evidence(program, x, rows=…)`.

    Args:
        num_rows: the number of training rows.
        num_latents: the number K of latent dimensions.

    >>> PerRowNormal(num_rows=100, num_latents=2)(torch.zeros(3, 784), rows=torch.arange(3)).event_shape
    torch.Size([2])
    """

    per_row = True

    def __init__(self, num_rows: int, num_latents: int) -> None:
        super().__init__()
        if num_rows < 1 or num_latents < 1:
            raise InputError(f"expected rows and latents, got {num_rows} and {num_latents}")
        self.loc = nn.Parameter(0.01 * torch.randn(num_rows, num_latents))
        self.raw_scale = nn.Parameter(torch.full((num_rows, num_latents), 0.5413))  # softplus(0.5413) = 1

    def forward(self, x: Rows, rows: Tensor) -> Distribution:
        rows = _check_row_numbers(rows, len(self.loc))
        q: Distribution = dist.Normal(self.loc[rows], positive(self.raw_scale[rows], SCALE_FLOOR)).to_event(1)
        return q


@part
class PerRowCategorical(GuideModule):
    r"""A categorical $q_i(c)$ over labels 0 … C − 1 for each row i: a table of logits (num_rows, C), initially uniform.

    The logits are indexed by `rows`, the row numbers in the training set, as in `PerRowNormal`.

    Args:
        num_rows: the number of training rows.
        num_components: the number C of labels.

    >>> PerRowCategorical(num_rows=100, num_components=7)(torch.zeros(4, 3), rows=torch.arange(4)).probs.shape
    torch.Size([4, 7])
    """

    per_row = True

    def __init__(self, num_rows: int, num_components: int) -> None:
        super().__init__()
        if num_rows < 1 or num_components < 1:
            raise InputError(f"expected rows and components, got {num_rows} and {num_components}")
        self.logits = nn.Parameter(torch.zeros(num_rows, num_components))

    def forward(self, x: Rows, rows: Tensor) -> Distribution:
        return dist.Categorical(logits=self.logits[_check_row_numbers(rows, len(self.logits))])


def _check_row_numbers(rows: Tensor, num_rows: int) -> Tensor:
    """The row numbers; `InputError` where they are outside the table."""
    if not is_recording() and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise InputError(
            f"a guide with parameters for {num_rows} rows was given rows {int(rows.min())} to {int(rows.max())}"
        )
    return rows
