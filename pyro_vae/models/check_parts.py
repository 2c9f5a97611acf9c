"""Whether three parts make a VAE: each in its place, with one number of latents."""

from pyro_vae.constructor_args import recorded_call
from pyro_vae.errors import InputError
from pyro_vae.part_bases import GuideModule, LikelihoodModule, PriorModule

BASES: dict[str, type] = {"prior": PriorModule, "likelihood": LikelihoodModule, "guide": GuideModule}


def check_parts(prior: object, likelihood: object, guide: object) -> None:
    """`InputError` for a part in the place of another, and for a prior and guide of different numbers of latents.

    Parts of one's own say neither, and are compared when the program runs.

    Args:
        prior: the part p(z).
        likelihood: the part p(x|z).
        guide: the part q(z|x).
    """
    for place, part in {"prior": prior, "likelihood": likelihood, "guide": guide}.items():
        if wrong := [kind for kind, base in BASES.items() if isinstance(part, base) and kind != place]:
            raise InputError(
                f"a {type(part).__name__} is a {wrong[0]}, and was given as the {place}: VAE(prior, likelihood, guide)"
            )
        if (recorded_call(part)[0] or "").startswith("nets."):
            raise InputError(f"the {place} is a plain network: give it to a part, as in pv.guides.MeanFieldNormal(net)")
    numbers = {name: recorded_call(part)[1].get("num_latents") for name, part in (("prior", prior), ("guide", guide))}
    known = {name: number for name, number in numbers.items() if isinstance(number, int)}
    if len(set(known.values())) > 1:
        raise InputError(f"the prior has {known['prior']} latents and the guide {known['guide']}: give both the same K")
