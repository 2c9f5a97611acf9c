"""More than one process: which of them this one is, what they tell each other, and the gradient of a whole batch."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.errors import InputError, RankLostError
from pyro_vae.inference.objectives.elbo_terms import Terms

TIMEOUT_VARIABLE = "PYRO_VAE_TIMEOUT"  # seconds that a process waits for the others
DEFAULT_TIMEOUT = 600.0
SEED_STRIDE = 2_654_435_761  # between the seeds of two group: odd, so that no two of them meet


@dataclass(frozen=True)
class ProcessGroup:
    r"""One process of `size` that share a fit or a score, `rank` of them counted from zero; rank 0 prints and writes.

    Every method but `part` and `stream` has to be called by all of them, in the same order. One process alone talks to
    nobody. A process that ends, or does not answer for ten minutes (`PYRO_VAE_TIMEOUT`, seconds), is a `RankLostError`
    in the others.

    >>> ProcessGroup(rank=1, size=3).part(torch.arange(7)), ProcessGroup().gather("alone")
    (tensor([3, 4]), ['alone'])
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
        """This process's share of some rows, (n,) → (n/size,); shares differ by one row at most."""
        return rows if self.is_single else rows.tensor_split(self.size)[self.rank]

    def rank_seed(self, seed: int) -> int:
        """The seed of this process's own noise; rank 0 has that of a process alone."""
        return (seed + self.rank * SEED_STRIDE) % 2**32

    def all_gather(self, mine: Any) -> list[Any]:
        """What each process gives, by rank, for all of them."""
        if self.is_single:
            return [mine]
        everyone: list[Any] = [None] * self.size
        with _translate_errors():
            dist.all_gather_object(everyone, mine)
        return everyone

    def broadcast(self, value: Any) -> Any:
        """What rank 0 gives, for all of them."""
        if self.is_single:
            return value
        held = [value]
        with _translate_errors():
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def broadcast_tensors(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0; those that never change may share their memory."""
        if self.is_single or not tensors:
            return
        for mine, theirs in zip(tensors, self.broadcast([value.cpu() for value in tensors]), strict=True):
            theirs = theirs.to(mine.device)
            if not torch.equal(mine, theirs):
                mine.copy_(theirs)

    def all_reduce(self, tensor: Tensor) -> None:
        """Overwrite a tensor with its sum over the processes, the same bits in each."""
        with _translate_errors():
            if not self.is_single:
                dist.all_reduce(tensor)

    def require_equal(self, about: dict[str, Any]) -> None:
        """`InputError`, in every process, where they do not hold the same of each thing named."""
        for rank, theirs in enumerate(everyone := self.all_gather(about)):
            if other := [name for name in about if theirs[name] != everyone[0][name]]:
                said = "; ".join(f"{name}: {everyone[0][name]} against {theirs[name]}"[:200] for name in other)
                raise InputError(
                    f"the processes do not fit the same thing: rank 0 and rank {rank} differ in {', '.join(other)} "
                    f"({said}); give every machine the same data, program and settings"
                )

    def add_up(self, terms: Terms) -> None:
        """Overwrite sums over rows with those over the rows of every process."""
        if self.is_single:
            return
        mine = {"reconstruction": float(terms.reconstruction), "kl": float(terms.kl), "rows": terms.rows}
        apart = None if terms.apart is None else {name: value.cpu() for name, value in terms.apart.items()}
        parts = self.all_gather((mine, terms.exact, apart))
        terms.reconstruction, terms.kl, terms.rows = (sum(part[name] for part, _, _ in parts) for name in mine)
        terms.exact = all(exact for _, exact, _ in parts)
        if apart is not None:
            names = dict.fromkeys(name for _, _, theirs in parts for name in theirs)
            terms.apart = {name: sum(theirs[name] for _, _, theirs in parts if name in theirs) for name in names}


SINGLE_PROCESS = ProcessGroup()


def is_launched_distributed() -> bool:
    """Whether this process was started as one of several, by `torchrun` or alike."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def process_group() -> ProcessGroup:
    """The processes that `torchrun` started, joined at the first call; `SINGLE_PROCESS` where it did not.

    A process group that is there already is taken as it is. Raises `RankLostError` where the others do not come.

    >>> process_group().is_main
    True
    """
    if not dist.is_available():
        return SINGLE_PROCESS
    if not dist.is_initialized():
        if not is_launched_distributed():
            return SINGLE_PROCESS
        _join()
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def _join() -> None:
    try:
        seconds = float(os.environ.get(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT))
    except ValueError as error:
        raise InputError(f"{TIMEOUT_VARIABLE} is a number of seconds, got {os.environ[TIMEOUT_VARIABLE]!r}") from error
    cuda = torch.cuda.is_available() and int(os.environ.get("LOCAL_RANK", "0")) < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(local_cuda_device())
    with _translate_errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=seconds))
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_cuda_device() -> torch.device:
    """The CUDA device of this process: one for each on a machine, by `LOCAL_RANK`."""
    place, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= devices:
        raise InputError(
            f"process {place + 1} of this machine has no device of its own, there are {devices}: start so many "
            "processes (--nproc-per-node), or take --device cpu"
        )
    return torch.device("cuda", place)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Inside, what torch says of a process that is gone becomes one error that says so."""
    try:
        yield
    except RuntimeError as error:
        atexit.unregister(_leave)  # it would wait for the others
        raise RankLostError(
            "another process of this run has ended, or did not answer in time; its own message, if any, says why"
        ) from error


class GradientReducer:
    r"""The gradient of a whole batch from those of its parts, $g = \sum_r \frac{b_r}{B} g_r$, by one all-reduce.

    `share` is this process's part $b_r / B$ of the batch's rows, `loss` the objective on them; after a call `loss` is
    the batch's. Parameters that took part in no process keep no gradient.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group, self.share = group, 1.0
        self.loss: Tensor | float = 0.0

    def capture_loss(self, loss_and_grads: Callable[..., Any]) -> Callable[..., Any]:
        """The same function of SVI's, its answer kept here."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.loss = loss_and_grads(*args, **kwargs)
            return self.loss

        return noted

    @torch.no_grad()
    def __call__(self, parameters: list[Tensor]) -> None:
        like, sizes = parameters[0].detach(), [value.numel() for value in parameters]
        seen = [float(value.grad is not None) for value in parameters]
        tail = like.new_tensor([*seen, 0.0])
        tail[-1] = self.loss * self.share
        flat = torch.cat([(torch.zeros_like(v) if v.grad is None else v.grad).flatten() for v in parameters] + [tail])
        flat[: sum(sizes)] *= self.share
        self.group.all_reduce(flat)
        *pieces, marks, total = flat.split([*sizes, len(seen), 1])
        anywhere = seen if all(seen) else marks.tolist()  # read from the device only where it is not known
        for value, piece, some in zip(parameters, pieces, anywhere, strict=True):
            value.grad = piece.view_as(value).to(value.dtype) if some else None
        self.loss = total[0]
