"""Draws of a guide outside the support of the model's latents, which training must not use."""

from collections.abc import Iterable, Mapping

import torch

from pyro_vae.errors import InputError
from pyro_vae.programs.support import innermost, inside_support, never_leaves, support_of
from pyro_vae.programs.traces import Site

Sites = Mapping[str, Site]


def uncertain_latents(model: Sites, guide: Sites) -> dict[str, str]:
    """The latents whose guide may draw outside the model's support, by what both declare.

    Args:
        model: the model's sites.
        guide: the guide's.

    Returns:
        What the two supports are, in words, for each of these sites.
    """
    pairs = {name: (model[name], site) for name, site in guide.items() if name in model}
    return {name: _describe(*pair) for name, pair in pairs.items() if not never_leaves(pair[0]["fn"], pair[1]["fn"])}


def latents_outside(model: Sites, names: Iterable[str]) -> list[str]:
    """Those of some latents with a draw outside the support of their distribution in the model.

    Args:
        model: the model's sites, with the guide's draws.
        names: the latents to look at.

    Returns:
        Their names.
    """
    return [name for name in names if name in model and _has_draw_outside(model[name])]


def outside_error(names: Iterable[str], described: Mapping[str, str]) -> InputError:
    """The error for a fit whose guide has drawn outside the support of some latents.

    Args:
        names: the latents.
        described: what their supports are, in words.

    Returns:
        The error, with the remedy.
    """
    return InputError(
        f"{'; '.join(described[name] for name in names)}. Such draws have density zero, so the ELBO is −∞ and has no "
        "gradient: give the guide a distribution with the prior's support (LogNormal or Gamma for positive values, "
        "Beta for the unit interval, Dirichlet for a simplex, or dist.TransformedDistribution with the transform "
        "biject_to(prior.support))"
    )


def _has_draw_outside(site: Site) -> bool:
    inside = inside_support(site["fn"], site["value"])
    if inside is None:
        return False
    outside = ~inside[1]
    if site["mask"] is not None:
        outside = outside & torch.as_tensor(site["mask"], device=outside.device)
    return bool(outside.any())


def _describe(model: Site, guide: Site) -> str:
    named = [_named(site) for site in (guide, model)]
    return f"the guide draws {model['name']} from {named[0]}, outside the support of its prior, {named[1]}"


def _named(site: Site) -> str:
    support = support_of(site["fn"])
    values = "" if support is None else f" on {innermost(support)}"
    base = site["fn"]
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    return f"{type(base).__name__}{values}"
