"""The objective that settings name, made for a program: None is `fit`'s own, `Trace_ELBO`."""

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch.distributions import Distribution, kl_divergence

from pyro_vae.context_managers import seeded
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO, factorizes
from pyro_vae.inference.objectives.importance_weighted import ImportanceWeighted_ELBO
from pyro_vae.inference.objectives.objectives_by_name import OBJECTIVES, ObjectiveConfig
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites, trace_program
from pyro_vae.typing import Program


def make_objective(config: ObjectiveConfig, program: Program, batch: Batch, num_particles: int | None) -> ELBO | None:
    """The objective of a configuration.

    Args:
        config: its name and its own settings.
        program: the program that it is for.
        batch: some rows, on which the program's latents are found.
        num_particles: draws of z for each row and step; None for the objective's default.

    Returns:
        The objective; None where `fit`'s own is meant.
    """
    entry = OBJECTIVES[config.loss]
    made: ELBO | None = entry.load()(program, batch, num_particles, **entry.keywords(config.options))
    return made


def elbo(program: Program, batch: Batch, num_particles: int | None, free_bits: float | None = None) -> ELBO | None:
    """`fit`'s own ELBO, or with `free_bits` (nats) the one with a KL that is free up to there.

    Args:
        program: the program.
        batch: some rows.
        num_particles: draws of z for each row and step, by default one.
        free_bits: nats of KL without penalty for each latent dimension, times K for all where they are dependent.

    Returns:
        None for `fit`'s own.
    """
    if free_bits is None:
        return None
    pairs = _latents(program, batch)
    apart = all(factorizes(p, q) for p, q in pairs)
    nats = free_bits if apart else free_bits * max(q.event_shape.numel() for _, q in pairs)
    return FreeBits_ELBO(nats, each="dimension" if apart else "site", num_particles=num_particles or 1)


def analytic_elbo(program: Program, batch: Batch, num_particles: int | None) -> ELBO:
    """The ELBO with its KL in closed form; `InputError` where guide and prior have none.

    Args:
        program: the program.
        batch: some rows.
        num_particles: draws of z for each row and step, by default one.

    Returns:
        Pyro's `TraceMeanField_ELBO`.
    """
    for prior, q in _latents(program, batch):
        try:
            kl_divergence(q, prior)
        except NotImplementedError as error:
            raise InputError(
                "the KL of this guide to this prior has no closed form: leave out --loss analytic-elbo, or take "
                "--guide mean-field with --prior standard-normal or normal"
            ) from error
    return TraceMeanField_ELBO(num_particles=num_particles or 1)


def iwae(program: Program, batch: Batch, num_particles: int | None, dreg: bool = False) -> ELBO:
    """The importance-weighted bound.

    Args:
        program: the program.
        batch: some rows.
        num_particles: draws of z for each row and step, by default eight.
        dreg: whether gradients are doubly reparameterized.

    Returns:
        The `ImportanceWeighted_ELBO`.
    """
    return ImportanceWeighted_ELBO(num_particles or 8, dreg=dreg)


def _latents(program: Program, batch: Batch) -> list[tuple[Distribution, Distribution]]:
    """Prior and guide of each latent site, as they are on some rows."""
    with torch.no_grad(), seeded(0):
        model, guide = (sample_sites(trace) for trace in trace_program(program, batch))
    return [(model[name]["fn"], site["fn"]) for name, site in guide.items() if name in model]
