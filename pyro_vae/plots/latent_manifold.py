"""The figure of the manifold: E[x | z] on a grid that the prior spreads over two latents."""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import ComposeTransform, Distribution, Independent, TransformedDistribution

from pyro_vae.data import Dataset
from pyro_vae.plots import draw_on_axes
from pyro_vae.plots.display_units import to_pixels
from pyro_vae.plots.latent_view import decodes_z_alone
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.program_defaults import decoder_of, prior_of
from pyro_vae.typing import Program

GRID = 20


def manifold(program: Program, data: Dataset) -> Figure | None:
    """For two latents and images: E[x | z] on a grid that the prior's inverse CDF spreads evenly in probability.

    Args:
        program: the fitted program.
        data: its data set.

    Returns:
        The figure; None where there is no such grid, or no images.
    """
    plane, decode = prior_grid(program), decoder_of(program)
    if decode is None or plane is None or data.image_shape is None:
        return None
    decoded = to_pixels(data.train, decode(plane.reshape(-1, 2))).numpy()
    figure = Figure(figsize=(7, 7.4))
    title = "The manifold: E[x | z] at equal steps of prior probability"
    draw_on_axes.image_grid(figure.subplots(), decoded, data.image_shape, columns=GRID, title=title, gap=0)
    return figure


@torch.no_grad()
def prior_grid(program: Program) -> Tensor | None:
    """A grid (20, 20, 2) of latents through the prior's inverse CDF, z_2 upwards; None where there is none.

    A flow prior's grid is that of its base, sent through the flow.
    """
    part = prior_of(program)
    if part is None or not decodes_z_alone(program):
        return None
    with use_param_store(program):
        prior = part()
    if not isinstance(prior, Distribution) or prior.event_shape != (2,):
        return None
    steps = (torch.arange(GRID) + 0.5) / GRID
    up, across = torch.meshgrid(steps.flip(0), steps, indexing="ij")
    base, layers = (prior.base_dist, prior.transforms) if isinstance(prior, TransformedDistribution) else (prior, [])
    base = base.base_dist if isinstance(base, Independent) else base
    try:
        with torch.no_grad(), use_param_store(program):
            return ComposeTransform(layers)(base.icdf(torch.stack([across, up], -1)))
    except NotImplementedError:
        return None


def reason_for_no_manifold(program: Program, data: Dataset) -> str:
    """Why images with two latents get no manifold; empty where they do, or where none is expected.

    Args:
        program: the fitted program.
        data: its data set.

    Returns:
        The reason, or an empty text.
    """
    part = prior_of(program)
    if data.image_shape is None or part is None or prior_grid(program) is not None:
        return ""
    if not decodes_z_alone(program):
        return "no manifold figure: this program's decoder needs more than z"
    with torch.no_grad(), use_param_store(program):
        prior = part()
    if isinstance(prior, Distribution) and prior.event_shape != (2,):
        return ""
    return f"no manifold figure: a {type(part).__name__} has no inverse CDF to spread a grid with"
