"""Context managers for shared state: random numbers, training mode, threads, warnings, signals, recording."""

import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_RECORDING = False


class DispatchMode(TorchDispatchMode):
    """A mode that sees every operation below autograd, and whose use does not import torch's compiler.

    The import takes a second.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # called by torch
        return False


PYRO_LOCK = threading.RLock()
"""Held while a thread uses what belongs to the process: Pyro's handlers, its param store, its validation flag and the
random generators, and while it changes whether a program trains or is evaluated. A thread that forks waits for it, so
that a child begins with nothing of another thread's."""
os.register_at_fork(before=PYRO_LOCK.acquire, after_in_parent=PYRO_LOCK.release, after_in_child=PYRO_LOCK.release)

_NUM_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_cores = threading.BoundedSemaphore(_NUM_CORES)


def _free_cores() -> None:
    """In a forked child none of the parent's other threads computes any more."""
    global _cores
    _cores = threading.BoundedSemaphore(_NUM_CORES)


os.register_at_fork(after_in_child=_free_cores)


@contextmanager
def one_thread_per_core() -> Iterator[None]:
    """Wait until fewer threads than cores are inside: more of them only take Python's own lock from each other."""
    cores = _cores
    with cores:
        yield


@contextmanager
def recording() -> Iterator[None]:
    """Mark that a program's operations are being recorded: it may not read a tensor's value, not even to check it."""
    global _RECORDING
    before, _RECORDING = _RECORDING, True
    try:
        yield
    finally:
        _RECORDING = before


def is_recording() -> bool:
    """Whether operations are being recorded; checks of values are then skipped, since they were made before."""
    return _RECORDING


def set_rng_seed(seed: int) -> None:
    """Seed torch's, Python's and numpy's generators.

    `torch.manual_seed` keeps its caller's stack three times at each call, for accelerators that may be used later: a
    millisecond, and memory that grows. Where there is none, the generator of the CPU alone is seeded.

    Args:
        seed: from 0 to 2³² - 1.

    >>> set_rng_seed(3)
    >>> first = torch.rand(2)
    >>> pyro.set_rng_seed(3)
    >>> torch.equal(torch.rand(2), first)
    True
    """
    if torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available():
        pyro.set_rng_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # what programs draw from numpy's own generator repeats too


def keyed_generator(*numbers: int) -> np.random.Generator:
    """A generator of NumPy's whose stream several whole numbers name.

    Args:
        *numbers: a seed, and what is drawn.

    Returns:
        The generator.
    """
    return np.random.default_rng([number % 2**64 for number in numbers])


def derived_seed(*numbers: int) -> int:
    """A seed that several whole numbers name. Sums would not do: part 1 of seed 0 would be part 0 of seed 1.

    Args:
        *numbers: a seed, and what is drawn.

    Returns:
        The seed, of 32 bits.

    >>> derived_seed(0, 1) == derived_seed(1, 0)
    False
    """
    return int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1)[0])


def part_seed(seed: int, number: int) -> int:
    """The seed of a part of what a seed draws.

    Args:
        seed: the seed.
        number: of the part, from 0.

    Returns:
        The seed itself for part 0, else one of its own.
    """
    return derived_seed(seed, number) if number else seed


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed inside; outside, the generators continue as if nothing had been drawn. None changes nothing."""
    if seed is None:
        yield
        return
    with PYRO_LOCK, torch.random.fork_rng():
        before = pyro.util.get_rng_state()  # torch's on the CPU, Python's, numpy's; fork_rng adds those of accelerators
        set_rng_seed(seed % 2**32)
        try:
            yield
        finally:
            pyro.util.set_rng_state(before)


@contextmanager
def evaluating(program: object) -> Iterator[None]:
    """Put a program that is a module into evaluation mode, and back afterwards."""
    if not (isinstance(program, nn.Module) and program.training):
        yield
        return
    with PYRO_LOCK:
        program.eval()
        try:
            yield
        finally:
            program.train()


def set_training(program: object, training: bool) -> None:
    """Put a program that is a module into training or evaluation mode.

    Args:
        program: any program.
        training: whether the mode is that of training.
    """
    if isinstance(program, nn.Module):
        program.train(training)


@contextmanager
def limit_threads(limit: int | None) -> Iterator[None]:
    """Let torch use at most `limit` threads inside; None leaves their number as it is."""
    threads = torch.get_num_threads()
    if limit is not None:
        torch.set_num_threads(limit)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def ignore_nan_loss_warnings() -> Iterator[None]:
    """Suppress Pyro's warning of a loss that is not finite: the fit stops at such a loss with a more helpful error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Encountered (NaN|[+-]inf)", category=UserWarning)
        yield


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay Ctrl-C and `torchrun`'s signal to terminate until the end of the block, so that files are written whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)
        for number in received[:1]:
            signal.raise_signal(number)
