"""Processes of tests: forked from a server that has imported what commands need, so that each starts at once."""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pyro_vae.cli.fit", "pyro_vae.workflows.evaluate_run", "pyro_vae.plots.fit_figures", "sklearn.datasets"]
)
CLOSED = "closed"


class Command:
    """A command line in a process of its own, with the interface of `subprocess.Popen` that tests use.

    Args:
        *words: the words after `pyro-vae`.
        cwd: the folder it runs in.
        closed: streams, of `stdout` and `stderr`, that are closed from the start.
        unread: streams that are pipes which nobody reads any more.
    """

    def __init__(
        self, *words: object, cwd: Path | None = None, closed: tuple[str, ...] = (), unread: tuple[str, ...] = ()
    ):
        self.streams = tempfile.TemporaryDirectory()
        targets = {name: str(Path(self.streams.name, name)) for name in ("stdout", "stderr")}
        for name in unread:
            os.mkfifo(targets[name])
        reader = [os.open(targets[name], os.O_RDONLY | os.O_NONBLOCK) for name in unread]
        places = {name: CLOSED if name in closed else target for name, target in targets.items()}
        self.targets, self.closed = {k: v for k, v in targets.items() if k not in (*closed, *unread)}, closed
        opened = CONTEXT.Event()
        given = [str(word) for word in words], dict(os.environ), str(cwd or Path.cwd()), places, opened
        self.process = CONTEXT.Process(target=_run_command, args=given)
        self.process.start()
        assert opened.wait(120)
        for pipe in reader:
            os.close(pipe)
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 250) -> tuple[str, str]:
        """Wait for the end, and give what was printed on the two streams."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it still runs"
        found = [Path(self.targets[name]) if name in self.targets else None for name in ("stdout", "stderr")]
        out, err = ("" if path is None else path.read_text("utf-8") for path in found)
        return out, err

    def kill(self) -> None:
        """End it where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.join()
        self.streams.cleanup()


def _run_command(
    words: list[str], environment: Mapping[str, str], folder: str, places: Mapping[str, str], opened: object
) -> None:
    from pyro_vae.cli.main import main

    _take_over(environment)
    os.chdir(folder)
    for number, (name, place) in enumerate(places.items(), start=1):
        stream = None  # as Python begins where it is closed
        if place == CLOSED:
            os.close(number)
        else:
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            errors, buffering = ("strict", -1) if name == "stdout" else ("backslashreplace", 1)
            stream = os.fdopen(number, "w", buffering, "utf-8", errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    opened.set()
    try:
        main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
        try:
            sys.stdout.flush()
        except OSError:
            code = 120  # as Python ends
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _take_over(environment: Mapping[str, str]) -> None:
    """The environment of the test, and the signals of a process that a shell starts."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(function: Callable[..., None], *args: object, environment: Mapping[str, str]) -> multiprocessing.Process:
    """Call a function in a process of its own, in an environment."""
    process = CONTEXT.Process(target=_call, args=(function, args, dict(environment)))
    process.start()
    return process


def _call(function: Callable[..., None], args: tuple[object, ...], environment: Mapping[str, str]) -> None:
    _take_over(environment)
    function(*args)
