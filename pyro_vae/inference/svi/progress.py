"""The progress of a fit on stderr: a bar on a terminal, a line every ten seconds, or nothing."""

import sys
import time
from types import TracebackType
from typing import Any, Literal

from pyro_vae.inference.fit_result import EpochRecord

Style = Literal["auto", "bar", "lines", "none"]
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the progress of one fit: call `step` after each batch, and `epoch` after each epoch with its metrics."""

    def __init__(self, style: Style, epochs: int, steps_per_epoch: int, done_epochs: int = 0) -> None:
        self.style = ("bar" if sys.stderr.isatty() else "none") if style == "auto" else style
        self.epochs, self.steps = epochs, steps_per_epoch
        self._bar: Any = None
        self._last_line = time.monotonic()
        if self.style == "bar":
            self._bar = self._make_bar()
            self._task = self._bar.add_task(
                "", total=epochs * steps_per_epoch, completed=done_epochs * steps_per_epoch, numbers=""
            )

    def _make_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.fields[numbers]}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self) -> None:
        if self._bar:
            self._bar.advance(self._task)

    def epoch(self, row: EpochRecord) -> None:
        if self._bar:
            self._bar.update(self._task, numbers=_summary(row, self.epochs, short=self._bar.console.width < 120))
        elif self.style == "lines":
            now = time.monotonic()
            if row["epoch"] in (1, self.epochs) or now - self._last_line > SECONDS_BETWEEN_LINES:
                print(_summary(row, self.epochs), file=sys.stderr, flush=True)
                self._last_line = now


def _summary(row: EpochRecord, epochs: int, short: bool = False) -> str:
    """An epoch's metrics in one line; without the ELBO's terms and the learning rate where `short`."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    if row["elbo"] is not None:
        parts.append(f"ELBO {row['elbo']:.2f}")
    if row["reconstruction"] is not None and not short:
        parts.append(f"= {row['reconstruction']:.2f} − KL {row['kl']:.2f}")
    if row["valid_elbo"] is not None:
        parts.append(f"validation {row['valid_elbo']:.2f}")
    if row["learning_rate"] is not None and not short:
        parts.append(f"rate {row['learning_rate']:.1e}")
    return "  ".join(parts)
