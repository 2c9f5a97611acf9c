"""The loop of a fit: epochs of `SVI.step`, each of which can be repeated to the bit, and what is kept between them."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pyro_vae.atomic_write import write_tensors
from pyro_vae.context import defer_signals, evaluating, seeded
from pyro_vae.data import Split
from pyro_vae.distributed import SINGLE_PROCESS, GradientReducer, ProcessGroup
from pyro_vae.errors import DivergedError, InputError, RowsError
from pyro_vae.inference.compile.compiled_elbo import Compiled_ELBO, is_recorded
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.objectives.elbo_terms import RowWeighted, Terms
from pyro_vae.inference.svi.checkpoint import resume, snapshot, synchronize_start
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.progress import Progress, Style
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.model_and_guide import ACTIVE_VARIANCE, active_units
from pyro_vae.programs.parameters import DeviceAndDtype, copy_state, load_state, named_parameters
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs, require_mask
from pyro_vae.programs.traces import sample_sites, trace_program

VALID_BATCH_SIZE = 1000
VALID_DRAWS = 2000
VALID_ROWS_PER_CALL = 200  # rows for each evaluation, where there are fewer
SECONDS_BETWEEN_CHECKPOINTS = 10.0
START_ROWS = 1000
GRAPH_CHECK_STEPS = (1, 1, 1, 100)  # steps since the last check of a graph, at the start of an epoch
FINITE_CHECK_INTERVAL = 50  # steps on an accelerator, which waits for the host to look
FLOPS_FOR_THREADS = 15_000_000  # in a step: with fewer, two threads took as long as one on two cores
LOSS_SETTINGS = ("num_particles", "dreg", "free_bits", "each", "insomnia")


class Trainer:
    """One run of `fit`: what stays the same from epoch to epoch, and where it stands."""

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
        self.labels = train.labels if labels is None else labels
        if self.labels is not None and hasattr(program, "check_labels"):
            program.check_labels(self.labels)  # a recorded step does not look at them
        if target.device.type == "cuda" and train.memory_bytes * 4 < torch.cuda.mem_get_info(target.device)[0]:
            self.train = train.to_device(target.device)
        self.num_rows = len(train)
        self.batch_size = min(settings.batch_size, self.num_rows)
        self.target, self.group, self.reducer = target, group, GradientReducer(group)
        for split in (train, valid):
            require_mask(program, None if split is None else split.mask)
        first = torch.arange(self.batch_size)
        example = self._batch(train[first], first)
        work = FlopCounterMode(display=False)  # it hangs hooks on gradients, so there have to be some
        with torch.enable_grad(), seeded(settings.epoch_seed(-2)), evaluating(program), work:
            _, guide = trace_program(
                program, example
            )  # functions make their parameters here, on real rows, by this seed
        self.flops_per_step = 3 * work.get_total_flops()  # backwards is twice as much as forwards
        self.plates = find_plates(program, example)
        self.plates.check(example.x)
        self._check(settings)
        if hasattr(program, "init_from_data"):
            some = torch.linspace(0, self.num_rows - 1, min(self.num_rows, START_ROWS)).long()
            program.init_from_data(train.mean.to(*self.target), train[some].to(*self.target))
        if getattr(program, "num_features", self) is None:
            program.num_features = train.shape[1]
        self._set_up_svi(self._vectorize_particles(loss or self._default_loss(guide), example))
        self.epoch, self.best_epoch, self.best_value, self.num_units = 0, 0, -math.inf, 0
        self.best = copy_state(program)
        self.history: list[dict[str, Any]] = []

    def _check(self, settings: TrainConfig) -> None:
        if self.plates.row_dim is None and self.batch_size < self.num_rows:
            raise RowsError(
                'the program has no plate over rows (with pyro.plate("data", len(x)): …), so it cannot be fitted in '
                f"batches: add the plate, or fit all {self.num_rows} rows at once (batch_size={self.num_rows})"
            )
        if self.plates.row_dim is None and self.valid is not None:
            raise RowsError("the program has no plate over rows, so held-out rows have no ELBO: leave valid out")
        if self.plates.row_dim is None and not self.group.is_single:
            raise RowsError(
                "the program has no plate over rows, so they cannot be split among processes: add the plate"
            )
        if self.batch_size < self.group.size:
            raise InputError(
                f"a batch of {self.batch_size} rows cannot be split among {self.group.size} processes: take a larger "
                "batch_size or fewer processes"
            )
        if self.plates.enumerated and (settings.beta != 1 or settings.kl_warmup):
            raise InputError(
                f"{', '.join(self.plates.enumerated)} is summed out by enumeration, which takes beta=1 alone"
            )

    def _default_loss(self, guide: Trace) -> ELBO:
        """Trace_ELBO, or where the guide marks a site to be enumerated the ELBO that does so."""
        if any(site["infer"].get("enumerate") for site in sample_sites(guide).values()):
            return TraceEnum_ELBO(self.settings.num_particles, self.plates.nesting)
        return Trace_ELBO(self.settings.num_particles)

    def _vectorize_particles(self, loss: ELBO, example: Batch) -> ELBO:
        """The same objective, its particles side by side where the program takes them so."""
        rows = self.plates.row_dim is not None and not self.plates.outside and not self.plates.enumerated
        if loss.num_particles == 1 or loss.vectorize_particles or not rows:
            return loss
        with self._perturbed_parameters():  # weights that start at zero agree with anything
            vectorized = LogWeightSampler(self.program, self.plates, example).vectorized
        if not vectorized:
            return loss
        loss = copy.copy(loss)
        loss.vectorize_particles, loss.max_plate_nesting = True, self.plates.nesting + 1  # one for the particles
        return loss

    @contextmanager
    def _perturbed_parameters(self) -> Iterator[None]:
        """Inside, every parameter is a little off."""
        parameters = list(named_parameters(self.program).values())
        before = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad(), seeded(0):
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)

    def _set_up_svi(self, loss: ELBO) -> None:
        """Set up `SVI` on the program, each site weighed and each trace watched; every parameter exists by now."""
        settings = self.settings
        self.optimizer = FusedOptimizer(settings.optimizer, settings.learning_rate, settings.clip)
        self.optimizer.add_parameters(named_parameters(self.program))
        if callable(getattr(self.program, "log_prior", None)):
            self.optimizer.penalty = lambda: -self.program.log_prior() / self.num_rows
        self.weigh = RowWeighted(self.plates, self.num_rows)
        if settings.beta != 1 or settings.kl_warmup:  # a graph sees a tensor change, and not a number
            self.weigh.beta = torch.ones((), dtype=self.target.dtype, device=self.target.device)
        self.terms = Terms(self.plates, self.num_rows)
        plain = {k: v for k, v in vars(loss).items() if isinstance(v, (bool, int, float, str)) and k in LOSS_SETTINGS}
        self.loss_name = f"{type(loss).__name__} {plain}" if plain else type(loss).__name__
        model, guide = (
            self.weigh(bind_supported_kwargs(self.program.model)),
            self.weigh(bind_supported_kwargs(self.program.guide)),
        )
        watched = self.terms.attach(loss)
        self.recorded: Compiled_ELBO | None = None
        if settings.compile or (settings.compile is None and is_recorded(loss)):
            self.recorded = Compiled_ELBO(
                watched,
                fuse=bool(settings.compile),
                terms=self.terms,
                trainable_parameters=lambda: self.optimizer.parameters.values(),
            )
        self.svi = SVI(model, guide, self.optimizer, self.recorded or watched)
        if not self.group.is_single:
            self.optimizer.reduce = self.reducer
            self.svi.loss_and_grads = self.reducer.capture_loss(self.svi.loss_and_grads)

    def fit(self, checkpoint: Path | None, on_epoch: Callable[..., None] | None, style: Style) -> FitResult:
        checkpoint = checkpoint if self.group.is_main else None
        if checkpoint is not None and checkpoint.exists():
            resume(self, checkpoint)
        synchronize_start(self)
        earlier = self.history[-1]["seconds"] if self.history else 0.0
        began = written = time.perf_counter()
        kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        try:
            with (
                _ignore_nan_warnings(),
                _limit_threads(self.flops_per_step),
                Progress(
                    style if self.group.is_main else "none",
                    self.settings.epochs,
                    math.ceil(self.num_rows / self.batch_size),
                    self.epoch,
                ) as progress,
            ):
                while not self._stopped():
                    row = self._train_epoch(progress)
                    row["seconds"] = earlier + time.perf_counter() - began
                    row = self.group.broadcast(row)  # so that all stop at the same epoch and keep the same one
                    self._update_best(row)
                    progress.epoch(row)
                    if on_epoch is not None and self.group.is_main:
                        on_epoch(self.history)
                    if checkpoint is not None:
                        kept = snapshot(self)
                        if time.perf_counter() - written > SECONDS_BETWEEN_CHECKPOINTS:
                            write_tensors(checkpoint, *kept)
                            written = time.perf_counter()
        finally:  # finished, interrupted or diverged: the last whole epoch is kept, the program holds the best weights
            with defer_signals():
                if checkpoint is not None and kept is not None:
                    write_tensors(checkpoint, *kept)
                load_state(self.program, self.best)
                _mode(self.program, training=False)
        seconds = self.history[-1]["seconds"] if self.history else 0.0
        return FitResult(self.history, self.best_epoch, self._stopped(), seconds, self._collapse_advice())

    def _collapse_advice(self) -> str:
        """What to try where fewer than half of the latent dimensions are used; empty where there is nothing to say."""
        active = self.history[self.best_epoch - 1]["active_units"] if self.history else None
        if active is None or self.num_units < 2 or 2 * active >= self.num_units:
            return ""
        return (
            f"{self.num_units - active} of {self.num_units} latent dimensions carry nothing: their posterior means "
            f"vary by less than {ACTIVE_VARIANCE} over rows. Try a KL warm-up "
            f"(kl_warmup={max(1, self.settings.epochs // 5)}), free bits, a smaller likelihood scale, a lower "
            "learning rate, more epochs, or fewer latents"
        )

    def _stopped(self) -> str:
        if self.settings.out_of_patience(self.epoch, self.best_epoch):
            return "patience"
        return "epochs" if self.epoch >= self.settings.epochs else ""

    def _train_epoch(self, progress: Progress) -> dict[str, Any]:
        """All batches once, in an order and with noise that follow from the seed and the epoch alone."""
        settings = self.settings
        noise = self.group.rank_seed(settings.epoch_seed(self.epoch))
        pyro.set_rng_seed(noise)
        generator = torch.Generator().manual_seed(settings.epoch_seed(self.epoch))
        drawing = generator  # each process, and an accelerator, draws pixels by itself
        if not self.group.is_single or self.target.device.type != "cpu":
            drawing = torch.Generator(self.target.device).manual_seed(noise)
        self.terms.reset()
        if self.recorded:
            self.recorded.check_after = GRAPH_CHECK_STEPS[
                min(self.epoch, 3)
            ]  # the program's own Python may go by epochs
        _mode(self.program, training=True)
        total: Any = 0.0
        for step, rows in enumerate(self.train.batches(self.batch_size, generator)):
            at = self.epoch + step * self.batch_size / self.num_rows
            index = self.group.shard(rows)
            self.reducer.share = len(index) / len(rows)
            batch = self._batch(self.train.batch(index, drawing), index)
            if self.epoch == 0 and len(index):
                self.plates.check(batch.x)
            self.optimizer.learning_rate = settings.rate(at)
            self._set_kl_weight(settings.kl_weight(at))
            total = total + self._step(batch, first=at == 0) * len(rows)
            if (self.target.device.type == "cpu" or step % FINITE_CHECK_INTERVAL == 0) and not math.isfinite(total):
                raise self._diverged(f"the objective became {float(total)}", self.epoch + 1)
            progress.step()
        if not all(torch.isfinite(parameter).all() for parameter in self.optimizer.parameters.values()):
            raise self._diverged("a parameter became NaN or infinite", self.epoch + 1)
        self.terms.all_reduce(self.group)
        self.group.broadcast_tensors(list(self.program.buffers()) if isinstance(self.program, nn.Module) else [])
        self.epoch += 1
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.epoch * math.ceil(self.num_rows / self.batch_size)}
        beta = float(self.weigh.beta)
        row |= self._epoch_terms("", -float(total) / self.num_rows if beta == 1 else None, self.train)
        rates = {"learning_rate": self.optimizer.learning_rate, "beta": beta}
        return row | self._validate() | rates

    def _epoch_terms(self, prefix: str, elbo: float | None, split: Split) -> dict[str, Any]:
        """The ELBO and its terms in the data's units, from the traces; `elbo` alone where sites are enumerated."""
        elbo, reconstruction, kl = self.terms.means() or (elbo, None, None)
        jacobian = float(split.log_jacobian.mean())
        shifted = {"elbo": elbo, "reconstruction": reconstruction}
        row = {prefix + name: None if value is None else value + jacobian for name, value in shifted.items()}
        return row | {f"{prefix}kl": kl}

    def _set_kl_weight(self, beta: float) -> None:
        if isinstance(self.weigh.beta, Tensor):
            self.weigh.beta.fill_(beta)

    def _step(self, batch: Batch, first: bool) -> Any:
        """One step of `SVI`, its loss (of the batch of all processes) a number or a tensor that nobody has read."""
        if not len(batch.x):
            loss = self._step_without_rows()
        elif (
            self.recorded and not first and not self.recorded.fallback_reason
        ):  # as SVI does it, without asking who took part
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

    def _step_without_rows(self) -> Any:
        """The step of a process that has no row of a small last batch: it moves with the others."""
        self.reducer.loss = 0.0
        self.optimizer(self.optimizer.parameters.values())
        return self.reducer.loss

    def _diverged(self, what: str, epoch: int) -> DivergedError:
        return DivergedError(
            f"{what} in epoch {epoch}; the weights of epoch {self.best_epoch} were kept. Likely causes: a "
            f"learning rate too high (try {self.settings.learning_rate / 10:g}), gradients too large (try clip=10), "
            "columns on very different scales (standardize them), a likelihood scale too small"
        )

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """The validation ELBO and its terms, with the same random numbers every epoch; nulls without rows."""
        row: dict[str, Any] = dict.fromkeys(
            ("valid_elbo", "valid_reconstruction", "valid_kl", "valid_kl_apart", "active_units")
        )
        if self.valid is None:
            return row
        draws, beta, total = max(1, VALID_DRAWS // len(self.valid)), float(self.weigh.beta), 0.0
        rows_per_call = min(
            draws, max(1, VALID_ROWS_PER_CALL // len(self.valid))
        )  # a few rows take as long as a batch of them
        draws = draws // rows_per_call * rows_per_call
        mine = self.group.shard(torch.arange(len(self.valid)))
        self.terms.reset(by_site=True)
        self._set_kl_weight(1.0)
        _mode(self.program, training=False)
        with seeded(self.group.rank_seed(self.settings.epoch_seed(-1))), pyro.validation_enabled(False):
            for some in mine.split(VALID_BATCH_SIZE) if len(mine) else ():
                batch = self._held_out(int(some[0]), int(some[-1]) + 1)
                if self.epoch == 1:
                    self.plates.check(batch.x)
                if rows_per_call > 1:
                    batch = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(rows_per_call))
                for _ in range(draws // rows_per_call):
                    total += self.svi.evaluate_loss(batch.x, batch.row_inputs) * len(batch.x)
        self._set_kl_weight(beta)
        total = sum(self.group.all_gather(total))
        self.terms.all_reduce(self.group)
        row |= self._epoch_terms("valid_", -total / (draws * len(self.valid)), self.valid) | {
            "valid_kl_apart": self.terms.site_kl_means()
        }
        if not math.isfinite(row["valid_elbo"]):
            raise self._diverged(f"the validation ELBO became {row['valid_elbo']}", self.epoch)
        return row | {"active_units": self._active_units() if self.group.is_main else None}

    def _active_units(self) -> int | None:
        """How many latents the guide uses: their posterior means vary over rows (arXiv:1509.00519)."""
        batch = self._held_out(0, VALID_BATCH_SIZE)
        try:
            active, self.num_units = active_units(self.program, batch.x, plates=self.plates, **batch.row_inputs)
        except InputError:  # no latent for each row, or latents that take discrete values
            return None
        return active

    def _batch(self, x: Tensor, index: Tensor) -> Batch:
        row_inputs = {name: value.to(self.target.device) for name, value in self.train.row_inputs(index).items()}
        if self.labels is not None:
            row_inputs["labels"] = self.labels[index].to(self.target.device)
        return Batch(x.to(*self.target), index.to(self.target.device), num_rows=self.num_rows, **row_inputs)

    def _held_out(self, start: int, end: int) -> Batch:
        assert self.valid is not None
        row_inputs = {n: value.to(self.target.device) for n, value in self.valid.row_inputs(slice(start, end)).items()}
        return Batch(self.valid[start:end].to(*self.target), num_rows=self.num_rows, **row_inputs)

    def _update_best(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        value = float(self.epoch) if row["valid_elbo"] is None else row["valid_elbo"]
        if value > self.best_value:
            self.best_epoch, self.best_value, self.best = self.epoch, value, copy_state(self.program)


@contextmanager
def _limit_threads(flops: int) -> Iterator[None]:
    """Inside, small steps have one thread: several would mostly wait for each other, and wake each other up."""
    threads = torch.get_num_threads()
    if flops < FLOPS_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ignore_nan_warnings() -> Iterator[None]:
    """Pyro warns of a loss that is not finite; the fit stops at it with an error that says more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Encountered (NaN|[+-]inf)", category=UserWarning)
        yield


def _mode(program: Any, training: bool) -> None:
    if isinstance(program, nn.Module):
        program.train(training)
