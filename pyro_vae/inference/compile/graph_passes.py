"""Transformations that shorten a recorded graph and leave its results as they are."""

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from pyro_vae.inference.compile.recorded_operations import Recording

aten = torch.ops.aten
IDENTITIES = {  # operations that change nothing where their second argument is this number
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
}
PYTHON_NAMES: dict[
    object, Callable[..., object]
] = {  # the same operations by their Python names, whose calls take half the time
    aten._log_softmax.default: torch._log_softmax,
    aten._log_softmax_backward_data.default: torch._log_softmax_backward_data,
    aten.add.Tensor: torch.add,
    aten.addmm.default: torch.addmm,
    aten.all.dim: torch.all,
    aten.any.dim: torch.any,
    aten.bitwise_and.Tensor: torch.bitwise_and,
    aten.bitwise_not.default: torch.bitwise_not,
    aten.bitwise_or.Tensor: torch.bitwise_or,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.clamp.default: torch.clamp,
    aten.digamma.default: torch.digamma,
    aten.div.Tensor: torch.div,
    aten.eq.Scalar: torch.eq,
    aten.eq.Tensor: torch.eq,
    aten.exp.default: torch.exp,
    aten.expand.default: Tensor.expand,
    aten.gather.default: torch.gather,
    aten.ge.Scalar: torch.ge,
    aten.ge.Tensor: torch.ge,
    aten.gt.Scalar: torch.gt,
    aten.gt.Tensor: torch.gt,
    aten.index_select.default: torch.index_select,
    aten.le.Scalar: torch.le,
    aten.le.Tensor: torch.le,
    aten.lgamma.default: torch.lgamma,
    aten.log.default: torch.log,
    aten.log1p.default: torch.log1p,
    aten.logsumexp.default: torch.logsumexp,
    aten.lt.Scalar: torch.lt,
    aten.lt.Tensor: torch.lt,
    aten.mm.default: torch.mm,
    aten.mul.Scalar: torch.mul,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.relu.default: torch.relu,
    aten.scatter_add.default: torch.scatter_add,
    aten.sigmoid.default: torch.sigmoid,
    aten.softplus.default: torch.nn.functional.softplus,
    aten.stack.default: torch.stack,
    aten.sub.Tensor: torch.sub,
    aten.sum.default: torch.sum,
    aten.sum.dim_IntList: torch.sum,
    aten.t.default: torch.t,
    aten.tanh.default: torch.tanh,
    aten.tril.default: torch.tril,
    aten.triu.default: torch.triu,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: Tensor.view,
    aten.where.self: torch.where,
}


UNARY = (aten.exp.default, aten.log.default, aten.neg.default, aten.sigmoid.default, aten.tanh.default)


def optimize(recording: Recording) -> None:
    """Apply all transformations to the recording's graph, in place."""
    simplify_identities(recording)
    expand_results(recording)
    eliminate_common_subexpressions(recording)
    clone_aliased_outputs(recording)
    eliminate_dead_code(recording.graph)


def simplify_identities(recording: Recording) -> None:
    """Remove additions of 0 and multiplications by 1, unless something writes into their argument or their result."""
    for node in list(recording.graph.nodes):
        if node.op != "call_function" or node.target not in IDENTITIES or len(node.args) != 2:
            continue
        argument, number = node.args
        is_identity = isinstance(number, (int, float)) and number == IDENTITIES[node.target] and not node.kwargs
        if not is_identity or not isinstance(argument, fx.Node):
            continue
        storages = {node.meta.get("storage"), argument.meta.get("storage")}
        if node.meta.get("layout") == argument.meta.get("layout") and not storages & recording.written:
            _replace(recording, node, argument)


def expand_results(recording: Recording) -> None:
    """Compute functions of each element before a tensor is expanded, and expand their results.

    Only for results that pointwise operations read, whose strides do not matter.
    """
    for node in list(recording.graph.nodes):
        if node.op != "call_function" or node.target not in UNARY:
            continue
        (expanded,) = node.args
        is_pointwise = all(torch.Tag.pointwise in getattr(user.target, "tags", ()) for user in node.users)
        if not is_pointwise or not isinstance(expanded, fx.Node) or expanded.target is not aten.expand.default:
            continue
        source, shape = expanded.args[:2]
        if not isinstance(source, fx.Node) or {node.meta["storage"], source.meta["storage"]} & recording.written:
            continue
        size, strides, _, _ = source.meta["layout"]
        wide, _, dtype, device = node.meta["layout"]
        values = torch.empty_like(torch.empty_strided(size, strides))  # its strides are those of the result
        with recording.graph.inserting_before(node):
            small = recording.graph.call_function(node.target, (source,))
            result = recording.graph.call_function(aten.expand.default, (small, shape))
        for each, layout in ((small, values), (result, values.expand(wide))):
            each.meta |= {"storage": node.meta["storage"], "layout": (layout.shape, layout.stride(), dtype, device)}
        node.replace_all_uses_with(result)
        recording.graph.erase_node(node)


def eliminate_common_subexpressions(recording: Recording) -> None:
    """Compute once what is computed twice from the same tensors, unless random numbers or writes are involved."""
    computed: dict[tuple[object, str, str], fx.Node] = {}
    for node in list(recording.graph.nodes):
        tensors = [node, *node.all_input_nodes]
        if (
            node.op != "call_function"
            or len(tensors) == 1
            or any(tensor.meta.get("storage") in recording.written for tensor in tensors)
        ):
            continue
        if node.target is operator.getitem or torch.Tag.nondeterministic_seeded not in node.target.tags:
            key = (node.target, str(node.args), str(node.kwargs))
            if (first := computed.setdefault(key, node)) is not node:
                _replace(recording, node, first)


def _replace(recording: Recording, node: fx.Node, other: fx.Node) -> None:
    """Let another node take a node's place, and its storage that of the node's, also for views."""
    storage, kept = (each.meta.get("storage") for each in (node, other))
    node.replace_all_uses_with(other)
    recording.graph.erase_node(node)
    if storage != kept and storage is not None:
        for each in recording.graph.nodes:
            if each.meta.get("storage") == storage:
                each.meta["storage"] = kept


def clone_aliased_outputs(recording: Recording) -> None:
    """Give each output memory of its own, so that the caller may write into it and keep it."""
    end = next(iter(reversed(recording.graph.nodes)))
    used: set[int | None] = set(recording.external)
    outputs = []
    (returned,) = end.args
    assert isinstance(returned, (tuple, list))
    for node in returned:
        if isinstance(node, fx.Node):
            storage = node.meta.get("storage")
            if storage in used:
                with recording.graph.inserting_before(end):
                    node = recording.graph.call_function(aten.clone.default, (node,))
            used.add(storage)
        outputs.append(node)
    end.args = (tuple(outputs),)


def eliminate_dead_code(graph: fx.Graph) -> None:
    """Remove unused results, except of inputs, writes and random draws: later draws would get other numbers."""
    for node in reversed(list(graph.nodes)):
        if node.op != "call_function" or node.users:
            continue
        func = node.target
        draws_or_writes = isinstance(func, OpOverload) and (
            torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable
        )
        if not draws_or_writes:
            graph.erase_node(node)


def with_python_names(graph: fx.Graph) -> fx.Graph:
    """A copy that calls operations by their Python names where they have one: the calls take half the time."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in copy.nodes:
        node.target = PYTHON_NAMES.get(node.target, node.target)
    return copy
