"""Traces of a program's model and guide, and their sample sites."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
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

from pyro_vae.context_managers import PYRO_LOCK
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.support import is_point_mass
from pyro_vae.typing import Program

Wrapper = Callable[[Callable[[], object]], Callable[[], object]]  # a Pyro handler, or a plate, around a function


class Site(TypedDict, total=False):
    """A sample site of a Pyro trace: the part of Pyro's message dictionary that this package reads.

    `fn` is the site's distribution, `value` what was drawn or observed, `cond_indep_stack` the plates it lies in,
    `infer` what the program said about it, and `unscaled_log_prob` its log density where that was computed, with a
    `mask` of the values that count; `packed` has it for enumeration. `done` tells handlers that the value is set.
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
    packed: dict[str, Tensor]
    done: bool
    stop: bool
    continuation: Callable[["Site"], None] | None


def unchanged(function: Callable[[], object]) -> Callable[[], object]:
    """The function itself, where no handler or plate is wanted."""
    return function


def trace_program(
    program: Program, batch: Batch, around: Wrapper = unchanged, around_model: Wrapper = unchanged
) -> tuple[Trace, Trace]:
    """A run of the guide, and of the model with the guide's draws.

    Args:
        program: any program.
        batch: the rows and their inputs.
        around: a handler or a plate that wraps both functions.
        around_model: one that wraps the model alone, inside of it.

    Returns:
        The model's trace, replayed against the guide's, and the guide's, both with their log densities.
    """
    model, guide = bind_supported_kwargs(program.model), bind_supported_kwargs(program.guide)
    run_model = around_model(lambda: model(batch.x, batch.row_inputs))
    wrapped = around(run_model), around(lambda: guide(batch.x, batch.row_inputs))
    with PYRO_LOCK, pyro.validation_enabled(False):
        traces: tuple[Trace, Trace] = get_importance_trace("flat", float("inf"), *wrapped, (), {})
    return traces


class UnconditionObserved(UnconditionMessenger):
    """Draw observed sites; `pyro.deterministic` sites are no observations, though Pyro marks them so.

    Args:
        given: row inputs by name: a site that observes one of them stays as it is.
    """

    def __init__(self, given: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.given = given or {}

    def _pyro_sample(self, msg: Message[..., Any]) -> None:
        is_kept = (msg["infer"] or {}).get("_deterministic") or is_point_mass(
            msg["fn"]
        )  # of a latent, by `poutine.reparam`
        if msg["type"] == "sample" and msg["is_observed"] and not is_kept and not is_input(msg["value"], self.given):
            msg["fn"] = in_shape_of(msg["fn"], msg["value"])
            super()._pyro_sample(msg)


def in_shape_of(fn: Any, value: object) -> Any:
    """A distribution of one value that is observed at many, as `Normal(z[:, None], 1).to_event(1)` of D columns is.

    Args:
        fn: a site's distribution.
        value: what is observed.

    Returns:
        The distribution of as many independent values; the given one where it has the value's shape.
    """
    if not isinstance(fn, Independent) or not isinstance(value, Tensor):
        return fn
    shape = fn.batch_shape + fn.event_shape
    if shape == value.shape or len(shape) != value.dim() or torch.broadcast_shapes(shape, value.shape) != value.shape:
        return fn
    return cast(Any, fn.base_dist).expand(value.shape).to_event(fn.reinterpreted_batch_ndims)


def is_input(value: object, given: Mapping[str, object]) -> bool:
    """Whether a value is a row input, or a view of the whole of one.

    Args:
        value: a site's value.
        given: row inputs by name.

    Returns:
        False also for a copy.
    """
    if not isinstance(value, Tensor):
        return False
    tensors = [each for each in given.values() if isinstance(each, Tensor) and each.numel() == value.numel()]
    return any(each.data_ptr() == value.data_ptr() for each in tensors)


def draw_observed(program: Program, batch: Batch) -> dict[str, Site]:
    """The sites of a run of the model that draws what it observes, under `infer["was_observed"]`.

    A site that observes a row input, a label that is given, is drawn only if there is no other.

    Args:
        program: any program.
        batch: placeholders of x, with the inputs of the rows.

    Returns:
        The sites by name.
    """
    model = bind_supported_kwargs(program.model)
    for given in (batch.row_inputs, None):
        trace = poutine.trace(UnconditionObserved(given)(model)).get_trace(batch.x, batch.row_inputs)
        sites = sample_sites(trace)
        if any(site["infer"].get("was_observed") for site in sites.values()):
            break
    return sites


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


class AllDrawn(Exception):
    """All latents of a model have been drawn."""


class StopAfter(Messenger):
    """End a run by `AllDrawn` once all of some sites have values: what follows, the decoder for one, is not run."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.left = set(names)

    def _pyro_post_sample(self, msg: Site) -> None:
        self.left.discard(msg["name"])
        if not self.left:
            msg["continuation"] = _stop


def _stop(msg: Site) -> None:
    raise AllDrawn
