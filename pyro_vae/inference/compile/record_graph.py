"""Records a function's tensor operations into a plain graph that runs again without the Python around them."""

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import pyro
import torch
from pyro.infer.util import torch_item
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import Argument, map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pyro_vae.context_managers import DispatchMode, is_recording, recording
from pyro_vae.inference.compile.executable_graph import RecordedGraph
from pyro_vae.inference.compile.graph_passes import optimize
from pyro_vae.inference.compile.recorded_operations import Outputs, Recording, Untraceable, storage_id, tensor_in
from pyro_vae.inference.objectives.differentiable_elbo import Arguments, Keywords

aten = torch.ops.aten
ALIASES = (aten.detach.default, aten.alias.default)  # they return the same values in the same storage
RESHAPES = (aten.expand.default, aten.view.default, aten._unsafe_view.default)
FILLS = (  # their values depend on no tensor's
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.eye.default,
    aten.full.default,
    aten.full_like.default,
    aten.linspace.default,
    aten.ones.default,
    aten.ones_like.default,
    aten.scalar_tensor.default,
    aten.zeros.default,
    aten.zeros_like.default,
)
BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)  # their schemas omit what they write


def record(function: Callable[..., Outputs], *inputs: Tensor) -> RecordedGraph:
    """Call the function once and record its operations on tensors, those of gradients that it computes included.

    What the function writes in place is restored. Raises `Untraceable` where it reads a tensor's value (an `if` or a
    loop over one) or where a shape depends on values, as in indexing by a mask.

    Args:
        function: the function.
        *inputs: what it is called with.

    Returns:
        Its graph, which takes inputs of the same shapes.
    """
    recorder = Recorder(inputs)
    try:
        with recording(), recorder:
            outputs = function(*inputs)
    finally:
        recorder.restore_written()
    recorded = recorder.finish(outputs)
    optimize(recorded)
    return RecordedGraph(recorded)


class ScalarGuard(TorchFunctionMode):
    """Keeps the loss that Pyro reads to report it (`torch_item`) a tensor; refuses other conversions to Python values.

    `tolist` and `numpy` do not pass through the dispatcher that `Recorder` listens to. A distribution's check of a
    value, which was made in the first step, is left out.
    """

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        if func is Tensor.item and _is_called_by(torch_item):
            (value,) = args
            return value.detach() if isinstance(value, Tensor) else value
        if func is torch._is_all_true and is_recording():
            return True  # of a distribution that was made before the fit, and so checks its values: the first step did
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__) and is_recording():
            raise Untraceable("it takes values out of a tensor (tolist, numpy)")
        return func(*args, **(kwargs or {}))


