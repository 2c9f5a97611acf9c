"""The loop of EM: rows as the E-step takes them, iterations from one start, and the best parameters of all starts."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.context_managers import part_seed
from pyro_vae.data import Split
from pyro_vae.data.row_weights import check_weights, weighted_mean
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.em.acceleration import ExtrapolatedSteps
from pyro_vae.inference.fit_result import EMEpoch, FitResult
from pyro_vae.inference.svi.callbacks import Callbacks, RunningFit
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.models.exact_density import Density, Statistics, rows_with_nan
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import copy_state, device_and_dtype, load_state
from pyro_vae.programs.row_inputs import Batch

START_ROWS = 10_000  # rows that a start is computed from
CHECK_BATCH_SIZE = 10_000
NUM_WORST_ROWS = 64  # candidates for the new mean of an empty component
MAX_MOVES = 3  # of empty components in one start, for each component
STEP_SIZE_DECAY = 0.6  # the exponent of online EM's step sizes, between 1/2 and 1


@dataclass(frozen=True)
class EMSettings:
    """The settings that all starts share, as in `fit_em`."""

    epochs: int
    tolerance: float
    starts: tuple[str, ...]
    hard: bool
    batch_size: int | None
    memory_bytes: float
    seed: int
    accelerate: bool


class EMRows:
    """The training rows of EM, checked: blocks as the E-step takes them, and those that a start is computed from.

    Args:
        model: what they are prepared for.
        train: the rows.
        weights: their weights (N,); None where each counts once.
        memory_bytes: what prepared rows may take, so as to be kept.
    """

    def __init__(self, model: Density, train: Split, weights: Tensor | None, memory_bytes: float) -> None:
        self.model, self.train, self.memory_bytes, self.target = model, train, memory_bytes, device_and_dtype(model)
        self.weights = None if weights is None else check_weights(weights, len(train)).to(*self.target)
        self.total = float(len(train) if self.weights is None else self.weights.sum())  # rows, counted by weight
        self.mean = self._check()

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return rows_with_nan(self.train, index).to(*self.target)

    def for_start(self) -> Tensor:
        """Rows (n, D) that a start is computed from, each as often as its weight says."""
        if self.weights is None:
            return self[torch.linspace(0, len(self) - 1, min(len(self), START_ROWS), dtype=torch.float64).long()]
        num_rows = min(max(len(self), round(self.total)), START_ROWS)
        middle = (torch.arange(num_rows, dtype=torch.float64) + 0.5) * self.total / num_rows
        return self[torch.searchsorted(self.weights.double().cpu().cumsum(0), middle).clamp(max=len(self) - 1)]

    def for_regularization(self) -> Tensor:
        """Different rows (n, D): one that occurs twice would be in two folds of a cross-validation."""
        if self.weights is None:
            return self.for_start()
        used = self.weights.cpu().nonzero()[:, 0]
        return self[used[torch.linspace(0, len(used) - 1, min(len(used), START_ROWS), dtype=torch.float64).long()]]

    def weighted_mean(self, values: Tensor) -> float:
        """The weighted mean over rows of values (N,)."""
        return weighted_mean(values.double(), None if self.weights is None else self.weights.to(values.device))

    def worst(self, log_px: Tensor) -> Tensor:
        """The rows (n, D) with the lowest log p(x) (N,) of those that count."""
        if self.weights is not None:
            log_px = torch.where(self.weights > 0, log_px, math.inf)
        return self[log_px.cpu().topk(min(NUM_WORST_ROWS, len(self)), largest=False).indices]

    def prepared(self) -> list[Tensor] | None:
        """All rows as the E-step takes them, None where they do not fit in memory."""
        size = self.model.block_rows
        first = self.model.prepare(self[:size])
        if first.numel() * first.element_size() * math.ceil(len(self) / size) > self.memory_bytes:
            return None
        return list(self.prepare_blocks())

    def prepare_blocks(self) -> Iterator[Tensor]:
        """The same blocks, computed one by one."""
        size = self.model.block_rows
        for start in range(0, len(self), size):
            yield self.model.prepare(self[start : start + size])

    def batch(self, index: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Blocks of some rows; a split that is drawn again each epoch draws them here.

        Args:
            index: the rows' numbers (n,).
            generator: of the draw.

        Returns:
            Blocks as the E-step takes them.
        """
        rows = self.train.batch(index, generator) if self.train.mask is None else self[index]
        return self.prepare(rows)

    def prepare(self, rows: Tensor) -> Iterator[Tensor]:
        return (self.model.prepare(block) for block in rows.to(*self.target).split(self.model.block_rows))

    def _check(self) -> Tensor:
        """Check all rows against the model's support; their mean (D,)."""
        placeholders = torch.zeros_like(self[:3])  # to find the plates: real rows may be invalid
        plates = find_plates(self.model, Batch(placeholders, rows=torch.arange(len(placeholders))))
        total, counts = torch.zeros_like(placeholders[0]), torch.zeros_like(placeholders[0])
        for start in range(0, len(self), CHECK_BATCH_SIZE):
            part = slice(start, start + CHECK_BATCH_SIZE)
            mask = None if self.train.mask is None else self.train.mask[part].to(self.target[0])
            plates.check(self.train[part].to(*self.target), mask)  # 0 where a value is missing
            rows = self[part]
            count = 1.0 if self.weights is None else self.weights[part, None]
            total += (count * rows).nansum(0)
            counts += (count * (~rows.isnan())).sum(0)
        if not counts.all():
            raise InputError(f"column {int((counts == 0).nonzero()[0])} has no value in any row: leave it out")
        return total / counts


