"""The progress of a fit on stderr: a bar on a terminal, a line every ten seconds after five, or nothing."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.svi.callbacks import Callback, CallbackBase, CallWithHistory, OnEpoch, RunningFit

Style = Literal["auto", "bar", "lines", "none"]
SECONDS_BETWEEN_LINES, SECONDS_WITHOUT_WORD = 10.0, 5.0  # shorter work needs no line


class Progress(CallbackBase):
    """A callback that shows the progress of a fit.

    Args:
        style: a bar on a terminal and else nothing (`auto`), a bar, a line every ten seconds, or nothing.
    """

    def __init__(self, style: Style = "auto") -> None:
        self.style = ("bar" if sys.stderr.isatty() else "none") if style == "auto" else style
        self._bar: Any = None  # rich is imported for a bar only
        self._began = self._last_line = time.monotonic()

    def on_fit_start(self, fit: RunningFit) -> None:
        """Start the bar, from the epochs that are done."""
        self._began = self._last_line = time.monotonic()
        if self.style == "bar":
            self._bar, steps = make_bar(), fit.steps_per_epoch
            self._task = self._bar.add_task(
                "", total=fit.epochs * steps, completed=len(fit.history) * steps, numbers=""
            )
            self._bar.start()

    def on_step(self, fit: RunningFit) -> None:
        """Move the bar by one step."""
        if self._bar:
            self._bar.advance(self._task)

    def on_epoch(self, fit: RunningFit) -> None:
        """Show the epoch's metrics."""
        row = fit.history[-1]
        if self._bar:
            numbers = _summary(row, fit.epochs, short=self._bar.console.width < 120)
            self._bar.update(self._task, completed=row.epoch * fit.steps_per_epoch, numbers=numbers)
        elif self.style == "lines":
            now = time.monotonic()
            is_due = row.epoch in (1, fit.epochs) or now - self._last_line > SECONDS_BETWEEN_LINES
            if is_due and now - self._began > SECONDS_WITHOUT_WORD:
                print(_summary(row, fit.epochs), file=sys.stderr, flush=True)
                self._last_line = now

    def on_fit_end(self, fit: RunningFit) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def make_bar() -> Any:
    """A bar of rich's on stderr that disappears when it ends; its tasks have a field `numbers`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[numbers]}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _summary(row: EpochRecord, epochs: int, short: bool = False) -> str:
    """An epoch's metrics in one line; without the ELBO's terms and the learning rate where `short`."""
    parts = [f"epoch {row.epoch}/{epochs}", *row.words]
    if row.reconstruction is not None and not short:
        parts.insert(2, f"= {row.reconstruction:.2f} − KL {row.kl:.2f}")
    if row.learning_rate is not None and not short:
        parts.append(f"rate {row.learning_rate:.1e}")
    return "  ".join(parts)


def all_callbacks(callbacks: Sequence[object], on_epoch: OnEpoch | None, progress: Style) -> list[Callback]:
    """What a fit calls: its progress, the given callbacks, then a plain function of the history.

    Args:
        callbacks: objects with the methods of `Callback`; `InputError` for others.
        on_epoch: the function, if there is one.
        progress: how the progress is shown.

    Returns:
        The callbacks in the order of their calls.
    """
    found: list[Callback] = [Progress(progress)]
    for each in callbacks:
        if isinstance(each, type) or not isinstance(each, Callback):
            raise InputError(
                f"a callback has the methods on_fit_start, on_epoch and on_fit_end, and {each!r} does not: give an "
                "object of a class that inherits from pyro_vae.inference.svi.callbacks.CallbackBase, or a plain "
                "function as on_epoch"
            )
        found.append(each)
    return found if on_epoch is None else [*found, CallWithHistory(on_epoch)]
