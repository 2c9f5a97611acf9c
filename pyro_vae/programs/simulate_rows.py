"""Rows drawn from a model together with their latents."""

from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import draw_observed
from pyro_vae.typing import Program


def simulate(program: Program, placeholder: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows and their latents, drawn from the model together; `InputError` for several x-sites.

    Args:
        program: any program.
        placeholder: a batch of n rows whose x is not read, with their inputs.

    Returns:
        Rows x (n, D), and the latents' values by site.
    """
    sites = draw_observed(program, placeholder)
    observed = [site for site in sites.values() if site["infer"].get("was_observed")]
    if len(observed) != 1 or observed[0]["value"].shape != placeholder.x.shape:
        raise InputError("simulating rows needs a model that observes x, the whole of it, at one site")
    (x,) = observed
    latents = {name: site["value"] for name, site in sites.items() if not site["is_observed"] and site is not x}
    return x["value"], latents
