"""Which latents a guide puts at single points, where it has no density."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_vae.programs.support import innermost, is_point_mass, support_of
from pyro_vae.programs.traces import Site

Sites = Mapping[str, Site]


def find_point_masses(model: Sites, guide: Sites, draw_again: Callable[[], Sites]) -> tuple[str, ...]:
    """The continuous latents at which a guide has a point mass instead of a density.

    A `Delta` whose value varies from draw to draw, because auxiliary draws of as many dimensions feed it (as in Pyro's
    `AutoMultivariateNormal`), has the density of those draws, and is none.

    Args:
        model: the model's sites.
        guide: the guide's sites.
        draw_again: gives the guide's sites in another run on the same rows.

    Returns:
        The names of the sites.
    """
    points = [name for name in guide if name in model and _is_point(model[name], guide[name])]
    if not points:
        return ()
    auxiliary = [site for site in guide.values() if site["infer"].get("is_auxiliary") and not is_point_mass(site["fn"])]
    if sum(site["value"].numel() for site in auxiliary) < sum(_num_dimensions(model[name]) for name in points):
        return tuple(points)
    again = draw_again()
    return tuple(name for name in points if not _varies(guide[name]["value"], again[name]["value"]))


def _is_point(model: Site, guide: Site) -> bool:
    """Whether a latent of the model is continuous, and one point in the guide alone."""
    support = support_of(model["fn"])
    is_discrete = support is not None and support.is_discrete
    is_latent = not model["is_observed"] and not is_discrete
    return is_latent and is_point_mass(guide["fn"]) and not is_point_mass(model["fn"])


def _num_dimensions(site: Site) -> int:
    """The number of real coordinates of a site's value: one fewer than its elements for a simplex."""
    support, shape = support_of(site["fn"]), site["value"].shape
    if support is not None:
        try:
            return torch.Size(biject_to(innermost(support)).inverse_shape(shape)).numel()
        except NotImplementedError:
            pass
    return shape.numel()


def _varies(first: Tensor, second: Tensor) -> bool:
    return bool((first != second).all())
