"""A recorded function that runs again: as a plain graph, through `torch.compile`, or captured on CUDA."""

import threading
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from pyro_vae.inference.compile.graph_passes import with_python_names
from pyro_vae.inference.compile.memory_plan import KeptMemory, MemoryPlan
from pyro_vae.inference.compile.recorded_operations import Outputs, Recording


class RecordedGraph:
    """A recorded function: called with tensors of the same shapes it repeats the operations, with new random numbers.

    `outputs` are those of the recorded call. Tensors that the function found elsewhere (parameters, buffers) are kept
    by reference in `found`, so that an optimizer's steps take effect; `written` are those of them that the function
    changes in place, as running means are. `module` is an ordinary `torch.fx.GraphModule` to print, or to compile.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording, self.outputs = recording, recording.outputs
        self.found = tuple(recording.found[node] for node in recording.graph.nodes if node in recording.found)
        self.written = [storage for storage, _ in recording.before.values()]
        recording.before = {}  # copies of what has been restored
        self.module = fx.GraphModule(torch.nn.Module(), with_python_names(recording.graph))
        self.num_inputs = sum(node.op == "placeholder" for node in recording.graph.nodes) - len(self.found)
        self.run: Callable[..., Outputs] = self.module.forward

    def __call__(self, *inputs: Tensor) -> Outputs:
        with torch.no_grad():
            return self.run(*inputs, *self.found)

    def keep_memory(self, memory: KeptMemory, reused_outputs: Container[int] = ()) -> None:
        """Write results into kept memory from now on, in calls of its thread; those of others allocate theirs.

        Args:
            memory: the memory; graphs that share it are never called at the same time.
            reused_outputs: the indices of outputs that the next call of any of these graphs may overwrite.
        """
        plan, allocating = MemoryPlan(self.recording, memory, reused_outputs), self.run

        def run(*tensors: Tensor) -> Outputs:
            nonlocal plan
            if threading.get_ident() != memory.thread:
                return allocating(*tensors)
            if plan.is_outdated():
                plan = MemoryPlan(self.recording, memory, reused_outputs)
            return plan(*tensors[: self.num_inputs])

        self.run = run

    @contextmanager
    def restore_written(self) -> Iterator[None]:
        """Restore at the end of the block what the function has changed in place."""
        before = [value.clone() for value in self.written]
        try:
            yield
        finally:
            with torch.no_grad():
                for value, old in zip(self.written, before, strict=True):
                    value.copy_(old)

    def compile(self, *inputs: Tensor) -> None:
        """Compile the graph by `torch.compile`, and call it once, since compilation happens in the first call."""
        options: dict[str, str | int | bool | Callable[..., object]] = {"fallback_random": True}  # the same as without
        self.run = torch.compile(self.module, fullgraph=True, dynamic=False, options=options)
        with self.restore_written(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)  # torch's own
            self(*inputs)

    def capture(self, *inputs: Tensor) -> None:
        """Capture the graph's kernels as one CUDA graph, so that a call launches all of them together."""
        static_inputs = [value.clone() for value in inputs]
        side_stream, kernels, run = torch.cuda.Stream(), torch.cuda.CUDAGraph(), self.run
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), self.restore_written(), torch.cuda.stream(side_stream):
            for _ in range(3):  # libraries initialize themselves in their first calls
                run(*static_inputs, *self.found)
        torch.cuda.current_stream().wait_stream(side_stream)
        with torch.no_grad(), torch.cuda.graph(kernels):
            outputs = run(*static_inputs, *self.found)

        def replay(*args: Tensor) -> Outputs:
            for static, value in zip(static_inputs, args, strict=False):
                static.copy_(value)
            kernels.replay()
            return tuple(None if output is None else output.clone() for output in outputs)

        self.run = replay
