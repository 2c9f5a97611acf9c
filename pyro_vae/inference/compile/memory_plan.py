"""A recorded graph whose results are written into memory that is kept between calls.

A call then allocates next to nothing and touches no new page. A result takes the memory of one that nothing reads any
more, a pointwise result that of its own argument where it is the last to read it; views of kept memory are made once.
"""

import operator
import threading
from collections.abc import Callable, Container
from typing import cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import Argument, Target, map_arg

from pyro_vae.inference.compile.graph_passes import PYTHON_NAMES
from pyro_vae.inference.compile.recorded_operations import Outputs, Recording, storage_id, tensor_in

aten = torch.ops.aten
ALLOCATIONS = (aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default)
OUT_FORMS: dict[
    Target, tuple[Callable[..., object], str]
] = {  # as torch's own kernels call them; the forms with `out` that are generated allocate their result first
    aten.add.Scalar: (torch.add, "out"),
    aten.sub.Scalar: (torch.sub, "out"),
    aten.mul.Scalar: (torch.mul, "out"),
    aten.div.Scalar: (torch.div, "out"),
    aten.relu.default: (lambda x, out: torch.clamp_min(x, 0, out=out), "out"),
    aten.clone.default: (lambda x, out, **_: out.copy_(x), "out"),
    aten._to_copy.default: (lambda x, out, **_: out.copy_(x), "out"),
    aten.new_zeros.default: (lambda x, size, out, **_: out.zero_(), "out"),
    aten.isnan.default: (lambda x, out: torch.ne(x, x, out=out), "out"),
    aten.masked_fill.Scalar: (lambda x, mask, value, out: out.copy_(x).masked_fill_(mask, value), "out"),
}
ARITHMETIC = {  # with a number as second argument, which torch makes a tensor of and casts, in each call
    getattr(getattr(aten, name), form) for name in ("add", "sub", "mul", "div") for form in ("Tensor", "Scalar")
}
MAX_WASTE = 2  # a result takes memory of at most so many times its own size
Operation = Callable[..., object]
Layout = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class KeptMemory:
    """Memory of plans that never run at the same time, and so may use the same."""

    def __init__(self) -> None:
        self.storages: list[torch.UntypedStorage] = []
        self.thread = threading.get_ident()  # whose calls may use it

    @property
    def num_bytes(self) -> int:
        """How large it is."""
        return sum(storage.nbytes() for storage in self.storages)

    def allocate(self, num_bytes: int, device: torch.device) -> torch.UntypedStorage:
        """More memory, which is kept from now on.

        Args:
            num_bytes: its size.
            device: where it is.

        Returns:
            The memory.
        """
        self.storages.append(torch.empty(num_bytes, dtype=torch.uint8, device=device).untyped_storage())
        return self.storages[-1]


