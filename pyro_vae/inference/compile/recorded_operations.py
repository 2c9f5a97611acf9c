"""The operations recorded of a function, as plain data: the graph, and the facts that its transformations need."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

Outputs = tuple[Tensor | None, ...]


class Untraceable(Exception):
    """The function does something that a graph cannot represent; the message says what."""


@dataclass
class Recording:
    """A graph of a function's operations on tensors, and what is known of the storages that they use.

    Each node's `meta` has the `storage` of its tensor (a `storage_id`) and its `layout`: shape, strides, dtype, device.

    Attributes:
        graph: an fx graph whose placeholders are the inputs and then the found tensors, in order.
        outputs: what the recorded call returned.
        found: tensors from outside that the function uses (parameters, buffers, constants), by their placeholder.
        written: storages that some operation writes into.
        external: storages that existed before the call: those of the inputs and of found tensors.
        before: for each external storage that is written into, the whole of it and a copy of its former bytes.
    """

    graph: fx.Graph
    outputs: Outputs
    found: dict[fx.Node, Tensor]
    written: set[int]
    external: set[int]
    before: dict[int, tuple[Tensor, Tensor]]


def tensor_in(storage: torch.UntypedStorage, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """A tensor from the beginning of some memory.

    Args:
        storage: the memory.
        dtype: the tensor's type.
        shape: its shape.
        stride: its strides, in elements.

    Returns:
        The tensor.
    """
    made: Tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, 0, shape, stride)  # type: ignore[call-overload]  # torch's stub lacks it
    return made


def storage_id(value: Tensor) -> int:
    """The identity of the memory that a tensor, and all its views, use."""
    return value.untyped_storage()._cdata
