"""A limit on the tensors that a block of code makes: each is counted before it is allocated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from pyro_vae.errors import InputError

TOO_LARGE = ("allocate memory", "out of memory", "overflow", "Storage size", "too large", "out of bounds", "Overflow")


class _CountBytes(TorchFunctionMode):
    """Ask torch, on its device without memory, how large each new tensor would be, before it is made."""

    def __init__(self, limit: float, error: str) -> None:
        super().__init__()
        self.limit, self.error, self.made = limit, error, 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in _device_constructors():
            sizes = {name: value for name, value in given.items() if name != "generator"}  # which is of another device
            planned = _as_empty(func)(*args, **(sizes | {"device": "meta"}))
            self.made += planned.nbytes if isinstance(planned, torch.Tensor) else 0
            if self.made > self.limit:
                raise InputError(self.error)
        return func(*args, **given)


def _as_empty(func: Callable[..., object]) -> Callable[..., object]:
    """A function that makes a tensor of the same size: planning others imports sympy, which takes half a second."""
    return torch.empty if func in (torch.ones, torch.rand, torch.randn, torch.zeros) else func


@contextmanager
def limit_allocation(num_bytes: float, error: str) -> Iterator[None]:
    """Inside, new tensors may take so many bytes together; `InputError` before one would take more.

    Args:
        num_bytes: the limit.
        error: the message.

    Yields:
        None: nothing.

    >>> with limit_allocation(1e6, "too many weights; give fewer"):
    ...     torch.nn.Linear(100_000, 100_000)
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: too many weights; give fewer
    """
    try:
        with _CountBytes(num_bytes, error):
            yield
    except (MemoryError, OverflowError) as found:
        raise InputError(error) from found
    except RuntimeError as found:
        if not any(words in str(found) for words in TOO_LARGE):
            raise
        raise InputError(error) from found
