"""Autoencoder, VAE, PCA and kernel PCA on the same rows: their reconstructions and latent spaces in numbers."""

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, RowsGiven, Split, as_split
from pyro_vae.diagnostics.latent_codes import Encoder, encode_rows, sample_codes, sample_prior_codes
from pyro_vae.diagnostics.latent_interpolation import draws_around, path_ratio
from pyro_vae.diagnostics.latent_space_metrics import (
    knn_accuracy,
    label_areas,
    nearest_code,
    precision_and_coverage,
    spread,
)
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.pca import PCA, KernelPCA, median_square
from pyro_vae.models.vae import VAE
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.programs.program_defaults import no_density_reason
from pyro_vae.studies.encoder_records import EncoderMetrics
from pyro_vae.typing import PerRow, is_program

T = TypeVar("T")
KINDS = ("pca", "kernel-pca", "ae", "vae")
NAMES = {"pca": "PCA", "kernel-pca": "kernel PCA", "ae": "autoencoder", "vae": "VAE"}
WIDTHS, PENALTIES = (0.5, 1.0, 2.0), (1e-3, 1e-2)  # of kernel PCA, of 1 / median squared distance; by validation rows


@dataclass(frozen=True)
class Training:
    """The layers and the training of the networks, the same for autoencoder and VAE."""

    hidden: tuple[int, ...] = (500,)
    activation: str = "tanh"
    epochs: int = 60
    batch_size: int = 100
    learning_rate: float = 2e-3
    denoising: float = 0.0


@runtime_checkable
class Reconstructor(Protocol):
    """What reconstructs rows (N, D), with their labels or mask where it needs them: an `Encoder`, any `Program`."""

    def reconstruct(self, x: Tensor, **row_inputs: Tensor) -> Tensor: ...


@torch.no_grad()
@check_call
def reconstruction_error(model: Reconstructor, x: RowsGiven) -> PerRow:
    r"""The squared error of each row's reconstruction, $\frac1D |x - \hat x|^2$.

    Where values are missing, the mean is over those observed.

    Args:
        model: a program (E[x|z] at the guide's mean), an `Autoencoder`, `PCA`, `KernelPCA`.
        x: rows (N, D), a split, or a data set (its test split).

    Returns:
        The errors (N,), in squared units of x.

    >>> import pyro_vae as pv
    >>> x = torch.randn(100, 3)
    >>> one, two = (reconstruction_error(pv.PCA(size).fit(x), x).mean() for size in (1, 2))
    >>> bool(two < one)
    True
    """
    split = as_split(x, "test")
    rows = split.x
    again = model.reconstruct(rows, **split.row_inputs(slice(None)))
    errors = (again.to(rows) - rows).double().square()
    return errors.mean(1) if split.mask is None else (errors * split.mask).sum(1) / split.mask.sum(1)


@check_call
def fit_encoder(
    kind: str, num_latents: int, data: Dataset, training: Training | None = None, seed: int = 0
) -> tuple[Encoder, float]:
    """Fit one kind of encoder to the training rows.

    Networks have the same layers, steps and batches; all choices (epoch, the kernel's width and penalty) are made by
    the validation rows. The autoencoder's likelihood is a normal of scale 1 (squared error), the VAE's one of a learned
    scale, the prior N(0, I), the guide a mean-field normal.

    Args:
        kind: one of `KINDS`.
        num_latents: the number K of latents.
        data: the data set.
        training: the networks' layers and training.
        seed: of the networks' fit.

    Returns:
        The encoder, and the seconds that took.
    """
    began = time.perf_counter()
    if kind not in KINDS:
        raise InputError(f"no encoder called {kind!r}; try one of {', '.join(KINDS)}")
    if kind == "pca":
        model: Encoder = PCA(num_latents).fit(data)
    elif kind == "kernel-pca":
        model = _best_kernel(num_latents, data)
    else:
        model = _fit_network(kind, num_latents, data, training or Training(), seed)
    return model, time.perf_counter() - began


def _networks(kind: str, K: int, D: int, training: Training, seed: int) -> Autoencoder | VAE:
    hidden, activation = training.hidden, training.activation
    with seeded(seed):
        decoder = nets.mlp(K, *hidden[::-1], D, activation=activation)
        encoder = nets.mlp(D, *hidden, K if kind == "ae" else 2 * K, activation=activation)
    if kind == "ae":
        return Autoencoder(encoder, likelihoods.Normal(decoder, scale=1.0), K, training.denoising)
    likelihood = likelihoods.Normal(decoder, scale="learned")
    return VAE(priors.StandardNormal(K), likelihood, guides.MeanFieldNormal(encoder))


def _fit_network(kind: str, K: int, data: Dataset, training: Training, seed: int) -> Autoencoder | VAE:
    model = _networks(kind, K, data.num_features, training, seed)
    fit(
        model,
        data.train,
        valid=data.valid,
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=seed,
        progress="none",
    )
    return model


def _best_kernel(num_latents: int, data: Dataset) -> KernelPCA:
    unit = 1 / median_square(data.train.x)
    tried = [KernelPCA(num_latents, width * unit, penalty).fit(data) for width in WIDTHS for penalty in PENALTIES]
    return min(tried, key=lambda model: float(reconstruction_error(model, data.valid).mean()))


