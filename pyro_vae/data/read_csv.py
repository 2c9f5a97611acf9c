"""Text tables: what a file is, decided by looking at its first lines, and said."""

import csv
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.data.formula_quotes import unquote_names, unquote_text
from pyro_vae.data.packed_files import UNPACKING, open_bytes, require_room
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_columns

if TYPE_CHECKING:
    import pandas

NUM_LINES = 200  # that are looked at
SEPARATORS = ",;\t|"
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
MISSING = ("", "na", "nan", "null", "none", "n/a", "#n/a")


@dataclass(frozen=True)
class TextFormat:
    """How a text table is written.

    Attributes:
        encoding: of its characters.
        separator: between cells.
        decimal: the decimal mark.
        has_header: whether the first row holds the columns' names.
        is_indexed: whether each row begins with a name or number of its own, which the header leaves out.
        has_trailing_separator: whether each row ends with a separator.
        as_text: columns of digits that begin with 0, as in 00721, which are text, by name or number.
        notes: what was decided that is not plain to see, in words.
    """

    encoding: str
    separator: str
    decimal: str
    has_header: bool
    is_indexed: bool = False
    has_trailing_separator: bool = False
    as_text: tuple[str | int, ...] = ()
    notes: tuple[str, ...] = ()


def read_text_table(
    path: Path, header: str = "auto", *, as_text: bool = False
) -> tuple["pandas.DataFrame", tuple[str, ...], bool]:
    """The data frame of a text table, `.csv` or `.tsv`, also compressed (`.gz`, `.bz2`, `.xz`, or alone in a `.zip`).

    Args:
        path: the file.
        header: whether the first row holds the columns' names: `yes`, `no`, or `auto`, which looks.
        as_text: whether each cell stays the text that it is.

    Returns:
        The frame, what was decided in reading it, and whether its columns have names; `InputError` for a file that is
        no table.
    """
    import pandas

    try:
        require_room(path)
        form = text_format(path, header)
        with warnings.catch_warnings(), open_bytes(path) as file:
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells beyond the header
            if form.has_trailing_separator:
                warnings.simplefilter("ignore", pandas.errors.ParserWarning)
            frame = pandas.read_csv(
                file,
                header=0 if form.has_header else None,
                sep=form.separator,
                decimal=form.decimal,
                encoding=form.encoding,
                index_col=None if form.is_indexed else False,
                skipinitialspace=True,
                dtype=str if as_text else dict.fromkeys(form.as_text, str),
                keep_default_na=not as_text,
                low_memory=False,
            )
    except InputError:
        raise
    except pandas.errors.ParserWarning as warning:
        raise InputError(
            f"{path}: some rows have more values than the header has names; quote cells that hold the "
            f"separator {form.separator!r}"
        ) from warning
    except (ValueError, IndexError, OSError, EOFError, csv.Error, OverflowError, *UNPACKING) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path}: not a readable table ({reason})") from error
    if len(frame) > NUM_LINES // 2 and not as_text and bool(frame.iloc[:, -1].isna().any()):
        _require_whole_rows(path, form)
    if form.has_header and str(frame.columns[0]).startswith("#"):  # as numpy.savetxt writes names
        first = frame.columns[0]
        frame = frame.rename(columns={first: str(first).lstrip("# ")})
    frame = unquote_names(frame)
    return frame if as_text else unquote_text(frame), form.notes, form.has_header


def text_format(path: Path, header: str = "auto") -> TextFormat:
    """Look at the first lines of a text table.

    Args:
        path: the file.
        header: `yes`, `no` or `auto`.

    Returns:
        How it is written; `InputError` where rows and names do not fit together.
    """
    encoding, notes = _encoding(path)
    lines = _first_lines(path, encoding)
    separator, rows = _separate(lines)
    if not rows:
        raise InputError(f"{path}: no rows in it")
    require_columns(len(rows[0]), path)
    decimal = _decimal_mark(rows[1:], separator)
    if decimal == ",":
        notes.append("decimal commas")
    is_named, reason = has_header(rows, decimal) if header == "auto" else (header == "yes", "")
    if is_named:
        require_names_apart([cell.strip() for cell in rows[0]], path)
    form = TextFormat(encoding, separator, decimal, is_named, notes=(*notes, *([reason] if reason else [])))
    return _with_codes_as_text(_with_extra_cells(form, rows, path), rows)


