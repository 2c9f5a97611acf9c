"""Files of rows that a user gets back, written chunk by chunk, whole or not at all: the format is by the ending."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from pyro_vae.atomic_write import atomic_path, require_file_path
from pyro_vae.data.formula_quotes import quote_formula, quote_text
from pyro_vae.errors import InputError
from pyro_vae.run_folder import lock_run

if TYPE_CHECKING:
    import pandas

LATENTS = "X_vae"  # in `obsm` of annotated rows
ANNOTATED = ".h5ad"


class RowWriter(Protocol):
    """Writes rows, chunk by chunk."""

    def write(self, about: "pandas.DataFrame", values: "pandas.DataFrame") -> None:
        """Append rows.

        Args:
            about: what names the rows: ids, numbers in their source, labels (n rows).
            values: the values (n rows).
        """
        ...

    def close(self) -> None:
        """Write what is left."""
        ...

    def abandon(self) -> None:
        """Let go of what is open, where rows are missing because of an error or an interruption."""
        ...


class WriterBase:
    """A base class of writers, which leave nothing open."""

    def close(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""


class CsvWriter(WriterBase):
    """A text table, the names above the first row; names and levels that a spreadsheet would run are quoted.

    Args:
        file: the open file.
        num_rows: how many rows will be written.
        as_read: whether the cells are those of a file that the user gave, and stay as they are.
    """

    def __init__(self, file: BinaryIO, num_rows: int, as_read: bool = False) -> None:
        self.file, self.has_header, self.as_read = file, False, as_read

    def write(self, about: "pandas.DataFrame", values: "pandas.DataFrame") -> None:
        frame = _side_by_side(about, values if self.as_read else quote_text(values))
        header = False if self.has_header else [quote_formula(str(name)) for name in frame.columns]
        self.file.write(frame.to_csv(index=False, header=header).encode())
        self.has_header = True


class ParquetWriter(WriterBase):
    """A Parquet file, a row group a chunk; types are those of the first chunk.

    Args:
        file: the open file.
        num_rows: how many rows will be written.
    """

    def __init__(self, file: BinaryIO, num_rows: int) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - asked for before rows are computed
        except ImportError as error:
            raise InputError("Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
        self.file = file
        self.writer: Any = None  # pyarrow's, which has no types

    def write(self, about: "pandas.DataFrame", values: "pandas.DataFrame") -> None:
        import pyarrow
        import pyarrow.parquet

        frame = _side_by_side(about, values)
        schema = None if self.writer is None else self.writer.schema
        table = pyarrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def abandon(self) -> None:
        self.close()  # pyarrow's writer does so when it is deleted, to a file that is closed then


class NpyWriter(WriterBase):
    """An array of the values alone, without what names the rows.

    Args:
        file: the open file.
        num_rows: how many rows will be written.
    """

    def __init__(self, file: BinaryIO, num_rows: int) -> None:
        self.file, self.num_rows, self.has_header = file, num_rows, False

    def write(self, about: "pandas.DataFrame", values: "pandas.DataFrame") -> None:
        if texts := [str(name) for name, kind in values.dtypes.items() if kind.kind not in "fiub"]:
            raise InputError(f".npy holds numbers, and {', '.join(texts[:3])} holds none; write .csv or .parquet")
        array = np.ascontiguousarray(values.to_numpy())
        if not self.has_header:
            about_array = {"descr": array.dtype.str, "fortran_order": False, "shape": (self.num_rows, array.shape[1])}
            np.lib.format.write_array_header_1_0(self.file, about_array)
            self.has_header = True
        self.file.write(array.data)


class AnnotatedWriter(WriterBase):
    """A copy of the `.h5ad` that rows are read from, with the values in `obsm["X_vae"]`, or as columns of `obs`.

    Args:
        file: the open file.
        num_rows: how many rows will be written: all of the source.
        source: the `.h5ad`.
        place: `obsm` or `obs`.
    """

    def __init__(self, file: BinaryIO, num_rows: int, source: Path, place: str) -> None:
        self.file, self.num_rows, self.source, self.place = file, num_rows, source, place
        self.index: list[np.ndarray] = []
        self.parts: list[pandas.DataFrame] = []

    def write(self, about: "pandas.DataFrame", values: "pandas.DataFrame") -> None:
        self.index.append(about["index"].to_numpy())
        self.parts.append(values)

    def close(self) -> None:
        import pandas

        from pyro_vae.data.annotated.write_annotated import copy_with_columns, copy_with_latents

        order = np.concatenate(self.index).argsort()
        values = pandas.concat(self.parts, ignore_index=True).iloc[order]
        if self.place == "obsm":
            copy_with_latents(self.source, self.file, LATENTS, values.to_numpy())
        else:
            columns = {str(name): values[name] for name in values}
            texts = {name: each.fillna("") for name, each in columns.items() if each.dtype == "string"}
            arrays = {name: texts.get(name, each).to_numpy() for name, each in columns.items()}
            copy_with_columns(self.source, self.file, arrays)


WRITERS: dict[str, Callable[[BinaryIO, int], RowWriter]] = {
    ".csv": CsvWriter,
    ".parquet": ParquetWriter,
    ".npy": NpyWriter,
}


def _side_by_side(about: "pandas.DataFrame", values: "pandas.DataFrame") -> "pandas.DataFrame":
    import pandas

    kept = about.drop(columns=[name for name in about.columns if name in values.columns])
    return pandas.concat([kept.reset_index(drop=True), values.reset_index(drop=True)], axis=1)


def require_writer(path: Path, endings: tuple[str, ...] = tuple(WRITERS), source: Path | None = None) -> None:
    """`InputError` for a file that cannot be written, before any work is done.

    Args:
        path: the file.
        endings: the formats that are allowed.
        source: the file that all rows are read from, if there is one.
    """
    if path.suffix not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise InputError(f"{path}: can write {known}, not {path.suffix or 'a file without an ending'}")
    require_file_path(path)
    if path.suffix != ANNOTATED:
        return
    if source is None or source.suffix.lower() != ANNOTATED:
        raise InputError(
            f"{path}: a .h5ad is written as a copy of the .h5ad whose rows are encoded or scored; give that file as "
            "DATA, or write a .csv"
        )
    if path.exists() and path.samefile(source):
        raise InputError(f"{path}: is the file that is read; give the copy another name")


def require_not_read(path: Path, read: Iterable[Path | None]) -> None:
    """`InputError` where a file to be written is one of those that are read, whose content would be lost.

    Args:
        path: the file to be written.
        read: the files that are read, of which some may not exist.
    """
    for source in read:
        if source is not None and source.exists() and path.exists() and path.samefile(source):
            raise InputError(f"{path}: is the file that is read, and would be lost; give another --out")


@contextmanager
def open_row_writer(
    path: Path,
    num_rows: int,
    endings: tuple[str, ...] = tuple(WRITERS),
    source: Path | None = None,
    place: str = "obs",
    as_read: bool = False,
) -> Iterator[RowWriter]:
    """Inside, rows are written; the file appears when all of them are, and keeps its old content until then.

    Args:
        path: the file, whose ending is its format; `InputError` for another ending.
        num_rows: how many rows will be written.
        endings: the formats that are allowed.
        source: the file that all rows are read from, if there is one, of which a `.h5ad` is a copy.
        place: where a `.h5ad` holds the values: `obsm`, or `obs` with a column each.
        as_read: whether cells are those of a file that the user gave, and stay as they are in a `.csv`.

    Yields:
        RowWriter: the writer.
    """
    require_writer(path, endings, source)
    with lock_run(path.parent), atomic_path(path) as temporary, temporary.open("wb+") as file:
        if path.suffix == ANNOTATED and source is not None:
            writer: RowWriter = AnnotatedWriter(file, num_rows, source, place)
        elif path.suffix == ".csv":
            writer = CsvWriter(file, num_rows, as_read)
        else:
            writer = WRITERS[path.suffix](file, num_rows)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()
