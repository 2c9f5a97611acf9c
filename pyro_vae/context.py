"""Whether a part may look at values to check them: not while its operations are being recorded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import nn

_RECORDING = False


@contextmanager
def recording() -> Iterator[None]:
    """Inside, a program is being recorded: it may not ask for a tensor's value, not even to check it."""
    global _RECORDING
    before, _RECORDING = _RECORDING, True
    try:
        yield
    finally:
        _RECORDING = before


def is_recording() -> bool:
    """Whether a check may look at values; where it may not, they were checked before."""
    return not _RECORDING


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, every random number follows from the seed; outside, the generators go on as if nothing had been drawn."""
    if seed is None:
        yield
        return
    before = pyro.util.get_rng_state()  # torch's on the CPU, Python's, numpy's; fork_rng adds those of accelerators
    with torch.random.fork_rng():
        pyro.set_rng_seed(seed % 2**32)
        try:
            yield
        finally:
            pyro.util.set_rng_state(before)


@contextmanager
def evaluating(program: Any) -> Iterator[None]:
    """Inside, a program that is a module is in evaluation mode."""
    training = isinstance(program, nn.Module) and program.training
    if training:
        program.eval()
    try:
        yield
    finally:
        if training:
            program.train()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Inside, Ctrl-C and `torchrun`'s signal to end wait: what is being written is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)
        for number in came[:1]:
            signal.raise_signal(number)