def _separate(lines: Sequence[str]) -> tuple[str, list[list[str]]]:
    """The separator and the cells of lines: of separators that give all rows as many cells, that which gives most."""
    found = {
        each: [row for row in csv.reader(lines, delimiter=each, skipinitialspace=True) if row] for each in SEPARATORS
    }

    def rank(separator: str) -> tuple[bool, int]:
        rows = found[separator]
        width = len(rows[0]) if rows else 0
        return width > 1 and all(len(row) == width for row in rows), width

    separator = max(SEPARATORS, key=rank)
    return separator, found[separator]


def _with_codes_as_text(form: TextFormat, rows: Sequence[Sequence[str]]) -> TextFormat:
    """The format where some columns hold codes of digits that begin with 0: as numbers they would lose it."""
    body = rows[1:] if form.has_header else rows
    names: list[str | int] = [cell.strip() for cell in rows[0]] if form.has_header else list(range(len(rows[0])))
    start = int(form.is_indexed)
    found = [
        name
        for i, name in enumerate(names, start)
        if any(i < len(row) and re.fullmatch(r"0\d+", row[i].strip()) for row in body)
        and all(i >= len(row) or re.fullmatch(r"\d*", row[i].strip()) for row in body)
    ]
    note = f"{', '.join(map(str, found[:3]))}: digits that begin with 0, read as text"
    form = replace(form, as_text=tuple(found), notes=(*form.notes, note)) if found else form
    return _with_words_for_missing(form, [str(name) for name in names], body, start)


def _with_words_for_missing(
    form: TextFormat, names: Sequence[str], body: Sequence[Sequence[str]], start: int
) -> TextFormat:
    """The format with a note on words such as NA in columns of text, where they might be values: Namibia, "None"."""
    notes = []
    for i, name in enumerate(names, start):
        cells = [row[i].strip() for row in body if i < len(row)]
        words = sorted({cell for cell in cells if cell and _is_missing(cell)})
        if words and any(_number(cell, form.decimal) is None for cell in cells if cell and not _is_missing(cell)):
            notes.append(f"{', '.join(words)} in {name} read as missing values")
    return replace(form, notes=(*form.notes, *notes))


def _require_whole_rows(path: Path, form: TextFormat) -> None:
    """`InputError` for a row with fewer values than the others, which pandas fills with missing ones in silence."""
    with _open_text(path, form.encoding) as file:
        rows = csv.reader(file, delimiter=form.separator, skipinitialspace=True)
        width = len(next(row for row in rows if row)) + form.is_indexed + form.has_trailing_separator
        for row in rows:
            if row and len(row) < width:
                raise InputError(
                    f"{path}: line {rows.line_num} has {len(row)} values, and others have {width}; complete the row"
                )


def require_names_apart(names: Sequence[str], path: Path) -> None:
    """`InputError` for two columns of one name, which pandas renames in silence.

    Args:
        names: the names.
        path: the source, for the message.
    """
    if repeated := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; give each a name of its own")


def _encoding(path: Path) -> tuple[str, list[str]]:
    with open_bytes(path) as file:
        begin = file.read(2**16)
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", []
    if begin.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig", []
    try:
        begin[: begin.rfind(b"\n") + 1 or None].decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1", ["characters read as Latin-1, since they are not UTF-8"]
    return "utf-8", []


