"""What a fit method is to the training loop, and what it is given: a program, its rows and the settings."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_vae.context_managers import derived_seed, evaluating, seeded, set_rng_seed, set_training
from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import require_same_preparation
from pyro_vae.data.stored_split import readable_rows
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import DivergedError, InputError, PrecisionWarning
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.svi.count_flops import CountFlops
from pyro_vae.inference.svi.prepare_fit import check_batches
from pyro_vae.inference.svi.restarts import FirstEpochFall, fall_in_epoch
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.validation_elbo import HeldOutRows
from pyro_vae.models.exact_density import Density, rows_with_nan
from pyro_vae.programs.find_plates import find_plates, trace_rows
from pyro_vae.programs.latent_support import latents_outside, uncertain_latents
from pyro_vae.programs.observed_support import require_inside
from pyro_vae.programs.parameters import DeviceAndDtype
from pyro_vae.programs.precision_check import check_precision
from pyro_vae.programs.program_defaults import (
    check_labels,
    init_program_from_data,
    init_program_from_labels,
    set_fitted_measure,
    set_num_features,
)
from pyro_vae.programs.pyro_guides import forget_on_error
from pyro_vae.programs.row_inputs import Batch, require_mask, require_taken
from pyro_vae.programs.support import require_density_of_columns
from pyro_vae.programs.traces import sample_sites
from pyro_vae.resource_limits import require_memory
from pyro_vae.typing import Program

START_ROWS = 1000  # shown to a program's `init_from_data`
VALUES = 10**9 + 1  # the stream of values that are drawn anew in each epoch
Unread = Mapping[str, tuple[object, ...]]  # settings that a fit method does not read, and what they may be
READS_ALL: Unread = {}
WITHOUT_GUIDE: Unread = {  # settings of the ELBO and its step, at what they are unless given
    "beta": (1.0,),
    "kl_warmup": (0.0,),
    "num_particles": (None, 1),
    "compile": (None, False),
    "precision": ("float32",),
}
FINITE_CHECK_INTERVAL = 50  # steps; on an accelerator each check of a value waits for the device
Loss = Tensor | float


@dataclass(frozen=True)
class Step:
    """A batch and its place in the fit.

    Attributes:
        batch: the rows of this process, none where a small last batch has too few for all processes.
        num_rows: the number of rows of the batch in all processes.
        epoch: the number of its epoch, from zero.
        done: the epochs before it, with a fraction.
        learning_rate: the schedule's, lower after restarts.
    """

    batch: Batch
    num_rows: int
    epoch: int
    done: float
    learning_rate: float

    @property
    def is_first(self) -> bool:
        """Whether it is the first step of the fit."""
        return self.done == 0


class FitTask:
    """A program, its rows and the settings of a fit, checked; functions have made their parameters.

    `train` and `valid` are the rows whose weight is above 0: `places` (N,) are their indices in the training set, of
    `num_places` rows, None where that is all of them. `weights` (N,) have the mean 1; None where all are equal.

    Args:
        program: the program, with its parameters on the device and of the type of `target`.
        train: the training rows.
        valid: the validation rows, if any.
        config: the training settings.
        labels: labels (N,) of the training rows; by default those of the rows themselves.
        target: the device and type that rows are converted to.
        group: the processes that fit together.
    """

    def __init__(
        self,
        program: Program,
        train: Split,
        valid: Split | None,
        config: TrainConfig,
        labels: Tensor | None,
        target: DeviceAndDtype,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.program, self.config, self.target, self.group = program, config, target, group
        self.rate_factor = 1.0  # the loop lowers it where a fit runs away
        self.precision = "float32"  # of the products of layers in the steps; a method that reads the setting chooses it
        self.watches_first_epoch = bool(config.max_restarts and not config.kl_warmup)
        self.num_places, self.places = len(train), train.counted
        self.labels = train.labels if labels is None else labels
        if self.labels is not None and self.labels.shape != (self.num_places,):
            raise InputError(f"expected a label for each of {self.num_places} rows, got {tuple(self.labels.shape)}")
        if self.labels is not None and self.places is not None:
            self.labels = self.labels[self.places]
        train, valid = train.without_uncounted(), None if valid is None else valid.without_uncounted()
        self.train, self.valid, self.weights = train, valid, train.relative_weights
        if self.labels is not None:
            check_labels(program, self.labels)  # a recorded step does not check them
        if target.device.type == "cuda" and train.memory_bytes * 4 < torch.cuda.mem_get_info(target.device)[0]:
            self.train = train.to_device(target.device)
        self.num_rows = len(train)
        self.batch_size = min(config.batch_size, self.num_rows)
        particles = config.num_particles or 1
        require_memory(
            4 * particles * self.batch_size * train.shape[1],
            f"{particles:,} draws for each of {self.batch_size} rows",
            "give a smaller num_particles or batch_size",
        )
        self.held_out = None if valid is None else HeldOutRows(valid, target, self.num_places)
        for split in (train, valid):
            if split is not None:
                if split.shape[1] != train.shape[1]:
                    raise InputError(
                        f"training rows of {train.shape[1]} columns, and validation rows of {split.shape[1]}"
                    )
                require_same_preparation(train.measure, split.measure)
                require_mask(program, split.mask)
                require_taken(program, split.inputs)
        first = torch.arange(self.batch_size)
        self.example = self.batch(train[first], first)
        with forget_on_error(program):
            self._run_first()
            require_density_of_columns(self.plates.support, train.measure)
            check_batches(self.plates, config, self.num_rows, has_valid=valid is not None, num_processes=group.size)
        most = readable_rows(train.shape[1], START_ROWS)
        rows = torch.linspace(0, self.num_rows - 1, min(self.num_rows, most)).long()
        shown = rows_with_nan(train, rows) if isinstance(program, Density) else train[rows]
        init_program_from_data(program, train.mean.to(*target), shown.to(*target))
        if self.labels is not None:
            init_program_from_labels(program, self.labels)
        set_num_features(program, train.shape[1])
        set_fitted_measure(program, train.measure)
        self._warn_of_rounding(train[first])

    def _run_first(self) -> None:
        """Run the program on the first batch: functions make their parameters, and its plates are found."""
        program = self.program
        with torch.enable_grad(), seeded(self.config.epoch_seed(-2)), evaluating(program), CountFlops() as counter:
            model, self.guide_trace = trace_rows(program, self.example)
        self.uncertain_latents = uncertain_latents(sample_sites(model), sample_sites(self.guide_trace))
        self.latents_outside = latents_outside(sample_sites(model), self.uncertain_latents)
        self.flops_per_step = 3 * counter.total  # the backward pass takes twice those of the forward pass
        self.plates = find_plates(program, self.example)
        self.check(self.example)

    def _warn_of_rounding(self, exact_rows: Tensor) -> None:
        """Warn where the program's dtype costs the first rows more than a thousandth of a nat."""
        with evaluating(self.program):
            message = check_precision(self.program, self.plates, self.example, exact_rows).message
        if message and self.group.is_main:
            warnings.warn(message, PrecisionWarning, stacklevel=2)

    def rate(self, epoch: float) -> float:
        """The learning rate at a (fractional) epoch, counted from zero: the schedule's, lower after restarts."""
        return self.config.rate(epoch) * self.rate_factor

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return math.ceil(self.num_rows / self.batch_size)

    def batch(self, x: Tensor, index: Tensor) -> Batch:
        """A batch on the device.

        Args:
            x: training rows (n, D).
            index: their indices (n,) among all training rows.

        Returns:
            The rows with their inputs.
        """
        places = index if self.places is None else self.places[index]
        given = {"rows": places, "num_rows": self.num_places, **self.train.row_inputs(index)}
        if self.labels is not None:
            given["labels"] = self.labels[index]
        batch = Batch.of(x.to(*self.target), given)
        return batch if self.weights is None else batch.with_weights(self.weights[index])

    @property
    def has_weights(self) -> bool:
        """Whether training or validation rows have weights that differ."""
        return self.weights is not None or (self.held_out is not None and self.held_out.weights is not None)

    def check(self, batch: Batch) -> None:
        """`InputError` where an observed value of a batch is not finite or outside the support of its site."""
        self.plates.check(batch.x, batch.mask)
        require_inside(self.program, self.plates, batch)

    def train_epoch(self, epoch: int, take_step: Callable[[Step], Loss], on_step: Callable[[], None]) -> Loss:
        """Take a step on each batch, in an order and with random numbers that depend on seed and epoch only.

        Args:
            epoch: the number of the epoch, from zero.
            take_step: takes a step, and returns the loss in nats per row of the batch of all processes.
            on_step: called after each step.

        Returns:
            The sum of the losses over all rows; `DivergedError` where it is not finite, and `FirstEpochFall` where the
            first epoch ends far below its beginning.
        """
        set_training(self.program, True)
        total: Loss = 0.0
        first: list[Loss] = []  # of the first epoch
        for number, step in enumerate(self._steps(epoch)):
            loss = take_step(step)
            total = total + loss * step.num_rows
            if epoch == 0:
                first.append(loss)
            is_check_due = self.target.device.type == "cpu" or number % FINITE_CHECK_INTERVAL == 0
            if is_check_due and not math.isfinite(total):
                raise DivergedError(f"the objective became {float(total)}")
            on_step()
        if self.watches_first_epoch and (fall := fall_in_epoch(first, self.config.beta)):
            raise FirstEpochFall(fall)
        return total

    def end_epoch(self, parameters: Iterable[Tensor]) -> None:
        """After an epoch's steps: `DivergedError` where a parameter is not finite; buffers are those of rank 0."""
        if not all(torch.isfinite(parameter).all() for parameter in parameters):
            raise DivergedError("a parameter became NaN or infinite")
        self.group.broadcast_tensors(list(self.program.buffers()) if isinstance(self.program, nn.Module) else [])

    def _steps(self, epoch: int) -> Iterator[Step]:
        order, pixels = self._epoch_generators(epoch)
        batches = self.train.batches(self.batch_size, order)
        if self.plates.num_rows is not None:  # a guide with parameters for each row knows the rows by their order
            batches = iter([torch.arange(self.num_rows)])
        for number, rows in enumerate(batches):
            index = self.group.shard(rows)
            batch = self.batch(self.train.batch(index, pixels), index)
            if epoch == 0 and len(index):
                self.check(batch)
            done = epoch + number * self.batch_size / self.num_rows
            yield Step(batch, len(rows), epoch, done, self.rate(done))

    def _epoch_generators(self, epoch: int) -> tuple[torch.Generator, torch.Generator]:
        """Seed an epoch's random numbers; the generators of the rows' order and of values that are drawn anew."""
        seed = self.config.epoch_seed(epoch)
        rank_seed = self.group.rank_seed(seed)
        set_rng_seed(rank_seed)
        drawn_again = torch.Generator(self.target.device).manual_seed(derived_seed(rank_seed, VALUES))
        return torch.Generator().manual_seed(seed), drawn_again


