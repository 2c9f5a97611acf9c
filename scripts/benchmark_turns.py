"""Cases and turns of `scripts/benchmark.py`: settings of an arm, and processes that run one at a time."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.inference.svi.validation_elbo import VALID_BATCH_SIZE, VALID_DRAWS

PIXELS = Measure(levels=255, binarize="stochastic")
REST = 0.1  # seconds between turns, for the threads of the last one to become idle


class Unavailable(Exception):
    """Why an arm cannot run here."""


@dataclass(frozen=True)
class Case:
    """A VAE D-hidden-K-hidden-D with tanh units on MNIST's pixels; rows are truncated to whole batches."""

    rows: int
    batch_size: int = 100
    latent_dim: int = 20
    hidden: int = 500
    num_samples: int = 0
    data: str = "mnist-5k"
    data_root: str | None = None
    threads: int = 2
    device: str = "cpu"
    learning_rate: float = 1e-3

    @property
    def whole(self) -> int:
        """Training rows, in whole batches."""
        return max(1, self.rows // self.batch_size) * self.batch_size

    @property
    def steps(self) -> int:
        """The number of steps in a turn; 1 for the evidence."""
        return 1 if self.num_samples else self.whole // self.batch_size

    @property
    def units(self) -> int:
        """The amount of work in a turn: rows trained on, or weights for the evidence."""
        return self.rows * self.num_samples if self.num_samples else self.whole

    def splits(self) -> tuple[Split, Split]:
        """Training and validation rows, repeated where the data set has fewer.

        There are a twelfth as many validation rows, in whole blocks, and at least as many as make `fit` score one draw
        of each, as the other arms do.
        """
        data = pv.load_data(self.data, root=self.data_root)
        num_valid = max(VALID_DRAWS, self.rows // 12) // VALID_BATCH_SIZE * VALID_BATCH_SIZE
        train = _repeated(data.train.stored, self.whole)
        return Split("train", train, PIXELS), Split("valid", _repeated(data.valid.stored, num_valid), PIXELS)


@dataclass(frozen=True)
class MixtureCase:
    """A mixture of normals with full covariances, in float64, for EM."""

    rows: int
    columns: int
    components: int
    spread: float = 1.0
    threads: int = 2
    device: str = "cpu"

    @property
    def steps(self) -> int:
        return 1

    @property
    def units(self) -> int:
        return self.rows


def _repeated(pixels: Tensor, rows: int) -> Tensor:
    return pixels.repeat(-(-rows // len(pixels)), 1)[:rows]


class Turns(Iterator[int]):
    """Iterator over turns: waits for the start signal, and sends the seconds until the next turn is requested."""

    def __init__(self, pipe: Connection, count: int, cuda: bool) -> None:
        self.pipe, self.count, self.cuda = pipe, count, cuda
        self.done, self.began = 0, 0.0
        self.measured: float | None = None  # set by an arm whose turn includes setup: the seconds that count
        self.value: float | None = None  # set by an arm that reaches one in each turn

    def __next__(self) -> int:
        if self.done:
            self._synchronize()
            seconds = time.perf_counter() - self.began
            self.pipe.send({"seconds": seconds if self.measured is None else self.measured, "value": self.value})
        if self.done == self.count:
            raise StopIteration
        self.pipe.recv()
        self.done, self.measured = self.done + 1, None
        self._synchronize()
        self.began = time.perf_counter()
        return self.done

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


Arm = Callable[[Any, Any], float | None]


def serve(pipe: Connection, arm: Arm, case: Case | MixtureCase, count: int) -> None:
    """Run one arm in this process, separate from the threads and settings of the others."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    try:
        pipe.send({"value": arm(case, Turns(pipe, count, case.device.startswith("cuda")))})
    except (Unavailable, ImportError) as error:
        pipe.send({"missing": str(error)})
    except Exception as error:  # an arm that fails is reported, the others continue
        pipe.send({"missing": f"failed: {type(error).__name__}: {error}"[:500]})


def restrict_to_cores(threads: int) -> None:
    """Restrict this process and its children to this number of threads and cores."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    os.environ["NPROC"] = str(threads)  # XLA's thread pool on a CPU depends on this and on no flag
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def interleave(chosen: dict[str, Arm], case: Case | MixtureCase, turns: int) -> dict[str, dict[str, Any]]:
    """Seconds of each turn of each arm, the first turn separate; the reason for an arm that cannot run."""
    restrict_to_cores(case.threads)
    context = get_context("spawn")
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "values": []} for name in chosen}
    pipes, processes = {}, []
    for name, arm in chosen.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, arm, case, turns + 1), daemon=True))
        processes[-1].start()
        theirs.close()
    for turn in range(turns + 1):
        for name in list(pipes)[:: 1 if turn % 2 else -1]:
            reply = _next_reply(pipes[name])
            if "seconds" in reply:
                found[name]["seconds"].append(reply["seconds"])
                found[name]["values"].append(reply["value"])
            else:
                found[name] = {"missing": reply.get("missing", f"ended after {turn} turns")}
                del pipes[name]
            time.sleep(REST)
    for name, pipe in pipes.items():
        found[name] |= _next_reply(pipe, turn=False)
        found[name]["first"] = found[name]["seconds"].pop(0)
    for process in processes:
        process.join()
    return found


def _next_reply(pipe: Any, turn: bool = True) -> dict[str, Any]:
    """The reply after one turn, or the result after all."""
    with suppress(OSError):  # a process that ended has sent its reason
        if turn:
            pipe.send(True)
    try:
        return dict(pipe.recv())
    except (EOFError, OSError):
        return {"missing": "failed: its process ended"}
