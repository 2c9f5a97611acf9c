"""An ELBO that runs without Pyro's handlers: its step is recorded once for each shape of its inputs."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import cast

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae.errors import HandlersWarning, InputError
from pyro_vae.inference.compile.compiled_step import CompiledStep, as_function_of_tensors
from pyro_vae.inference.compile.memory_plan import KeptMemory
from pyro_vae.inference.compile.recorded_operations import Outputs, Untraceable
from pyro_vae.inference.objectives.differentiable_elbo import Arguments, DifferentiableELBO, Keywords, PyroFunction
from pyro_vae.inference.objectives.elbo_terms import Terms

STANDARD_LIBRARY, INFERENCE = Path(contextlib.__file__).parent, Path(__file__).parents[1]
Key = tuple[bool, PyroFunction, PyroFunction, Hashable]  # with gradients, model, guide, signature of the arguments
NUM_FIRST_CHECKS = 3  # calls of a new graph that are all checked
CHECK_INTERVAL = 500  # steps between later checks, unless `check_after` is less
MAX_SHAPES = 16  # of arguments with gradients, and as many without
MIN_CALLS = 20  # before the next is recorded, which takes about as long as these: a short fit makes too few


class Compiled_ELBO(ELBO):
    r"""An ELBO whose program is recorded once into a plain graph of tensor operations, gradients included.

    Values, gradients and random numbers are those that the objective gives, and every call draws new ones. Each shape
    of the arguments is recorded after 20 calls, which run uncompiled, by Pyro's handlers, and each graph is compared
    with the handlers on its first three batches and again every 500 steps. On CUDA graphs are captured, one launch a
    step.

    What is static is recorded as a constant: numbers that Python computes, `self.training`, which parameters are
    frozen. A program whose operations depend on values, or that differs from its graph, runs uncompiled from then on,
    after one `HandlersWarning` that says why. `differentiable_loss` always runs uncompiled. Raises `InputError` for
    other ELBOs.

    Args:
        elbo: the objective: `Trace_ELBO()` by default, `TraceMeanField_ELBO` or one of this package's.
        fuse: whether graphs are compiled by `torch.compile` (tens of seconds, once for each shape).
        terms: sums of the ELBO's terms that each call adds to.
        trainable_parameters: gives the parameters of the fit; by default those of the calls alone.
        reuse_gradients: whether a step may overwrite the gradients of the last, which are then None at each call.

    >>> import pyro, torch, pyro_vae as pv
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
        elbo: ELBO | None = None,
        *,
        fuse: bool = False,
        terms: Terms | None = None,
        trainable_parameters: Callable[[], Iterable[Tensor]] = tuple,
        reuse_gradients: bool = False,
    ) -> None:
        self.elbo = cast(Trace_ELBO, elbo or Trace_ELBO())  # what is recorded is a subclass
        if not is_recorded(self.elbo):
            raise InputError(
                f"{type(self.elbo).__name__} cannot be compiled (Pyro's enumeration, and baselines, read values as "
                "they go); leave compile out, or take Trace_ELBO, TraceMeanField_ELBO or one of this package's"
            )
        super().__init__(
            self.elbo.num_particles, self.elbo.max_plate_nesting, vectorize_particles=self.elbo.vectorize_particles
        )
        self.fuse, self.terms, self.trainable_parameters = fuse, terms, trainable_parameters
        self.memory, self.reuse_gradients = KeptMemory(), reuse_gradients
        self.fallback_reason = ""
        self.steps: dict[Key, CompiledStep] = {}
        self.check_after = CHECK_INTERVAL  # steps since the last check; fewer where something may have changed
        self._num_calls: dict[bool, Counter[Key]] = {True: Counter(), False: Counter()}  # with gradients or without
        self._has_warned = False

    def _get_trace(
        self, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
    ) -> tuple[Trace, Trace]:
        pair: tuple[Trace, Trace] = self.elbo._get_trace(model, guide, args, kwargs)
        return pair

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor | float:
        """The loss without gradients, which is recorded too.

        Args:
            model: a Pyro function.
            guide: another, of the same arguments.
            *args: their arguments.
            **kwargs: their keyword arguments.

        Returns:
            The loss (), nats: a tensor, or a number where the call runs uncompiled.
        """
        if result := self._run_graph(False, model, guide, args, kwargs):
            step, outputs = result
            return step.assign(outputs)
        loss = self.elbo.loss(model, guide, *args, **kwargs)
        self._warn_of_fallback()
        return loss

    def differentiable_loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor:
        loss: Tensor = self.elbo.differentiable_loss(model, guide, *args, **kwargs)
        return loss

    def loss_and_grads(
        self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object
    ) -> Tensor | float:
        """The loss, whose gradients are added to `grad`.

        Args:
            model: a Pyro function.
            guide: another, of the same arguments.
            *args: their arguments.
            **kwargs: their keyword arguments.

        Returns:
            The loss (), nats: a tensor, or a number where the call runs uncompiled.
        """
        if result := self._run_graph(True, model, guide, args, kwargs):
            step, outputs = result
            return step.assign(outputs)
        loss = self.elbo.loss_and_grads(model, guide, *args, **kwargs)
        self._warn_of_fallback()
        return loss

    def _run_graph(
        self, with_gradients: bool, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
    ) -> tuple[CompiledStep, Outputs] | None:
        """A compiled step and its outputs; None where the call has to run uncompiled."""
        if self.fallback_reason:
            return None
        tensors: list[Tensor] = []
        key = (with_gradients, model, guide, _call_signature((args, kwargs), tensors))
        num_calls = self._num_calls[with_gradients]
        try:
            is_known = key in num_calls
        except TypeError as error:
            self._fall_back(Untraceable(f"an argument cannot tell whether it has changed ({error})"))
            return None
        if not is_known and len(num_calls) >= MAX_SHAPES:
            if with_gradients:
                self._fall_back(Untraceable(f"its arguments or their shapes keep changing ({MAX_SHAPES} times)"))
            return None
        num_calls[key] += 1
        step = self.steps.get(key)
        if step is not None and step.is_outdated():
            self.steps.clear()  # this call runs uncompiled, which makes missing parameters
            return None
        if step is None and num_calls[key] <= MIN_CALLS:
            return None
        step = step or self._record_step(key, args, kwargs, tensors)
        outputs = None if step is None else self._run_checked(step, tensors)
        return None if step is None or outputs is None else (step, outputs)

    def _record_step(self, key: Key, args: Arguments, kwargs: Keywords, tensors: list[Tensor]) -> CompiledStep | None:
        """Record the step of new arguments; None, and no more graphs, where it cannot be recorded."""
        with_gradients, model, guide, _ = key
        loss_of_tensors = as_function_of_tensors(self.elbo, model, guide, *tree_flatten((args, kwargs)))
        step = CompiledStep(loss_of_tensors, self.terms, self.trainable_parameters, with_gradients)
        try:
            step.record(tensors, self.fuse, self.memory, self.reuse_gradients)
        except Exception as error:  # if the program itself is wrong, the uncompiled call will raise the error
            self._fall_back(error)
            return None
        self.steps[key] = step
        return step

    def _run_checked(self, step: CompiledStep, tensors: list[Tensor]) -> Outputs | None:
        """The outputs of a step's graph; None where it turns out to differ from the uncompiled step."""
        step.calls, step.since_check = step.calls + 1, step.since_check + 1
        if step.calls <= NUM_FIRST_CHECKS or step.since_check >= self.check_after:
            step.since_check, self.check_after = 0, CHECK_INTERVAL
            try:
                step.check(tensors, self.fuse)
            except Exception as error:
                self._fall_back(error)
                return None
        return step.graph(*tensors)

    def _fall_back(self, error: Exception) -> None:
        """Use no more graphs, and keep the reason."""
        first_line = (str(error).splitlines() or [""])[0]
        self.fallback_reason = first_line if isinstance(error, Untraceable) else f"{type(error).__name__}, {first_line}"
        self.fallback_reason += _user_line(error)
        self.steps.clear()
        self._num_calls, self.memory = {True: Counter(), False: Counter()}, KeptMemory()

    def _warn_of_fallback(self) -> None:
        """Warn once, after an uncompiled call: an error of the program itself has been raised by then."""
        if self.fallback_reason and not self._has_warned:
            self._has_warned = True
            message = (
                "training runs uncompiled, by Pyro's handlers, which is slower, since the program cannot be recorded"
            )
            warnings.warn(f"{message}: {self.fallback_reason}", HandlersWarning, stacklevel=3)


def is_recorded(elbo: ELBO) -> bool:
    """Whether `Compiled_ELBO` supports an ELBO; a user's subclass of Pyro's may do anything, so it does not."""
    return isinstance(elbo, DifferentiableELBO) or type(elbo) in (Trace_ELBO, TraceMeanField_ELBO)


def _call_signature(value: object, tensors: list[Tensor]) -> Hashable:
    """What a graph depends on of a call's arguments; their tensors are appended to a list, in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _call_signature(part, tensors)) for name, part in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(_call_signature(part, tensors) for part in value)
    return type(value), value


def _user_line(error: BaseException) -> str:
    """The file and line of the user's code at which recording stopped, in parentheses."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        is_library = any(path.is_relative_to(folder) for folder in (INFERENCE, STANDARD_LIBRARY))
        if not is_library and "site-packages" not in path.parts:
            line = f" ({path.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return line
