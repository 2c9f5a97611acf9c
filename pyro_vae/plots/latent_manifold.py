"""The figure of the manifold: E[x | z] on a grid that the prior spreads over two latents."""

import inspect
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import ComposeTransform

from pyro_vae.data import Dataset
from pyro_vae.plots import draw_on_axes
from pyro_vae.plots.display_units import to_grayscale
from pyro_vae.programs.parameters import use_param_store

GRID = 20


def manifold(program: Any, data: Dataset) -> Figure | None:
    """For two latents and images: E[x | z] on a grid that the prior's inverse CDF spreads evenly in probability."""
    plane = prior_grid(program)
    if plane is None or data.image_shape is None:
        return None
    decoded = to_grayscale(data.train, program.decode(plane.reshape(-1, 2))).numpy()
    figure = Figure(figsize=(7, 7.4))
    title = "The manifold: E[x | z] at equal steps of prior probability"
    draw_on_axes.image_grid(figure.subplots(), decoded, data.image_shape, columns=GRID, title=title, gap=0)
    return figure


@torch.no_grad()
def prior_grid(program: Any) -> Tensor | None:
    """A grid (20, 20, 2) of latents through the prior's inverse CDF, z_2 upwards; None where there is none.

    A flow prior's grid is that of its base, sent through the flow.
    """
    decode = getattr(program, "decode", None)
    if not hasattr(program, "prior") or decode is None or len(inspect.signature(decode).parameters) > 1:
        return None
    with use_param_store(program):
        prior = program.prior()
    if prior.event_shape != (2,):
        return None
    steps = (torch.arange(GRID) + 0.5) / GRID
    up, across = torch.meshgrid(steps.flip(0), steps, indexing="ij")
    base, layers = (prior.base_dist, prior.transforms) if hasattr(prior, "transforms") else (prior, [])
    try:
        with torch.no_grad(), use_param_store(program):
            z = getattr(base, "base_dist", base).icdf(torch.stack([across, up], -1))
            return ComposeTransform(layers)(z)
    except NotImplementedError:
        return None


def reason_for_no_manifold(program: Any, data: Dataset) -> str:
    """Why images with two latents get no manifold; empty where they do, or where none is expected."""
    prior = getattr(program, "prior", None)
    if data.image_shape is None or prior is None or prior_grid(program) is not None:
        return ""
    if len(inspect.signature(program.decode).parameters) > 1:
        return "no manifold figure: this program's decoder needs more than z"
    with torch.no_grad(), use_param_store(program):
        if prior().event_shape != (2,):
            return ""
    return f"no manifold figure: a {type(prior).__name__} has no inverse CDF to spread a grid with"
