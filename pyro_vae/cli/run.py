"""A run's folder, opened: its settings, its program, its data, rows of the same kind, and rows written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import runs
from pyro_vae.cli.build import build_of, data_of
from pyro_vae.data import NAMED, Dataset, Measure, Split, load_data
from pyro_vae.data.files import Table, read_file
from pyro_vae.data.load import known
from pyro_vae.errors import InputError


class Run:
    """A run's folder, opened: its settings, its program, and its data when asked for."""

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder, self.build = folder, program
        self.config = runs.read_config(folder)
        if "about" not in self.config or "measure" not in self.config:
            raise InputError(
                f"{folder} was saved from Python and says nothing of data; load it there: pv.load({str(folder)!r})"
            )
        self.measure = Measure.from_plain(self.config["measure"])
        self.about = self.config["about"]
        if not (folder / runs.WEIGHTS).exists():
            raise InputError(f"{folder}: this run has no weights yet; finish it with pyro-vae fit --resume {folder}")

    def program(self) -> Any:
        """The run's program; `InputError` where it is the user's own and `--program` does not say how to build it."""
        if self.build is not None:
            build = build_of(self.build)
            return runs.load(self.folder, build=lambda: build(self.data()))
        if "program" not in self.config:
            own = self.about.get("program", "FILE.py:FUNCTION")
            raise InputError(
                f"{self.folder} holds a program of your own, which no file may name for you: add --program {own}"
            )
        return runs.load(self.folder)

    def data(self) -> Dataset:
        """The data set the run was fitted to; `InputError` where it is gone or has changed."""
        try:
            data = data_of(absent_as_none(self.config["data"]), self.config["model"]["likelihood"])
        except InputError as error:
            raise InputError(f"{self.folder}: the data this run was fitted to cannot be read: {error}") from error
        if data.fingerprint != self.about["fingerprint"]:
            raise InputError(
                f"{self.folder}: the data {data.name} is not what it was when this run was fitted; fit again, or bring "
                "the old data back"
            )
        return data

    def rows(self, name: str | None, split: str) -> tuple[Split, list[int]]:
        """Rows to work on and their places where they were read.

        A file's rows keep its order, under this run's measure; without a name it is a split of the run's own data, and
        a data set's name stands for a split of that.
        """
        if name is None or name in NAMED:
            settings = absent_as_none(self.config["data"])
            data = (
                self.data()
                if name is None
                else load_data(name, binarize=settings["binarize"], root=settings["data_root"])
            )
            found = data.split(split)
            self._check_width(found.shape[1], data.name)
            places = torch.arange(len(found)) if found.index is None else found.index
            return Split(split, found.stored, self.measure, found.labels, found.image_shape), places.tolist()
        table = self._in_order(read_file(Path(name), self.config["data"].get("missing") == "mask"), name)
        self._check_width(table.values.shape[1], name)
        self._check_levels(table.values, name)
        return Split("given", table.values, self.measure, table.labels), list(range(len(table.values)))

    def columns(self) -> list[str]:
        """The names of x's columns, made up where the data had none."""
        return list(self.about.get("columns", ())) or [f"x{i + 1}" for i in range(self.about["num_features"])]

    def _in_order(self, table: Table, name: str) -> Table:
        """The table with its columns in the order this run was fitted to, where both know their names."""
        expected = tuple(self.about.get("columns", ()))
        if not expected or not table.columns or table.columns == expected:
            return table
        if missing := [column for column in expected if column not in table.columns]:
            raise InputError(f"{name}: no column {', '.join(missing)}; this run was fitted to {', '.join(expected)}")
        order = [table.columns.index(column) for column in expected]
        return replace(table, values=table.values[:, order], columns=expected)

    def _check_levels(self, values: Tensor, name: str) -> None:
        values = known(values)
        levels, highest = self.measure.levels, float(values.max())
        as_shares = levels is not None and levels > 1 and values.is_floating_point() and highest <= 1
        if levels is not None and (highest > levels or as_shares or float(values.min()) < 0):
            raise InputError(
                f"{name}: values from {float(values.min()):g} to {highest:g}, but this run was fitted to pictures of 0 "
                "to "
                f"{levels}; bring them to that range"
            )

    def _check_width(self, found: int, name: str) -> None:
        expected = self.about["num_features"]
        if found != expected:
            raise InputError(
                f"{name}: {found} columns, but this run was fitted to rows of {expected}; give rows of the same kind"
            )


def absent_as_none(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("data", "data_root", "binarize", "dequantize", "standardize", "missing", "image_shape")
    shape = settings.get("image_shape")
    return {name: settings.get(name) for name in names} | {
        "dequantize": bool(settings.get("dequantize")),
        "missing": settings.get("missing", "refuse"),
        "image_shape": None if shape is None else (int(shape[0]), int(shape[1])),
    }


def write_rows(
    path: Path, rows: Tensor, names: list[str], index: list[int] | None = None, labels: Tensor | None = None
) -> None:
    """Rows to a `.npy` array or a `.csv` table with an index and, where known, labels."""
    import io

    import numpy as np
    import pandas

    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rows.numpy(), allow_pickle=False)
        runs.write_whole(path, buffer.getvalue())
    elif path.suffix == ".csv":
        frame = pandas.DataFrame(rows.numpy(), columns=names)
        if labels is not None:
            frame.insert(0, "label", labels.numpy())
        if index is not None:
            frame.insert(0, "index", index)
        runs.write_whole(path, frame.to_csv(index=False).encode())
    else:
        raise InputError(f"{path}: can write .npy or .csv, not {path.suffix or 'a file without an ending'}")
