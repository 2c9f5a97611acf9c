"""Callbacks of a fit: what is called at its start, after each epoch and at its end, by every iterative fit method.

>>> import torch, pyro_vae as pv
>>> class StopAt(CallbackBase):
...     def __init__(self, elbo: float) -> None:
...         self.elbo = elbo
...     def on_epoch(self, fit: RunningFit) -> bool:
...         return fit.history[-1].elbo > self.elbo
>>> ppca = pv.PPCA(num_latents=1, num_features=3)
>>> pv.fit_em(ppca, torch.randn(50, 3), callbacks=[StopAt(-1e9)]).stopped
'callback'
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.typing import Program

OnEpoch = Callable[[list[EpochRecord]], object]  # a plain function of the history


@dataclass
class RunningFit:
    """What callbacks see of a fit.

    Attributes:
        program: the program that is fitted, with its current weights.
        epochs: the number of epochs after which the fit ends at the latest.
        steps_per_epoch: optimizer steps in an epoch.
        history: one record for each epoch so far; at the start those of a fit that is resumed.
        stop: a callback sets it, in an epoch, to end the fit after that epoch.
        stopped: why the fit has ended, as in `FitResult`; empty while it runs, and where an error ended it.
        precision: the type of the products of layers in its steps, "float32" or "bfloat16".
    """

    program: Program
    epochs: int
    steps_per_epoch: int = 1
    history: list[EpochRecord] = field(default_factory=list)
    stop: bool = False
    stopped: str = ""
    precision: str = "float32"


@runtime_checkable
class Callback(Protocol):
    """An object that a fit calls. In a distributed fit the process of rank 0 calls it, and stops all of them."""

    def on_fit_start(self, fit: RunningFit) -> None:
        """Called before the first epoch."""

    def on_epoch(self, fit: RunningFit) -> bool | None:
        """Called after each epoch, whose record is `fit.history[-1]`; True ends the fit, as setting `fit.stop` does."""

    def on_fit_end(self, fit: RunningFit) -> None:
        """Called when the fit has ended, also where an error or an interruption ended it."""


@runtime_checkable
class StepCallback(Callback, Protocol):
    """A callback that is called after each optimizer step too."""

    def on_step(self, fit: RunningFit) -> None:
        """Called after each step of an epoch."""


class CallbackBase:
    """A base class of callbacks: every method does nothing."""

    def on_fit_start(self, fit: RunningFit) -> None:
        """Nothing."""

    def on_epoch(self, fit: RunningFit) -> bool | None:
        """Nothing, and the fit continues."""
        return None

    def on_fit_end(self, fit: RunningFit) -> None:
        """Nothing."""


class CallWithHistory(CallbackBase):
    """A plain function as a callback: it is called with the history after each epoch, and what it returns is not used.

    Args:
        function: called with `fit.history`.
    """

    def __init__(self, function: OnEpoch) -> None:
        self.function = function

    def on_epoch(self, fit: RunningFit) -> None:
        """Call the function."""
        self.function(fit.history)


class Callbacks:
    """The callbacks of one fit, called in their order.

    Args:
        fit: what they see of it.
        callbacks: none in a process that reports nothing.
    """

    def __init__(self, fit: RunningFit, callbacks: Sequence[Callback]) -> None:
        self.fit, self.callbacks = fit, callbacks
        self._with_steps = [each for each in self.callbacks if isinstance(each, StepCallback)]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """From the start of the fit to its end, whatever ends it."""
        with ExitStack() as started:
            for each in self.callbacks:
                each.on_fit_start(self.fit)
                started.callback(each.on_fit_end, self.fit)
            self.fit.stop = False  # it ends the fit after an epoch
            yield self

    def step(self) -> None:
        """An optimizer step was taken."""
        for each in self._with_steps:
            each.on_step(self.fit)

    def epoch(self) -> None:
        """An epoch was finished, and its record is in the history."""
        for each in self.callbacks:
            if each.on_epoch(self.fit):  # the booleans of NumPy and torch too
                self.fit.stop = True
