"""A function's tensor operations, recorded once into a plain graph that runs again without the Python around them."""

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer.util import torch_item
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.context import is_recording, recording
from pyro_vae.inference.compile.recorded_graph import Graph, Untraceable

aten = torch.ops.aten
ALIASES = (aten.detach.default, aten.alias.default)  # the same values in the same place under another name
RESHAPES = (aten.expand.default, aten.view.default, aten._unsafe_view.default)
FILLS = (aten.ones_like.default, aten.zeros_like.default, aten.ones.default, aten.zeros.default, aten.full.default)
BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)  # they write and do not say so


def record(function: Callable[..., tuple[Tensor | None, ...]], *inputs: Tensor) -> Graph:
    """Call the function once and keep what it does to tensors, gradients it takes included.

    What the function writes in place is put back. Raises `Untraceable` where it asks for a tensor's value (an `if` or a
    loop over one) or where a shape depends on values, as a mask used as an index makes it.
    """
    recorder = Recorder(inputs)
    try:
        with recording(), recorder:
            outputs = function(*inputs)
    finally:
        recorder.restore_written()
    return Graph(recorder, outputs)


class ScalarGuard(TorchFunctionMode):
    """The loss that Pyro reads to report it (`torch_item`) stays a tensor; other ways out of a tensor are refused."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item and _asked_by(torch_item):
            return args[0].detach()
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__) and is_recording():
            raise Untraceable("it takes values out of a tensor (tolist, numpy)")
        return func(*args, **(kwargs or {}))


def _asked_by(function: Any) -> bool:
    """Whether a function that calls nobody else is what called into torch; type checkers' frames may lie between."""
    frame: Any = sys._getframe(1)
    for _ in range(12):
        if frame is None or frame.f_code is function.__code__:
            return frame is not None
        frame = frame.f_back
    return False


class Recorder(TorchDispatchMode):
    """Writes down every operation below autograd, and what is needed to trust a shorter list of them.

    `nodes` by the id of the tensor each gave; `found` what the function took from elsewhere; `constants` what depends
    on nothing; `written` the places (storages) that some operation writes into, `before` what lay there.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch asks; saying yes would import its compiler, a second of waiting
        return False

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[Tensor] = []  # a tensor that dies leaves its id to another
        self.found: dict[fx.Node, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        for i, value in enumerate(inputs):
            self._remember(value, self.graph.placeholder(f"input_{i}"))
        self.constants: dict[int, Tensor] = {}  # they depend on no input, parameter or draw
        self.written: set[int] = set()  # places that some operation writes into
        self.given = {_place(value) for value in inputs}
        self.foreign = set(self.given)  # places that were there before
        self.last_found = next(reversed(self.graph.nodes), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse(func, args, kwargs)
        if func._schema.is_mutable or func in BATCH_NORMS:
            self._keep_written(func, args, kwargs)
        given = map_aggregate((args, kwargs), self._argument)
        made = func(*args, **kwargs)
        if isinstance(made, Tensor):
            if self._is_constant(func, args, kwargs):
                self.constants[id(made)] = made
            self._remember(made, self._same(func, args, made) or self.graph.call_function(func, *given))  # type: ignore[misc]
            return made
        node = self.graph.call_function(func, *given)  # type: ignore[misc]
        for i, part in enumerate(made if isinstance(made, (tuple, list)) else ()):
            if isinstance(part, Tensor):
                self._remember(part, self.graph.call_function(operator.getitem, (node, i)))
        return made

    def node_of(self, value: Tensor) -> fx.Node:
        """The node of a tensor; one the function found elsewhere becomes one more input, held by reference."""
        if id(value) not in self.nodes:
            with self.graph.inserting_after(self.last_found) if self.last_found else self.graph.inserting_before():
                node = self.graph.placeholder(f"found_{len(self.found)}")
            self.last_found, self.found[node] = node, value
            self.foreign.add(_place(value))
            self._remember(value, node)
        return self.nodes[id(value)]

    def hoist_constants(self) -> None:
        """Constants become inputs held by reference, where nothing writes into them."""
        kept = [value for value in self.constants.values() if _place(value) not in self.written]
        for value in kept:
            node = self.nodes.pop(id(value))
            if node.op == "call_function":
                node.replace_all_uses_with(self.node_of(value))
            else:
                self.nodes[id(value)] = node

    def restore_written(self) -> None:
        with torch.no_grad():
            for value, before in self.before.values():
                value.copy_(before)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            raise Untraceable("it draws from a generator of its own")
        return self.node_of(value) if isinstance(value, Tensor) else value

    def _remember(self, value: Tensor, node: fx.Node) -> None:
        self.nodes[id(value)] = node
        node.meta.setdefault("place", _place(value))
        node.meta.setdefault("kind", (value.shape, value.stride(), value.dtype))
        self.alive.append(value)

    def _same(self, func: Any, args: Any, made: Tensor) -> fx.Node | None:
        """The node that stands for what an operation gives, where it changes nothing."""
        if func in ALIASES or (func in RESHAPES and made.shape == args[0].shape and made.stride() == args[0].stride()):
            return self.nodes[id(args[0])]
        if func is aten.t.default and (inner := self.nodes[id(args[0])]).target is func:
            return inner.args[0]  # type: ignore[return-value]  # transposed twice
        return None

    def _is_constant(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation gives the same at every call: a filled tensor, or arithmetic on such alone."""
        if func in FILLS:
            return True
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        still = all(id(value) in self.constants and _place(value) not in self.written for value in given)
        drawn_or_written = torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable
        return bool(given) and still and not drawn_or_written

    def _keep_written(self, func: Any, args: Any, kwargs: Any) -> None:
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            written = named.get(argument.name)
            unsaid = func in BATCH_NORMS and argument.name in ("running_mean", "running_var")
            if not unsaid and (argument.alias_info is None or not argument.alias_info.is_write):
                continue
            for value in written if isinstance(written, (tuple, list)) else (written,):
                if not isinstance(value, Tensor):
                    continue
                self.written.add(place := _place(value))
                self.node_of(value)
                if place in self.foreign and place not in self.before:
                    whole = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())  # type: ignore[call-overload]
                    self.before[place] = whole, whole.clone()


def _place(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def _refuse(func: Any, args: Any, kwargs: Any) -> None:
    if torch.Tag.data_dependent_output in func.tags:
        raise Untraceable("it asks for the value of a tensor (an if, a loop or a number that depends on one)")
    by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )
    if by_mask or (torch.Tag.dynamic_output_shape in func.tags and func.overloadpacket is not aten.index):
        raise Untraceable("a shape depends on values (a mask as an index, or the like; torch.where has fixed shapes)")


@contextmanager
def replay_rng() -> Iterator[Callable[[], None]]:
    """Give a function that sets the random generators back to where they were on entering."""
    state = pyro.util.get_rng_state()
    cuda = [torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []

    def again() -> None:
        pyro.util.set_rng_state(state)
        for states in cuda:
            torch.cuda.set_rng_state_all(states)
        for numbers in mps:
            torch.mps.set_rng_state(numbers)

    yield again
