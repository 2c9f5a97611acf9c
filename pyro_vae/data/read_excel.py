"""Excel workbooks: the table of one sheet, with what was decided in finding it."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.data.frames import Frame, without_row_numbers
from pyro_vae.data.read_csv import has_header, require_names_apart
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_unpackable

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
MISSING_ERROR = "#N/A"
Sheet = Any  # openpyxl's: the package is optional and has no types
Book = Any
Cell = Any
MAX_NAMED = 3
LOOKED_AT = 200  # rows, for names


@dataclass(frozen=True)
class SheetTable:
    """The cells of a sheet that hold a table.

    Attributes:
        rows: the rows from the first that belongs to the table, each with the cells of its columns.
        notes: what was decided.
    """

    rows: Sequence[Sequence[Cell]]
    notes: tuple[str, ...]

    @property
    def top(self) -> int:
        return int(self.rows[0][0].row)


def split_sheet(path: Path) -> tuple[Path, str | None]:
    """A workbook and the sheet that `FILE.xlsx#SHEET` names.

    Args:
        path: the path as it was given.

    Returns:
        The file, and the sheet's name; None where none is named.
    """
    name, mark, sheet = path.name.rpartition("#")
    is_named = bool(mark) and name.lower().endswith(EXCEL_SUFFIXES) and not path.exists()
    return (path.with_name(name), sheet) if is_named else (path, None)


def read_excel(path: Path, sheet: str | None, header: str) -> Frame:
    """The table of a sheet of a workbook.

    Args:
        path: the file.
        sheet: the sheet's name; None for the first visible one that holds a table.
        header: whether the first row of the table holds the columns' names: yes, no or auto.

    Returns:
        The frame; `InputError` for a workbook without a table, and for cells that have no value of their own.
    """
    book = _open(path, is_computed=True)
    chosen, notes = _sheet(book, sheet, path)
    _require_computed(chosen, path)
    table = _table(chosen)
    _require_unmerged(chosen, table, path)
    frame, has_names, more = _frame(table, header, path)
    return without_row_numbers(Frame(frame, path, (*notes, *table.notes, *more), has_names))


def _open(path: Path, is_computed: bool) -> Book:
    """The workbook with the values that its formulas had when it was saved, or with the formulas."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise InputError(f"{path}: Excel needs one more package; pip install 'pyro-vae[excel]'") from error
    try:
        with zipfile.ZipFile(path) as archive:
            require_unpackable(path, sum(member.file_size for member in archive.infolist()))
        return openpyxl.load_workbook(path, data_only=is_computed)
    except InputError:
        raise
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, TypeError, SyntaxError, OSError) as error:
        raise InputError(f"{path}: not a readable Excel workbook, or one with a password ({error})") from error


