"""A run's folder read back: its settings, its program, its data, and rows of the same kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.data import NAMED_DATASETS, Dataset, Measure, Split, load_data
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.errors import InputError
from pyro_vae.option_registry import options_of
from pyro_vae.run_folder import WEIGHTS, read_config
from pyro_vae.serialization import load
from pyro_vae.typing import Program
from pyro_vae.workflows.choose_likelihood import load_dataset
from pyro_vae.workflows.user_program import load_builder

CHUNK_ROWS = 12_800  # rows worked on and written at a time


class Run:
    """A run's folder, opened: its settings, its program, and its data when asked for.

    Raises `InputError` for a folder that is no finished run.

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
        self.measure = Measure.from_dict(self.config["measure"])
        self.about = self.config["about"]
        if not (folder / WEIGHTS).exists():
            raise InputError(f"{folder}: this run has no weights yet; finish it with pyro-vae fit --resume {folder}")

    def program(self) -> Program:
        """The run's program; `InputError` where it is the user's own and `--program` does not say how to build it."""
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
            data = self.data() if name is None else load_data(name, binarize=config.binarize, root=config.data_root)
            found = data.split(split)
            self._check_width(found.shape[1], data.name)
            return replace(found, name=split, measure=self.measure)
        return self.prepare(name, str(self.config["data"].get("header", "auto")))

    @property
    def prepare(self) -> Preparation:
        """What new rows go through to be those of this run."""
        missing = bool(self.about.get("missing", self.config["data"].get("missing") == "mask"))
        return Preparation(
            self.measure, self.about["num_features"], self.schema, missing, self.config["data"].get("stream")
        )

    @property
    def schema(self) -> Schema:
        """The columns of the data, as they are in the run; of a run before kinds of columns, real numbers by name."""
        if "schema" in self.config:
            return Schema.from_dict(self.config["schema"])
        columns = [Column(name, "real") for name in self.about.get("columns", ())]
        levels = tuple(self.about.get("label_levels", ()))
        return Schema((*columns, *([Column("label", "label", "text", levels)] if levels else [])), bool(columns))

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
        return DataConfig(**kept)
