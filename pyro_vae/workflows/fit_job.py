"""One fit of settings to data: what is checked and made before it begins, the fit, its scores and figures."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae.atomic_write import DeferUnwritable, read_json, read_json_lines, write_json, write_json_lines
from pyro_vae.context_managers import defer_signals, seeded
from pyro_vae.data import Dataset
from pyro_vae.distributed import process_group
from pyro_vae.errors import DivergedError, InputError, PointMassError, RankLostError, RowsError, UnwritableError
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.objectives.make_objective import make_objective
from pyro_vae.inference.svi.callbacks import Callback, CallbackBase, RunningFit
from pyro_vae.inference.svi.checkpoint import CHECKPOINT, require_checkpoint_of
from pyro_vae.inference.svi.fit_svi import fit, pick_device
from pyro_vae.inference.svi.progress import Style
from pyro_vae.loggers.open_logger import OpenLogger, RunLogger, logger_opener
from pyro_vae.options import Value
from pyro_vae.programs.row_inputs import probe_batch
from pyro_vae.run_folder import (
    EVALUATION,
    METRICS,
    WEIGHTS,
    lock_new_folder,
    lock_run,
    remove_unstarted,
    require_same_data,
    require_unused,
    write_config,
)
from pyro_vae.serialization import recipe_of, save
from pyro_vae.typing import Program
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import LikelihoodChoice, choose_likelihood, load_dataset
from pyro_vae.workflows.class_labels import describe_labels, num_classes, require_elbo, training_labels
from pyro_vae.workflows.conditions_file import write_conditions
from pyro_vae.workflows.fit_baseline import Baseline, fit_baseline
from pyro_vae.workflows.fit_messages import Log, describe_fit, dominating_rows, reason_of_interruption, warnings_to_log
from pyro_vae.workflows.fit_settings import FitSettings
from pyro_vae.workflows.metrics_file import MetricsFile, drop_later_epochs
from pyro_vae.workflows.reference_scores import write_reference_scores
from pyro_vae.workflows.user_program import load_builder

VALID_ESTIMATOR, SCORED_ROWS = Estimator(num_samples=200), 1000  # of the validation rows, the first
Given = Mapping[str, Value | Path]  # settings by name


@dataclass(frozen=True)
class FitRun:
    """A run that was fitted: its `folder`, the `record` of the validation rows, and what the fit did.

    `program` is on the CPU and holds the best weights. `unscored` says why rows have no log p(x) of their own, empty
    where they have; `figures` are the files that were drawn; `baseline` is what one normal gives on the same rows;
    `unwritten` is why the scores are not in the folder, None where they are. The processes of a distributed run other
    than the first have an empty record.
    """

    folder: Path
    program: Program
    data: Dataset
    fitted: FitResult
    record: EvidenceRecord
    figures: tuple[Path, ...] = ()
    unscored: str = ""
    baseline: Baseline | None = None
    unwritten: UnwritableError | None = None


class FitJob:
    """A fit by settings: everything that is checked and made before it begins, the fit, and what its folder holds.

    Args:
        settings: the settings, from which program and data are made.
        given: those that were given, by name: defaults of tables do not replace them.
        out: the run's folder; None for a new one under `runs/`.
        own: a program of one's own, as `FILE.py:FUNCTION`.
        resuming: whether the folder holds the interrupted fit.
        log: called with each line about what is done.
        debug: whether the trace of a figure that fails is printed.
    """

    def __init__(
        self,
        settings: FitSettings,
        given: Given,
        out: Path | None,
        own: str | None,
        *,
        resuming: bool = False,
        log: Log = lambda line: None,
        debug: bool = False,
    ) -> None:
        self.out, self.own, self.resuming, self.log, self.debug = out, own, resuming, log, debug
        self.group, self.known = process_group(), dict[str, object]()  # the scores of other splits
        pick_device(settings.device)
        build = None if own is None else load_builder(own)
        self.settings = settings = settings.with_absolute_paths()
        self.data = load_dataset(settings.data, settings.model.likelihood)
        if settings.data.check_rows is None:
            self.settings = settings = settings.with_check_rows(len(self.data.valid))
            self.data = self.data.set_aside(settings.data.check_rows or 0)
        if own is None and self.data.image_shape is None:
            size = self.data.num_features, len(self.data.train)
            self.settings = settings = settings.with_table_defaults(given, *size)
        elif own is None:
            self.settings = settings = settings.with_picture_defaults(given)
        self.likelihood: LikelihoodChoice | None = None
        seed = settings.training.seed
        if build is None:
            self.likelihood = choose_likelihood(settings.model, self.data)
            masked = settings.is_masked(self.data.has_missing)
            self.program: Program = build_vae(settings.model, self.likelihood, self.data, seed, masked)
        else:
            with seeded(seed):
                self.program = build(self.data)
        require_elbo(settings.model, settings.objective)
        self.labels = training_labels(settings.model, self.data, seed)
        particles = settings.training.num_particles
        self.loss = make_objective(settings.objective, self.program, probe_batch(self.data), particles)

    def take_rows(self, rows: Tensor) -> None:
        """Fit to some training rows (n,) only, by their numbers, which may repeat."""
        self.data = replace(self.data, train=self.data.train.take(rows))
        self.labels = None if self.labels is None else self.labels[rows]

    def fit_program(
        self, checkpoint: Path | None = None, callbacks: Sequence[Callback] = (), progress: Style = "none"
    ) -> FitResult:
        """`fit` with the run's settings; an objective has its own number of particles.

        Args:
            checkpoint: the folder that keeps the state of the fit, if any.
            callbacks: called at the start, after each epoch and at the end.
            progress: how progress is shown.

        Returns:
            The fit's history; the program has the best weights.
        """
        settings, training = self.settings, self.settings.training
        return fit(
            self.program,
            self.data.train,
            training if self.loss is None else replace(training, num_particles=None),
            valid=self.data.valid,
            loss=self.loss,
            labels=self.labels,
            device=settings.device,
            dtype=getattr(torch, settings.dtype),
            checkpoint=checkpoint,
            callbacks=callbacks,
            progress=progress,
        )

    def run(self, logger: str | None, progress: Style) -> FitRun:
        """Fit, score and draw, in the run's folder.

        Args:
            logger: `tensorboard`, or none.
            progress: how progress is shown.

        Returns:
            The run that was fitted.
        """
        self.progress: Style = progress
        open_logger = logger_opener(logger, self.out if self.resuming else None)
        with ExitStack() as locks:
            new = self._locked_folder(locks) if self.group.is_main else None
            folder = self.group.broadcast(new)
            assert folder is not None  # the first process has named it
            self.folder = folder
            return self._run_in_folder(open_logger)

    def _locked_folder(self, locks: ExitStack) -> Path:
        """The run's folder, into which this process alone writes until the locks are closed."""
        if self.resuming and self.out is not None:
            locks.enter_context(lock_run(self.out))
            path = self.out / EVALUATION
            self.known = read_json(path) if path.exists() else {}
            return self.out
        folder = locks.enter_context(lock_new_folder(self.out, Path(self.data.name).stem))
        require_unused(folder)
        return folder

    def _run_in_folder(self, open_logger: OpenLogger) -> FitRun:
        group = self.group
        if self.resuming:
            require_same_data(self.folder, self.data.fingerprint)
            if group.is_main:
                require_checkpoint_of(self.folder / CHECKPOINT, self.program)
        elif group.is_main:
            write_config(self.folder, self.config | recipe_of(self.program))
            write_conditions(self.folder, self.data.train)
        try:
            if not group.is_main:
                return self._fit_along()
            self.log(describe_fit(self.settings.model, self.data, self.program, self.likelihood, self.own))
            if self.labels is not None:
                self.log(describe_labels(self.labels, self.settings.model, num_classes(self.data)))
            self.log(f"run {self.folder}; Ctrl-C saves, pyro-vae fit --resume {self.folder} resumes it")
            with open_logger(self.folder) as board:
                return self._finish(self._fit(board), board)
        except InputError:
            if group.is_main and not self.resuming and not (self.folder / WEIGHTS).exists():
                remove_unstarted(self.folder)
            raise
        except (KeyboardInterrupt, RankLostError) as error:
            with defer_signals():
                if group.is_main:
                    self._save_interrupted(error)
            raise

    @property
    def config(self) -> dict[str, object]:
        """The run's `config.toml`, its program apart: version, data fingerprint, every setting, the measure."""
        data = self.data
        about: dict[str, object] = {"data": data.name, "fingerprint": data.fingerprint}
        about |= {"num_features": data.num_features}
        about |= {"columns": list(data.columns)} if data.columns else {}
        about |= {"missing": True} if data.has_missing else {}
        about |= {"program": self.own} if self.own else {}  # for people: no command runs code that a file names
        about |= {"image_shape": list(data.image_shape)} if data.image_shape else {}
        schema = {"schema": data.schema.to_dict()} if data.schema else {}
        return {"about": about, **self.settings.to_toml(), "measure": data.train.measure.to_dict(), **schema}

    def _fit(self, board: RunLogger | None) -> FitResult:
        """The fit itself, its metrics written as they come; if it diverges the folder holds the last good weights."""
        folder = self.folder
        drop_later_epochs(folder)
        callbacks = [WriteChoice(self), MetricsFile(folder / METRICS), *([] if board is None else [board])]
        try:
            with warnings_to_log(self.log):
                fitted = self.fit_program(folder, callbacks, self.progress)
        except DivergedError:
            save(self.program, folder)
            raise
        write_json_lines(folder / METRICS, fitted.history)
        save(self.program, folder)
        if board is not None:
            board(fitted.history)  # a resumed fit that had no epoch left has not called it
        return fitted

    def _fit_along(self) -> FitRun:
        """What the processes other than the first do: they fit and score with it, and write nothing."""
        from pyro_vae.workflows.evaluate_run import evaluate_split  # late: the first step does not wait for it

        fitted = self.fit_program()
        to_cpu(self.program)
        with suppress(RowsError, PointMassError):  # the first process reports it
            evaluate_split(self.program, self.data.valid.head(SCORED_ROWS), self.folder, VALID_ESTIMATOR)
        return FitRun(self.folder, self.program, self.data, fitted, EvidenceRecord())

    def _finish(self, fitted: FitResult, board: RunLogger | None) -> FitRun:
        """Score the validation rows, draw the figures, and write the evaluation last: it marks the run as complete."""
        from pyro_vae.plots.fit_figures import write_figures  # late: the first step does not wait for them
        from pyro_vae.workflows.evaluate_run import evaluate_split

        folder, program, data = self.folder, self.program, self.data
        to_cpu(program)
        if board is not None:
            with self._continue_on_error("TensorBoard figures"):
                board.finish(program, data)
        scored = data.valid.head(SCORED_ROWS)
        if len(scored) < len(data.valid):
            more = f"pyro-vae evaluate {folder} --split valid scores all"
            self.log(f"scoring the first {len(scored):,} of {len(data.valid):,} validation rows; {more}")
        try:
            record, log_px = evaluate_split(
                program, scored, folder, VALID_ESTIMATOR, log=self.log, progress=self.progress
            )
        except (RowsError, PointMassError) as error:  # a user's program whose rows have no weights of their own
            best = fitted.history[fitted.best_epoch - 1]
            elbo = best["valid_elbo"]
            about = EvidenceRecord(run=str(folder), model="program", fit_method="svi", split="valid")
            record = replace(about, elbo=elbo, bound=elbo, seconds=fitted.seconds)
            with DeferUnwritable() as unwritten:
                write_json(folder / EVALUATION, {"valid": dict(record)})
            return FitRun(folder, program, data, fitted, record, unscored=str(error), unwritten=unwritten.error)
        record = replace(record, seconds=fitted.seconds)
        if note := dominating_rows(log_px.log_px, scored.source_index(slice(None)).tolist()):
            self.log(f"note: {note}")
        with DeferUnwritable() as unwritten:
            write_reference_scores(folder, log_px, VALID_ESTIMATOR)
        figures: list[Path] = []
        with self._continue_on_error("figures"):
            figures = write_figures(folder / "figures", program, data, fitted.history, fitted.best_epoch)
        figures = figures or sorted((folder / "figures").glob("*.png"))
        with unwritten:
            write_json(folder / EVALUATION, self.known | {"valid": dict(record)})
        baseline = fit_baseline(data, scored, log_px)
        return FitRun(folder, program, data, fitted, record, tuple(figures), "", baseline, unwritten.error)

    @contextmanager
    def _continue_on_error(self, what: str) -> Iterator[None]:
        """Inside, an error in drawing is logged and goes no further: the fitted run is not lost by it."""
        try:
            yield
        except Exception as error:
            if self.debug:
                traceback.print_exc()
            self.log(f"no more {what}: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where")

    def _save_interrupted(self, error: BaseException) -> None:
        """Keep the best weights of a fit that was interrupted, and log it."""
        save(self.program, self.folder)
        done = len(read_json_lines(self.folder / METRICS))
        kept = (
            f"after {done} whole epochs, the best weights so far are kept" if done else "before the first epoch ended"
        )
        how = "goes on from there" if done else "begins it anew"
        self.log(f"{reason_of_interruption(error, self.group)} {kept}; --resume {self.folder} {how}")


class WriteChoice(CallbackBase):
    """Writes the precision that "auto" has chosen into the run's settings, before the first step.

    Args:
        job: the fit.
    """

    def __init__(self, job: FitJob) -> None:
        self.job = job

    def on_fit_start(self, fit: RunningFit) -> None:
        """Write it, and say it."""
        job = self.job
        if job.settings.training.precision == "auto":
            job.settings = job.settings.with_precision(fit.precision)
            write_config(job.folder, job.config | recipe_of(job.program))
            job.log(f"--precision auto: the products of layers are taken in {fit.precision}")


def to_cpu(program: Program) -> None:
    """Move a program with weights to the CPU, as it is saved and scored."""
    if isinstance(program, nn.Module):
        program.to("cpu")
