"""Text that a spreadsheet would take for a formula, quoted in a `.csv` and unquoted where one is read.

Names of columns and levels come from a run's folder, which may be a stranger's. One that begins with =, +, -, @, a tab
or a carriage return, and is no number, gets an apostrophe before it, as OWASP advises against CSV injection.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

FORMULA = re.compile(r"[=+\-@\t\r]")
QUOTED = re.compile(r"'+[=+\-@\t\r]")


def quote_formula(text: str) -> str:
    """Text as it stands in a `.csv`.

    >>> quote_formula("=cmd|' /C calc'!A0"), quote_formula("-1.5"), quote_formula("name")
    ("'=cmd|' /C calc'!A0", '-1.5', 'name')
    """
    return f"'{text}" if QUOTED.match(text) or (FORMULA.match(text) and not _is_number(text)) else text


def unquote_formula(text: str) -> str:
    """The text that `quote_formula` gave this one.

    >>> unquote_formula("'=cmd"), unquote_formula("'tis")
    ('=cmd', "'tis")
    """
    return text[1:] if QUOTED.match(text) else text


def quote_text(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """A frame whose cells of text are quoted."""
    return _map_text(frame, quote_formula)


def unquote_text(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """A frame whose cells of text are unquoted."""
    return _map_text(frame, unquote_formula)


def unquote_names(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """A frame whose columns have the names that were quoted."""
    return frame.set_axis([unquote_formula(name) if isinstance(name, str) else name for name in frame.columns], axis=1)


def _map_text(frame: "pandas.DataFrame", change: Callable[[str], str]) -> "pandas.DataFrame":
    """A frame with a function applied to each text of its columns that are no numbers."""
    changed = {}
    for name, kind in frame.dtypes.items():
        if kind.kind not in "biufcMm":
            texts = {cell: change(cell) for cell in frame[name].unique() if isinstance(cell, str)}
            if any(before != after for before, after in texts.items()):
                changed[name] = frame[name].astype(object).map(lambda cell, texts=texts: texts.get(cell, cell))
    return frame.assign(**changed) if changed else frame


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
