"""Log weights of many batches: after some by Pyro's handlers each shape of them runs as a recorded graph."""

from collections import Counter
from collections.abc import Hashable

import pyro
import torch
from torch import Tensor

from pyro_vae.inference.compile.compiled_step import record_static, require_close
from pyro_vae.inference.compile.executable_graph import RecordedGraph
from pyro_vae.inference.compile.memory_plan import KeptMemory
from pyro_vae.inference.compile.record_graph import ScalarGuard, replay_rng
from pyro_vae.inference.compile.recorded_operations import Outputs
from pyro_vae.programs.log_weights import LogWeightSampler, LogWeightTerms
from pyro_vae.programs.row_inputs import Batch

MIN_CALLS = 20  # uncompiled, before a shape is recorded, which takes about as long
CHECK_INTERVAL = 500  # calls of a graph between comparisons with the handlers


class RecordedWeights:
    """A `LogWeightSampler` whose draws from the guide run without Pyro's handlers once there were enough batches.

    Numbers and random draws are the sampler's: a graph has the same operations, and writes into memory that is kept. A
    program that cannot be recorded, or whose graph gives other numbers, runs uncompiled, without a word.

    Args:
        sampler: of the program.
    """

    def __init__(self, sampler: LogWeightSampler) -> None:
        self.sampler, self.memory = sampler, KeptMemory()
        self.graphs: dict[Hashable, RecordedGraph] = {}
        self.num_calls: Counter[Hashable] = Counter()
        self.is_recorded = sampler.vectorized and not sampler.sums_out

    def __call__(self, batch: Batch, draws: int, *, from_prior: bool = False) -> LogWeightTerms:
        """Log weights of draws from the guide, or the same two terms for draws from the prior.

        Args:
            batch: rows (N, D) with their inputs.
            draws: the number S of draws for each row.
            from_prior: whether the latents are drawn from the prior.

        Returns:
            The terms, (S, N) nats each.
        """
        if from_prior or not self.is_recorded or not batch.x.is_cpu:
            return self.sampler(batch, draws, from_prior=from_prior)
        tensors = _tensors(batch).items()
        key = (draws, batch.num_rows, *((name, each.shape, each.stride(), each.dtype) for name, each in tensors))
        self.num_calls[key] += 1
        if self.num_calls[key] <= MIN_CALLS:
            return self.sampler(batch, draws)
        try:
            outputs = self._run_graph(key, batch, draws)
        except Exception:  # if the program itself is wrong, the sampler raises the error
            self.is_recorded, self.graphs, self.memory = False, {}, KeptMemory()
            return self.sampler(batch, draws)
        likelihood, ratio = outputs
        assert likelihood is not None
        assert ratio is not None
        self.sampler.require_possible(ratio)
        return LogWeightTerms(likelihood, ratio)

    def _run_graph(self, key: Hashable, batch: Batch, draws: int) -> Outputs:
        """The outputs of a shape's graph, which is recorded at first and compared with the handlers now and then."""
        names, tensors = zip(*_tensors(batch).items(), strict=True)

        def weigh(*values: Tensor) -> Outputs:
            with pyro.validation_enabled(False), ScalarGuard():
                given = dict(zip(names, values, strict=True))
                terms = self.sampler(Batch.of(given.pop("x"), given | {"num_rows": batch.num_rows}), draws, check=False)
            return terms.log_likelihood, terms.log_ratio

        if (self.num_calls[key] - MIN_CALLS) % CHECK_INTERVAL != 1:
            return self.graphs[key](*tensors)
        with replay_rng() as reset_rng:
            try:
                if (graph := self.graphs.get(key)) is None:
                    graph = record_static(weigh, *tensors)
                    graph.keep_memory(self.memory)
                    self.graphs[key] = graph
                with graph.restore_written():
                    expected = weigh(*tensors)
                reset_rng()
                outputs = graph(*tensors)
                require_close(outputs, expected)
            except Exception:
                reset_rng()  # the handlers take the same draws
                raise
        return outputs


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch that a program may see, by name."""
    inputs = {name: value for name, value in batch.row_inputs.items() if isinstance(value, torch.Tensor)}
    return {"x": batch.x} | inputs
