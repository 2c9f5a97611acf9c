"""Maximum likelihood in closed form, for models that have one."""

import time

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.models.ppca import PPCA, SCALE_FLOOR
from pyro_vae.programs.parameters import DeviceAndDtype, device_and_dtype
from pyro_vae.programs.program_defaults import set_fitted_measure
from pyro_vae.typing import Program


@check_call
@torch.no_grad()
def fit_closed_form(model: Program, data: RowsGiven) -> FitResult:
    r"""PPCA's maximum of the likelihood, $W = U_K (\Lambda_K - \sigma^2 I)^{1/2}$ (Tipping & Bishop 1999).

    U and Λ are eigenvectors and eigenvalues of the rows' covariance, which counts their weights, σ² the mean of the
    D − K smallest. The history has one row, whose `elbo` is log p(x) of the training rows, nats per row. Raises
    `InputError` for other models.

    Args:
        model: a `PPCA`, fitted in place.
        data: the training rows x (N, D).

    Returns:
        The result, of one epoch.

    >>> import pyro_vae as pv
    >>> ppca, x = pv.PPCA(num_latents=1, num_features=3), torch.randn(200, 3)
    >>> before = float(ppca.log_prob(x).mean())
    >>> fit_closed_form(ppca, x).history[0]["elbo"] > before
    True
    """
    if not isinstance(model, PPCA):
        raise InputError(f"a {type(model).__name__} has no closed form: use fit_em or fit")
    set_fitted_measure(model, as_split(data, "train").measure)
    began, train = time.perf_counter(), model.rows_of(as_split(data, "train")).without_uncounted()
    if train.mask is not None:
        raise InputError("values are missing, and the closed form needs complete rows: use fit_em")
    mean, covariance = _moments(train, device_and_dtype(model))
    if not torch.isfinite(covariance).all():
        raise InputError("x holds NaN or infinity; remove or fill such values")
    scale = covariance.diagonal().sqrt()
    model.floor.copy_(SCALE_FLOOR * torch.where(scale > 0, scale, torch.ones_like(scale)))
    model.maximize_exactly(mean, covariance)
    elbo, seconds = weighted_mean(model.log_prob(train), train.weights), time.perf_counter() - began
    return FitResult([EpochRecord(epoch=1, step=1, elbo=elbo, seconds=seconds)], 1, "closed form", seconds)


def _moments(train: Split, target: DeviceAndDtype) -> tuple[Tensor, Tensor]:
    """The weighted mean (D,) and covariance (D, D) of rows, in blocks."""
    rows, weights = [slice(start, start + 10_000) for start in range(0, len(train), 10_000)], train.relative_weights

    def weigh(x: Tensor, block: slice) -> Tensor:
        return x if weights is None else x * weights[block, None].to(x)

    mean = torch.stack([weigh(train[block].to(*target), block).sum(0) for block in rows]).sum(0) / len(train)
    centered = ((train[block].to(*target) - mean, block) for block in rows)
    zero = mean.new_zeros(len(mean), len(mean))
    return mean, sum((x.T @ weigh(x, block) for x, block in centered), zero) / len(train)
