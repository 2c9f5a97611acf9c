"""How far a command has come with its rows, on stderr: a bar on a terminal, else a line every ten seconds.

>>> print(words_of_seconds(40), words_of_seconds(840), words_of_seconds(11_000), sep="; ")
40 s; 14 min; 3.1 h
"""

import sys
import time
from typing import Any, Self

from pyro_vae.inference.svi.progress import SECONDS_BETWEEN_LINES, SECONDS_WITHOUT_WORD, Style, make_bar


def words_of_seconds(seconds: float) -> str:
    """A duration in its largest unit, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class RowProgress:
    """A context that says how many rows are done and how long the others will take, once five seconds have passed.

    Args:
        verb: what has been done to rows that are finished, as in "scored 3 of 10 rows".
        total: the number of rows.
        style: a bar on a terminal and else lines (`auto`), a bar, a line every ten seconds, or nothing.
    """

    def __init__(self, verb: str, total: int, style: Style = "none") -> None:
        self.verb, self.total = verb, total
        self.style = ("bar" if sys.stderr.isatty() else "lines") if style == "auto" else style
        self.done = self.kept = 0
        self.began = time.monotonic()
        self._last_line = self.began + SECONDS_WITHOUT_WORD - SECONDS_BETWEEN_LINES
        self._bar: Any = None  # rich's, imported for a bar only

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, rows: int, kept: bool = False) -> None:
        """Some more rows are done.

        Args:
            rows: how many.
            kept: whether an earlier command has done them, so that they took no time.
        """
        self.done += rows
        self.kept += rows if kept else 0
        self.show(0)

    def show(self, further: int) -> None:
        """Say how many rows are done: those of `advance` and some further ones, of work that is not finished."""
        done, now = self.done + further, time.monotonic()
        if self.style == "none" or now < self.began + SECONDS_WITHOUT_WORD or done == self.kept:
            return
        left = (now - self.began) / (done - self.kept) * (self.total - done)
        line = f"{self.verb} {done:,} of {self.total:,} rows, about {words_of_seconds(left)} left"
        if self.style == "bar":
            self._show_bar(line, done)
        elif now >= self._last_line + SECONDS_BETWEEN_LINES and done < self.total:
            print(line, file=sys.stderr, flush=True)
            self._last_line = now

    def _show_bar(self, line: str, done: int) -> None:
        if self._bar is None:
            self._bar = make_bar()
            self._task = self._bar.add_task("", total=self.total, numbers="")
            self._bar.start()
        self._bar.update(self._task, completed=done, numbers=line)
