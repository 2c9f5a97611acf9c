"""Traces of a program's model and guide, their sample sites, and the log weights' terms."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.constraints import Constraint

from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import zero_outside_support
from pyro_vae.typing import Program

Wrapper = Callable[[Callable[[], object]], Callable[[], object]]  # a Pyro handler, or a plate, around a function


class Site(TypedDict, total=False):
    """A sample site of a Pyro trace: the part of Pyro's message dictionary that this package reads.

    `fn` is the site's distribution, `value` what was drawn or observed, `cond_indep_stack` the plates it lies in,
    `infer` what the program said about it, and `unscaled_log_prob` its log density where that was computed, with a
    `mask` of the values that count. `done` tells handlers that the value is set.
    """

    type: str
    name: str
    fn: TorchDistribution
    value: Tensor
    is_observed: bool
    cond_indep_stack: tuple[CondIndepStackFrame, ...]
    infer: dict[str, object]
    mask: Tensor | bool | None
    scale: Tensor | float
    unscaled_log_prob: Tensor
    log_prob: Tensor
    log_prob_sum: Tensor
    done: bool
    continuation: Callable[["Site"], None] | None


def trace_program(program: Program, batch: Batch, around: Wrapper = lambda function: function) -> tuple[Trace, Trace]:
    """A run of the guide, and of the model with the guide's draws.

    Args:
        program: any program.
        batch: the rows and their inputs.
        around: a handler or a plate that wraps both functions.

    Returns:
        The model's trace, replayed against the guide's, and the guide's, both with their log densities.
    """
    model, guide = bind_supported_kwargs(program.model), bind_supported_kwargs(program.guide)
    wrapped = around(lambda: model(batch.x, batch.row_inputs)), around(lambda: guide(batch.x, batch.row_inputs))
    with pyro.validation_enabled(False):
        traces: tuple[Trace, Trace] = get_importance_trace("flat", float("inf"), *wrapped, (), {})
    return traces


class UnconditionObserved(UnconditionMessenger):
    """Draw observed sites; `pyro.deterministic` sites are no observations, though Pyro marks them so."""

    def _pyro_sample(self, msg: Message[..., Any]) -> None:
        if not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)


def sample_sites(trace: Trace) -> dict[str, Site]:
    """The sample sites of a trace by name, in order, without plates' own sites and deterministic values."""
    nodes = cast(dict[str, Site], trace.nodes)
    drawn = {name: site for name, site in nodes.items() if site["type"] == "sample" and not is_subsample(site)}
    return {name: site for name, site in drawn.items() if not (site["infer"] or {}).get("_deterministic")}


def is_subsample(site: Site) -> bool:
    """Whether a site is a plate's own, whose value is the indices of a subsample."""
    return site_is_subsample(cast(Message[..., Any], site))


def unwrap_independent(fn: object) -> Any:
    """A site's distribution without the `Independent`s around it."""
    return unwrap_independent(fn.base_dist) if isinstance(fn, Independent) else fn


@runtime_checkable
class _WrapsConstraint(Protocol):
    @property
    def base_constraint(self) -> Constraint: ...


def base_constraint(support: Constraint) -> Constraint:
    """The constraint that one of vectors, or of a mixture, wraps; the constraint itself where it wraps none."""
    return support.base_constraint if isinstance(support, _WrapsConstraint) else support


class SubstituteLatents(Messenger):
    """Latent sites of the guide take given values instead of draws."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self.values and not msg["is_observed"] and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def sum_over_plates(site: Site, keep: set[int], *, on_support: bool = True) -> Tensor:
    """A site's log-probability with its mask and without its scale, nats; −∞ outside the support of its distribution.

    Args:
        site: a site whose log density was computed.
        keep: the dimensions of the plates that are kept, counted from the right (−1, −2, …).
        on_support: whether the support is checked; False where the numbers are not used.

    Returns:
        The sum over all other plates, with one axis for each plate kept.
    """
    unmasked = site["unscaled_log_prob"]
    if on_support:
        unmasked = zero_outside_support(site["fn"], site["value"], unmasked)
    log_prob: Tensor = scale_and_mask(unmasked, mask=site["mask"])
    summed = [dim for dim in range(-log_prob.dim(), 0) if dim not in keep]
    return log_prob.sum(summed) if summed else log_prob


def sum_sites(sites: Iterable[Site], keep: set[int], *, on_support: bool = True) -> Tensor:
    """The log-probability of several sites together, nats: −∞ where that of one of them is, whatever the others are.

    Args:
        sites: sites whose log density was computed.
        keep: the dimensions of the plates that are kept.
        on_support: whether supports are checked.

    Returns:
        The sum over sites and all other plates, with one axis for each plate kept.
    """
    parts = [sum_over_plates(site, keep, on_support=on_support) for site in sites]
    total = sum(parts, torch.zeros(()))
    if on_support and len(parts) > 1:
        for part in parts:
            total = torch.where(part == -math.inf, -math.inf, total)
    return total


def log_weight_terms(model: Trace, guide: Trace, keep: set[int], *, on_support: bool = True) -> tuple[Tensor, Tensor]:
    """The two terms of the log weights, nats, each summed over its sites.

    Args:
        model: the model's trace, replayed against the guide's.
        guide: the guide's trace.
        keep: the dimensions of the plates that are kept; the terms are summed over all others.
        on_support: whether supports are checked.

    Returns:
        log p(x | z) and log p(z) − log q(z | x), with one axis for each plate kept. The second is −∞ where the prior's
        density is zero, and there the first is not NaN.
    """
    sites, drawn = sample_sites(model).values(), sample_sites(guide).values()
    sum_some = partial(sum_sites, keep=keep, on_support=on_support)
    likelihood = sum_some(site for site in sites if site["is_observed"])
    prior = sum_some(site for site in sites if not site["is_observed"])
    ratio = prior - sum_some(drawn)
    if not on_support:
        return likelihood, ratio
    is_zero = prior == -math.inf
    return torch.where(is_zero & likelihood.isnan(), -math.inf, likelihood), torch.where(is_zero, -math.inf, ratio)
