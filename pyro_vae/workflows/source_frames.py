"""The rows that came in as a frame of their own kind, and copies of it with the missing cells filled."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.column_values import is_text
from pyro_vae.data.columns.conditions import GIVEN, original_codes
from pyro_vae.data.frame_tables import frame_by_schema
from pyro_vae.data.frames import Frame, is_frame, read_frame
from pyro_vae.data.load_tables import Source
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.data.read_csv import read_text_table
from pyro_vae.data.read_files import TEXT_SUFFIXES, read_file
from pyro_vae.errors import InputError
from pyro_vae.workflows.row_frames import describe_rows

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

INDEX, IMPUTATION = "index", "imputation"


@dataclass(frozen=True)
class SourceFrame:
    """Rows as they came.

    Attributes:
        given: the frame, of any library.
        columns: the name in it of each modelled column, in their order.
        ids: the names of the columns that name rows.
        holds_text: whether cells are the text of a file.
    """

    given: Any
    columns: Sequence[Hashable]
    ids: Sequence[Hashable]
    holds_text: bool = False

    def filled(self, frames: Sequence[pandas.DataFrame], missing: Array) -> Any:
        """The rows with missing cells filled, once for each frame, the ids first; several are numbered.

        Args:
            frames: what to fill in, (N rows, the modelled columns) each.
            missing: which cells are filled, (N, columns).

        Returns:
            A frame of the library of `given`, N rows for each frame, in the order of the frames.
        """
        if isinstance(self.given, pandas.DataFrame):
            return self._pandas(frames, missing)
        import narwhals.stable.v2 as nw

        own: nw.DataFrame[Any] = nw.from_native(self.given, eager_only=True)
        parts = [self._with_columns(own, values, missing) for values in frames]
        if len(frames) > 1:
            parts = [part.with_columns(**self._numbers(number, own)) for number, part in enumerate(parts, start=1)]
        whole = nw.concat(parts)
        return whole.select(self._order(whole.columns)).to_native()

    def _pandas(self, frames: Sequence[pandas.DataFrame], missing: Array) -> pandas.DataFrame:
        parts = []
        for number, values in enumerate(frames, start=1):
            part = self.given.copy()
            for place, (name, given) in enumerate(zip(self.columns, values, strict=True)):
                if missing[:, place].any():
                    column = fill_cells(part[name], values[given], missing[:, place], self.holds_text)
                    part[name] = column
            if len(frames) > 1:
                part[IMPUTATION] = number
                if self._needs_index:
                    part[INDEX] = np.arange(len(part))
            parts.append(part)
        whole = pandas.concat(parts, ignore_index=True) if len(frames) > 1 else parts[0]
        return whole[self._order(list(whole.columns))]

    @property
    def _needs_index(self) -> bool:
        return not self.ids and INDEX not in list(self.given.columns)

    def _order(self, names: Sequence[Any]) -> list[Any]:
        first = [*self.ids, *(name for name in (INDEX, IMPUTATION) if name in names and name not in self.ids)]
        return [*first, *(name for name in names if name not in first)]

    def _with_columns(self, own: "nw.DataFrame[Any]", values: pandas.DataFrame, missing: Array) -> "nw.DataFrame[Any]":
        import narwhals.stable.v2 as nw

        changed = []
        for place, (name, given) in enumerate(zip(map(str, self.columns), values, strict=True)):
            if not (mask := missing[:, place]).any():
                continue
            before = own[name]
            cells = [cell if is_filled else None for cell, is_filled in zip(values[given].tolist(), mask, strict=True)]
            if before.dtype.is_integer():
                cells = [None if cell is None else int(cell) for cell in cells]
            backend = nw.get_native_namespace(self.given)
            after = nw.new_series(name, cells, dtype=before.dtype, backend=backend)
            is_kept = nw.new_series("kept", (~mask).tolist(), backend=backend)
            changed.append(before.zip_with(is_kept, after))
        return own.with_columns(*changed)

    def _numbers(self, number: int, own: "nw.DataFrame[Any]") -> dict[str, Any]:
        import narwhals.stable.v2 as nw

        backend = nw.get_native_namespace(self.given)
        numbers = {IMPUTATION: nw.new_series(IMPUTATION, [number] * len(own), backend=backend)}
        if self._needs_index:
            numbers[INDEX] = nw.new_series(INDEX, list(range(len(own))), backend=backend)
        return numbers

    def require_free_names(self) -> None:
        """`InputError` where a column has the name of that of the imputations' numbers."""
        if IMPUTATION in list(self.given.columns):
            raise InputError(
                f"a column is called {IMPUTATION}, the name of that of the imputations' numbers: rename it"
            )


