"""Rows drawn from a run's model, or passed through its guide, written to a `.npy` or `.csv` file chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from pyro_vae.atomic_write import atomic_path
from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.json_records import Record
from pyro_vae.programs.encode_rows import encode, reconstruct
from pyro_vae.programs.sample_rows import sample
from pyro_vae.typing import Program
from pyro_vae.workflows.read_run import CHUNK_ROWS, Run

Part = tuple[Tensor, Tensor | None, Tensor | None]  # values, index and labels of some rows


class RowWriter:
    """Writes rows, chunk by chunk, to a `.npy` array or a `.csv` table with an index and, where known, labels.

    Args:
        path: where the rows will lie; its ending is the format.
        file: the open file.
        num_rows: how many rows will be written.
        names: the columns' names, for `.csv`.
        label_levels: the text of labels 0, 1, …; empty for labels that are numbers.
    """

    def __init__(
        self, path: Path, file: BinaryIO, num_rows: int, names: list[str], label_levels: Sequence[str] = ()
    ) -> None:
        self.path, self.file, self.num_rows, self.names, self.done = path, file, num_rows, names, 0
        self.label_levels = label_levels

    def write(self, rows: Tensor, index: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Append rows.

        Args:
            rows: values (n, columns) on the CPU.
            index: the rows' numbers (n,) in their source.
            labels: their labels (n,).
        """
        if self.path.suffix == ".csv":
            self.write_columns(dict(zip(self.names, rows.T.numpy(), strict=True)), index, labels)
            return
        array = rows.contiguous().numpy()
        if not self.done:
            about = {"descr": array.dtype.str, "fortran_order": False, "shape": (self.num_rows, array.shape[1])}
            np.lib.format.write_array_header_1_0(self.file, about)
        self.file.write(array.data)
        self.done += len(array)

    def write_columns(
        self, columns: Mapping[str, np.ndarray], index: Tensor | None = None, labels: Tensor | None = None
    ) -> None:
        """Append lines to a `.csv` table, the names above the first.

        Args:
            columns: arrays (n,) by name.
            index: the rows' numbers (n,) in their source.
            labels: their labels (n,).
        """
        import pandas

        first = {} if index is None else {"index": index.numpy()}
        first |= {} if labels is None else {"label": self._in_words(labels)}
        frame = pandas.DataFrame(first | dict(columns))
        self.file.write(frame.to_csv(index=False, header=not self.done).encode())
        self.done += len(frame)

    def _in_words(self, labels: Tensor) -> np.ndarray:
        """Labels as they were in the source, an empty cell for one that was missing."""
        known, levels = labels.tolist(), self.label_levels
        if not levels and min(known, default=0) >= 0:
            return labels.numpy()
        return np.array([None if label < 0 else levels[label] if levels else label for label in known], dtype=object)


@contextmanager
def open_row_writer(
    path: Path, num_rows: int, names: list[str], label_levels: Sequence[str] = ()
) -> Iterator[RowWriter]:
    """Inside, rows are written; the file appears when all of them are, and keeps its old content until then.

    Args:
        path: a `.npy` or `.csv` file; `InputError` for another ending.
        num_rows: how many rows will be written.
        names: the columns' names, for `.csv`.
        label_levels: the text of labels 0, 1, …; empty for labels that are numbers.

    Yields:
        RowWriter: the writer.
    """
    if path.suffix not in (".npy", ".csv"):
        raise InputError(f"{path}: can write .npy or .csv, not {path.suffix or 'a file without an ending'}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield RowWriter(path, file, num_rows, names, label_levels)


@dataclass(frozen=True)
class ExportedRows(Record):
    """A file of rows that was written."""

    run: str
    path: str
    num_rows: int
    num_columns: int


def sample_run(
    folder: str | Path, num: int = 64, *, seed: int = 0, out: str | Path | None = None, program: str | None = None
) -> ExportedRows:
    """Draw rows from the model, z from the prior and x from the likelihood, in the data's units.

    Args:
        folder: the run's folder.
        num: how many rows.
        seed: seed of the draws.
        out: a `.npy` or `.csv` file; by default one in the run's folder.
        program: `FILE.py:FUNCTION` of a program of one's own.

    Returns:
        The file, with its number of rows and columns.
    """
    run = Run(Path(folder), program)
    drawn, width = run.program(), run.about["num_features"]

    def parts() -> Iterator[Part]:
        with seeded(seed):
            for start in range(0, num, CHUNK_ROWS):
                rows = sample(drawn, min(CHUNK_ROWS, num - start), num_features=width)
                yield run.measure.to_original_units(rows), None, None

    return _write(run, out, "samples.npy", parts(), num, run.columns())


def reconstruct_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
) -> ExportedRows:
    """Write E[x | z] at each row's posterior mean, in the data's units.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.npy` or `.csv` file; by default one in the run's folder.
        program: `FILE.py:FUNCTION` of a program of one's own.

    Returns:
        The file, with its number of rows and columns.
    """
    run = Run(Path(folder), program)

    def reconstruct_part(own: Program, part: Split) -> Tensor:
        return run.measure.to_original_units(reconstruct(own, part.x, **part.row_inputs(slice(None))))

    return _export(run, data, split, out, ("reconstructions", ".npy"), reconstruct_part, run.columns())


def encode_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
) -> ExportedRows:
    """Write each row's posterior mean of z, with its index and label.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.npy` or `.csv` file; by default one in the run's folder.
        program: `FILE.py:FUNCTION` of a program of one's own.

    Returns:
        The file, with its number of rows and columns.
    """

    def encode_part(own: Program, part: Split) -> Tensor:
        return encode(own, part.x, **part.row_inputs(slice(None)))

    return _export(Run(Path(folder), program), data, split, out, ("latents", ".csv"), encode_part, None)


def _export(
    run: Run,
    data: str | None,
    split: str,
    out: str | Path | None,
    name: tuple[str, str],
    function: Callable[[Program, Split], Tensor],
    columns: list[str] | None,
) -> ExportedRows:
    """Write what a function makes of the run's program and each chunk of rows; `name` is a file's stem and ending."""
    rows, program = run.rows(data, split), run.program()
    parts = ((function(program, part), part.source_index(slice(None)), part.labels) for part in rows.chunks(CHUNK_ROWS))
    stem, ending = name
    return _write(run, out, f"{stem}{'' if data else f'-{split}'}{ending}", parts, len(rows), columns)


def _write(
    run: Run, out: str | Path | None, name: str, parts: Iterable[Part], num_rows: int, columns: list[str] | None
) -> ExportedRows:
    path = run.folder / name if out is None else Path(out)
    with open_row_writer(path, num_rows, columns or [], run.prepare.label_levels) as writer:
        for rows, index, labels in parts:
            writer.names = columns or [f"z{i + 1}" for i in range(rows.shape[1])]
            writer.write(rows.cpu(), index, labels)
    return ExportedRows(str(run.folder), str(path), num_rows, rows.shape[1])
