"""Standard streams that end no command: closed ones, pipes that nobody reads any more, encodings that lack a letter."""

import io
import os
import sys
from typing import Literal


def progress_style() -> Literal["bar", "lines"]:
    """How a command shows its progress on standard error: a bar on a terminal, else lines, also with --json."""
    return "bar" if sys.stderr.isatty() else "lines"


class KeptStream(io.TextIOBase):
    """A text stream whose writes go nowhere once its reader has gone.

    Args:
        stream: standard output or standard error.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io declares an attribute
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # likewise
        return self.stream.errors

    @property
    def buffer(self) -> object:
        return self.stream.buffer

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._redirect_to_null()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._redirect_to_null()

    def _redirect_to_null(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def keep_streams() -> None:
    """Make standard output and error of this process safe to write to, whatever they are connected to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        setattr(sys, name, _kept(getattr(sys, name)))


def _kept(stream: object) -> object:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace" if stream.errors == "strict" else stream.errors)
        return KeptStream(stream)
    return stream
