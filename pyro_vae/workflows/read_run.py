"""A run's folder read back: its settings, its program, its data, rows of the same kind, and what it says of them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import part_seed, seeded
from pyro_vae.data import NAMED_DATASETS, Dataset, Measure, Split, load_data
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.conditions import GIVEN, Value, original_codes
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.frames import frame_like
from pyro_vae.data.image_settings import ImageSettings
from pyro_vae.data.image_shapes import ImageShape, as_image_shape
from pyro_vae.data.load_tables import Source
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.diagnostics.anomaly_scores import compare_with_reference, usable_rate
from pyro_vae.diagnostics.strange_columns import require_no_pictures
from pyro_vae.errors import ImputationWarning, InputError, ZeroDensityWarning
from pyro_vae.evidence.estimate_log_px import estimate_log_px
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.options import options_of
from pyro_vae.programs.sample_rows import sample
from pyro_vae.run_folder import CONFIG, WEIGHTS, read_config
from pyro_vae.serialization import load
from pyro_vae.typing import Program
from pyro_vae.workflows.choose_likelihood import load_dataset
from pyro_vae.workflows.conditions_file import read_conditions, some_conditions
from pyro_vae.workflows.explain_scores import explain_flagged
from pyro_vae.workflows.fill_rows import FilledRows, Imputing, fill_rows
from pyro_vae.workflows.fit_resampled import fit_resampled
from pyro_vae.workflows.fit_settings import coding_of_run, settings_of_earlier_version
from pyro_vae.workflows.reference_scores import estimate_alike, read_reference_scores
from pyro_vae.workflows.row_frames import code_frame, describe_rows, reconstruction_frame, score_frame, values_frame
from pyro_vae.workflows.source_frames import frame_of_source, frame_of_split
from pyro_vae.workflows.user_program import load_builder

if TYPE_CHECKING:
    import pandas

CHUNK_ROWS = 12_800  # rows worked on and written at a time


NewRows = Source | None  # a file, rows in memory, or the run's own test rows


@check_call
def open_run(folder: str | Path, program: str | None = None) -> "Run":
    """A finished run, to prepare, encode, reconstruct, score and draw rows as frames.

    Args:
        folder: the run's folder.
        program: `FILE.py:FUNCTION`, for a run of a program of one's own.

    Returns:
        The run; `InputError` for a folder that is none.
    """
    return Run(Path(folder), program)


class Run:
    """A run's folder, opened: its settings, its program, its data when asked for, and verbs on new rows.

    Rows are a file, a data frame, an array or tensor, or None for the run's own test rows; what comes back is a data
    frame of the library that the rows were in, else of pandas, with the rows' ids first and the columns of the data
    under their own names. Raises `InputError` for a folder that is no finished run.

    Args:
        folder: the folder.
        program: `FILE.py:FUNCTION`, for a run of a user's own program.
    """

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder, self.build = folder, program
        self.config = read_config(folder)
        if "about" not in self.config or "measure" not in self.config:
            raise InputError(
                f"{folder} was saved from Python and does not name its data; load it there: pv.load({str(folder)!r})"
            )
        self.about = self.config["about"]
        self._require_settings()
        self.measure = Measure.from_dict(self.config["measure"])
        self._check_columns()
        if not (folder / WEIGHTS).exists():
            raise InputError(f"{folder}: this run has no weights yet; finish it with pyro-vae fit --resume {folder}")

    def _require_settings(self) -> None:
        """`InputError` for a `config.toml` that lacks what a fit writes."""
        has_all = "likelihood" in self.config.get("model", {}) and "data" in self.config
        if not has_all or not self.about.keys() >= {"num_features", "fingerprint"}:
            raise InputError(f"{self.folder / CONFIG} lacks settings that a fit writes: bring back a copy of it")

    def _check_columns(self) -> None:
        """`InputError` where measure or columns are those of rows of another width."""
        width, names = self.about["num_features"], self.schema.coded_names
        try:
            self._data_config()
            self.measure.require_width(width)
        except InputError as error:
            raise InputError(f"{self.folder / CONFIG}: {error}") from error
        if len(names) not in (0, width):
            raise InputError(
                f"{self.folder / CONFIG}: {len(names)} columns, and rows of {width}: bring back a copy of it"
            )

    @property
    def source_files(self) -> tuple[Path, ...]:
        """The files that the run's data were read from, which nothing may replace."""
        data = self.config["data"]
        return tuple(Path(data[name]) for name in ("data", "valid", "test", "schema") if data.get(name))

    def program(self) -> Program:
        """The run's program, read once; `InputError` for one of the user's own that `--program` does not build."""
        return self._program

    @cached_property
    def _program(self) -> Program:
        if self.build is not None:
            build = load_builder(self.build)
            return load(self.folder, build=lambda: build(self.data()))
        if "program" not in self.config:
            own = self.about.get("program", "FILE.py:FUNCTION")
            raise InputError(
                f"{self.folder} holds a program of your own, which no file may name for you: add --program {own}"
            )
        return load(self.folder)

    def data(self) -> Dataset:
        """The data set the run was fitted to; `InputError` where it is gone or has changed."""
        try:
            data = load_dataset(self._data_config(), self.config["model"]["likelihood"])
        except InputError as error:
            raise InputError(f"{self.folder}: the data this run was fitted to cannot be read: {error}") from error
        if data.fingerprint != self.about["fingerprint"]:
            raise InputError(
                f"{self.folder}: the data {data.name} is not what it was when this run was fitted; fit again, or bring "
                "the old data back"
            )
        return data

    def rows(self, name: str | None, split: str) -> Split:
        """Rows to work on, with their index in the file or data set.

        A file's rows keep its order and get this run's measure.

        Args:
            name: a file, or the name of a data set; None for the run's own data.
            split: which rows of a data set: train, valid or test.

        Returns:
            The rows.
        """
        if name is None or name in NAMED_DATASETS:
            config = self._data_config()
            if name is None or name == config.data:
                data = self.data()
            else:
                data = load_data(name, binarize=config.binarize, root=config.data_root)
                if data.schema.modelled or self.schema.modelled:
                    raise InputError(f"{name}: columns of another data set; this run was fitted to {config.data}")
            found = data.split(split)
            self._check_width(found.shape[1], data.name)
            return found.with_fields(name=split, measure=self.measure)
        return self.prepare(name, self._header)

    @property
    def prepare(self) -> Preparation:
        """What new rows go through to be those of this run."""
        data, shape, schema = self.config["data"], self.image_shape, self.schema
        images = ImageSettings(
            gray=data.get("gray", shape is not None),  # 0.1.0 had no such setting and read colours as grey levels
            resize=None if "resize" not in data else (data["resize"][0], data["resize"][1]),
            fitted=shape,
            label_levels=schema.label_levels,
        )
        missing = bool(self.about.get("missing", data.get("missing") == "mask"))
        of_rows = data.get("stream"), data.get("layer"), images
        return Preparation(self.measure, self.about["num_features"], schema, missing, *of_rows)

    @property
    def image_shape(self) -> ImageShape | None:
        """That of the pictures it was fitted to; None for a table."""
        shape = self.about.get("image_shape")
        return None if shape is None else as_image_shape(shape)

    @property
    def schema(self) -> Schema:
        """The columns of the data, as they are in the run; of a run before kinds of columns, real numbers by name."""
        if "schema" in self.config:
            return Schema.from_dict(self.config["schema"])
        columns = [Column(name, "real") for name in self.about.get("columns", ())]
        levels = tuple(self.about.get("label_levels", ()))
        return Schema((*columns, *([Column("label", "label", "text", levels)] if levels else [])), bool(columns))

    def encode(self, rows: NewRows = None) -> Any:
        """The posterior means of z under the guide, z1, z2, …, and the labels that the program predicts, if it does.

        Args:
            rows: the rows (N).

        Returns:
            A frame (N rows): ids, numbers, labels, and K means; of a semi-supervised run the most probable label of
            each row, `predicted_LABEL`, and the probability of each, `probability_LEVEL`.
        """
        return self._frame_of(rows, lambda part, number: code_frame(self.program(), part, self.prepare))

    def reconstruct(self, rows: NewRows = None) -> Any:
        """E[x | z] at each row's posterior mean, with the names and units of the data.

        Args:
            rows: the rows (N).

        Returns:
            A frame (N rows): ids, numbers, labels, and the columns of the data.
        """
        return self._frame_of(rows, lambda part, number: reconstruction_frame(self.program(), part, self.prepare))

    @check_call
    def score(
        self,
        rows: NewRows = None,
        *,
        false_alarms: float | None = None,
        estimator: Estimator | None = None,
        explain: bool = False,
    ) -> Any:
        """log p(x) of each row, nats, its percentile among the run's validation rows, and whether it is unusual.

        Args:
            rows: the rows (N).
            false_alarms: the share of usual rows that may be flagged, between 0 and 1; by default 0.05, or the smallest
                that the number of validation rows can tell.
            estimator: how log p(x) is computed; by default as that of the validation rows was when the run was fitted.
            explain: whether the columns are named that make flagged rows improbable; `InputError` for pictures.

        Returns:
            A frame (N rows): ids, numbers, labels, log_px, khat, percentile, anomaly; and column_1, nats_1, … of at
            most three columns of flagged rows, with log p of each given the row's other values, less what is expected.
        """
        if explain:
            require_no_pictures(self.image_shape)
        reference, estimator = self.reference_scores(false_alarms, estimator)
        rate = usable_rate(false_alarms, int(reference.has_number.sum()))

        def score_part(part: Split, number: int) -> "pandas.DataFrame":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZeroDensityWarning)  # −inf says it
                found = estimate_log_px(estimator, self.program(), part, seed=part_seed(estimator.seed, number))
            scores = compare_with_reference(found, reference, rate)
            frame = score_frame(scores)
            if not explain:
                return frame
            return frame.join(explain_flagged(self.program(), part, scores, self.prepare, estimator)[0])

        return self._frame_of(rows, score_part)

    @check_call
    def impute(
        self,
        rows: NewRows = None,
        *,
        method: str = "draws",
        num_imputations: int = 1,
        num_samples: int = 1000,
        seed: int = 0,
        bootstrap: int = 0,
    ) -> Any:
        """Rows with their missing cells filled, the others as they were; `evidence.impute_rows` says how.

        Args:
            rows: the rows (N).
            method: draws; mean, of levels the most probable; or mode, that and the mean of numbers. In columns of whole
                numbers all are whole.
            num_imputations: how often each missing cell is drawn, M.
            num_samples: weighted latents of each row.
            seed: seed of the draws.
            bootstrap: how many programs draw, each fitted to the run's training rows drawn with replacement, so that
                the parameters' uncertainty is in the draws (proper imputation); M is a multiple of it.

        Returns:
            A frame like the rows, the ids first; of M > 1, M · N rows with the column `imputation`, from 1.
        """
        filled = self.fill(rows, "test", Imputing(method, num_imputations, num_samples, seed, bootstrap))
        for message in filled.warnings():
            warnings.warn(message, ImputationWarning, stacklevel=2)
        return filled.frame

    def fill(self, rows: NewRows, split: str, how: Imputing, *, as_written: bool = False) -> FilledRows:
        """Rows with their missing cells filled, and how well that went.

        Args:
            rows: a file, the name of a data set, or rows in memory; None for the run's own.
            split: which rows of a data set: train, valid or test.
            how: how missing values are filled.
            as_written: whether cells of a text table stay the text that they are.

        Returns:
            The frame and what is to be said of it.
        """
        preparation = replace(self.prepare, missing=True)
        if rows is None or (isinstance(rows, str) and rows in NAMED_DATASETS):
            found = self.rows(rows, split)
            source = frame_of_split(found, preparation)
        else:
            found = preparation(rows, self._header)
            source = frame_of_source(rows, found, preparation, self._header, as_written)
        numbers = range(1, how.bootstrap + 1)
        programs = [fit_resampled(self.folder, self.build, number) for number in numbers] or [self.program()]
        return fill_rows(programs, found, source, preparation, how)

    @check_call
    def sample(
        self, num: int = 64, *, seed: int | None = None, given: Mapping[str, Value] | None = None
    ) -> "pandas.DataFrame":
        """Rows drawn from the model, z from the prior and x from the likelihood, with names, types and units.

        Args:
            num: the number of rows.
            seed: a seed of the draws; None continues with torch's generator.
            given: the value of each condition by name; by default rows have the conditions of training rows.

        Returns:
            A frame (num rows) with the columns of the data, the conditions among them.
        """
        import pandas

        program = self.program()  # made before the seed: initial weights are drawn too
        with seeded(seed):
            conditions = self._conditions(num, given or {})
            row_inputs = {GIVEN: conditions}
            drawn = sample(program, num, num_features=self.about["num_features"], row_inputs=row_inputs)
        frame = values_frame(drawn, self.prepare, rounded=True, given=conditions)
        if conditions is None or self.schema.modelled:
            return frame
        labels = self.schema.conditions.decode(original_codes(self.schema, conditions))
        return pandas.concat([labels, frame], axis=1)

    def _conditions(self, num: int, given: Mapping[str, Value]) -> Tensor | None:
        """The conditions of new rows, (num, C): those that are given, or those of training rows; None without any."""
        if given or not self.schema.conditions:
            return self.prepare.given(given, num) if given else None
        kept = read_conditions(self.folder)
        kept = some_conditions(self.data().train) if kept is None else kept
        return kept[torch.randint(len(kept), (num,))]

    def _frame_of(self, rows: NewRows, function: "Callable[[Split, int], pandas.DataFrame]") -> Any:
        """What a function makes of each chunk of rows, beside what names the rows."""
        import pandas

        split = self.data().test if rows is None else self.prepare(rows, self._header)
        parts = []
        for number, part in enumerate(split.chunks(chunk_rows(split.shape[1], CHUNK_ROWS))):
            about = describe_rows(part, self.prepare)
            parts.append(
                pandas.concat([about, function(part, number).drop(columns=about.columns, errors="ignore")], axis=1)
            )
        return frame_like(rows, pandas.concat(parts, ignore_index=True))

    def reference_scores(
        self, false_alarms: float | None, estimator: Estimator | None = None
    ) -> tuple[LogPx, Estimator]:
        """log p(x) of the validation rows: those that the run has kept, else computed from its data.

        Args:
            false_alarms: the share of usual rows that may be flagged, for which there must be enough rows.
            estimator: how log p(x) is computed; None: as the kept scores were.

        Returns:
            The scores (nats per row), and the estimator that gives others like them.
        """
        kept = read_reference_scores(self.folder)
        if kept is not None and (estimator is None or estimate_alike(kept.estimator, estimator)):
            usable_rate(false_alarms, int(kept.log_px.has_number.sum()))
            return kept.log_px, estimator or kept.estimator
        estimator, held_out = estimator or Estimator(), self.data().valid
        usable_rate(false_alarms, len(held_out))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeroDensityWarning)
            return estimate_log_px(estimator, self.program(), held_out), estimator

    @property
    def _header(self) -> str:
        return str(self.config["data"].get("header", "auto"))

    def columns(self) -> list[str]:
        """The names of x's columns, x1, x2, … where the data had none."""
        return list(self.schema.coded_names) or [f"x{i + 1}" for i in range(self.about["num_features"])]

    def _check_width(self, found: int, name: str) -> None:
        expected = self.about["num_features"]
        if found != expected:
            raise InputError(
                f"{name}: {found} columns, but this run was fitted to rows of {expected}; give rows of the same kind"
            )

    def _data_config(self) -> DataConfig:
        """The data settings of the run; `config.toml` leaves out what is None, and TOML has no tuples."""
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.config["data"].items()
            if name in options_of(DataConfig)
        }
        return DataConfig(**settings_of_earlier_version(self.config) | kept | coding_of_run(self.config))