class MemoryPlan:
    """A recording's graph with kept memory: called like it, with results of the same bits.

    Args:
        recording: the recording, optimized.
        memory: the memory; no other plan that uses it may run at the same time.
        reused_outputs: the indices of outputs in kept memory, which the next call of any plan overwrites.
    """

    def __init__(self, recording: Recording, memory: KeptMemory, reused_outputs: Container[int] = ()) -> None:
        with torch.inference_mode(False), torch.no_grad():  # what is kept is used in other calls' modes
            self._plan(recording, memory, reused_outputs)

    def _plan(self, recording: Recording, memory: KeptMemory, reused_outputs: Container[int]) -> None:
        self._graph, self._memory = fx.Graph(), memory
        self._nodes: dict[fx.Node, fx.Node] = {}  # of the recording's graph, to those of this one
        self._known: dict[fx.Node, Tensor | list[Tensor]] = {}  # what is the same tensor in every call
        self._values: dict[int, tuple[fx.Node, Tensor]] = {}  # placeholders of tensors, by the tensors' ids
        self._owned: dict[int, torch.UntypedStorage] = {}  # kept memory, by the recorded storage
        self._constants: dict[tuple[str, torch.dtype], Tensor] = {}
        self._free = list(memory.storages)
        self._dying = _last_storages(recording.graph)
        (end,) = (node for node in recording.graph.nodes if node.op == "output")
        (outputs,) = end.args
        assert isinstance(outputs, (tuple, list))
        fresh = [node for i, node in enumerate(outputs) if isinstance(node, fx.Node) and i not in reused_outputs]
        self._not_kept = recording.external | {node.meta.get("storage") for node in fresh}
        self._last_placeholder: fx.Node | None = None
        for node in recording.graph.nodes:
            if node in recording.found:
                self._known[node] = recording.found[node]
            elif node.op == "placeholder":
                self._nodes[node] = self._last_placeholder = self._graph.placeholder(node.name)
        for node in recording.graph.nodes:
            if node.op == "call_function":
                self._add(node)
                for storage in self._dying.get(node, ()):
                    if storage in self._owned:
                        self._free.append(self._owned.pop(storage))
        self._graph.output(map_arg(outputs, self._node_of))
        self.values = tuple(value for _, value in self._values.values())
        self._run = fx.GraphModule(torch.nn.Module(), self._graph).forward
        storages = {storage_id(value) for value in self.values}
        found = [value for value in recording.found.values() if storage_id(value) in storages]
        self._found = [(value, _place(value)) for value in found]

    def __call__(self, *inputs: Tensor) -> Outputs:
        outputs: Outputs = self._run(*inputs, *self.values)
        return outputs

    def is_outdated(self) -> bool:
        """Whether a found tensor has got other memory or strides, of which there are no views here."""
        return any(_place(value) != place for value, place in self._found)

    def _add(self, node: fx.Node) -> None:
        """Add an operation to the graph, unless its result is a tensor that is known beforehand."""
        func, first = node.target, node.args[0] if node.args else None
        assert callable(func)
        is_known = all(each in self._known for each in node.all_input_nodes)
        if func in ALLOCATIONS and (memory := self._kept_memory(node)) is not None:
            self._known[node] = memory
        elif is_known and node.all_input_nodes and _is_view(node):
            arguments, keywords = map_arg((node.args, node.kwargs), lambda each: cast(Argument, self._known[each]))
            self._known[node] = cast(Callable[..., Tensor], func)(*arguments, **keywords)
        elif torch.Tag.inplace_view in getattr(func, "tags", ()):  # it changes the tensor itself, which is kept
            alias = self._graph.call_function(aten.alias.default, (map_arg(first, self._node_of),))
            self._nodes[node] = self._graph.call_function(func, (alias, *node.args[1:]), node.kwargs)
        elif (form := _out_form(func)) is not None and (memory := self._kept_memory(node)) is not None:
            target, name = form
            self._call(target, node, {name: self._placeholder(memory)})
            self._known[node] = memory
        else:
            self._nodes[node] = self._call(PYTHON_NAMES.get(func, func), node)
            if isinstance(first, fx.Node) and first in self._known and _returns_first(func, first, node):
                self._known[node] = self._known[first]

    def _call(self, target: Operation, node: fx.Node, more: dict[str, Argument] | None = None) -> fx.Node:
        arguments, keywords = map_arg((node.args, node.kwargs), self._node_of)
        if (constant := self._constant(node)) is not None:
            arguments = arguments[0], self._placeholder(constant)
        return self._graph.call_function(target, arguments, {**keywords, **(more or {})})

    def _constant(self, node: fx.Node) -> Tensor | None:
        """The number that a tensor of the result's type is combined with, as such a tensor; None in other cases."""
        layout, number = _layout(node), node.args[1] if len(node.args) == 2 else None
        if node.target not in ARITHMETIC or node.kwargs or layout is None or not isinstance(number, (int, float)):
            return None
        first = node.args[0]
        known = _layout(first) if isinstance(first, fx.Node) else None
        if known is None or known[2:] != layout[2:] or not layout[2].is_floating_point or layout[3].type != "cpu":
            return None
        key = repr(number), layout[2]  # 0.0 and −0.0 are equal
        if key not in self._constants:
            self._constants[key] = torch.tensor(number, dtype=layout[2])
        return self._constants[key]

    def _node_of(self, node: fx.Node) -> fx.Node:
        known = self._known.get(node)
        return self._placeholder(known) if isinstance(known, Tensor) else self._nodes[node]

    def _placeholder(self, value: Tensor) -> fx.Node:
        if id(value) not in self._values:
            after = self._last_placeholder
            with self._graph.inserting_after(after) if after else self._graph.inserting_before():
                self._last_placeholder = node = self._graph.placeholder(f"value_{len(self._values)}")
            self._values[id(value)] = node, value
        return self._values[id(value)][0]

    def _kept_memory(self, node: fx.Node) -> Tensor | None:
        """Memory for a result of new storage; None where it is to be allocated at each call."""
        storage, layout = node.meta.get("storage"), _layout(node)
        if storage is None or layout is None or storage in self._not_kept:
            return None
        if storage in {each.meta.get("storage") for each in node.all_input_nodes}:
            return None  # not new
        shape, stride, dtype, device = layout
        self._owned[storage] = self._take_over_argument(node) or self._take(_num_bytes(layout), device)
        return tensor_in(self._owned[storage], dtype, shape, stride)

    def _take_over_argument(self, node: fx.Node) -> torch.UntypedStorage | None:
        """The kept memory of an argument that a pointwise operation is the last to read, element by element."""
        if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            return None
        for each in node.all_input_nodes:
            storage = each.meta.get("storage")
            if storage not in self._owned or storage not in self._dying.get(node, ()):
                continue
            sharing = [other for other in node.all_input_nodes if other.meta.get("storage") == storage]
            known = [self._known.get(other) for other in sharing]
            is_whole = all(isinstance(value, Tensor) and value.storage_offset() == 0 for value in known)
            if is_whole and all(_layout(other) == _layout(node) for other in sharing):
                return self._owned.pop(storage)
        return None

    def _take(self, num_bytes: int, device: torch.device) -> torch.UntypedStorage:
        """Free memory of at least so many bytes, or new."""
        fitting = [s for s in self._free if num_bytes <= s.nbytes() <= MAX_WASTE * num_bytes and s.device == device]
        if fitting:
            best = min(reversed(fitting), key=lambda storage: storage.nbytes())
            self._free = [storage for storage in self._free if storage is not best]
            return best
        return self._memory.allocate(num_bytes, device)


