"""The objective that settings name."""

from typing import Any

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_vae.context_managers import seeded
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO, factorizes
from pyro_vae.inference.objectives.importance_weighted import ImportanceWeighted_ELBO
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites, trace_program


def choose_objective(settings: dict[str, Any], program: Any, batch: Batch) -> ELBO | None:
    """The objective the settings name; None is `fit`'s own, `Trace_ELBO` with their number of particles."""
    name, free_bits, particles = settings["loss"], settings["free_bits"], settings["num_particles"]
    if settings["dreg"] and name != "iwae":
        raise InputError("--dreg is a gradient of the importance-weighted bound: add --loss iwae")
    if free_bits is not None:
        if name != "elbo":
            raise InputError(f"--free-bits is an ELBO of its own: leave out --loss {name}")
        pairs = _latents(program, batch)
        apart = all(factorizes(p, q) for p, q in pairs)
        nats = free_bits if apart else free_bits * max(q.event_shape.numel() for _, q in pairs)
        return FreeBits_ELBO(nats, each="dimension" if apart else "site", num_particles=particles or 1)
    if name == "iwae":
        return ImportanceWeighted_ELBO(8 if particles is None else particles, dreg=settings["dreg"])
    if name == "analytic-elbo":
        for p, q in _latents(program, batch):
            _check_closed_form(p, q)
        return TraceMeanField_ELBO(num_particles=particles or 1)
    return None


def _latents(program: Any, batch: Batch) -> list[tuple[Any, Any]]:
    """Prior and guide of each latent site, as they are on some rows."""
    with torch.no_grad(), seeded(0):
        model, guide = (sample_sites(trace) for trace in trace_program(program, batch))
    return [(model[name]["fn"], site["fn"]) for name, site in guide.items() if name in model]


def _check_closed_form(prior: Any, q: Any) -> None:
    try:
        kl_divergence(q, prior)
    except NotImplementedError as error:
        raise InputError(
            "the KL of this guide to this prior has no closed form: leave out --loss analytic-elbo, or take "
            "--guide mean-field with --prior standard-normal or normal"
        ) from error
