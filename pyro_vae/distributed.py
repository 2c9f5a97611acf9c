"""Distributed fitting: the process group, its collective operations, and the reduction of gradients."""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.errors import InputError, RankLostError
from pyro_vae.launch_environment import launched_rank

Value = TypeVar("Value")
TIMEOUT_VARIABLE = "PYRO_VAE_TIMEOUT"  # seconds that a process waits for the others
DEFAULT_TIMEOUT = 600.0  # seconds
SEED_STRIDE = 2_654_435_761  # between the seeds of two ranks: odd, so that they are all different


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share one fit or score, as one of them sees it: its `rank`, from zero, of `size`.

    Rank 0 prints and writes. Every method but `shard` and `rank_seed` is a collective operation: all processes have to
    call it, in the same order. A single process communicates with nobody. Where a process ends, or does not answer for
    ten minutes (`PYRO_VAE_TIMEOUT`, seconds), the others raise `RankLostError`.

    >>> ProcessGroup(rank=1, size=3).shard(torch.arange(7)), ProcessGroup().all_gather("single")
    (tensor([3, 4]), ['single'])
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        return self.size == 1

    def shard(self, rows: Tensor) -> Tensor:
        """This process's shard of some rows, (n,) → (n/size,); the sizes of shards differ by one row at most."""
        return rows if self.is_single else rows.tensor_split(self.size)[self.rank]

    def rank_seed(self, seed: int) -> int:
        """The seed of the random numbers of this rank; that of rank 0 is the seed of a single process."""
        return (seed + self.rank * SEED_STRIDE) % 2**32

    def all_gather(self, value: Value) -> list[Value]:
        """The value of each process, ordered by rank."""
        if self.is_single:
            return [value]
        values = [value] * self.size
        with _translate_errors():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Value) -> Value:
        """The value of rank 0, in every process."""
        if self.is_single:
            return value
        values = [value]
        with _translate_errors():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensors(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0; equal ones are not written, since constants may share memory."""
        if self.is_single or not tensors:
            return
        for tensor, source in zip(tensors, self.broadcast([value.cpu() for value in tensors]), strict=True):
            source = source.to(tensor.device)
            if not torch.equal(tensor, source):
                tensor.copy_(source)

    def all_reduce(self, tensor: Tensor) -> None:
        """Overwrite a tensor with its sum over the processes, the same bits in each."""
        with _translate_errors():
            if not self.is_single:
                dist.all_reduce(tensor)

    def require_equal(self, values: Mapping[str, object]) -> None:
        """Raise `InputError` in every process where a named value is not the same in all of them."""
        gathered = self.all_gather(values)
        first = gathered[0]
        for rank, values_of_rank in enumerate(gathered):
            if different := [name for name in values if values_of_rank[name] != first[name]]:
                details = "; ".join(f"{name}: {first[name]} against {values_of_rank[name]}"[:200] for name in different)
                raise InputError(
                    f"the processes do not fit the same thing: rank 0 and rank {rank} differ in "
                    f"{', '.join(different)} ({details}); give every machine the same data, program and settings"
                )


SINGLE_PROCESS = ProcessGroup()


def is_launched_distributed() -> bool:
    """Whether this process was started as one of several, by `torchrun` or a similar launcher."""
    return launched_rank() is not None


def process_group() -> ProcessGroup:
    """The group of the processes that `torchrun` started, initialized at the first call; else `SINGLE_PROCESS`.

    A default process group of torch that exists already is used. Raises `RankLostError` where other processes do not
    join.

    >>> process_group().is_main
    True
    """
    if not dist.is_available():
        return SINGLE_PROCESS
    if not dist.is_initialized():
        if not is_launched_distributed():
            return SINGLE_PROCESS
        _initialize()
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def _initialize() -> None:
    try:
        seconds = float(os.environ.get(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT))
    except ValueError as error:
        raise InputError(f"{TIMEOUT_VARIABLE} is a number of seconds, got {os.environ[TIMEOUT_VARIABLE]!r}") from error
    cuda = torch.cuda.is_available() and int(os.environ.get("LOCAL_RANK", "0")) < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(local_cuda_device())
    with _translate_errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=seconds))
    atexit.register(_destroy)


def _destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_cuda_device() -> torch.device:
    """The CUDA device of this process: each process of a machine has one, by `LOCAL_RANK`."""
    local_rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= devices:
        raise InputError(
            f"process {local_rank + 1} of this machine has no CUDA device, there are {devices}: start at most that "
            "many processes (--nproc-per-node), or use --device cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise `RankLostError` instead of torch's errors about a process that has ended."""
    try:
        yield
    except RuntimeError as error:
        atexit.unregister(_destroy)  # it would wait for the others
        raise RankLostError(
            "another process of this run has ended, or did not answer in time; its own message, if any, says why"
        ) from error


class GradientReducer:
    r"""Sums the gradients of a batch's shards, $g = \sum_r \frac{b_r}{B} g_r$, by one all-reduce.

    `share` is this process's part $b_r / B$ of the batch's rows. `loss` is the objective on them before a call, and on
    the whole batch after it. A parameter that has a gradient in no process keeps none.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group, self.share = group, 1.0
        self.loss: Tensor | float = 0.0

    def capture_loss(self, loss_and_grads: Callable[..., Tensor | float]) -> Callable[..., Tensor | float]:
        """Wrap SVI's `loss_and_grads` so that its result is kept in `loss` too."""

        def capturing(*args: object, **kwargs: object) -> Tensor | float:
            self.loss = loss_and_grads(*args, **kwargs)
            return self.loss

        return capturing

    @torch.no_grad()
    def __call__(self, parameters: list[Tensor]) -> None:
        like, sizes = parameters[0].detach(), [value.numel() for value in parameters]
        has_gradient = [float(value.grad is not None) for value in parameters]
        tail = like.new_tensor([*has_gradient, 0.0])
        tail[-1] = self.loss * self.share
        flat = torch.cat([(torch.zeros_like(v) if v.grad is None else v.grad).flatten() for v in parameters] + [tail])
        flat[: sum(sizes)] *= self.share
        self.group.all_reduce(flat)
        *pieces, counts, total = flat.split([*sizes, len(has_gradient), 1])
        # the counts are copied from the device only where this process cannot know them
        in_any_process = has_gradient if all(has_gradient) else counts.tolist()
        for value, piece, present in zip(parameters, pieces, in_any_process, strict=True):
            value.grad = piece.view_as(value).to(value.dtype) if present else None
        self.loss = total[0]
