"""Expectation–maximization for any model with an exact posterior; the models write the E- and M-steps.

>>> import pyro_vae as pv
>>> data = pv.load_data("two-moons")
>>> mixture = pv.GaussianMixture(num_components=8, num_features=2)
>>> fitted = pv.fit_em(mixture, data, epochs=50, num_starts=2, seed=0)
>>> objective = [row["objective"] for row in fitted.history if row["start"] == 0]
>>> all(later >= earlier - 1e-9 for earlier, later in zip(objective, objective[1:]))
True
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.fit_result import EMEpoch, FitResult
from pyro_vae.inference.svi.callbacks import Callback, Callbacks, OnEpoch, RunningFit
from pyro_vae.inference.svi.progress import Style, all_callbacks
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.models.exact_density import Density, Statistics, rows_with_nan
from pyro_vae.programs.parameters import copy_state, device_and_dtype, load_state
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.typing import Program

START_ROWS = 10_000  # rows that a start is computed from
CHECK_BATCH_SIZE = 10_000
NUM_WORST_ROWS = 64  # candidates for the new mean of an empty component
MAX_MOVES = 3  # of empty components in one start, for each component
STEP_SIZE_DECAY = 0.6  # the exponent of online EM's step sizes, between 1/2 and 1


def fit_em(
    model: Program,
    data: Dataset | Split | Tensor,
    *,
    valid: Split | Tensor | None = None,
    epochs: int = 500,
    tolerance: float = 1e-6,
    start: str = "k-means++",
    num_starts: int = 1,
    hard: bool = False,
    batch_size: int | None = None,
    memory_mib: float = 1024.0,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    progress: Style = "none",
) -> FitResult:
    r"""Maximize $\frac1N \{\sum_i \log p(x_i; \theta) + \log p(\theta)\}$ by EM (Dempster, Laird & Rubin 1977).

    The E-step sets each $q_i$ to the exact posterior, so that the bound $F(q, \theta) = E_q[\log p(x, z) - \log q]$
    equals log p(x); the M-step maximizes it in θ. So the objective never falls, up to rounding, within a `segment` of
    the history: a component that explains less than one row is moved to the row with the lowest log p(x), which begins
    a new segment.
    An E-step comes last, so every number belongs to the parameters that are kept. With `hard` the posterior's mode
    replaces the posterior (classification EM): with a `GaussianMixture(…, scale=s)` that is k-means. With a
    `batch_size` it is online EM (Cappé & Moulines, arXiv:0712.4273), for data too large for many passes: statistics are
    moving averages over batches in random order, for all `epochs` passes; the objective need not rise, and empty
    components are not moved.

    With a `batch_size` the numbers of all but the last epoch are of the parameters that each batch met. Prepared rows
    are kept between iterations if they fit in `memory_mib` and recomputed otherwise, so memory does not grow with N but
    for one number a row.

    Raises `InputError` for a model without an E-step, settings or rows that cannot be used, frozen parameters, and
    singular covariances.

    Args:
        model: a mixture, PPCA or factor analysis (`Density`), fitted in place.
        data: the training rows x (N, D), or a data set, whose validation rows are scored too.
        valid: held-out rows (M, D), instead of the data set's: `valid_elbo` is their exact log p(x).
        epochs: iterations of a start, at most.
        tolerance: a start ends when an iteration gains no more, nats per row.
        start: "k-means++", "k-means", "random" (rows as centres) or "current" (the parameters as they are).
        num_starts: the number of starts, of which the best is kept.
        hard: whether q is the posterior's mode.
        batch_size: rows of a batch of online EM; by default all rows for each iteration.
        memory_mib: MiB that prepared rows may take.
        seed: of the first start; the others have the next ones.
        callbacks: called at the start, after each iteration and at the end (`Callback`).
        on_epoch: a plain function, called with the history after each iteration.
        progress: as in `fit`.

    Returns:
        The history of all starts, whose records are `EMEpoch`: `elbo` is log p(x), since the bound is tight, and `kl`
        None.
    """
    density = _check_settings(model, epochs, num_starts, tolerance, batch_size, start)
    train = density.rows_of(as_split(data, "train"))
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    fit = RunningFit(model, epochs * num_starts)
    with seeded(seed), torch.no_grad():
        run = _EMRun(density, train, held_out, memory_mib * 2**20, hard, fit)
        if start != "current" or not density.started:
            density.choose_regularization(run.start_rows)
        with Callbacks(fit, all_callbacks(callbacks, on_epoch, progress)).running() as run.callbacks:
            for number in range(num_starts):
                density.start_em(run.mean, run.start_rows, start, seed + number)
                if batch_size is None:
                    run.fit(number, epochs, tolerance)
                else:
                    run.fit_online(number, epochs, batch_size, seed + number)
                if fit.stop:
                    break
            return run.result()


def _check_settings(
    model: Program, epochs: int, num_starts: int, tolerance: float, batch_size: int | None, start: str
) -> Density:
    """The model; `InputError` for one that EM cannot fit, and for settings out of range."""
    if not isinstance(model, Density):
        raise InputError(
            f"a {type(model).__name__} has no exact posterior, so no E-step: use fit, or fit_mcem, whose E-step is a "
            "sampler"
        )
    if epochs < 1 or num_starts < 1 or tolerance < 0 or (batch_size is not None and batch_size < 1):
        raise InputError(
            f"expected epochs, num_starts and batch_size of one or more and a tolerance that is not negative, got "
            f"{epochs}, {num_starts}, {batch_size} and {tolerance}"
        )
    if start == "current" and num_starts > 1:
        raise InputError("start='current' is one start: leave num_starts out")
    parameters = {name: value for name, value in model.named_parameters() if not name.startswith("posterior.")}
    if frozen := [name for name, value in parameters.items() if not value.requires_grad and name not in model.held]:
        raise InputError(f"an M-step sets every parameter, and {', '.join(frozen)} is frozen: use fit, or unfreeze it")
    return model


class _EMRun:
    """The model, rows and settings that all starts share, the history, and the best parameters so far."""

    def __init__(
        self,
        model: Density,
        train: Split,
        valid: Split | None,
        memory_bytes: float,
        hard: bool,
        running: RunningFit,
    ) -> None:
        self.model, self.train, self.valid, self.memory_bytes, self.hard = model, train, valid, memory_bytes, hard
        self.running, self.target, self.num_rows = running, device_and_dtype(model), len(train)
        index = torch.linspace(0, len(train) - 1, min(len(train), START_ROWS), dtype=torch.float64)
        self.start_rows = self._rows(index.long())
        self.mean = self._check()
        self.history, self.callbacks = running.history, Callbacks(running, ())
        import sklearn.cluster  # noqa: F401 - imported here so that its time is not counted

        self.began, self.best_epoch, self.best_value, self.best = time.perf_counter(), 0, -math.inf, copy_state(model)
        self.stopped: dict[int, str] = {}  # why each start stopped

    def _rows(self, index: slice | Tensor) -> Tensor:
        return rows_with_nan(self.train, index).to(*self.target)

    def _check(self) -> Tensor:
        """Check all rows against the model's support; their mean (D,)."""
        placeholders = torch.zeros_like(self.start_rows[:3])  # to find the plates: real rows may be invalid
        plates = find_plates(self.model, Batch(placeholders, rows=torch.arange(len(placeholders))))
        total, counts = torch.zeros_like(self.start_rows[0]), torch.zeros_like(self.start_rows[0])
        for start in range(0, self.num_rows, CHECK_BATCH_SIZE):
            part = slice(start, start + CHECK_BATCH_SIZE)
            plates.check(self.train[part].to(*self.target))  # 0 where a value is missing
            rows = self._rows(part)
            total += rows.nansum(0)
            counts += (~rows.isnan()).sum(0)
        if not counts.all():
            raise InputError(f"column {int((counts == 0).nonzero()[0])} has no value in any row: leave it out")
        return total / counts

    def _prepared(self) -> list[Tensor] | None:
        """All rows as the E-step takes them, None where they do not fit in memory."""
        size = self.model.block_rows
        first = self.model.prepare(self._rows(slice(0, size)))
        if first.numel() * first.element_size() * math.ceil(self.num_rows / size) > self.memory_bytes:
            return None
        return list(self._prepare_blocks())

    def _prepare_blocks(self) -> Iterator[Tensor]:
        size = self.model.block_rows
        for start in range(0, self.num_rows, size):
            yield self.model.prepare(self._rows(slice(start, start + size)))

    def fit(self, number: int, epochs: int, tolerance: float) -> None:
        """EM from one start, until an iteration gains no more than the tolerance."""
        prepared, segment, previous, moved = self._prepared(), 0, -math.inf, 0
        self.stopped[number] = "epochs"
        for epoch in range(epochs):
            statistics, log_px = self.model.e_step(prepared or self._prepare_blocks(), self.hard)
            row = self._record(number, segment, float(log_px.double().mean()))
            gain, previous = row.objective - previous, row.objective
            if gain <= tolerance:
                self.stopped[number] = "tolerance"
            if gain <= tolerance or epoch == epochs - 1 or self.running.stop:
                return
            self.model.m_step(statistics)
            if moved < MAX_MOVES * len(statistics.get("counts", ())):
                worst = log_px.cpu().topk(min(NUM_WORST_ROWS, self.num_rows), largest=False).indices
                if revived := self.model.revive(statistics, self._rows(worst)):
                    last = self.history[-1]
                    assert isinstance(last, EMEpoch)
                    self.history[-1] = replace(last, revived=revived)
                    moved += revived
                    segment, previous = segment + 1, -math.inf

    def fit_online(self, number: int, epochs: int, batch_size: int, seed: int) -> None:
        """Online EM: an M-step after each batch, on moving averages of statistics; a last E-step over all rows."""
        average, step = _per_row(*self.model.e_step(self._prepare(self.start_rows), self.hard)), 0
        self.stopped[number] = "epochs"
        for epoch in range(epochs):
            generator = torch.Generator().manual_seed(TrainConfig(seed=seed).epoch_seed(epoch))
            order, total = torch.randperm(self.num_rows, generator=generator), 0.0
            for index in order.split(batch_size):
                step += 1
                statistics, log_px = self.model.e_step(self._prepare(self._batch(index, generator)), self.hard)
                new, step_size = _per_row(statistics, log_px), (step + 2) ** -STEP_SIZE_DECAY
                average = {name: value.lerp(new[name], step_size) for name, value in average.items()}
                self.model.m_step({name: self.num_rows * value for name, value in average.items()})
                total += float(log_px.sum())
            if epoch < epochs - 1:
                self._record(number, 0, total / self.num_rows, update_best=False)
            if self.running.stop:
                break
        _, log_px = self.model.e_step(self._prepare_blocks(), self.hard)
        self._record(number, 0, float(log_px.double().mean()))

    def _batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return self.train.batch(index, generator) if self.train.mask is None else self._rows(index)

    def _prepare(self, rows: Tensor) -> Iterator[Tensor]:
        return (self.model.prepare(block) for block in rows.to(*self.target).split(self.model.block_rows))

    def _record(self, number: int, segment: int, log_px: float, update_best: bool = True) -> EMEpoch:
        """Add an iteration to the history: the bound per row at the current parameters, and the objective."""
        if not math.isfinite(log_px):
            raise DivergedError(f"log p(x) became {log_px} in iteration {len(self.history) + 1}: the start is unusable")
        log_prior = float(self.model.log_prior()) / self.num_rows
        elbo, epoch = log_px + float(self.train.log_jacobian.mean()), len(self.history) + 1
        row = EMEpoch(
            epoch=epoch,
            step=epoch,
            elbo=elbo,
            valid_elbo=None if self.valid is None else float(self.model.log_prob(self.valid).mean()),
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

    def result(self) -> FitResult:
        """Set the best parameters and return the history."""
        load_state(self.model, self.best)
        seconds, best = time.perf_counter() - self.began, self.history[self.best_epoch - 1]
        self.running.stopped = "callback" if self.running.stop else self.stopped[best["start"]]
        return FitResult(self.history, self.best_epoch, self.running.stopped, seconds)


def _per_row(statistics: Statistics, log_px: Tensor) -> Statistics:
    """Statistics as averages over rows; `InputError` for moments about means that change between batches."""
    if any(name.endswith("about_loc") for name in statistics):
        raise InputError(
            "components lie so far apart, in units of their scales, that moments about a common origin lose too many "
            "digits, and online EM needs such moments: standardize the columns, or leave batch_size out"
        )
    return {name: value / len(log_px) for name, value in statistics.items()}
