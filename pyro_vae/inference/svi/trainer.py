"""The training loop of a fit: epochs of `SVI.step`, each of them reproducible to the bit."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pyro_vae.context_managers import (
    defer_signals,
    evaluating,
    ignore_nan_loss_warnings,
    limit_threads,
    seeded,
    set_training,
)
from pyro_vae.data import Split
from pyro_vae.distributed import SINGLE_PROCESS, GradientReducer, ProcessGroup
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.compile.compiled_elbo import Compiled_ELBO, is_recorded
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.inference.objectives.elbo_terms import RowWeighted, Terms
from pyro_vae.inference.svi.checkpoint import Checkpoint, checkpoint_settings, quick_fingerprint
from pyro_vae.inference.svi.fit_state import FitState
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.prepare_fit import check_batches, default_loss, loss_name, vectorize_particles
from pyro_vae.inference.svi.progress import Progress, Style
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.validation_elbo import HeldOutRows, collapse_advice
from pyro_vae.programs.parameters import DeviceAndDtype, copy_state, load_state, named_parameters
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.program_defaults import check_labels, init_program_from_data, log_prior_of, set_num_features
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs, require_mask
from pyro_vae.programs.traces import trace_program

START_ROWS = 1000  # shown to a program's `init_from_data`
GRAPH_CHECK_STEPS = (1, 1, 1, 100)  # steps between checks of a graph at the start of the first epochs, and of others
FINITE_CHECK_INTERVAL = 50  # steps; on an accelerator each check of a value waits for the device
FLOPS_FOR_THREADS = 15_000_000  # in a step: with fewer, two threads took as long as one on two cores


class Trainer:
    """One run of `fit`: what is the same in all epochs, and the fit's `state` after the last whole epoch."""

    record_class = EpochRecord

    def __init__(
        self,
        program: Any,
        train: Split,
        valid: Split | None,
        settings: TrainConfig,
        loss: ELBO | None,
        labels: Tensor | None,
        target: DeviceAndDtype,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.program, self.train, self.valid, self.settings = program, train, valid, settings
        self.target, self.group, self.reducer = target, group, GradientReducer(group)
        self.labels = train.labels if labels is None else labels
        if self.labels is not None:
            check_labels(program, self.labels)  # a recorded step does not check them
        if target.device.type == "cuda" and train.memory_bytes * 4 < torch.cuda.mem_get_info(target.device)[0]:
            self.train = train.to_device(target.device)
        self.num_rows = len(train)
        self.batch_size = min(settings.batch_size, self.num_rows)
        self.held_out = None if valid is None else HeldOutRows(valid, target, self.num_rows)
        self.num_units = 0
        for split in (train, valid):
            require_mask(program, None if split is None else split.mask)
        first = torch.arange(self.batch_size)
        example = self._batch(train[first], first)
        guide = self._trace_guide(example)
        self.plates = find_plates(program, example)
        self.plates.check(example.x)
        check_batches(self.plates, settings, self.num_rows, has_valid=valid is not None, num_processes=group.size)
        self._init_from_data(train)
        loss = loss or default_loss(guide, self.plates, settings.num_particles or 1)
        self._set_up_svi(vectorize_particles(loss, program, self.plates, example))
        self.state = FitState(copy_state(program))

    def _trace_guide(self, example: Batch) -> Trace:
        """Trace the program once: functions make their parameters, on real rows; floating-point operations count."""
        counter = FlopCounterMode(display=False)  # it hooks into gradients, so they have to be enabled
        with torch.enable_grad(), seeded(self.settings.epoch_seed(-2)), evaluating(self.program), counter:
            _, guide = trace_program(self.program, example)
        self.flops_per_step = 3 * counter.get_total_flops()  # the backward pass takes twice those of the forward pass
        return guide

    def _init_from_data(self, train: Split) -> None:
        rows = torch.linspace(0, self.num_rows - 1, min(self.num_rows, START_ROWS)).long()
        init_program_from_data(self.program, train.mean.to(*self.target), train[rows].to(*self.target))
        set_num_features(self.program, train.shape[1])

    def _penalty(self) -> Tensor:
        """−log p(θ)/N, which the objective adds where the program has a prior of its parameters."""
        log_prior = log_prior_of(self.program)
        assert log_prior is not None
        return -log_prior / self.num_rows

    def _set_up_svi(self, loss: ELBO) -> None:
        """Set up the optimizer, the terms and `SVI` on the program with scaled sites; all its parameters exist."""
        settings = self.settings
        self.optimizer = FusedOptimizer(settings.optimizer, settings.learning_rate, settings.clip)
        self.optimizer.add_parameters(named_parameters(self.program))
        if log_prior_of(self.program) is not None:
            self.optimizer.penalty = self._penalty
        self.weigh = RowWeighted(self.plates, self.num_rows)
        if settings.beta != 1 or settings.kl_warmup:  # a tensor may change between calls of a graph, a number may not
            self.weigh.beta = torch.ones((), dtype=self.target.dtype, device=self.target.device)
        self.terms = Terms(self.plates, self.num_rows)
        self.loss_name = loss_name(loss)
        model = self.weigh(bind_supported_kwargs(self.program.model))
        guide = self.weigh(bind_supported_kwargs(self.program.guide))
        elbo = self.terms.attach(loss)
        self.compiled: Compiled_ELBO | None = None
        if settings.compile or (settings.compile is None and is_recorded(loss)):
            parameters = lambda: self.optimizer.parameters.values()  # noqa: E731
            self.compiled = Compiled_ELBO(
                elbo, fuse=bool(settings.compile), terms=self.terms, trainable_parameters=parameters
            )
        self.svi = SVI(model, guide, self.optimizer, self.compiled or elbo)
        if not self.group.is_single:
            self.optimizer.reduce = self.reducer
            self.svi.loss_and_grads = self.reducer.capture_loss(self.svi.loss_and_grads)

    def fit(self, path: Path | None, on_epoch: Callable[..., None] | None, style: Style) -> FitResult:
        """Fit until the last epoch or out of patience, from the checkpoint at `path` where there is one."""
        checkpoint = None
        if path is not None and self.group.is_main:
            checkpoint = Checkpoint(path, checkpoint_settings(self.settings, self.loss_name, self.train))
            if (saved := checkpoint.load()) is not None:
                self._restore_state(saved)
        self._synchronize_state()
        try:
            with ignore_nan_loss_warnings(), limit_threads(1 if self.flops_per_step < FLOPS_FOR_THREADS else None):
                self._run_epochs(checkpoint, on_epoch, style)
        finally:  # finished, interrupted or diverged: keep the last whole epoch, load the best weights
            with defer_signals():
                if checkpoint is not None:
                    checkpoint.write_latest()
                load_state(self.program, self.state.best_weights)
                set_training(self.program, False)
        history, best_epoch = self.state.history, self.state.best_epoch
        active = history[best_epoch - 1]["active_units"] if history else None
        advice = collapse_advice(active, self.num_units, self.settings.epochs)
        return FitResult(history, best_epoch, self._stopped(), history[-1]["seconds"] if history else 0.0, advice)

    def _run_epochs(self, checkpoint: Checkpoint | None, on_epoch: Callable[..., None] | None, style: Style) -> None:
        earlier = self.state.history[-1]["seconds"] if self.state.history else 0.0
        start, steps = time.perf_counter(), math.ceil(self.num_rows / self.batch_size)
        style = style if self.group.is_main else "none"
        with Progress(style, self.settings.epochs, steps, self.state.epoch) as progress:
            while not self._stopped():
                values = self._train_epoch(progress)
                row = self.record_class(**values, seconds=earlier + time.perf_counter() - start)
                row = self.group.broadcast(row)  # so that all stop at the same epoch and keep the same weights
                self._update_best(row)
                progress.epoch(row)
                if on_epoch is not None and self.group.is_main:
                    on_epoch(self.state.history)
                if checkpoint is not None:
                    checkpoint.update(self._current_state())

    def _stopped(self) -> str:
        """Why the fit has ended; empty while it has not."""
        if self.settings.out_of_patience(self.state.epoch, self.state.best_epoch):
            return "patience"
        return "epochs" if self.state.epoch >= self.settings.epochs else ""

    def _current_state(self) -> FitState:
        """A copy of the state with the current weights and the optimizer's state."""
        weights, optimizer = copy_state(self.program), self.optimizer.get_state()
        return replace(self.state, weights=weights, optimizer=optimizer, history=list(self.state.history))

    def _restore_state(self, state: FitState) -> None:
        load_state(self.program, state.weights or {})
        self.optimizer.set_state(state.optimizer or {})
        self.state = replace(state, weights=None, optimizer=None)

    def _synchronize_state(self) -> None:
        """Start all processes from the state of rank 0; `InputError` where program, rows or settings differ."""
        if self.group.is_single:
            return
        splits = {"training rows": self.train, "validation rows": self.valid}
        fingerprints = {name: None if split is None else quick_fingerprint(split) for name, split in splits.items()}
        shapes = {name: tuple(value.shape) for name, value in named_parameters(self.program).items()}
        self.group.require_equal(asdict(self.settings) | fingerprints | {"loss": self.loss_name, "parameters": shapes})
        self._restore_state(self._current_state().broadcast(self.group))

    def _train_epoch(self, progress: Progress) -> dict[str, Any]:
        """Train on all batches once, in an order and with random numbers that depend on seed and epoch only."""
        self.terms.reset()
        if self.compiled:  # the program's Python code may depend on the epoch
            self.compiled.check_after = GRAPH_CHECK_STEPS[min(self.state.epoch, 3)]
        set_training(self.program, True)
        total = self._train_batches(progress)
        if not all(torch.isfinite(parameter).all() for parameter in self.optimizer.parameters.values()):
            raise self._diverged("a parameter became NaN or infinite", self.state.epoch + 1)
        self.terms.all_reduce(self.group)
        self.group.broadcast_tensors(list(self.program.buffers()) if isinstance(self.program, nn.Module) else [])
        epoch = self.state.epoch = self.state.epoch + 1
        row: dict[str, Any] = {"epoch": epoch, "step": epoch * math.ceil(self.num_rows / self.batch_size)}
        beta = float(self.weigh.beta)
        row |= self._epoch_terms("", -float(total) / self.num_rows if beta == 1 else None, self.train)
        return row | self._validate() | {"learning_rate": self.optimizer.learning_rate, "beta": beta}

    def _train_batches(self, progress: Progress) -> Any:
        """Take a step on each batch; the sum of the losses over rows, a number or a tensor."""
        settings, epoch = self.settings, self.state.epoch
        total: Any = 0.0
        order, pixels = self._epoch_generators()
        for step, rows in enumerate(self.train.batches(self.batch_size, order)):
            progress_in_epochs = epoch + step * self.batch_size / self.num_rows
            index = self.group.shard(rows)
            self.reducer.share = len(index) / len(rows)
            batch = self._batch(self.train.batch(index, pixels), index)
            if epoch == 0 and len(index):
                self.plates.check(batch.x)
            self.optimizer.learning_rate = settings.rate(progress_in_epochs)
            self._set_kl_weight(settings.kl_weight(progress_in_epochs))
            total = total + self._step(batch, first=progress_in_epochs == 0) * len(rows)
            is_check_due = self.target.device.type == "cpu" or step % FINITE_CHECK_INTERVAL == 0
            if is_check_due and not math.isfinite(total):
                raise self._diverged(f"the objective became {float(total)}", epoch + 1)
            progress.step()
        return total

    def _epoch_generators(self) -> tuple[torch.Generator, torch.Generator]:
        """Seed this epoch's random numbers; the generators of the rows' order and of values that are drawn anew."""
        seed = self.settings.epoch_seed(self.state.epoch)
        rank_seed = self.group.rank_seed(seed)
        pyro.set_rng_seed(rank_seed)
        order = torch.Generator().manual_seed(seed)
        if self.group.is_single and self.target.device.type == "cpu":
            return order, order
        return order, torch.Generator(self.target.device).manual_seed(rank_seed)

    def _step(self, batch: Batch, first: bool) -> Any:
        """Take one step of `SVI`; its loss on the batch of all processes, a number or a tensor on the device."""
        if not len(batch.x):  # this rank has no row of a small last batch, and takes part in the reduction
            self.reducer.loss = 0.0
            self.optimizer(self.optimizer.parameters.values())
            return self.reducer.loss
        if self.compiled and not first and not self.compiled.fallback_reason:  # `SVI.step` without its param capture
            loss = self.svi.loss_and_grads(self.svi.model, self.svi.guide, batch.x, batch.row_inputs)
            self.optimizer(self.optimizer.parameters.values())
        else:
            with pyro.validation_enabled(first):
                loss = self.svi.step(batch.x, batch.row_inputs)
        if first and self.optimizer.parameters and not self.optimizer.has_stepped:
            raise InputError(
                "no parameter took part in the first step: tell Pyro of a module's parameters in model or guide "
                '(pyro.module("decoder", decoder)), or make them by pyro.param'
            )
        return loss if self.group.is_single else self.reducer.loss

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """The validation ELBO and its terms, with the same random numbers every epoch; None without rows."""
        if self.held_out is None or self.valid is None:
            names = ("valid_elbo", "valid_reconstruction", "valid_kl", "valid_kl_apart", "active_units")
            return dict.fromkeys(names)
        beta, epoch = float(self.weigh.beta), self.state.epoch
        self.terms.reset(by_site=True)
        self._set_kl_weight(1.0)
        set_training(self.program, False)
        seed = self.settings.epoch_seed(-1)
        loss = self.held_out.mean_loss(self.svi.evaluate_loss, self.plates, self.group, seed, check=epoch == 1)
        self._set_kl_weight(beta)
        self.terms.all_reduce(self.group)
        row = self._epoch_terms("valid_", -loss, self.valid) | {"valid_kl_apart": self.terms.site_kl_means()}
        if not math.isfinite(row["valid_elbo"]):
            raise self._diverged(f"the validation ELBO became {row['valid_elbo']}", epoch)
        active = None
        if self.group.is_main:
            active, self.num_units = self.held_out.active_units(self.program, self.plates)
        return row | {"active_units": active}

    def _epoch_terms(self, prefix: str, elbo: float | None, split: Split) -> dict[str, Any]:
        """The ELBO and its terms in the data's units, from the traces; only `elbo` where sites are enumerated."""
        elbo, reconstruction, kl = self.terms.means() or (elbo, None, None)
        jacobian = float(split.log_jacobian.mean())
        shifted = {"elbo": elbo, "reconstruction": reconstruction}
        row = {prefix + name: None if value is None else value + jacobian for name, value in shifted.items()}
        return row | {f"{prefix}kl": kl}

    def _update_best(self, row: EpochRecord) -> None:
        state = self.state
        state.history.append(row)
        value = float(state.epoch) if row.valid_elbo is None else row.valid_elbo
        if value > state.best_value:
            state.best_epoch, state.best_value, state.best_weights = state.epoch, value, copy_state(self.program)

    def _set_kl_weight(self, beta: float) -> None:
        if isinstance(self.weigh.beta, Tensor):
            self.weigh.beta.fill_(beta)

    def _batch(self, x: Tensor, index: Tensor) -> Batch:
        row_inputs = {name: value.to(self.target.device) for name, value in self.train.row_inputs(index).items()}
        if self.labels is not None:
            row_inputs["labels"] = self.labels[index].to(self.target.device)
        return Batch(x.to(*self.target), index.to(self.target.device), num_rows=self.num_rows, **row_inputs)

    def _diverged(self, what: str, epoch: int) -> DivergedError:
        return DivergedError(
            f"{what} in epoch {epoch}; the weights of epoch {self.state.best_epoch} were kept. Likely causes: a "
            f"learning rate too high (try {self.settings.learning_rate / 10:g}), gradients too large (try clip=10), "
            "columns on very different scales (standardize them), a likelihood scale too small"
        )
