"""Any of the ELBOs without Pyro's handlers at run time: a step is recorded once for each shape of its inputs."""

import contextlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.runtime import am_i_wrapped, apply_stack
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.errors import HandlersWarning, InputError
from pyro_vae.inference.compile.recorded_graph import Graph, Untraceable
from pyro_vae.inference.compile.recorder import ScalarGuard, record, replay_rng
from pyro_vae.inference.objectives.differentiable_elbo import DifferentiableELBO
from pyro_vae.inference.objectives.elbo_terms import Sums, Terms

LIBRARY = Path(contextlib.__file__).parent
CHECK_INTERVAL = 500  # steps, where nobody asks for less
MAX_GRAPHS = 16
MIN_LOSS_CALLS = 20  # calls of the loss alone: a fit of few epochs asks too seldom
Outputs = tuple[Tensor | None, ...]
ROUNDING = {torch.float64: 1e-9}  # of the largest value: the same operations in the same order; other types:
SINGLE, FUSED = 1e-5, 1e-3


class Compiled_ELBO(ELBO):
    r"""An ELBO whose program is recorded once into a plain graph of tensor operations, gradients included.

    `elbo` is what is climbed (`Trace_ELBO()` by default; `TraceMeanField_ELBO` and this package's own are taken too);
    values, gradients and random numbers are those it would give, and every call draws afresh. The first call goes by
    the handlers; after it each new shape of the arguments is recorded (for the loss alone after 20 calls), and each
    graph is held against the handlers on its first three batches and again every 500 steps. With `fuse=True` graphs go
    through `torch.compile` (tens of seconds, once for each shape); on CUDA they are captured, one launch a step.

    What is static is recorded: numbers that Python computes, `self.training`, which parameters are frozen. A program
    whose operations depend on values, or that differs from its graph, goes by the handlers from then on, after one
    `HandlersWarning` that says why. `differentiable_loss` always goes by the handlers. Raises `InputError` for
    other ELBOs.

    >>> import pyro, pyro_vae as pv
    >>> from pyro.infer import SVI
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Compiled_ELBO())
    >>> losses = [svi.step(torch.ones(20, 5)) for _ in range(30)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        elbo: Any = None,
        *,
        fuse: bool = False,
        terms: Terms | None = None,
        trainable_parameters: Callable[[], Iterable[Tensor]] = tuple,
    ) -> None:
        self.elbo: Any = elbo or Trace_ELBO()
        if not is_recorded(self.elbo):
            raise InputError(
                f"{type(self.elbo).__name__} cannot be compiled (Pyro's enumeration, and baselines, look at values as "
                "they go); leave compile out, or take Trace_ELBO, TraceMeanField_ELBO or one of this package's own"
            )
        super().__init__(
            self.elbo.num_particles, self.elbo.max_plate_nesting, vectorize_particles=self.elbo.vectorize_particles
        )
        self.fuse, self.terms, self.trainable_parameters = fuse, terms, trainable_parameters
        self.fallback_reason = ""
        self.steps: dict[Any, Step] = {}
        self._has_run, self._num_loss_calls, self._warned = False, 0, False
        self.check_after = CHECK_INTERVAL  # steps since the last check; fewer where something may have changed

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss alone; recorded too, once it was asked for often."""
        self._num_loss_calls += 1
        often = self._has_run and self._num_loss_calls > MIN_LOSS_CALLS
        if often and (found := self._run_graph(False, model, guide, args, kwargs)):
            return self._assign_gradients(*found)
        loss = self.elbo.loss(model, guide, *args, **kwargs)
        self._warn_of_fallback()
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        return self.elbo.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, a tensor that nobody has read yet (a number by the handlers); gradients are added to `grad`."""
        if self._has_run and (found := self._run_graph(True, model, guide, args, kwargs)):
            return self._assign_gradients(*found)
        self._has_run = True
        loss = self.elbo.loss_and_grads(model, guide, *args, **kwargs)
        self._warn_of_fallback()
        return loss

    def _run_graph(
        self, with_gradients: bool, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> "tuple[Step, Outputs] | None":
        """A step and what it gives; None where the program goes by the handlers."""
        if self.fallback_reason:
            return None
        tensors: list[Tensor] = []
        key = (with_gradients, model, guide, _call_signature((args, kwargs), tensors))
        try:
            step = self.steps.get(key)
        except TypeError as error:
            return self._fall_back(Untraceable(f"an argument cannot tell whether it has changed ({error})"))
        if step is not None and step.is_past():
            self.steps.clear()  # this call goes by the handlers, which make what is missing
            return None
        step = step or self._record_step(key, args, kwargs, tensors)
        found = None if step is None else self._run_checked(step, tensors)
        return None if step is None or found is None else (step, found)

    def _record_step(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> "Step | None":
        """Record a step twice, with other random numbers, and believe the second where it repeats the first."""
        with_gradients, model, guide = key[:3]
        if len(self.steps) >= MAX_GRAPHS and key not in self.steps:
            return self._fall_back(Untraceable(f"its arguments or their shapes keep changing ({MAX_GRAPHS} graphs)"))
        losses = _loss_of_tensors(self.elbo, model, guide, *tree_flatten((args, kwargs)))
        step = Step(losses, self.terms, self.trainable_parameters, with_gradients)
        with replay_rng() as again:
            try:
                first = record(step.uncompiled, *tensors)
                step.graph = record(step.uncompiled, *tensors)
                if not _same_operations(first, step.graph):
                    raise Untraceable("its operations differ from call to call")
                again()
                with step.graph.nothing_written():
                    _require_close(step.graph(*tensors), first.outputs, fused=False)
                if self.fuse and with_gradients:
                    step.graph.compile(*tensors)
                elif tensors and tensors[0].is_cuda:
                    step.graph.capture(*tensors)
            except Exception as error:  # whatever it is: if the program itself is wrong, the handlers will say so
                again()
                return self._fall_back(error)
            again()
        step.frozen = [
            value for value in step.graph.found if isinstance(value, nn.Parameter) and not value.requires_grad
        ]
        self.steps[key] = step
        return step

    def _run_checked(self, step: "Step", tensors: list[Tensor]) -> Outputs | None:
        """What a step gives, by its graph; None where graph and handlers turn out to differ."""
        step.calls, step.since_check = step.calls + 1, step.since_check + 1
        if step.calls > 3 and step.since_check < self.check_after:
            return step.graph(*tensors)
        step.since_check, self.check_after = 0, CHECK_INTERVAL
        with replay_rng() as again:
            try:
                with step.graph.nothing_written():
                    expected = step.uncompiled(*tensors)
                again()
                with step.graph.nothing_written():
                    _require_close(step.graph(*tensors), expected, self.fuse)
                again()
            except Exception as error:
                again()
                return self._fall_back(error)
        return step.graph(*tensors)

    def _assign_gradients(self, step: "Step", found: Outputs) -> Tensor:
        """Gradients to their parameters, terms to where they are summed, and Pyro told which parameters took part."""
        loss, *rest = found
        for parameter, gradient in zip(step.parameters, rest, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if self.terms is not None:
            self.terms.add_sums(step.sums, rest[len(step.parameters) :])
        if am_i_wrapped() and step.with_gradients:
            for site in step.sites:
                apply_stack(site | {"done": True, "stop": False, "continuation": None})
        assert loss is not None
        return loss

    def _fall_back(self, error: Exception) -> Any:
        """No more graphs; None."""
        first_line = (str(error).splitlines() or [""])[0]
        self.fallback_reason = first_line if isinstance(error, Untraceable) else f"{type(error).__name__}, {first_line}"
        self.fallback_reason += _place(error)
        self.steps.clear()

    def _warn_of_fallback(self) -> None:
        """Once, and after the handlers had their turn: an error of the program's own is theirs to raise."""
        if self.fallback_reason and not self._warned:
            self._warned = True
            words = "training goes by Pyro's handlers, which is slower, since the program cannot be recorded"
            warnings.warn(f"{words}: {self.fallback_reason}", HandlersWarning, stacklevel=3)


