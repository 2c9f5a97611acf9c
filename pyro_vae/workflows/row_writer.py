"""Rows written to a `.npy` or `.csv` file, chunk by chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from pyro_vae.atomic_write import atomic_path
from pyro_vae.errors import InputError


class RowWriter:
    """Writes rows, chunk by chunk, to a `.npy` array or a `.csv` table with an index and, where known, labels."""

    def __init__(self, path: Path, file: BinaryIO, num_rows: int, names: list[str]) -> None:
        self.path, self.file, self.num_rows, self.names, self.done = path, file, num_rows, names, 0

    def write(self, rows: Tensor, index: Tensor | None = None, labels: Tensor | None = None) -> None:
        if self.path.suffix == ".csv":
            self.write_columns(dict(zip(self.names, rows.T.numpy(), strict=True)), index, labels)
            return
        import numpy as np

        array = rows.contiguous().numpy()
        if not self.done:
            about = {"descr": array.dtype.str, "fortran_order": False, "shape": (self.num_rows, array.shape[1])}
            np.lib.format.write_array_header_1_0(self.file, about)  # type: ignore[arg-type]
        self.file.write(array.data)
        self.done += len(array)

    def write_columns(self, columns: dict[str, Any], index: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Append lines to a `.csv` table, the names above the first."""
        import pandas

        first = {name: value.numpy() for name, value in (("index", index), ("label", labels)) if value is not None}
        frame = pandas.DataFrame(first | columns)
        self.file.write(frame.to_csv(index=False, header=not self.done).encode())
        self.done += len(frame)


@contextmanager
def open_row_writer(path: Path, num_rows: int, names: list[str]) -> Iterator[RowWriter]:
    """Inside, rows are written; the file appears when all of them are, and keeps its old content until then."""
    if path.suffix not in (".npy", ".csv"):
        raise InputError(f"{path}: can write .npy or .csv, not {path.suffix or 'a file without an ending'}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield RowWriter(path, file, num_rows, names)