def _is_called_by(function: Callable[..., object]) -> bool:
    """Whether a function, which calls no other, has called into torch; frames of type checkers may lie between."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(12):
        if frame is None or frame.f_code is function.__code__:
            return frame is not None
        frame = frame.f_back
    return False


class Recorder(DispatchMode):
    """Adds every operation below autograd to a graph, with the facts that its transformations rely on.

    `nodes` maps the id of each tensor to the node that made it; `constants` are tensors that depend on no input,
    parameter or random draw. The other attributes are those of `Recording`.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[Tensor] = []  # keeps tensors alive, since the id of a freed one may be used again
        self.found: dict[fx.Node, Tensor] = {}
        self.constants: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        for i, value in enumerate(inputs):
            self._register(value, self.graph.placeholder(f"input_{i}"))
        self.written: set[int] = set()
        self.input_storages = {storage_id(value) for value in inputs}
        self.external = set(self.input_storages)
        self.last_placeholder = next(reversed(self.graph.nodes), None)

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        kwargs = kwargs or {}
        _require_static(func, args)
        if func._schema.is_mutable or func in BATCH_NORMS:
            self._note_writes(func, args, kwargs)
        positional, keywords = cast(
            tuple[tuple[Argument, ...], dict[str, Argument]],
            map_aggregate(cast(Argument, (args, kwargs)), self._argument),
        )
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            if self._is_constant(func, args, kwargs):
                self.constants[id(result)] = result
            unchanged = self._unchanged_argument(func, args, result)
            self._register(result, unchanged or self.graph.call_function(func, positional, keywords))
            return result
        node = self.graph.call_function(func, positional, keywords)
        for i, part in enumerate(result if isinstance(result, (tuple, list)) else ()):
            if isinstance(part, Tensor):
                self._register(part, self.graph.call_function(operator.getitem, (node, i)))
        return result

    def finish(self, outputs: Outputs) -> Recording:
        """Complete the graph by its outputs; `Untraceable` where an operation writes into an input."""
        if self.input_storages & self.before.keys():
            raise Untraceable("it writes into the rows that it is given")
        self.graph.output(tuple(None if value is None else self._node_of(value) for value in outputs))
        self._hoist_constants()
        return Recording(self.graph, outputs, self.found, self.written, self.external, self.before)

    def restore_written(self) -> None:
        """Restore the external storages that operations have written into."""
        with torch.no_grad():
            for value, before in self.before.values():
                value.copy_(before)

    def _node_of(self, value: Tensor) -> fx.Node:
        """The node of a tensor; a tensor from outside becomes one more placeholder, and is kept by reference."""
        if id(value) not in self.nodes:
            after = self.last_placeholder
            with self.graph.inserting_after(after) if after else self.graph.inserting_before():
                node = self.graph.placeholder(f"found_{len(self.found)}")
            self.last_placeholder, self.found[node] = node, value
            self.external.add(storage_id(value))
            self._register(value, node)
        return self.nodes[id(value)]

    def _hoist_constants(self) -> None:
        """Turn constants that nothing writes into into found tensors, so that they are not computed again."""
        hoisted = [value for value in self.constants.values() if storage_id(value) not in self.written]
        for value in hoisted:
            node = self.nodes.pop(id(value))
            if node.op == "call_function":
                node.replace_all_uses_with(self._node_of(value))
            else:
                self.nodes[id(value)] = node

    def _argument(self, value: Argument) -> Argument:
        if isinstance(value, torch.Generator):
            raise Untraceable("it draws from a generator of its own")
        return self._node_of(value) if isinstance(value, Tensor) else value

    def _register(self, value: Tensor, node: fx.Node) -> None:
        self.nodes[id(value)] = node
        node.meta.setdefault("storage", storage_id(value))
        node.meta.setdefault("layout", (value.shape, value.stride(), value.dtype, value.device))
        self.alive.append(value)

    def _unchanged_argument(self, func: OpOverload, args: Arguments, result: Tensor) -> fx.Node | None:
        """The node of the argument that an operation returns unchanged, if it does."""
        first = args[0] if args else None
        if not isinstance(first, Tensor):
            return None
        is_same_shape = func in RESHAPES and result.shape == first.shape and result.stride() == first.stride()
        if func in ALIASES or is_same_shape:
            return self.nodes[id(first)]
        if func is aten.t.default and (inner := self.nodes[id(first)]).target is func:
            (original,) = inner.args  # transposed twice
            return original if isinstance(original, fx.Node) else None
        return None

    def _is_constant(self, func: OpOverload, args: Arguments, kwargs: Keywords) -> bool:
        """Whether an operation returns the same at every call: a filled tensor, or a function of constants."""
        if func in FILLS:
            return True
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        all_constant = all(id(value) in self.constants and storage_id(value) not in self.written for value in tensors)
        draws_or_writes = torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable
        return bool(tensors) and all_constant and not draws_or_writes

    def _note_writes(self, func: OpOverload, args: Arguments, kwargs: Keywords) -> None:
        """Note the storages that an operation is about to write into, with copies of the external ones."""
        for value in _written_arguments(func, args, kwargs):
            self.written.add(storage := storage_id(value))
            self._node_of(value)
            if storage in self.external and storage not in self.before:
                memory = value.untyped_storage()
                whole = tensor_in(memory, torch.uint8, (memory.nbytes(),), (1,))
                self.before[storage] = whole, whole.clone()


def _written_arguments(func: OpOverload, args: Arguments, kwargs: Keywords) -> Iterator[Tensor]:
    """The tensors among an operation's arguments that it writes into."""
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        is_running_mean = func in BATCH_NORMS and argument.name in ("running_mean", "running_var")
        if is_running_mean or (argument.alias_info is not None and argument.alias_info.is_write):
            value = named.get(argument.name)
            values = value if isinstance(value, (tuple, list)) else (value,)
            yield from (value for value in values if isinstance(value, Tensor))


def _require_static(func: OpOverload, args: Arguments) -> None:
    """Raise `Untraceable` for an operation that reads a value, or whose result's shape depends on values."""
    if torch.Tag.data_dependent_output in func.tags:
        raise Untraceable("it asks for the value of a tensor (an if, a loop or a number that depends on one)")
    indices = args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
    assert isinstance(indices, (tuple, list))
    by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
    if by_mask or (torch.Tag.dynamic_output_shape in func.tags and func.overloadpacket is not aten.index):
        raise Untraceable("a shape depends on values (a mask as an index, or the like; torch.where has fixed shapes)")


@contextmanager
def replay_rng() -> Iterator[Callable[[], None]]:
    """Give a function that resets the random generators to their states at the start of the block."""
    state = pyro.util.get_rng_state()
    cuda = [torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []

    def reset() -> None:
        pyro.util.set_rng_state(state)
        for states in cuda:
            torch.cuda.set_rng_state_all(states)
        for numbers in mps:
            torch.mps.set_rng_state(numbers)

    yield reset
