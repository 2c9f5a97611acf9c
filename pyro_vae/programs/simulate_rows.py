"""Rows drawn from a model together with their latents."""

import pyro.poutine as poutine
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import UnconditionObserved, sample_sites
from pyro_vae.typing import Program


def simulate(program: Program, placeholder: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows and their latents, drawn from the model together; `InputError` for several x-sites.

    Args:
        program: any program.
        placeholder: a batch of n rows whose x is not read, with their inputs.

    Returns:
        Rows x (n, D), and the latents' values by site.
    """
    model = UnconditionObserved()(bind_supported_kwargs(program.model))
    sites = sample_sites(poutine.trace(model).get_trace(placeholder.x, placeholder.row_inputs))
    observed = [site for site in sites.values() if site["infer"].get("was_observed")]
    if len(observed) != 1 or observed[0]["value"].shape != placeholder.x.shape:
        raise InputError("simulating rows needs a model that observes x, the whole of it, at one site")
    latents = {name: site["value"] for name, site in sites.items() if site is not observed[0]}
    return observed[0]["value"], latents
