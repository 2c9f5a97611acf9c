"""One step of an ELBO for one shape of its inputs: by Pyro's handlers, recorded as a graph, and the two compared."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.runtime import Message, am_i_wrapped, apply_stack
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from pyro_vae.inference.compile.executable_graph import RecordedGraph
from pyro_vae.inference.compile.memory_plan import KeptMemory
from pyro_vae.inference.compile.record_graph import ScalarGuard, record, replay_rng
from pyro_vae.inference.compile.recorded_operations import Outputs, Untraceable
from pyro_vae.inference.objectives.differentiable_elbo import Arguments, DifferentiableELBO, Keywords, PyroFunction
from pyro_vae.inference.objectives.elbo_terms import Terms, TermSums
from pyro_vae.programs.traces import Site

# Tolerances are relative to the largest value: a graph has the same operations in the same order.
TOLERANCES = {torch.float64: 1e-9}
DEFAULT_TOLERANCE, FUSED_TOLERANCE, FUSED_REDUCED_TOLERANCE = 1e-5, 1e-3, 2e-2  # the last with products in bfloat16


class CompiledStep:
    """The loss, its gradients and its terms as a function of the tensors among a call's arguments.

    `uncompiled` computes them by Pyro's handlers; `graph`, once `record` has made it, repeats the same operations.

    Args:
        loss_of_tensors: computes the loss, and the surrogate whose gradients it has.
        terms: sums of the ELBO's terms.
        trainable_parameters: gives the parameters of the fit.
        with_gradients: whether gradients are computed.
    """

    graph: RecordedGraph

    def __init__(
        self,
        loss_of_tensors: Callable[..., tuple[Tensor, Tensor]],
        terms: Terms | None,
        trainable_parameters: Callable[[], Iterable[Tensor]],
        with_gradients: bool,
    ) -> None:
        self.loss_of_tensors, self.terms = loss_of_tensors, terms
        self.trainable_parameters, self.with_gradients = trainable_parameters, with_gradients
        self.calls = self.since_check = 0
        self.parameter_states: list[tuple[str, Tensor, bool]] = []  # name in the store, leaf, whether it is trained
        self.frozen: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self.sites: list[Site] = []
        self.sums = TermSums()

    def is_outdated(self) -> bool:
        """Whether a parameter was frozen, unfrozen or replaced since the step was recorded."""
        store = pyro.get_param_store()._params
        return any(leaf.requires_grad for leaf in self.frozen) or any(
            leaf.requires_grad != trained or (name and store.get(name) is not leaf)
            for name, leaf, trained in self.parameter_states
        )

    def uncompiled(self, *tensors: Tensor) -> Outputs:
        """(loss, a gradient for each parameter, the sums of the terms), by Pyro's handlers."""
        with (
            pyro.validation_enabled(False),  # checks read values; the first call has made them
            ScalarGuard(),
            torch.set_grad_enabled(self.with_gradients),
            poutine.trace(param_only=True) as params,
        ):
            if self.terms is None:
                loss, surrogate = self.loss_of_tensors(*tensors)
            else:
                (loss, surrogate), self.sums = self.terms.capture_sums(lambda: self.loss_of_tensors(*tensors))
        self.sites = [site for site in cast(dict[str, Site], params.trace.nodes).values() if site["type"] == "param"]
        self._note_parameters()
        return (loss.detach(), *self._gradients(surrogate), *self.sums.tensors)

    def _note_parameters(self) -> None:
        """Note the parameters of the sites and those that are trained, and which of them have gradients."""
        leaves = {_unconstrained(site["value"]): site["name"] for site in self.sites}
        leaves |= {leaf: "" for leaf in self.trainable_parameters() if leaf not in leaves}
        store = pyro.get_param_store()._params
        self.parameter_states = [
            (name if store.get(name) is leaf else "", leaf, leaf.requires_grad) for leaf, name in leaves.items()
        ]
        self.parameters = [leaf for leaf in leaves if leaf.requires_grad and self.with_gradients]

    def _gradients(self, surrogate: Tensor) -> Outputs:
        if not self.with_gradients or not surrogate.requires_grad or not self.parameters:
            return (None,) * len(self.parameters)
        gradients = torch.autograd.grad(surrogate, self.parameters, allow_unused=True)
        return tuple(map(_in_parameter_layout, gradients, self.parameters))

    def record(self, tensors: list[Tensor], fuse: bool, memory: KeptMemory, reuse_gradients: bool = False) -> None:
        """Record the step twice, with other random numbers, and keep the second graph where it repeats the first.

        Args:
            tensors: the tensors among the arguments.
            fuse: whether the graph is compiled by `torch.compile`.
            memory: where a graph on the CPU that is not compiled writes its results.
            reuse_gradients: whether gradients are among them, so that the next step overwrites those of the last.
        """
        self.graph = record_static(self.uncompiled, *tensors)
        with replay_rng() as reset_rng:
            try:
                if fuse and self.with_gradients:
                    self.graph.compile(*tensors)
                elif tensors and tensors[0].is_cuda:
                    self.graph.capture(*tensors)
                elif tensors and tensors[0].is_cpu:
                    self.graph.keep_memory(memory, range(1, 1 + len(self.parameters) * reuse_gradients))
            finally:
                reset_rng()
        parameters = [value for value in self.graph.found if isinstance(value, nn.Parameter)]
        self.frozen = [parameter for parameter in parameters if not parameter.requires_grad]

    def check(self, tensors: list[Tensor], fused: bool) -> None:
        """Compare the graph with Pyro's handlers on a batch; `Untraceable` where they differ.

        Args:
            tensors: the tensors among the arguments.
            fused: whether the graph was compiled by `torch.compile`.
        """
        with replay_rng() as reset_rng:
            try:
                with self.graph.restore_written():
                    expected = self.uncompiled(*tensors)
                reset_rng()
                with self.graph.restore_written():
                    require_close(self.graph(*tensors), expected, self._fused_tolerance if fused else None)
            finally:
                reset_rng()

    @property
    def _fused_tolerance(self) -> float:
        """Of a graph that `torch.compile` has fused: roundings to bfloat16 may then be left out."""
        layouts = [node.meta.get("layout") for node in self.graph.recording.graph.nodes]
        is_reduced = any(layout is not None and layout[2] == torch.bfloat16 for layout in layouts)
        return FUSED_REDUCED_TOLERANCE if is_reduced else FUSED_TOLERANCE

    def assign(self, outputs: Outputs) -> Tensor:
        """Add gradients to `grad` and sums to the terms, and tell Pyro which parameters took part; return the loss."""
        loss, *rest = outputs
        for parameter, gradient in zip(self.parameters, rest, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if self.terms is not None:
            self.terms.add_sums(self.sums, rest[len(self.parameters) :])
        if am_i_wrapped() and self.with_gradients:
            for site in self.sites:
                apply_stack(cast(Message, site | {"done": True, "stop": False, "continuation": None}))
        assert loss is not None
        return loss


def record_static(function: Callable[..., Outputs], *tensors: Tensor) -> RecordedGraph:
    """The graph of a function that two calls with other random numbers agree on; `Untraceable` where they do not.

    The random generators are left as they were.

    Args:
        function: the function.
        *tensors: what it is called with.

    Returns:
        Its graph, which has given the first call's numbers again.
    """
    with replay_rng() as reset_rng:
        try:
            first, graph = record(function, *tensors), record(function, *tensors)
            if not _same_operations(first, graph):
                raise Untraceable("its operations differ from call to call")
            reset_rng()
            with graph.restore_written():
                require_close(graph(*tensors), first.outputs)
            return graph
        finally:
            reset_rng()


def as_function_of_tensors(
    elbo: Trace_ELBO, model: PyroFunction, guide: PyroFunction, leaves: Sequence[object], structure: TreeSpec
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The ELBO's loss as a function of the tensors among the arguments.

    Args:
        elbo: the objective.
        model: a Pyro function.
        guide: another, of the same arguments.
        leaves: (args, kwargs) flattened by `tree_flatten`,
        structure: and what it also returns.

    Returns:
        A function to the loss, and to the surrogate whose gradients it has.
    """

    def loss_of_tensors(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        remaining = iter(tensors)
        values = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(values, structure)
        return _loss_and_surrogate(elbo, model, guide, args, kwargs)

    return loss_of_tensors


def _loss_and_surrogate(
    elbo: Trace_ELBO, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
) -> tuple[Tensor, Tensor]:
    if isinstance(elbo, DifferentiableELBO):
        loss = elbo.tensor_loss(model, guide, *args, **kwargs)
        return loss, loss
    pairs = elbo._get_traces(model, guide, args, kwargs)
    particles = [elbo._differentiable_loss_particle(*pair) for pair in pairs]
    loss, surrogate = (sum(parts) / elbo.num_particles for parts in zip(*particles, strict=True))
    return torch.as_tensor(loss), torch.as_tensor(surrogate)


def _unconstrained(value: Any) -> Tensor:
    """The leaf tensor of a parameter's value, which Pyro keeps with it."""
    leaf: Tensor = value.unconstrained()
    return leaf


def _in_parameter_layout(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient with its parameter's strides, which fused optimizers require."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _same_operations(first: RecordedGraph, second: RecordedGraph) -> bool:
    operations = [[(node.target, str(node.args)) for node in graph.module.graph.nodes] for graph in (first, second)]
    if operations[0] != operations[1] or len(first.found) != len(second.found):
        return False
    return all(a is b or _is_equal(a, b) for a, b in zip(first.found, second.found, strict=True))


def _is_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two constants that a program has computed are the same, NaN in the same places."""
    if not isinstance(a, Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def require_close(outputs: Outputs, expected: Outputs, tolerance: float | None = None) -> None:
    """`Untraceable` where a graph's outputs are not those expected, relative to the largest of each.

    Args:
        outputs: the graph's.
        expected: those of the function.
        tolerance: the relative one; by default that of the same operations in the same order.
    """
    for a, b in zip(outputs, expected, strict=True):
        if (a is None) != (b is None):
            raise Untraceable("other parameters take part from call to call")
        if a is None or b is None or not b.numel():
            continue
        bound = TOLERANCES.get(b.dtype, DEFAULT_TOLERANCE) if tolerance is None else tolerance
        largest = float(b.abs().max().nan_to_num(0, 0, 0))
        if not torch.allclose(a, b, rtol=bound, atol=bound * largest, equal_nan=True):
            raise Untraceable("its graph gives other numbers: something changes between calls that is no tensor")