def _last_storages(graph: fx.Graph) -> dict[fx.Node, list[int]]:
    """For each node the storages that no later node uses."""
    last: dict[int, fx.Node] = {}
    for node in graph.nodes:
        for each in (node, *node.all_input_nodes):
            if (storage := each.meta.get("storage")) is not None:
                last[storage] = node
    found: dict[fx.Node, list[int]] = {}
    for storage, node in last.items():
        found.setdefault(node, []).append(storage)
    return found


def _returns_first(func: Target, first: fx.Node, node: fx.Node) -> bool:
    """Whether an operation writes into its first argument and returns it, in the same layout."""
    is_written = isinstance(func, OpOverload) and bool(func._schema.arguments) and func._schema.arguments[0].is_write
    return is_written and _layout(first) == _layout(node)


def _is_view(node: fx.Node) -> bool:
    """Whether an operation returns views of its arguments, and does nothing else."""
    if node.target in (operator.getitem, aten._unsafe_view.default):  # a part of several, or of what has no other view
        return True
    if not isinstance(node.target, OpOverload):
        return False
    schema = node.target._schema
    is_alias = [each.alias_info is not None for each in schema.returns]
    return not schema.is_mutable and bool(is_alias) and all(is_alias)


def _out_form(func: Target) -> tuple[Operation, str] | None:
    """An operation that writes its result into a tensor, and the name of that argument."""
    if func in OUT_FORMS:
        return OUT_FORMS[func]
    if not isinstance(func, OpOverload) or func._schema.is_mutable or len(func._schema.returns) != 1:
        return None
    taken = [(each.name, str(each.type)) for each in func._schema.arguments]
    if any(name == "reduction" for name, _ in taken):  # they resize a result of one number
        return None
    for name in func.overloadpacket.overloads():
        form = getattr(func.overloadpacket, name)
        written = [each for each in form._schema.arguments if each.kwarg_only and each.is_write]
        rest = [(each.name, str(each.type)) for each in form._schema.arguments if not each.is_write]
        if len(written) == 1 and rest == taken and torch.Tag.generated not in form.tags:
            by_name = PYTHON_NAMES.get(func) if written[0].name == "out" else None
            return by_name or form, written[0].name
    return None


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    return value.data_ptr(), value.stride()


def _layout(node: fx.Node) -> Layout | None:
    layout: Layout | None = node.meta.get("layout")
    return layout


def _num_bytes(layout: Layout) -> int:
    shape, stride, dtype, _ = layout
    if 0 in shape:
        return 0
    return (1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))) * dtype.itemsize
