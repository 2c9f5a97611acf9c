"""Whether model and guide draw the same latents."""

from collections.abc import Iterable, Mapping, Sequence

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
