"""The training loop that fit methods share: epochs, the best weights, patience, checkpoints, callbacks, the result."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae.atomic_write import require_file_path
from pyro_vae.context_managers import defer_signals, ignore_nan_loss_warnings, limit_threads, seeded, set_training
from pyro_vae.data import Dataset, RowsGiven, as_split
from pyro_vae.distributed import ProcessGroup, process_group
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.inference.svi.callbacks import Callback, Callbacks, RunningFit
from pyro_vae.inference.svi.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    FitState,
    checkpoint_settings,
    quick_fingerprint,
)
from pyro_vae.inference.svi.fit_method import FitMethod, FitTask
from pyro_vae.inference.svi.restarts import (
    EPOCHS_BELOW,
    RATE_FACTOR,
    FirstEpochFall,
    fall_from_best,
    validation_note,
)
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.validation_elbo import collapse_advice
from pyro_vae.programs.parameters import (
    DeviceAndDtype,
    copy_state,
    device_and_dtype,
    load_state,
    named_parameters,
    use_param_store,
)
from pyro_vae.typing import Program

FLOPS_FOR_THREADS = 15_000_000  # in a step: with fewer, two threads took as long as one on two cores
log = logging.getLogger(__name__)


def fit_with(
    method: FitMethod,
    program: Program,
    data: RowsGiven,
    config: TrainConfig,
    *,
    valid: RowsGiven | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    labels: Tensor | None = None,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    group: ProcessGroup | None = None,
) -> FitResult:
    """Fit a program by any fit method in the shared training loop; `fit` is this with `SVIMethod`.

    Args:
        method: the fit method, an object that no other fit uses.
        program: the program, trained in place.
        data: the training rows (N, D), or a data set, which may have validation rows.
        config: the training settings.
        valid: validation rows, instead of the data set's.
        device: where to; by default the program stays where it is.
        dtype: the floating type of weights and rows; by default the program's own.
        labels: labels (N,) of the training rows.
        checkpoint: a folder that keeps the state of the fit, from which it resumes.
        callbacks: called at the start, after each epoch and at the end.
        group: the processes that fit together; by default those that `torchrun` started.

    Returns:
        The fit's history. `InputError`, `DivergedError` and `RankLostError` as in `fit`.
    """
    path = None if checkpoint is None else Path(checkpoint) / CHECKPOINT
    if path is not None:
        require_file_path(path)
    train = as_split(data, "train")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    if config.patience and held_out is None:
        raise InputError("patience watches the validation ELBO, so it needs validation rows: give valid=…")
    target = _convert(program, train[:1], device, dtype)
    with use_param_store(program), seeded(config.seed):
        task = FitTask(program, train, held_out, config, labels, target, group or process_group())
        return FitLoop(method, task, callbacks, path).run()


def _convert(program: Program, like: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> DeviceAndDtype:
    """Convert a program's parameters and buffers; return the device and dtype that its rows then need."""
    if isinstance(program, nn.Module):
        program.to(device=device, dtype=dtype)
    for parameter in named_parameters(program).values():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return device_and_dtype(program, like=like[:0].to(device=device, dtype=dtype))