def fill_cells(given: "pandas.Series[Any]", values: "pandas.Series[Any]", mask: Array, holds_text: bool) -> Any:
    """A column with some cells filled, the others and the type as they were.

    Args:
        given: the column (N,).
        values: what to fill in, (N,).
        mask: which cells are filled, (N,).
        holds_text: whether cells are the text of a file.

    Returns:
        The column; one of objects where its type cannot hold the values.
    """
    cells, filled = values[mask].tolist(), given.copy()
    if isinstance(given.dtype, pandas.CategoricalDtype):
        new = [cell for cell in dict.fromkeys(cells) if cell not in given.cat.categories]
        filled = given.cat.add_categories(new) if new else filled
    elif is_text(given):
        known = given[~mask].dropna()
        if holds_text or (len(known) and all(isinstance(cell, str) for cell in known)):
            cells = [as_text(cell) for cell in cells]
        filled = given.astype(object) if given.dtype == object else filled
    else:
        try:
            cells = cast(Any, values[mask].astype(given.dtype)).tolist()
        except (ValueError, TypeError):
            filled = given.astype(object)
    filled[mask] = cells
    return filled


def as_text(cell: object) -> str:
    """A value as the text of a file: of numbers the seven digits that single precision has."""
    if isinstance(cell, float):
        return f"{cell:.7g}"
    return str(cell)


def missing_cells(schema: Schema, missing: Tensor) -> Array:
    """Which cells of the modelled columns are missing.

    Args:
        schema: the columns.
        missing: which of the numbers of a row are missing, (N, D).

    Returns:
        Booleans (N, columns).
    """
    if not schema.modelled:
        return np.asarray(missing.cpu())
    return np.stack([part.any(1).cpu().numpy() for part in missing.split(list(schema.widths), 1)], 1)


def frame_of_source(rows: Source, split: Split, preparation: Preparation, header: str, as_written: bool) -> SourceFrame:
    """Rows as they came, as a frame.

    Args:
        rows: a file, or rows in memory.
        split: the same rows, prepared.
        preparation: how.
        header: whether the first row of a text table holds names: yes, no or auto.
        as_written: whether cells of a text table stay text.

    Returns:
        The frame; of arrays one of their values.
    """
    frame, given, holds_text = _frame_of(rows, header, as_written)
    if frame is None:
        return frame_of_split(split, preparation)
    names = list(frame.values.columns)
    if not preparation.schema.modelled:
        labels = [preparation.schema.label.name] if preparation.schema.label else []
        return SourceFrame(given, [name for name in names if name not in labels][: split.shape[1]], [], holds_text)
    by_schema = list(frame_by_schema(frame, preparation.schema).values.columns)
    own = dict(zip(by_schema, list(given.columns) if len(given.columns) == len(names) else names, strict=True))
    ids = [own[column.name] for column in preparation.schema.ids if column.name in own]
    return SourceFrame(given, [own[column.name] for column in preparation.schema.modelled], ids, holds_text)


def _frame_of(rows: Source, header: str, as_written: bool) -> tuple[Frame | None, Any, bool]:
    """Rows that are a frame as one of pandas, the frame itself, and whether its cells are text; None for others."""
    if isinstance(rows, str | Path):
        path = Path(rows)
        if as_written and str(rows).lower().endswith(TEXT_SUFFIXES):
            values, notes, has_names = read_text_table(path, header, as_text=True)
            frame = Frame(values, path, notes, has_names)
            return frame, frame.values, True
        read = read_file(path, header) if path.suffix.lower() not in (".h5ad", ".zarr") else None
        return (read, read.values, False) if isinstance(read, Frame) else (None, None, False)
    if not is_frame(rows):
        return None, None, False
    frame, own = read_frame(rows, Path("the data frame")), cast(Any, rows)
    return frame, own if len(frame.values.columns) == own.shape[1] else frame.values, False


def frame_of_split(split: Split, preparation: Preparation) -> SourceFrame:
    """Prepared rows, in the columns and units of the data.

    Args:
        split: the rows (N).
        preparation: how they were prepared.

    Returns:
        The frame: ids, numbers, labels, and the columns of the data.
    """
    if not isinstance(split.stored, Tensor):
        raise InputError("rows that stay on disk or sparse have no missing values: there is nothing to impute")
    stored = split.stored.cpu().double().numpy()
    schema = preparation.schema
    if schema.modelled:
        given = split.inputs.get(GIVEN)
        codes = None if given is None else original_codes(schema, given)
        values = schema.decode(stored, rounded=False, given=codes)
        names = [column.name for column in schema.modelled]
    else:
        names = [f"x{i + 1}" for i in range(stored.shape[1])]
        values = pandas.DataFrame(stored, columns=names)
    about = describe_rows(split, preparation)
    about = about.drop(columns=[name for name in about.columns if name in values.columns])
    return SourceFrame(pandas.concat([about, values], axis=1), names, list(split.ids))
