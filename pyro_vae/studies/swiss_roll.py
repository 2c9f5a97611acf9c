"""The swiss roll of the manifold hypothesis: a sheet rolled up in space, and how flat each encoder lays it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.atomic_write import read_tensors, write_tensors
from pyro_vae.data import Dataset, load_data
from pyro_vae.diagnostics.latent_interpolation import whiten
from pyro_vae.errors import InputError
from pyro_vae.json_records import Record
from pyro_vae.plots import style
from pyro_vae.studies.autoencoder_vs_vae_encoders import KINDS, NAMES, Training, fit_encoder, reconstruction_error
from pyro_vae.typing import RowLatents

TRAINING = Training(hidden=(128, 128, 128), activation="relu", epochs=300)
NEIGHBOURS = 10
FILE = "roll.safetensors"


@dataclass(frozen=True)
class SwissRollRow(Record):
    """How flat a kind of encoder lays the swiss roll, with one seed.

    Attributes:
        kind: the kind of encoder.
        seed: of its fit.
        flatness: the rank correlation of distances between codes with those on the sheet, at most 1.
        trust: the trustworthiness of the codes' ten neighbours, at most 1.
        error: the mean squared error per value of held-out rows' reconstructions.
    """

    kind: str
    seed: int
    flatness: float
    trust: float
    error: float


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

    @property
    def row(self) -> SwissRollRow:
        return SwissRollRow(self.kind, self.seed, self.flatness, self.trust, self.error)


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
    r"""How far codes lay a sheet flat: its flatness, and how far neighbours are to be trusted.

    Both are whitened, since codes have no scale of their own. Flatness is the rank correlation of distances between
    codes with distances on the sheet, over all pairs: 1 for a sheet laid flat, turned or stretched as it may be. Trust
    is the trustworthiness of the codes' ten neighbours (Venna & Kaski 2001; scikit-learn's): 1 where they are
    neighbours on the sheet, and lower where different turns of the roll lie on top of each other.

    Args:
        codes: the codes (N, K).
        sheet: where their rows lie on the sheet (N, 2).

    Returns:
        Flatness and trust.

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
    """A swiss roll, encoded in two dimensions.

    Args:
        kind: one of `KINDS`.
        seed: of a network's fit.
        training: a network's layers and training.
        num_rows: training rows.

    Returns:
        The codes of its 500 test rows.
    """
    if kind not in KINDS:
        raise InputError(f"no encoder called {kind!r}; try one of {', '.join(KINDS)}")
    data, sheet = swiss_roll(num_rows)
    model, _ = fit_encoder(kind, 2, data, training, seed)
    codes = model.encode(data.test.x)
    flatness, trust = unrolling_quality(codes, sheet)
    error = float(reconstruction_error(model, data.test).mean())
    return UnrolledSheet(kind, seed, codes, sheet, flatness, trust, error)


def load_or_fit_swiss_roll(folder: Path, kind: str, seed: int, log: Callable[[str], None]) -> UnrolledSheet:
    """The codes of one kind of encoder, read from a folder or fitted and written there.

    Args:
        folder: the folder.
        kind: one of `KINDS`.
        seed: of a network's fit.
        log: called with each line of the log.

    Returns:
        The codes.
    """
    path = folder / FILE
    if path.exists():
        tensors, about = read_tensors(path)
        return UnrolledSheet(codes=tensors["codes"], sheet=tensors["sheet"], **about)
    log(f"the swiss roll by {kind}")
    found = fit_swiss_roll(kind, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"codes": found.codes, "sheet": found.sheet}, dict(found.row))
    return found


def run_swiss_roll(
    folder: Path, *, seed: int = 0, kinds: Sequence[str] = KINDS, log: Callable[[str], None] = lambda line: None
) -> tuple[list[SwissRollRow], Path]:
    """The swiss roll encoded by each kind; what is there is not fitted again.

    Args:
        folder: where the codes and the figure are written.
        seed: of the networks' fits.
        kinds: the kinds of encoders.
        log: called with each line of the log.

    Returns:
        A record of each, and the figure's file.
    """
    found = [load_or_fit_swiss_roll(folder / f"roll-{kind}", kind, seed, log) for kind in kinds]
    path = folder / "roll.png"
    with rc_context({"backend": "agg"}):
        style.save_figure(plot_rolls(found), path)
    return [one.row for one in found], path


def plot_rolls(rolls: Sequence[UnrolledSheet]) -> Figure:
    """The codes of the swiss roll's held-out rows by each encoder, coloured by their place along the roll."""
    with style.figure_style():
        figure = Figure(figsize=(3.1 * len(rolls), 3.6))
        for axes, one in zip(figure.subplots(1, len(rolls), squeeze=False)[0], rolls, strict=True):
            codes = one.codes.numpy()
            shades = axes.scatter(codes[:, 0], codes[:, 1], c=one.sheet[:, 0], s=9, cmap="viridis", linewidths=0)
            axes.set(xlabel="$z_1$", ylabel="$z_2$")
            style.title(axes, NAMES[one.kind], f"flatness {one.flatness:.2f}, trust {one.trust:.2f}")
        figure.colorbar(shades, ax=figure.axes, label="length along the roll", pad=0.01)
    return figure