def _sheet(book: Book, name: str | None, path: Path) -> tuple[Sheet, list[str]]:
    """The sheet that is asked for, or the first visible one with a table, and the others in words."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if name is not None:
        if name not in sheets:
            raise InputError(f"{path}: no sheet {name!r}; there is {', '.join(sheets)}")
        if not _has_values(sheets[name]):
            raise InputError(f"{path}: the sheet {name!r} is empty")
        return sheets[name], []
    found = [sheet for sheet in sheets.values() if sheet.sheet_state == "visible" and _has_values(sheet)]
    if not found:
        raise InputError(f"{path}: no visible sheet has values in it")
    if len(found) == 1:
        return found[0], []
    others = ", ".join(sheet.title for sheet in found[1:])
    return found[0], [
        f"the sheet {found[0].title!r}, the first of {len(found)}; {path.name}#NAME reads another: {others}"
    ]


def _has_values(sheet: Sheet) -> bool:
    return any(cell.value is not None for row in sheet.iter_rows() for cell in row)


def _table(sheet: Sheet) -> SheetTable:
    """The rows and columns that hold the table: below the title, without empty rows and columns."""
    rows = [row for row in sheet.iter_rows() if any(_is_filled(cell) for cell in row)]
    counts = [sum(map(_is_filled, row)) for row in rows]
    widest = max(counts)
    start = next(i for i, count in enumerate(counts) if 2 * count > widest)
    below = rows[start:]
    columns = [i for i in range(len(rows[0])) if any(_is_filled(row[i]) for row in below)]
    notes = []
    if start:
        first = next(str(cell.value) for cell in rows[0] if _is_filled(cell))
        notes.append(f"{start} rows above the table left out, the first of them {first[:40]!r}")
    num_empty = int(below[-1][0].row) - int(below[0][0].row) + 1 - len(below)
    if num_empty:
        notes.append(f"{num_empty} empty rows left out")
    hidden = sum(bool(sheet.row_dimensions[row[0].row].hidden) for row in below)
    if hidden:
        notes.append(f"{hidden} hidden rows are read too")
    letters, known = [below[0][i].coordinate.rstrip("0123456789") for i in columns], sheet.column_dimensions
    if unseen := [letter for letter in letters if letter in known and known[letter].hidden]:
        notes.append(f"the hidden columns {', '.join(unseen[:MAX_NAMED])} are read too")
    return SheetTable([[row[i] for i in columns] for row in below], tuple(notes))


def _is_filled(cell: Cell) -> bool:
    return cell.value is not None and str(cell.value).strip() != ""


def _require_unmerged(sheet: Sheet, table: SheetTable, path: Path) -> None:
    """`InputError` for merged cells in the table, of which all but the first are empty."""
    if merged := [str(each) for each in sheet.merged_cells.ranges if each.max_row >= table.top]:
        raise InputError(f"{path}: the cells {merged[0]} of the table are merged; unmerge and fill them")


def _require_computed(sheet: Sheet, path: Path) -> None:
    """`InputError` for a formula whose value was not saved, as programs that write workbooks leave them."""
    if all(cell.value is not None for row in sheet.iter_rows() for cell in row):
        return
    for row in _open(path, is_computed=False)[sheet.title].iter_rows():
        for cell in row:
            if cell.data_type == "f" and sheet[cell.coordinate].value is None:
                raise InputError(
                    f"{path}: {cell.coordinate} holds a formula without a value; open the workbook in a spreadsheet "
                    "program and save it, or save the values"
                )


def _frame(table: SheetTable, header: str, path: Path) -> "tuple[Any, bool, list[str]]":
    """The frame of a table's cells, whether it has names, and what was decided."""
    import pandas

    texts = [["" if cell.value is None else str(cell.value) for cell in row] for row in table.rows]
    has_names, reason = has_header(texts[:LOOKED_AT], ".") if header == "auto" else (header == "yes", "")
    notes, body = [reason] if reason else [], table.rows[1:] if has_names else table.rows
    if not body:
        raise InputError(f"{path}: no rows below the names {', '.join(texts[0][:MAX_NAMED])}")
    width = range(len(table.rows[0]))
    names: list[Any] = (
        [text.strip() or f"Unnamed: {i}" for i, text in enumerate(texts[0])] if has_names else list(width)
    )
    require_names_apart([str(name) for name in names], path)
    errors = sorted({str(cell.value) for row in body for cell in row if cell.data_type == "e"})
    num_errors = sum(cell.data_type == "e" and cell.value != MISSING_ERROR for row in body for cell in row)
    if num_errors:
        notes.append(f"{num_errors} cells that hold an error ({', '.join(errors)}) read as missing")
    columns = {names[i]: pandas.Series([_value(row[i]) for row in body]) for i in width}
    if shares := [str(names[i]) for i in width if any("%" in str(row[i].number_format) for row in body)]:
        notes.append(f"{', '.join(shares[:MAX_NAMED])}: percent read as shares, 5 % as 0.05")
    return pandas.DataFrame(columns), has_names, notes


def _value(cell: Cell) -> object:
    """The value of a cell: None where it is empty or an error."""
    return None if cell.data_type == "e" or not _is_filled(cell) else cell.value
