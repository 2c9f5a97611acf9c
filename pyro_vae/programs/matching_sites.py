"""Whether model and guide draw the same latents, with the same masks."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.errors import InputError
from pyro_vae.programs.support import is_point_mass
from pyro_vae.programs.traces import Site

Sites = Mapping[str, Site]


def enumerated_latents(model: Sites, guide: Sites) -> tuple[str, ...]:
    """The model's latents that the guide leaves to enumeration; `InputError` where their sites do not match.

    Args:
        model: the model's sites.
        guide: the guide's sites.

    Returns:
        Their names.
    """
    undrawn = [name for name, site in model.items() if not site["is_observed"] and name not in guide]
    if missing := [name for name in undrawn if not model[name]["infer"].get("enumerate")]:
        raise InputError(
            f"the model draws {', '.join(missing)}, which the guide does not: give the guide a sample site of that name"
        )
    latent = {name for name, site in model.items() if not site["is_observed"]}
    if extra := [name for name, site in guide.items() if name not in latent and not site["infer"].get("is_auxiliary")]:
        raise InputError(
            f"the guide draws {', '.join(extra)}, which is no latent of the model: give the sites the same name, or "
            'mark it as auxiliary (infer={"is_auxiliary": True})'
        )
    _check_auxiliary([site for name, site in guide.items() if name not in latent], guide.values())
    return tuple(undrawn)


def _check_auxiliary(auxiliary: Sequence[Site], guide: Iterable[Site]) -> None:
    """`InputError` for auxiliary draws that no latent is a function of: then log q(z|x) is not known.

    In Pyro's autoguides the latents are functions of one such site, Deltas whose densities are the Jacobians.
    """
    functions = [site for site in guide if is_point_mass(site["fn"])]
    if sum(site["value"].numel() for site in auxiliary) > sum(site["value"].numel() for site in functions):
        raise InputError(
            f"the guide draws {', '.join(site['name'] for site in auxiliary)}, which the model lacks, and its latents "
            "are not functions of that (Deltas), so log q(z|x) is an integral that nothing computes: draw it in the "
            "model too, from a distribution r of your choice (an auxiliary variable), or leave it out"
        )


def mask_of(site: Site) -> Tensor | None:
    """A site's mask in the shape of its plates, of a handler or of its distribution; None where it has none."""
    mask, fn = site["mask"], site["fn"]
    found = [mask] if isinstance(mask, Tensor) else []
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution) and isinstance(fn._mask, Tensor):
            found.append(fn._mask.expand(fn.batch_shape))
        fn = fn.base_dist
    if not found:
        return None
    row = [each.reshape(*each.shape[: len(site["fn"].batch_shape)], -1).all(-1) for each in found]
    return torch.stack(torch.broadcast_tensors(*row)).all(0)


def masks_differ(model: Site, guide: Site) -> bool:
    """Whether a latent has one mask in the model and another in the guide.

    Args:
        model: the model's site.
        guide: the guide's site of that name.

    Returns:
        Also where only one of them has a mask.
    """
    first, second = mask_of(model), mask_of(guide)
    if first is None or second is None:
        return first is not second
    return not torch.equal(*torch.broadcast_tensors(first, second))
