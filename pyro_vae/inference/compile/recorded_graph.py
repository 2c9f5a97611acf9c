"""What was recorded of a function: a graph that runs, and how it was made smaller."""

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from pyro_vae.inference.compile.recorder import Recorder

aten = torch.ops.aten
IDENTITIES = {
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
}
PYTHON_NAMES = {  # the same operations by their Python names, which reach them in half the time
    aten.add.Tensor: torch.add,
    aten.addmm.default: torch.addmm,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.div.Tensor: torch.div,
    aten.exp.default: torch.exp,
    aten.expand.default: Tensor.expand,
    aten.log.default: torch.log,
    aten.mm.default: torch.mm,
    aten.mul.Scalar: torch.mul,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.relu.default: torch.relu,
    aten.sigmoid.default: torch.sigmoid,
    aten.softplus.default: torch.nn.functional.softplus,
    aten.sub.Tensor: torch.sub,
    aten.sum.default: torch.sum,
    aten.sum.dim_IntList: torch.sum,
    aten.t.default: torch.t,
    aten.tanh.default: torch.tanh,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: Tensor.view,
    aten.where.self: torch.where,
}


class Untraceable(Exception):
    """The function does something that a graph cannot hold; the message says what."""


class Graph:
    """What was recorded: called with tensors of the same shapes it does the same operations, with fresh random numbers.

    `outputs` are what the recorded call gave. Tensors that the function found elsewhere (parameters, buffers) are held
    by reference, so that a step of an optimizer is seen; `written` are those of them that it changes in place, as
    running means do. `module` is an ordinary `torch.fx.GraphModule` to print, or to compile.
    """

    def __init__(self, recorder: "Recorder", outputs: tuple[Tensor | None, ...]) -> None:
        self.outputs = outputs
        recorder.graph.output(tuple(None if out is None else recorder.node_of(out) for out in outputs))
        recorder.hoist_constants()
        simplify_identities(recorder)
        eliminate_common_subexpressions(recorder)
        clone_aliased_outputs(recorder)
        eliminate_dead_code(recorder.graph)
        for node in recorder.graph.nodes:
            node.target = PYTHON_NAMES.get(node.target, node.target)
        self.found = tuple(recorder.found[node] for node in recorder.graph.nodes if node in recorder.found)
        if recorder.given & recorder.before.keys():
            raise Untraceable("it writes into the rows that it is given")
        self.written = [pair[0] for pair in recorder.before.values()]
        self.module = fx.GraphModule(torch.nn.Module(), recorder.graph)
        self.run = self.module.forward

    def __call__(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return self.run(*inputs, *self.found)

    @contextmanager
    def nothing_written(self) -> Iterator[None]:
        """After it, what the function writes in place holds what it held before."""
        before = [value.clone() for value in self.written]
        try:
            yield
        finally:
            with torch.no_grad():
                for value, old in zip(self.written, before, strict=True):
                    value.copy_(old)

    def compile(self, *inputs: Tensor) -> None:
        """Hand the graph to `torch.compile`, which takes its time now."""
        options = {"fallback_random": True}  # the same random numbers as without
        self.run = torch.compile(self.module, fullgraph=True, dynamic=False, options=options)  # type: ignore[arg-type]
        with self.nothing_written(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)  # torch's own
            self(*inputs)

    def capture(self, *inputs: Tensor) -> None:
        """On CUDA: capture the kernels once, so that a call launches all of them together."""
        ours = [value.clone() for value in inputs]
        aside, kernels, run = torch.cuda.Stream(), torch.cuda.CUDAGraph(), self.run
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), self.nothing_written(), torch.cuda.stream(aside):
            for _ in range(3):  # libraries set themselves up in their first calls
                run(*ours, *self.found)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad(), torch.cuda.graph(kernels):
            outputs = run(*ours, *self.found)

        def replay(*given: Tensor) -> tuple[Tensor | None, ...]:
            for own, value in zip(ours, given, strict=False):
                own.copy_(value)
            kernels.replay()
            return tuple(None if out is None else out.clone() for out in outputs)

        self.run = replay


def simplify_identities(recorder: "Recorder") -> None:
    """Leave out what adds nothing and multiplies by one: a copy, unless something is written into it or its origin."""
    for node in list(recorder.graph.nodes):
        if node.op == "call_function" and node.target in IDENTITIES and len(node.args) == 2:
            origin, number = node.args
            same = isinstance(number, (int, float)) and number == IDENTITIES[node.target] and not node.kwargs
            if not same or not isinstance(origin, fx.Node):
                continue
            places = {node.meta.get("place"), origin.meta.get("place")}
            if node.meta.get("kind") == origin.meta.get("kind") and not places & recorder.written:
                node.replace_all_uses_with(origin)
                recorder.graph.erase_node(node)


def eliminate_common_subexpressions(recorder: "Recorder") -> None:
    """Do once what is done twice to the same tensors, unless something is drawn or written there."""
    done: dict[Any, fx.Node] = {}
    for node in list(recorder.graph.nodes):
        touched = [node, *node.all_input_nodes]
        if (
            node.op != "call_function"
            or len(touched) == 1
            or any(n.meta.get("place") in recorder.written for n in touched)
        ):
            continue
        if node.target is operator.getitem or torch.Tag.nondeterministic_seeded not in node.target.tags:
            key = (node.target, str(node.args), str(node.kwargs))
            if (same := done.setdefault(key, node)) is not node:
                node.replace_all_uses_with(same)
                recorder.graph.erase_node(node)


def clone_aliased_outputs(recorder: "Recorder") -> None:
    """Make each output a tensor of its own: whoever gets it may write into it, and keep it."""
    end = next(iter(reversed(recorder.graph.nodes)))
    given: set[int | None] = set(recorder.foreign)
    outputs = []
    for node in end.args[0]:  # type: ignore[union-attr]
        if isinstance(node, fx.Node):
            place = node.meta.get("place")
            if place in given:
                with recorder.graph.inserting_before(end):
                    node = recorder.graph.call_function(aten.clone.default, (node,))
            given.add(place)
        outputs.append(node)
    end.args = (tuple(outputs),)


def eliminate_dead_code(graph: fx.Graph) -> None:
    """Remove what nothing uses, but no input, no write and no draw: the random numbers that follow would be others."""
    for node in reversed(list(graph.nodes)):
        if node.op != "call_function" or node.users:
            continue
        func = node.target
        if func is operator.getitem or not (
            torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable  # type: ignore[union-attr]
        ):
            graph.erase_node(node)