@runtime_checkable
class FitMethod(Protocol):
    """A fit method: how the parameters change in an epoch. `FitLoop` calls it, and does all that methods share.

    The loop counts epochs, keeps the best weights, stops, writes checkpoints and calls callbacks; the task has the
    batches. A method reads and changes the parameters of `task.program` in place.
    """

    @property
    def name(self) -> str:
        """Of the method, and once it is prepared of its objective: another one does not resume its checkpoint."""

    @property
    def without_effect(self) -> Unread:
        """The settings of `TrainConfig` that it does not read, with the values that they may have: others are refused.

        `WITHOUT_GUIDE` are those of a method without a bound; a method without `FusedOptimizer` adds its settings.
        """

    def prepare(self, task: FitTask) -> None:
        """Before the first epoch: take the task, and refuse (`InputError`) what the method cannot fit."""

    def epoch(self, index: int, on_step: Callable[[], None]) -> EpochRecord:
        """Train for one epoch.

        Args:
            index: the number of the epoch, from zero: its record has the next one.
            on_step: to be called after each optimizer step.

        Returns:
            The epoch's metrics, nats per row. `DivergedError`, with a few words on what became infinite, ends the fit.
        """

    def state(self) -> dict[str, Tensor]:
        """Copies of all tensors, apart from the program's weights, that the next epoch depends on."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the tensors that `state` gave."""
