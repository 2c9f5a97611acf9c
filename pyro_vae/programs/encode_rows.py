"""Codes and reconstructions of rows: the latents at their means under the guide, and x at its mean given these."""

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Categorical

from pyro_vae.context_managers import PYRO_LOCK, evaluating
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.programs.distribution_means import distribution_mean
from pyro_vae.programs.find_plates import find_plates_on_few
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs, checked_batch
from pyro_vae.programs.support import is_point_mass
from pyro_vae.programs.traces import (
    Site,
    in_shape_of,
    is_input,
    is_subsample,
    sample_sites,
    unwrap_independent,
)
from pyro_vae.typing import Program, RowLatents

ACTIVE_VARIANCE = 0.01
FEW_ROWS = 8  # that a program is looked at with


class _SetLatentsToMean(Messenger):
    """Set every latent site to its distribution's mean instead of a draw."""

    def _pyro_sample(self, msg: Site) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or msg["done"] or is_subsample(msg):
            return
        fn = msg["fn"]
        is_category = isinstance(unwrap_independent(fn), Categorical)  # an integer: a model may index by it
        msg["value"], msg["done"] = (fn.mode if is_category else distribution_mean(fn)), True


@torch.no_grad()
def encode(program: Program, x: RowsGiven, **row_inputs: object) -> RowLatents:
    """Posterior means under the guide; several latent sites are concatenated in the order they are drawn.

    A discrete latent that the guide enumerates, as the class of a semi-supervised program, has its most probable value,
    and is left out where there are other latents.

    Args:
        program: any program.
        x: rows (N, D).
        **row_inputs: their inputs: `rows`, `labels`, `mask`.

    Returns:
        The means (N, K); from 64 draws where a site has no mean in closed form.
    """
    batch = checked_batch(program, x, row_inputs)
    return _means(program, _plates_at(program, batch), batch)


def _means(program: Program, plates: PlateStructure, batch: Batch) -> RowLatents:
    latents = plates.code_sites(sample_sites(_guide_at_means(program, batch))).values()
    if not latents:
        raise InputError("the guide draws no latent for each row, so rows cannot be encoded")
    return torch.cat(
        [plates.rows_to_front(site, site["value"]).to(*device_and_dtype(program, like=batch.x)) for site in latents], -1
    )


@torch.no_grad()
def active_units(
    program: Program, x: RowsGiven, *, plates: PlateStructure | None = None, **row_inputs: object
) -> tuple[int, int]:
    """How many latents have posterior means with a variance over rows above 0.01, and the number of latents.

    Burda et al. (arXiv:1509.00519). The variance is the covariance of two estimates of the means, so that means from
    draws (a flow's) do not vary because of their noise.

    Args:
        program: any program.
        x: rows (N, D).
        plates: the program's plates, if they are known.
        **row_inputs: inputs of the rows: `rows`, `labels`, `mask`.

    Returns:
        The number of active latents, and the number K of all.
    """
    batch = checked_batch(program, x, row_inputs)
    plates, before = plates or _plates_at(program, batch), torch.get_rng_state()
    first = second = _means(program, plates, batch)
    if batch.x.device.type != "cpu" or not torch.equal(before, torch.get_rng_state()):  # random numbers were drawn
        second = _means(program, plates, batch)
    variance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    return int((variance > ACTIVE_VARIANCE).sum()), first.shape[1]


@torch.no_grad()
def reconstruct(program: Program, x: RowsGiven, **row_inputs: object) -> Tensor:
    """E[x | z] with every latent at its posterior mean under the guide.

    Sites that observe a row input, such as a label, are left out where there are others.

    Args:
        program: any program.
        x: rows (N, D).
        **row_inputs: their inputs: `rows`, `labels`, `mask`.

    Returns:
        The means (N, D); of a model that observes something other than x, the means of that.
    """
    batch = checked_batch(program, x, row_inputs)
    plates, guide = _plates_at(program, batch), _guide_at_means(program, batch)
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        model = poutine.trace(poutine.replay(bind_supported_kwargs(program.model), trace=guide)).get_trace(
            batch.x, batch.row_inputs
        )
    observed = [s for s in sample_sites(model).values() if s["is_observed"] and not is_point_mass(s["fn"])]
    observed = [site for site in observed if not is_input(site["value"], batch.row_inputs)] or observed
    return plates.concatenate(observed, lambda site: distribution_mean(in_shape_of(site["fn"], site["value"])))


def _plates_at(program: Program, batch: Batch) -> PlateStructure:
    few = batch.take(torch.arange(min(len(batch.x), FEW_ROWS), device=batch.x.device))
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        return find_plates_on_few(program, few, lambda: batch)[1]


def _guide_at_means(program: Program, batch: Batch) -> Trace:
    """The guide's trace with every latent at its mean."""
    guide = _SetLatentsToMean()(bind_supported_kwargs(program.guide))
    with PYRO_LOCK, poutine.block(), use_param_store(program), evaluating(program):
        return poutine.trace(guide).get_trace(batch.x, batch.row_inputs)
