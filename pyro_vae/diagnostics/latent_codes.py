"""Codes of rows: where a program has its own encoder, by that; draws of q(z|x) and of the prior, as points z."""

from typing import Protocol, runtime_checkable

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.context_managers import PYRO_LOCK, evaluating, seeded
from pyro_vae.data import RowsGiven, as_split
from pyro_vae.errors import InputError
from pyro_vae.programs.encode_rows import encode, reconstruct
from pyro_vae.programs.find_plates import find_model_plates, find_plates
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import PlateStructure, require_density
from pyro_vae.programs.program_defaults import no_density_reason
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.sample_rows import inputs_of_rows, require_unread
from pyro_vae.programs.traces import Site, draw_observed, sample_sites
from pyro_vae.typing import Program, RowLatents, Rows, is_program

SCORE_BATCH_SIZE = 4096


@runtime_checkable
class Encoder(Protocol):
    """What encodes rows x (N, D) as codes z (N, K) and decodes them: a VAE, an autoencoder, principal components.

    A program is one where it has these three methods; principal components are no program, since they have no model.
    `reconstruct` decodes the code of each row, (N, D).
    """

    def encode(self, x: Tensor, **row_inputs: Tensor) -> Tensor: ...

    def decode(self, z: Tensor, /) -> Tensor: ...

    def reconstruct(self, x: Tensor, **row_inputs: Tensor) -> Tensor: ...


def encode_rows(model: Program | Encoder, x: Rows, **row_inputs: Tensor) -> RowLatents:
    """Codes of rows: by the program's own `encode`, or its guide's posterior means.

    Args:
        model: a program or an encoder.
        x: rows (N, D).
        **row_inputs: their labels or mask.

    Returns:
        The codes (N, K).
    """
    return model.encode(x, **row_inputs) if isinstance(model, Encoder) else encode(model, x, **row_inputs)


def reconstruct_rows(model: Program | Encoder, x: Rows, **row_inputs: Tensor) -> Rows:
    """Reconstructions: by the program's own `reconstruct`, or E[x | z] at its guide's posterior means.

    Args:
        model: a program or an encoder.
        x: rows (N, D).
        **row_inputs: their labels or mask.

    Returns:
        The reconstructions (N, D).
    """
    return model.reconstruct(x, **row_inputs) if isinstance(model, Encoder) else reconstruct(model, x, **row_inputs)


@torch.no_grad()
def sample_codes(program: Program | Encoder, data: RowsGiven, *, seed: int | None = 0) -> RowLatents:
    """A draw of z from q(z|x) for each row: draws of the aggregate posterior.

    What `spread`, `whiten` and `nearest_code` need of a program with a guide: means lack the width of q. Where the
    guide is a point, or there is none (principal components), the codes themselves. Raises `InputError` where the guide
    draws nothing for each row.

    Args:
        program: the fitted program, or an encoder without a model.
        data: rows x (N, D), a split or a data set, as in `log_evidence`.
        seed: of the draws.

    Returns:
        The draws (N, K), latent sites concatenated.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> sample_codes(vae, torch.ones(40, 5)).std() > 0
    tensor(True)
    """
    split, places = rows_to_score(data, None, None)
    if not is_program(program) or no_density_reason(program):
        return encode_rows(program, split.x, **split.row_inputs(slice(None)))
    with use_param_store(program), seeded(seed), evaluating(program):
        scored = ScoredRows(program, split, places)
        return torch.cat([_sample_latents(program, scored, batch) for batch in scored.batches(SCORE_BATCH_SIZE)])


def _sample_latents(program: Program, scored: ScoredRows, batch: Batch) -> Tensor:
    guide = sample_sites(poutine.trace(bind_supported_kwargs(program.guide)).get_trace(batch.x, batch.row_inputs))
    kept = list(scored.plates.code_sites(guide).values())
    if not kept:
        raise InputError("the guide draws no latent for each row, so rows have no codes")
    return _concatenate(scored.plates, kept, scored.device, scored.dtype)


def _concatenate(plates: PlateStructure, sites: list[Site], device: torch.device, dtype: torch.dtype) -> RowLatents:
    return torch.cat([plates.rows_to_front(site, site["value"]).to(device, dtype) for site in sites], -1).cpu()


@torch.no_grad()
def sample_prior_codes(program: Program, num_draws: int, like: RowsGiven, *, seed: int | None = 0) -> RowLatents:
    """Draws of z from the prior.

    Raises `InputError` where there is no prior (`draws_around` some codes then), or none for each row.

    Args:
        program: the program.
        num_draws: the number M of draws.
        like: data that the program takes.
        seed: of the draws.

    Returns:
        The draws (M, K), latent sites concatenated in the guide's order, as in `sample_codes`.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4))
    >>> vae = pv.VAE(pv.priors.Normal([7.0, 0.0], [1.0, 1.0]), likelihood, guide)
    >>> bool(sample_prior_codes(vae, 100, like=torch.ones(1, 5)).mean(0)[0] > 5)
    True
    """
    require_density(program)
    split, (device, dtype) = as_split(like, "train"), device_and_dtype(program)
    x = torch.zeros(num_draws, split.shape[1], device=device, dtype=dtype)
    conditions = {name: value.to(device) for name, value in inputs_of_rows(split, num_draws, labels=True).items()}
    placeholder = Batch.of(x, conditions)  # of a conditional prior
    given = {"rows": torch.arange(len(split)), "num_rows": len(split), **split.row_inputs(slice(None))}
    few = Batch.of(split.x.to(device, dtype), given).take(torch.arange(min(2, len(split)), device=device))
    with PYRO_LOCK, poutine.block(), seeded(seed), use_param_store(program), evaluating(program):
        guide = sample_sites(poutine.trace(bind_supported_kwargs(program.guide)).get_trace(few.x, few.row_inputs))
        order, codes = list(guide), find_plates(program, few).code_sites(guide)
        plates = find_model_plates(program, placeholder)
        require_unread(program, placeholder)
        drawn = draw_observed(program, placeholder)
    left_out = guide.keys() - codes.keys()
    sites = [
        site
        for name, site in drawn.items()
        if not site["is_observed"] and not site["infer"].get("was_observed") and name not in left_out
    ]
    kept = sorted((s for s in sites if plates.row_plate_frame(s)), key=lambda s: _position(order, s["name"]))
    if not kept:
        raise InputError("the model draws no latent for each row")
    return _concatenate(plates, kept, *device_and_dtype(program))


def _position(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
