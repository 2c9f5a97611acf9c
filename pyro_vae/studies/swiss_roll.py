"""The swiss roll of the manifold hypothesis: a sheet rolled up in space, and how flat each encoder lays it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.data.named_datasets import load_data
from pyro_vae.diagnostics.latent_interpolation import whiten
from pyro_vae.errors import InputError
from pyro_vae.studies.autoencoder_vs_vae import KINDS, Training, fit_encoder, reconstruction_error
from pyro_vae.typing import RowLatents

TRAINING = Training(hidden=(128, 128, 128), activation="relu", epochs=300)
NEIGHBOURS = 10


@dataclass(frozen=True)
class UnrolledSheet:
    """A roll's rows as an encoder lays them: `codes` (N, 2) and where they lie on the sheet, `sheet` (N, 2).

    `flatness` and `trust` as in `unrolling_quality`, `error` the mean squared error per value of held-out rows.
    """

    kind: str
    seed: int
    codes: Tensor
    sheet: Tensor
    flatness: float
    trust: float
    error: float


def swiss_roll(num_rows: int = 2000) -> tuple[Dataset, Tensor]:
    """The data set `swiss-roll`, standardized, so many training rows of it; its test rows' places on the sheet."""
    data = load_data("swiss-roll", standardize=True)
    return replace(data, train=data.train.head(num_rows)), on_the_sheet(
        data.test.measure.to_original_units(data.test.x)
    )


def on_the_sheet(x: Tensor) -> Tensor:
    r"""Length along the roll and height, (N, 2), of rows (N, 3) at $(t \cos t, h, t \sin t)$ and near it.

    The turn is $t = 2 \pi n + \angle(x_1, x_3)$ with the n that comes nearest to the radius; the length is that of the
    spiral, $\frac12 (t \sqrt{1 + t^2} + \sinh^{-1} t)$.

    >>> t = torch.tensor([5.0, 9.0, 14.0])
    >>> found = on_the_sheet(torch.stack([t * t.cos(), torch.ones(3), t * t.sin()], 1))
    >>> bool(torch.allclose(found[:, 0], (t * (1 + t * t).sqrt() + t.asinh()).double() / 2, atol=1e-4))
    True
    """
    x = x.double()
    angle, radius = torch.atan2(x[:, 2], x[:, 0]), x[:, [0, 2]].norm(dim=1)
    t = angle + 2 * torch.pi * ((radius - angle) / (2 * torch.pi)).round()
    return torch.stack([(t * (1 + t.square()).sqrt() + t.asinh()) / 2, x[:, 1]], 1)


def unrolling_quality(codes: RowLatents, sheet: Tensor) -> tuple[float, float]:
    r"""How far codes (N, K) lay a sheet (N, 2) flat: its flatness, and how far neighbours are to be trusted.

    Both are whitened, since codes have no scale of their own. Flatness is the rank correlation of distances between
    codes with distances on the sheet, over all pairs: 1 for a sheet laid flat, turned or stretched as it may be. Trust
    is the trustworthiness of the codes' ten neighbours (Venna & Kaski 2001; scikit-learn's): 1 where they are
    neighbours on the sheet, and lower where different turns of the roll lie on top of each other.

    >>> sheet = torch.rand(100, 2)
    >>> flatness, trust = unrolling_quality(sheet @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), sheet)
    >>> flatness > 0.99, trust > 0.99
    (True, True)
    """
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr
    from sklearn.manifold import trustworthiness

    if len(codes) != len(sheet) or len(codes) <= 2 * NEIGHBOURS:
        raise InputError(f"expected a place on the sheet for each of more than {2 * NEIGHBOURS} codes")
    white, flat = (np.asarray(whiten(points)(points).double()) for points in (codes, sheet))
    flatness = spearmanr(pdist(white), pdist(flat)).statistic
    return float(flatness), float(trustworthiness(flat, white, n_neighbors=NEIGHBOURS))


def fit_swiss_roll(kind: str, seed: int = 0, training: Training = TRAINING, num_rows: int = 2000) -> UnrolledSheet:
    """A swiss roll of so many training rows, encoded in two dimensions by one of `KINDS`; its 500 test rows' codes."""
    if kind not in KINDS:
        raise InputError(f"no encoder called {kind!r}; try one of {', '.join(KINDS)}")
    data, sheet = swiss_roll(num_rows)
    model, _ = fit_encoder(kind, 2, data, training, seed)
    codes: Any = model.encode(data.test.x)
    flatness, trust = unrolling_quality(codes, sheet)
    error = float(reconstruction_error(model, data.test).mean())
    return UnrolledSheet(kind, seed, codes, sheet, flatness, trust, error)