class Step:
    """One step for one shape of its inputs: by the handlers, and once recorded as a graph."""

    graph: Graph

    def __init__(
        self,
        losses: Callable[..., tuple[Tensor, Tensor]],
        terms: Terms | None,
        trainable_parameters: Callable[[], Iterable[Tensor]],
        with_gradients: bool,
    ) -> None:
        self.losses, self.terms, self.trainable_parameters, self.with_gradients = (
            losses,
            terms,
            trainable_parameters,
            with_gradients,
        )
        self.calls = self.since_check = 0
        self.parameter_states: list[tuple[str, Tensor, bool]] = []
        self.frozen: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self.sites: list[Any] = []
        self.sums = Sums()

    def is_past(self) -> bool:
        """Whether a parameter was frozen, unfrozen or replaced since."""
        store = pyro.get_param_store()._params
        return any(leaf.requires_grad for leaf in self.frozen) or any(
            leaf.requires_grad != trained or (name and store.get(name) is not leaf)
            for name, leaf, trained in self.parameter_states
        )

    def uncompiled(self, *tensors: Tensor) -> Outputs:
        """(loss, a gradient for each parameter, the two terms): what a step gives, by Pyro's own way."""
        unchecked = pyro.validation_enabled(False)  # checks look at values; the first call has made them
        with (
            unchecked,
            ScalarGuard(),
            torch.set_grad_enabled(self.with_gradients),
            poutine.trace(param_only=True) as seen,
        ):
            if self.terms is None:
                value, surrogate = self.losses(*tensors)
            else:
                (value, surrogate), self.sums = self.terms.apart_from(lambda: self.losses(*tensors))
        self.sites = [site for site in seen.trace.nodes.values() if site["type"] == "param"]
        leaves = {site["value"].unconstrained(): site["name"] for site in self.sites}
        leaves |= {leaf: "" for leaf in self.trainable_parameters() if leaf not in leaves}
        store = pyro.get_param_store()._params
        self.parameter_states = [
            (name if store.get(name) is leaf else "", leaf, leaf.requires_grad) for leaf, name in leaves.items()
        ]
        self.parameters = [leaf for leaf in leaves if leaf.requires_grad and self.with_gradients]
        gradients: tuple[Any, ...] = ()
        if self.with_gradients and surrogate.requires_grad and self.parameters:
            found = torch.autograd.grad(surrogate, self.parameters, allow_unused=True)
            gradients = tuple(map(_in_parameter_layout, found, self.parameters))
        return (value.detach(), *gradients, *self.sums.tensors)


