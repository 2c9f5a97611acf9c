"""Rows with an observed value outside the support of its site: their density is zero under any program."""

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.errors import InputError
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import inside_support
from pyro_vae.programs.traces import Site, sample_sites
from pyro_vae.typing import Program

Outside = dict[str, Tensor]  # by observed site, booleans (n,)


@torch.no_grad()
def rows_outside_support(program: Program, plates: PlateStructure, batch: Batch) -> Outside:
    """Which rows have an observed value outside the support of its site; the random state stays as it is.

    Only sites of `plates.constrained` are looked at: `PlateStructure.check` covers a lone site that observes x.

    Args:
        program: any program.
        plates: its plates.
        batch: the rows (n, D) with their inputs.

    Returns:
        Booleans (n,) for each site with such a row.
    """
    if not plates.constrained or plates.row_dim is None:
        return {}
    with seeded(0), evaluating(program), pyro.validation_enabled(False):
        trace = poutine.trace(bind_supported_kwargs(program.model)).get_trace(batch.x, batch.row_inputs)
    sites = sample_sites(trace)
    found = {name: _outside(sites[name], plates.row_dim, len(batch.x)) for name in plates.constrained}
    return {name: outside for name, outside in found.items() if outside.any()}


def require_inside(program: Program, plates: PlateStructure, batch: Batch) -> None:
    """`InputError` where a row has an observed value outside the support of its site, with the first row and the site.

    Args:
        program: any program.
        plates: its plates.
        batch: the rows, in training with their indices, which the message names.
    """
    for name, outside in rows_outside_support(program, plates, batch).items():
        first = int(outside.nonzero()[0])
        row = first if batch.rows is None else int(batch.rows[first])
        raise InputError(
            f"{outside_reason(name, plates.constrained[name])} in {int(outside.sum())} of {len(outside)} rows, first "
            f"in row {row}; remove these rows, or give the site a distribution with that support"
        )


def outside_reason(site: str, support: str) -> str:
    """What is wrong with a row's value, in words.

    Args:
        site: the name of the site.
        support: the support of its distribution, in words.

    Returns:
        A clause.
    """
    return f"the value observed at site {site!r} lies outside the support of its distribution, {support}"


def _outside(site: Site, row_dim: int, num_rows: int) -> Tensor:
    """Which rows (n,) have an element outside the support that the site's mask does not leave out."""
    inside = inside_support(site["fn"], site["value"])
    if inside is None:
        return torch.zeros(num_rows, dtype=torch.bool)
    outside = ~inside[1]
    if site["mask"] is not None:
        outside = outside & torch.as_tensor(site["mask"], device=outside.device)
    by_row = outside.movedim(row_dim, 0).flatten(1).any(-1) if outside.dim() > 1 else outside
    return by_row.expand(num_rows).cpu()