def _open_text(path: Path, encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    buffer: Any = open_bytes(path)
    return io.TextIOWrapper(buffer, encoding=encoding, newline="", errors=errors)


def _first_lines(path: Path, encoding: str) -> list[str]:
    """The first lines, whole: a quoted cell may go over several."""
    lines: list[str] = []
    with _open_text(path, encoding, errors="replace") as file:
        for line in file:
            lines.append(line)
            if len(lines) >= NUM_LINES and "".join(lines).count('"') % 2 == 0:
                break
    return [line for line in lines if line.strip()]


def _decimal_mark(rows: Sequence[Sequence[str]], separator: str) -> str:
    """A comma where cells hold it as numbers have it, and none has a point."""
    if separator == ",":
        return "."
    cells = [cell.strip() for row in rows for cell in row]
    has_commas = any(DECIMAL_COMMA.fullmatch(cell) for cell in cells)
    return "," if has_commas and not any(re.fullmatch(r"[+-]?\d+\.\d+", cell) for cell in cells) else "."


def has_header(rows: Sequence[Sequence[str]], decimal: str) -> tuple[bool, str]:
    """Whether the first row holds names, and the reason where that is not plain to see.

    Args:
        rows: the first rows, each with its cells as text.
        decimal: the decimal mark.

    Returns:
        Whether it does, and the reason in words, empty where it is plain.
    """
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    numbers = [_number(cell, decimal) for cell in first]
    cells = [[row[i].strip() for row in below if i < len(row)] for i in range(len(first))]
    columns = [[_number(cell, decimal) for cell in column if not _is_missing(cell)] for column in cells]
    texts = [i for i, (cell, number) in enumerate(zip(first, numbers, strict=True)) if number is None and cell]
    if texts:
        if len(texts) == len([cell for cell in first if cell]) or any(None not in columns[i] for i in texts):
            return True, ""
        if all(first[i] in cells[i] for i in texts):
            return False, "no column names: the first row holds values that are in other rows too"
        return True, ""
    if len(first) > 2 and first == [str(i) for i in range(len(first))]:
        return True, "columns numbered from 0, as of a data frame without names"
    known = [number for number in numbers if number is not None]
    if len(known) < len(first) or not below or any(b <= a for a, b in pairwise(known)):
        return False, ""
    unlike = sum(map(_is_unlike, first, known, columns, cells))
    if 2 * unlike <= len(first):
        return False, ""
    return True, (
        f"the first row ({', '.join(first[:3])}{', …' if len(first) > 3 else ''}) read as column names: numbers in "
        "ascending order, unlike those below (--header no reads it as a row)"
    )


def _is_unlike(cell: str, number: float, column: Sequence[float | None], cells: Sequence[str]) -> bool:
    """Whether a number does not belong to the column below it: out of its range, or written without its decimals."""
    values = [value for value in column if value is not None]
    if not values:
        return False
    spread = max(values) - min(values)
    is_outside = number < min(values) - spread or number > max(values) + spread
    has_decimals = sum(bool(re.search(r"[.,e]", each, re.IGNORECASE)) for each in cells) > 0.8 * len(cells)
    return is_outside or (has_decimals and re.fullmatch(r"[+-]?\d+", cell) is not None)


def _number(cell: str, decimal: str) -> float | None:
    try:
        return float(cell.strip().replace(decimal, ".") if decimal != "." else cell)
    except ValueError:
        return None


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _with_extra_cells(form: TextFormat, rows: Sequence[Sequence[str]], path: Path) -> TextFormat:
    """The format where rows have one cell more than the header; `InputError` for rows of other lengths."""
    width, body = len(rows[0]), rows[1:] if form.has_header else rows
    lengths = {len(row) for row in body}
    if lengths <= {width}:
        return form
    if form.has_header and lengths == {width + 1}:
        if all(not row[-1].strip() for row in body):
            return replace(form, has_trailing_separator=True, notes=(*form.notes, "a separator at the end of each row"))
        begins = [row[0].strip() for row in body]
        if len(set(begins)) == len(begins) and not all("." in each for each in begins):
            note = "the first cell of each row read as its name: the header has one fewer"
            return replace(form, is_indexed=True, notes=(*form.notes, note))
    number = next(i for i, row in enumerate(rows) if len(row) != width)
    what = "names in the header" if form.has_header else "values in the first row"
    raise InputError(
        f"{path}: row {number + 1} has {len(rows[number])} values for {width} {what}; quote cells that hold the "
        f"separator {form.separator!r}, or complete the row"
    )