class FitLoop:
    """One fit: its `state` is that after the last whole epoch.

    Args:
        method: how parameters change in an epoch.
        task: the program, rows and settings.
        callbacks: called by the process of rank 0.
        path: the file of the checkpoint, if there is to be one.
    """

    def __init__(
        self, method: FitMethod, task: FitTask, callbacks: Sequence[Callback] = (), path: Path | None = None
    ) -> None:
        self.method, self.task, self.config, self.group = method, task, task.config, task.group
        self.callbacks, self.path = callbacks if task.group.is_main else (), path
        self._fall_at_rest: float | None = None  # of the first epoch, at a learning rate of zero
        for setting, allowed in method.without_effect.items():
            if (value := getattr(task.config, setting)) not in allowed:
                raise InputError(f"{method.name} does not read {setting}, so {value} has no effect: leave it out")
        method.prepare(task)
        self.state = FitState(
            copy_state(task.program), best_method=method.state() if self.config.max_restarts else None
        )

    def run(self) -> FitResult:
        """Fit until the last epoch, out of patience or stopped by a callback, from the checkpoint where there is one.

        In the end, whatever ends it, the program has the best weights and the checkpoint the last whole epoch.
        """
        checkpoint, program = None, self.task.program
        if self.path is not None and self.group.is_main:
            settings = checkpoint_settings(self.config, self.method.name, self.task.train)
            checkpoint = Checkpoint(self.path, settings)
            if (saved := checkpoint.load()) is not None:
                self._restore_state(saved)
            checkpoint.settings = settings | {"precision": self.task.precision}
        self._synchronize_state()
        self.running = RunningFit(
            program,
            self.config.epochs,
            self.task.steps_per_epoch,
            self.state.history,
            precision=self.task.precision,
        )
        threads = 1 if self.task.flops_per_step < FLOPS_FOR_THREADS else None
        with Callbacks(self.running, self.callbacks).running() as callbacks:
            try:
                with ignore_nan_loss_warnings(), limit_threads(threads):
                    self._run_epochs(checkpoint, callbacks)
            finally:
                with defer_signals():
                    if checkpoint is not None:
                        checkpoint.write_latest()
                    load_state(program, self.state.best_weights)
                    set_training(program, False)
            self.running.stopped = self._stopped()
        return self._result()

    def _result(self) -> FitResult:
        history, best_epoch, held_out = self.state.history, self.state.best_epoch, self.task.held_out
        active = history[best_epoch - 1].active_units if history else None
        advice = "" if held_out is None else collapse_advice(active, held_out.num_units, self.config.epochs)
        if self.group.is_main and (note := validation_note(history)):
            log.warning("note: %s", note)
        seconds = history[-1].seconds if history else 0.0
        return FitResult(history, best_epoch, self._stopped(), seconds, advice, self.task.precision)

    def _run_epochs(self, checkpoint: Checkpoint | None, callbacks: Callbacks) -> None:
        state = self.state
        earlier, start = state.history[-1].seconds if state.history else 0.0, time.perf_counter()
        while not self._stopped():
            self._steps = 0
            try:
                record = self.method.epoch(state.epoch, lambda: self._step_taken(callbacks))
            except DivergedError as error:
                if isinstance(error, FirstEpochFall) and self._falls_at_rest(error.fall):
                    self._go_on_unwatched()
                    continue
                if not self._may_go_back or state.epoch == self._steps == 0:  # of no step, no rate is the cause
                    raise self._diverged(str(error)) from error
                self._go_back(str(error))
                continue
            record = replace(record, seconds=earlier + time.perf_counter() - start, restarts=state.restarts)
            record = self.group.broadcast(record)  # so that all stop at the same epoch and keep the same weights
            self._update_best(record)
            callbacks.epoch()
            self.running.stop = self.group.broadcast(self.running.stop)
            if not self._stopped() and (fall := self._fall) is not None:
                self._go_back(f"the objective has fallen {fall:,.0f} nats per row below its best")
            if checkpoint is not None:
                checkpoint.update(self._current_state())

    def _step_taken(self, callbacks: Callbacks) -> None:
        self._steps += 1
        callbacks.step()

    def _stopped(self) -> str:
        """Why the fit has ended; empty while it has not."""
        if self.running.stop:
            return "callback"
        if self.config.out_of_patience(self.state.epoch, self.state.best_epoch):
            return "patience"
        if self.state.epoch >= self.config.epochs:
            return "epochs"
        return "diverged" if self._fall is not None and not self._may_go_back else ""

    @property
    def _fall(self) -> float | None:
        """How far the fit has run away, nats per row; None where it has not, or is not watched."""
        history, restarts = self.state.history, self.state.restarts
        is_watched = self.state.best_method is not None and history and history[-1].restarts == restarts
        return fall_from_best(history, EPOCHS_BELOW) if is_watched else None

    @property
    def _may_go_back(self) -> bool:
        return self.state.best_method is not None and self.state.restarts < self.config.max_restarts

    def _falls_at_rest(self, fall: float) -> bool:
        """Whether the first epoch falls at least half as far at a learning rate of zero: the rate is not the cause."""
        if self._fall_at_rest is None:
            self._load_best(self.state.restarts)
            self.task.rate_factor = 0.0
            try:
                self.method.epoch(self.state.epoch, lambda: None)
                self._fall_at_rest = 0.0
            except DivergedError as error:
                self._fall_at_rest = error.fall if isinstance(error, FirstEpochFall) else 0.0
            self._load_best(self.state.restarts)
        return self._fall_at_rest >= fall / 2

    def _go_on_unwatched(self) -> None:
        """Take the first epoch again at the same learning rate, and let it end where it ends."""
        self.task.watches_first_epoch = False
        self._load_best(self.state.restarts)
        if self.group.is_main:
            log.warning(
                "note: the first epoch ends far below its beginning at any learning rate, since single rows are that "
                "improbable at first: the fit goes on"
            )

    def _load_best(self, restarts: int) -> None:
        """Set the best weights and the fit method's state there, and the learning rate of so many restarts."""
        state = self.state
        state.restarts = restarts
        load_state(self.task.program, state.best_weights)
        self.method.load_state({name: value.clone() for name, value in (state.best_method or {}).items()})
        self.task.rate_factor = RATE_FACTOR**restarts

    def _go_back(self, reason: str) -> None:
        """Continue from the best weights and the fit method's state there, with a lower learning rate."""
        state = self.state
        self._load_best(state.restarts + 1)
        if self.group.is_main:
            log.warning(
                "note: %s after epoch %d: the fit goes back to the weights of epoch %d, with a learning rate of %.2g "
                "(restart %d of %d)",
                reason,
                state.epoch,
                state.best_epoch,
                self.config.learning_rate * self.task.rate_factor,
                state.restarts,
                self.config.max_restarts,
            )

    def _update_best(self, record: EpochRecord) -> None:
        state = self.state
        state.epoch += 1
        state.history.append(record)
        value = record.selection_value
        if value is None:  # the last epoch, unless it lies far below the best one
            value = float(state.epoch) if fall_from_best(state.history) is None else -math.inf
        if value > state.best_value:
            state.best_epoch, state.best_value, state.best_weights = state.epoch, value, copy_state(self.task.program)
            state.best_method = None if state.best_method is None else self.method.state()

    def _current_state(self) -> FitState:
        """A copy of the state with the current weights and the method's state."""
        weights, history = copy_state(self.task.program), list(self.state.history)
        return replace(self.state, weights=weights, method=self.method.state(), history=history)

    def _restore_state(self, state: FitState) -> None:
        load_state(self.task.program, state.weights or {})
        self.method.load_state(state.method or {})
        self.state = replace(state, weights=None, method=None)
        self.task.rate_factor = RATE_FACTOR**state.restarts

    def _synchronize_state(self) -> None:
        """Start all processes from the state of rank 0; `InputError` where program, rows or settings differ."""
        if self.group.is_single:
            return
        splits = {"training rows": self.task.train, "validation rows": self.task.valid}
        fingerprints = {name: None if split is None else quick_fingerprint(split) for name, split in splits.items()}
        shapes = {name: tuple(value.shape) for name, value in named_parameters(self.task.program).items()}
        method = {"loss": self.method.name, "parameters": shapes}
        self.group.require_equal(asdict(self.config) | fingerprints | method)
        self._restore_state(self._current_state().broadcast(self.group))

    def _diverged(self, what: str) -> DivergedError:
        state, rate = self.state, self.config.learning_rate * self.task.rate_factor / 10
        tried = f" after {state.restarts} of {self.config.max_restarts} restarts" if state.restarts else ""
        return DivergedError(
            f"{what} in epoch {state.epoch + 1}{tried}; the weights of epoch {state.best_epoch} were kept. Likely "
            f"causes: a learning rate too high (try {rate:g}), gradients too large (try clip=10), "
            "columns on very different scales (standardize them), a likelihood scale too small"
        )