def evaluate_encoder(
    model: Encoder, data: Dataset, rows: Split, *, num_draws: int = 1000, steps: int = 32, seed: int = 0
) -> EncoderMetrics[float]:
    r"""The metrics of a latent space; None for one that does not exist, or is not finite.

    On held-out rows: `reconstruction_error`, per value; `knn_accuracy` of labels from the training rows' codes;
    `off_centre` and `anisotropy` of the codes drawn from q(z|x) (`latent_space_metrics.spread`); `area_gini` of labels'
    areas, for K = 2; of draws from the model's prior, or where it has none from a normal fitted to its codes, the share
    whose decoding lies among reconstructions of rows (`precision`), the share of those that have such a neighbour
    (`coverage`) and the latent distance to the `nearest` code; the same share of draws from the codes' box
    (`box_precision`); and the length of decoded straight lines between such draws over the distance of their ends
    (`path_ratio`, a mean over pairs). Distances are to the model's own reconstructions: what it cannot reconstruct
    shows in the reconstruction error, and a decoder that has collapsed looks perfect by the other metrics.

    Raises `InputError` where `decode` asks for more than z, or there are too few rows.

    Args:
        model: one of `fit_encoder`'s, or any program with `encode`, `decode(z)` and `reconstruct`.
        data: the data set it was fitted to.
        rows: the held-out rows.
        num_draws: draws of codes.
        steps: of each line.
        seed: of the draws.

    Returns:
        The metrics.
    """
    if len(inspect.signature(model.decode).parameters) > 1:
        raise InputError(f"a {type(model).__name__} decodes z and more, so it has several latent spaces")
    codes, train_codes = _codes(model, rows), _codes(model, data.train)
    drawn = sample_codes(model, rows, seed=seed)
    own = new_codes(model, rows, 2 * num_draws, seed)
    again = model.decode(codes)
    near = precision_and_coverage(model.decode(own[:num_draws]), again)
    in_box = precision_and_coverage(model.decode(draws_around(codes, num_draws, "box", seed=seed)), again)
    ratio = path_ratio(model.decode, own[:num_draws], own[num_draws:], steps=steps)
    where = _or_none(lambda: spread(drawn))
    found = EncoderMetrics(
        reconstruction_error=float(reconstruction_error(model, rows).mean()),
        knn_accuracy=_knn(train_codes, data.train, codes, rows),
        off_centre=None if where is None else where.off_centre,
        anisotropy=None if where is None else where.anisotropy,
        area_gini=_gini(codes, rows),
        precision=near.precision.value,
        coverage=near.coverage.value,
        box_precision=in_box.precision.value,
        nearest=nearest_code(own[:num_draws], drawn),
        path_ratio=float(ratio[torch.isfinite(ratio)].mean()),
    )
    return replace(found, **{n: None for n, value in found.items() if value is None or not math.isfinite(value)})


def _codes(model: Encoder, rows: Split) -> Tensor:
    return encode_rows(model, rows.x, **rows.row_inputs(slice(None)))


def pixel_knn_accuracy(data: Dataset, rows: Split) -> float | None:
    """The accuracy of nearest neighbours on x itself, which that of latent distances is compared with.

    Args:
        data: the data set, whose training rows vote.
        rows: the rows to classify.

    Returns:
        The accuracy; None without labels.
    """
    return _knn(data.train.x, data.train, rows.x, rows)


def _knn(train_codes: Tensor, train: Split, codes: Tensor, rows: Split) -> float | None:
    if train.labels is None or rows.labels is None:
        return None
    return knn_accuracy(train_codes, train.labels, codes, rows.labels).value


def _gini(codes: Tensor, rows: Split) -> float | None:
    labels = rows.labels
    if labels is None or codes.shape[1] != 2:
        return None
    areas = _or_none(lambda: label_areas(codes, labels))
    return None if areas is None else areas.gini


def _or_none(compute: Callable[[], T]) -> T | None:
    """A value, or None where it cannot be computed: codes that are all the same, labels of too few rows."""
    try:
        return compute()
    except InputError:
        return None


def new_codes(model: Encoder, rows: Split, num: int, seed: int = 0) -> Tensor:
    """Codes for new rows: draws of the prior, or of a normal fitted to the codes where there is none.

    Args:
        model: the encoder.
        rows: rows it takes, whose codes the normal is fitted to.
        num: the number of codes.
        seed: of the draws.

    Returns:
        The codes (num, K).
    """
    if has_prior(model) and is_program(model):
        return sample_prior_codes(model, num, like=rows, seed=seed)
    return draws_around(_codes(model, rows), num, seed=seed)


def has_prior(model: Encoder) -> bool:
    """Whether a model has a prior of its codes: a VAE has one, an autoencoder and principal components have none."""
    return not no_density_reason(model)


def num_parameters(model: Encoder) -> int | None:
    """The number of parameters of a network; None for projections."""
    return sum(p.numel() for p in named_parameters(model).values()) if isinstance(model, torch.nn.Module) else None