class EMRun:
    """The model, rows and settings that all starts share, the history, and the best parameters so far.

    Args:
        rows: the training rows.
        valid: held-out rows.
        settings: of all starts.
        callbacks: called after each iteration.
    """

    def __init__(self, rows: EMRows, valid: Split | None, settings: EMSettings, callbacks: Callbacks) -> None:
        self.rows, self.model, self.valid, self.settings, self.callbacks = rows, rows.model, valid, settings, callbacks
        self.running: RunningFit = callbacks.fit
        self.start_rows = rows.for_start()
        self.history = self.running.history
        import sklearn.cluster  # noqa: F401 - imported here so that its time is not counted

        self.began, self.best_epoch, self.best_value = time.perf_counter(), 0, -math.inf
        self.best = copy_state(self.model)
        self.stopped: dict[int, str] = {}  # why each start stopped

    def fit(self, number: int) -> None:
        """Set the parameters to a start, and fit them from there.

        Args:
            number: of the start.
        """
        settings, seed = self.settings, part_seed(self.settings.seed, number)
        self.model.start_em(self.rows.mean, self.start_rows, settings.starts[number % len(settings.starts)], seed)
        self.stopped[number] = "epochs"
        if settings.batch_size is None:
            self._iterate(number)
        else:
            self._iterate_online(number, settings.batch_size, seed)

    def add(self, history: list[EMEpoch], stopped: str, state: dict[str, Tensor]) -> None:
        """Add a start that was fitted elsewhere, by a copy of the model.

        Args:
            history: its iterations.
            stopped: why it ended.
            state: its best parameters.
        """
        self.stopped[history[0].start] = stopped
        for row in history:
            epoch = len(self.history) + 1
            self.history.append(replace(row, epoch=epoch, step=epoch))
            if row.objective > self.best_value:
                self.best_epoch, self.best_value, self.best = epoch, row.objective, state
            self.callbacks.epoch()

    def result(self) -> FitResult:
        """Set the best parameters and return the history."""
        load_state(self.model, self.best)
        seconds, best = time.perf_counter() - self.began, self.history[self.best_epoch - 1]
        self.running.stopped = "callback" if self.running.stop else self.stopped[best["start"]]
        return FitResult(self.history, self.best_epoch, self.running.stopped, seconds)

    def _iterate(self, number: int) -> None:
        """EM from the current parameters, until it gains no more than the tolerance."""
        settings, prepared = self.settings, self.rows.prepared()
        steps = self._extrapolated_steps()
        segment, previous, moved = 0, -math.inf, 0

        def e_step() -> tuple[Statistics, Tensor]:
            return self._e_step(prepared or self.rows.prepare_blocks())

        for epoch in range(settings.epochs):
            if steps is None:
                statistics, log_px = e_step()
            else:
                statistics, log_px = steps.evaluate(e_step, lambda found: self._objective(found[1]))
            row = self._record(number, segment, self.rows.weighted_mean(log_px))
            if steps is None or steps.is_cycle_complete:
                gain, previous = row.objective - previous, row.objective
                if gain <= settings.tolerance:
                    self.stopped[number] = "tolerance"
                    return
            if epoch == settings.epochs - 1 or self.running.stop:
                return
            self.model.m_step(statistics)
            if steps is not None:
                steps.extrapolate()
            may_move = moved < MAX_MOVES * len(statistics.get("counts", ()))
            if may_move and (revived := self.model.revive(statistics, self.rows.worst(log_px))):
                self.history[-1] = replace(row, revived=revived)
                moved += revived
                segment, previous = segment + 1, -math.inf
                if steps is not None:
                    steps.reset()

    def _extrapolated_steps(self) -> ExtrapolatedSteps | None:
        """None where steps are not accelerated."""
        if not self.settings.accelerate or self.settings.hard:
            return None
        own = [value for name, value in self.model.named_parameters() if not name.startswith("posterior.")]
        return ExtrapolatedSteps([value for value in own if value.requires_grad], self.model.clamp_parameters)

    def _iterate_online(self, number: int, batch_size: int, seed: int) -> None:
        """Online EM: an M-step after each batch, on moving averages of statistics; a last E-step over all rows."""
        rows, num_rows, settings = self.rows, len(self.rows), self.settings
        statistics, _ = self.model.e_step(rows.prepare(self.start_rows), settings.hard)
        average, step = _per_row(statistics, len(self.start_rows)), 0
        for epoch in range(settings.epochs):
            generator = torch.Generator().manual_seed(TrainConfig(seed=seed).epoch_seed(epoch))
            order, total = torch.randperm(num_rows, generator=generator), 0.0
            for index in order.split(batch_size):
                step += 1
                weights = None if rows.weights is None else rows.weights[index]
                given = () if weights is None else (weights,)
                statistics, log_px = self.model.e_step(rows.batch(index, generator), settings.hard, *given)
                new, step_size = _per_row(statistics, len(index)), (step + 2) ** -STEP_SIZE_DECAY
                average = {name: value.lerp(new[name], step_size) for name, value in average.items()}
                self.model.m_step({name: num_rows * value for name, value in average.items()})
                total += float(log_px.sum() if weights is None else log_px @ weights)
            if epoch < settings.epochs - 1:
                self._record(number, 0, total / rows.total, update_best=False)
            if self.running.stop:
                break
        _, log_px = self._e_step(rows.prepare_blocks())
        self._record(number, 0, rows.weighted_mean(log_px))

    def _e_step(self, blocks: Iterable[Tensor]) -> tuple[Statistics, Tensor]:
        if self.rows.weights is None:  # which a density of a user's own need not take
            return self.model.e_step(blocks, self.settings.hard)
        return self.model.e_step(blocks, self.settings.hard, self.rows.weights)

    def _objective(self, log_px: Tensor) -> float:
        """The mean of log p(x) and the log prior, nats per row of the model's own x."""
        return self.rows.weighted_mean(log_px) + float(self.model.log_prior()) / self.rows.total

    def _mean_of(self, valid: Split) -> float:
        return weighted_mean(self.model.log_prob(valid), valid.weights)

    def _record(self, number: int, segment: int, log_px: float, update_best: bool = True) -> EMEpoch:
        """Add an iteration to the history: the bound per row at the current parameters, and the objective."""
        if not math.isfinite(log_px):
            raise DivergedError(f"log p(x) became {log_px} in iteration {len(self.history) + 1}: the start is unusable")
        log_prior = float(self.model.log_prior()) / self.rows.total
        elbo, epoch = log_px + self.rows.weighted_mean(self.rows.train.log_jacobian), len(self.history) + 1
        row = EMEpoch(
            epoch=epoch,
            step=epoch,
            elbo=elbo,
            valid_elbo=None if self.valid is None else self._mean_of(self.valid),
            seconds=time.perf_counter() - self.began,
            objective=elbo + log_prior,
            log_prior=log_prior,
            start=number,
            segment=segment,
        )
        self.history.append(row)
        if update_best and row.objective > self.best_value:
            self.best_epoch, self.best_value, self.best = epoch, row.objective, copy_state(self.model)
        self.callbacks.epoch()
        return row


def _per_row(statistics: Statistics, num_rows: int) -> Statistics:
    """Statistics as averages over rows; `InputError` for moments about means that change between batches."""
    if any(name.endswith("about_loc") for name in statistics):
        raise InputError(
            "components lie so far apart, in units of their scales, that moments about a common origin lose too many "
            "digits, and online EM needs such moments: standardize the columns, or leave batch_size out"
        )
    return {name: value / num_rows for name, value in statistics.items()}