def is_recorded(elbo: ELBO) -> bool:
    """Whether an ELBO is one that `Compiled_ELBO` takes; a subclass of Pyro's that a user wrote may do anything."""
    return isinstance(elbo, DifferentiableELBO) or type(elbo) in (Trace_ELBO, TraceMeanField_ELBO)


def _loss_of_tensors(
    elbo: Any, model: Any, guide: Any, leaves: list[Any], shape: Any
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The ELBO's loss and what its gradients are of, as a function of the tensors among the arguments."""

    def losses(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = iter(tensors)
        args, kwargs = tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], shape)
        return _losses(elbo, model, guide, args, kwargs)

    return losses


def _losses(elbo: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    if isinstance(elbo, DifferentiableELBO):
        loss = elbo.tensor_loss(model, guide, *args, **kwargs)
        return loss, loss
    pairs = elbo._get_traces(model, guide, args, kwargs)
    particles = [elbo._differentiable_loss_particle(*pair) for pair in pairs]
    loss, surrogate = (sum(parts) / elbo.num_particles for parts in zip(*particles, strict=True))
    return torch.as_tensor(loss), torch.as_tensor(surrogate)


def _in_parameter_layout(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient in its parameter's layout, as fused optimizers read it."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _call_signature(value: Any, tensors: list[Tensor]) -> Any:
    """What a graph depends on of a call's arguments; their tensors are added to a list, in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _call_signature(part, tensors)) for name, part in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(_call_signature(part, tensors) for part in value)
    return type(value), value


def _same_operations(first: Graph, second: Graph) -> bool:
    ways = [[(node.target, str(node.args)) for node in graph.module.graph.nodes] for graph in (first, second)]
    found = zip(first.found, second.found, strict=True) if len(first.found) == len(second.found) else ((0, 1),)
    return ways[0] == ways[1] and all(a is b or _equal(a, b) for a, b in found)


def _equal(a: Any, b: Any) -> bool:
    """Whether two constants that a program made for itself are the same."""
    return isinstance(a, Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def _require_close(found: Outputs, expected: Outputs, fused: bool) -> None:
    for a, b in zip(found, expected, strict=True):
        if (a is None) != (b is None):
            raise Untraceable("other parameters take part from call to call")
        if a is None or b is None or not b.numel():
            continue
        share = FUSED if fused else ROUNDING.get(b.dtype, SINGLE)
        if not torch.allclose(a, b, rtol=share, atol=share * float(b.abs().max().nan_to_num(0, 0, 0)), equal_nan=True):
            raise Untraceable("its graph gives other numbers: something changes between calls that is no tensor")


def _place(error: BaseException) -> str:
    """The line of the user's own code at which recording stopped."""
    ours, trace, found = Path(__file__).parent, error.__traceback__, ""
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent != ours and not path.is_relative_to(LIBRARY) and "site-packages" not in path.parts:
            found = f" ({path.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found
