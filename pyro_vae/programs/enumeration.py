r"""Discrete latents that the guide leaves out are summed inside each weight.

With k such a latent of a row, $p(x, z) = \sum_k p(k) \, p(z | k) \, p(x | z, k)$; several are summed in the order that
their plates allow, by Pyro's variable elimination (Obermeyer et al., arXiv:1902.03210).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.masked_latents import uniform_where_masked
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.support import zero_outside_support
from pyro_vae.programs.traces import Site, sample_sites

Function = Callable[..., object]


def enumerate_sites(function: Function, plates: PlateStructure) -> Function:
    """A model in which the latents that the guide leaves out take all their values, each along a dimension of its own.

    Args:
        function: the model.
        plates: its plates.

    Returns:
        The model; the same function where the guide leaves none out.
    """
    if not plates.enumerated:
        return function
    in_parallel = poutine.infer_config(
        function, lambda site: {"enumerate": "parallel"} if site["name"] in plates.enumerated else {}
    )
    enumerated: Function = poutine.enum(in_parallel, first_available_dim=-plates.nesting - 2)
    return enumerated


def is_enumerated(trace: Trace) -> bool:
    """Whether latents took all their values in a run."""
    return any("_enumerate_dim" in (site["infer"] or {}) for site in sample_sites(trace).values())


def log_joint_and_prior(trace: Trace, keep: Collection[int], *, on_support: bool = True) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log p(z) of a run in which latents were enumerated, with these summed out.

    Args:
        trace: the run, with its log densities.
        keep: the dimensions of the plates that are kept; the terms are summed over all others.
        on_support: whether supports are checked.

    Returns:
        Both, nats, with an axis for each plate kept.
    """
    trace.symbolize_dims()
    sites = sample_sites(trace).values()
    latent = (site for site in sites if not site["is_observed"])
    return _sum_out(trace, sites, keep, on_support), _sum_out(trace, latent, keep, on_support)


def _sum_out(trace: Trace, sites: Iterable[Site], keep: Collection[int], on_support: bool) -> Tensor:
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    enumerated: set[str] = set()
    for site in sites:
        log_prob = site["unscaled_log_prob"]
        if on_support:
            log_prob = zero_outside_support(site["fn"], site["value"], log_prob)
        plates = frozenset(trace.plate_to_symbol[frame.name] for frame in site["cond_indep_stack"] if frame.vectorized)
        symbols = site["infer"]["_dim_to_symbol"]
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        if "_enumerate_symbol" in site["infer"]:
            log_prob = uniform_where_masked(site, log_prob)
        factors.setdefault(plates, []).append(packed.pack(log_prob, symbols))
        if "_enumerate_symbol" in site["infer"]:
            enumerated.add(str(site["infer"]["_enumerate_symbol"]))
    total = torch.zeros(())
    for terms in contract_tensor_tree(factors, enumerated).values():
        for term in terms:
            unpacked = packed.unpack(term, trace.symbol_to_dim)  # plates have their dimensions again
            others = _others(unpacked, keep)
            total = total + (unpacked.sum(others, keepdim=True) if others else unpacked)
    others = _others(total, keep)
    return total.sum(others) if others else total


def _others(values: Tensor, keep: Collection[int]) -> list[int]:
    return [dim for dim in range(-values.dim(), 0) if dim not in keep]


def require_own_support(value: Tensor, num_dims: int, name: str) -> Tensor:
    """`InputError` where the support of a continuous latent depends on one that is summed out.

    Args:
        value: the latent's value, from a transform to its support.
        num_dims: the dimensions that it has where the transform has no values of other latents in it.
        name: the latent.

    Returns:
        The value.
    """
    if value.dim() > num_dims:
        raise InputError(
            f"the support of {name} depends on a latent that is summed out, so it has no transform from the real "
            "numbers; draw that latent in the guide"
        )
    return value
