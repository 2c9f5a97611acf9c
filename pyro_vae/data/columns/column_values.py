"""The values of one column as numbers, and numbers as values again: text, dates, levels and whole numbers."""

import datetime
import decimal
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

DAY = 86_400.0  # seconds
PRECISIONS = {"D": DAY * 1e6, "h": 3.6e9, "min": 6e7, "s": 1e6, "ms": 1e3, "us": 1.0}  # microseconds
Level = str | int | float | bool
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?")
WITH_MARKS = re.compile(r"[$€£¥]?\s?[+-]?(\d{1,3}([,'\u2009\u00a0]\d{3})+|\d+)(\.\d+)?\s?[%$€£¥]?")
MARKS = re.compile(r"[$€£¥%,'\s\u2009\u00a0]")
NO_NUMBERS: tuple[tuple[type | tuple[type, ...], str, str], ...] = (  # what is no value: its name, and the remedy
    (datetime.time, "times of day", "times of day as seconds"),
    (complex, "complex numbers", "complex numbers as two columns"),
    (bytes, "bytes", "bytes as numbers"),
    (dict, "records", "each field of a record as a column"),
    ((list, tuple, set, np.ndarray), "lists", "each element of a list as a column"),
)


def is_text(values: "pandas.Series[Any]") -> bool:
    """Whether a column holds text, or anything else that is neither a number, a truth value, a date nor a level."""
    import pandas

    kind = values.dtype
    return not (
        isinstance(kind, pandas.CategoricalDtype)
        or pandas.api.types.is_numeric_dtype(kind)
        or pandas.api.types.is_bool_dtype(kind)
        or pandas.api.types.is_datetime64_any_dtype(kind)
        or pandas.api.types.is_timedelta64_dtype(kind)
    )


def dtype_name(values: "pandas.Series[Any]") -> str:
    """The type of a column's values as it is written down: a name that pandas knows, `text`, or `category`."""
    import pandas

    if isinstance(values.dtype, pandas.CategoricalDtype):
        return "category"
    if not is_text(values):
        return str(values.dtype)
    cells = values.dropna()
    is_date = len(cells) > 0 and all(isinstance(cell, datetime.date) for cell in cells)
    return "date" if is_date else "text"


def require_values(values: "pandas.Series[Any]", source: str) -> None:
    """`InputError` for cells that are no values of a table: lists, records, bytes, complex numbers.

    Args:
        values: a column (N,).
        source: where it comes from, for the message.
    """
    if values.dtype.kind not in "Oc":
        return
    for cell in values.dropna():
        for kind, words, remedy in NO_NUMBERS:
            if isinstance(cell, kind):
                raise InputError(
                    f"{source}: {words} in {values.name}; write {remedy}, or leave the column out (--drop "
                    f"{values.name})"
                )


def to_numbers(values: "pandas.Series[Any]", source: str) -> Array:
    """A column's values as numbers.

    Args:
        values: the values (N,): numbers, truth values, time spans (in days), decimals, or text of numbers, which may
            have marks of thousands, currency or per cent.
        source: where they come from, for messages.

    Returns:
        The numbers (N,) float64, NaN where a value is missing; `InputError` for text and for infinite numbers.
    """
    import pandas

    if pandas.api.types.is_timedelta64_dtype(values.dtype):
        return np.asarray(values.dt.total_seconds(), np.float64) / DAY
    if isinstance(values.dtype, pandas.CategoricalDtype):
        values = values.astype(
            values.cat.categories.dtype if not is_text(values.cat.categories.to_series()) else object
        )
    if is_text(values):
        places, cells = pandas.factorize(values)
        found = np.array([*(_number(cell) for cell in cells), math.nan], np.float64)
        numbers = found[places]  # −1, a missing value, is the last
        for place in np.flatnonzero(np.isnan(found[:-1])):
            if is_missing(cells[place]):
                continue
            row = int(np.argmax(places == place))
            raise InputError(
                f"{source}: {values.name} holds {cells[place]!r} in row {row} (counting from 0), which is "
                "no number; correct it or leave the cell empty, or say what the column is "
                f"(--column {values.name}=categorical)"
            )
    else:
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if (infinite := np.isinf(numbers)).any():
        raise InputError(
            f"{source}: {int(infinite.sum())} values are infinite, the first in row {int(infinite.argmax())} (counting "
            f"from 0), column {values.name}; remove or fill those rows"
        )
    return numbers


def is_missing(value: object) -> bool:
    """Whether a cell holds no value: None, NaN, NaT, NA, or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and bool(value != value))
    )


def _number(cell: object) -> float:
    """A cell as a number, NaN where it is none."""
    if isinstance(cell, str):
        text = cell.strip()
        cell = MARKS.sub("", text) if WITH_MARKS.fullmatch(text) else text
    if isinstance(cell, str | int | float | decimal.Decimal | np.number | bool):
        try:
            return float(cell)
        except ValueError:
            return math.nan
    return math.nan


def share_of_numbers(values: "pandas.Series[Any]") -> float:
    """The share of a text column's cells, of those that hold something, that are numbers."""
    cells = [cell for cell in values.head(10_000) if not is_missing(cell)]
    return sum(not math.isnan(_number(cell)) for cell in cells) / len(cells) if cells else 0.0


def factorize_levels(values: "pandas.Series[Any]", levels: Sequence[Level] = ()) -> tuple[Array, list[Level]]:
    """A column's values as levels: text, whole numbers, numbers or truth values.

    Args:
        values: the values (N,).
        levels: the levels that are known: text of a number is that number where the levels are numbers, and a number
            its text where they are text.

    Returns:
        For each row the place of its level (N,), −1 where the value is missing, and the levels in the order in which
        they come.
    """
    import pandas

    places, cells = pandas.factorize(values)
    found = [None if is_missing(cell) else _like(_level(cell), levels) for cell in cells]
    order = {level: place for place, level in enumerate(dict.fromkeys(each for each in found if each is not None))}
    merged = np.array([*(-1 if each is None else order[each] for each in found), -1])  # of text with blanks around
    return merged[places], list(order)


def _like(level: Level, levels: Sequence[Level]) -> Level:
    """A level with the type that those that are known have."""
    if levels and all(isinstance(each, str) for each in levels):
        return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)
    if levels and isinstance(level, str) and not any(isinstance(each, str) for each in levels):
        number = _number(level)
        return level if math.isnan(number) else _level(number)
    return level


def _level(cell: Any) -> Level:
    """A cell as a plain value; a number that is whole as an int."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, int | float | decimal.Decimal):
        return int(cell) if float(cell).is_integer() else float(cell)
    return str(cell).strip()


def to_days(values: "pandas.Series[Any]", form: str, source: str) -> Array:
    """A column of dates or times as days since 1970-01-01, UTC; NaN where one is missing.

    Args:
        values: the values (N,): dates, or text.
        form: how text holds them, as `datetime.strptime` has it; empty for ISO 8601.
        source: where they come from, for messages.

    Returns:
        The days (N,) float64.
    """
    import pandas

    try:
        known = pandas.to_datetime(values, utc=True, format=form or ("ISO8601" if is_text(values) else None))
    except (ValueError, TypeError, OverflowError) as error:
        expected = form or "ISO 8601, as in 2024-05-31 12:00"
        raise InputError(
            f"{source}: {values.name} holds a date that is not written as {expected} ({str(error).split(',')[0]}); say "
            f"how they are written (--column {values.name}=datetime:%d.%m.%Y)"
        ) from error
    micros = known.dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    days = micros.astype(np.int64) / (DAY * 1e6)
    days[np.isnat(micros)] = math.nan
    return np.asarray(days, np.float64)


def as_dates(days: Array, dtype: str, form: str, precision: str) -> "pandas.Series[Any]":
    """Days since 1970-01-01 as the values of a column of dates.

    Args:
        days: the days (N,).
        dtype: the column's type: a name that pandas knows, `date`, or `text`.
        form: how text holds them; empty for ISO 8601.
        precision: of the times, a key of `PRECISIONS`.

    Returns:
        The values (N,).
    """
    import pandas

    known = np.where(np.isnan(days), 0.0, days)
    zone = re.search(r", (.+)\]", dtype)
    # of nanoseconds; of Python's dates, a day less where a zone adds hours
    ends = ("1677-09-22", "2262-04-10") if "[ns" in dtype else ("0001-01-01", "9999-12-31")
    limits = np.array(ends, "datetime64[D]").astype(float) + ([1, -1] if zone else [0, 0])
    step = PRECISIONS[precision or "us"]
    micros = (np.rint(np.clip(known, *limits) * DAY * 1e6 / step) * step).astype(np.int64)
    stamps = pandas.Series(micros.astype("datetime64[us]")).where(~np.isnan(days))
    if dtype == "date":
        return stamps.dt.date
    if dtype == "text":
        cells = stamps.dt.strftime(form or "%Y-%m-%dT%H:%M:%S").tolist()
        return pandas.Series([None if isinstance(cell, float) else cell for cell in cells])
    return stamps.dt.tz_localize("UTC").dt.tz_convert(zone.group(1)).astype(dtype) if zone else stamps.astype(dtype)


def precision_of(days: Array) -> str:
    """The coarsest unit of time in which all of some days (N,) are whole, a key of `PRECISIONS`."""
    micros = np.rint(days[~np.isnan(days)] * DAY * 1e6)
    return next((name for name, step in PRECISIONS.items() if (micros % step == 0).all()), "us")


def decimals_of(values: Array) -> int | None:
    """The number of decimals, at most four, with which all numbers (N,) are written; None where they have more."""
    with np.errstate(over="ignore"):  # of the largest numbers that there are, which round to infinity
        for decimals in range(5):
            if all((np.round(some, decimals) == some).all() for some in (values[:1000], values)):
                return decimals
    return None


def as_levels(codes: Array, levels: Sequence[Level], dtype: str, ordered: bool = False) -> "pandas.Series[Any]":
    """Codes as levels.

    Args:
        codes: the codes (N,); the nearest place is taken.
        levels: the levels in their order.
        dtype: the column's type.
        ordered: whether the levels of a type `category` have an order.

    Returns:
        The values (N,), missing where a code is NaN.
    """
    import pandas

    is_missing = np.isnan(codes)
    places = np.clip(np.rint(np.where(is_missing, 0, codes)), 0, len(levels) - 1).astype(int)
    if dtype == "category":
        known = np.where(is_missing, -1, places).tolist()
        return pandas.Series(pandas.Categorical.from_codes(known, list(levels), ordered=ordered))
    cells = [None if missing else levels[place] for place, missing in zip(places, is_missing, strict=True)]
    return pandas.Series(cells) if dtype == "text" else _with_dtype(pandas.Series(cells, dtype=object), dtype)


def as_numbers(
    values: Array, dtype: str, kind: str, rounded: bool, decimals: int | None = None
) -> "pandas.Series[Any]":
    """Numbers with the type of a column.

    Args:
        values: the numbers (N,).
        dtype: the column's type.
        kind: its kind: counts are not negative.
        rounded: whether numbers become whole, or have the column's decimals, where the column's have.
        decimals: the number of decimals; None where it is not limited.

    Returns:
        The values (N,).
    """
    import pandas

    if rounded and decimals is not None:
        with np.errstate(over="ignore"):
            near = np.round(values, decimals)
        values = np.where(np.isfinite(near), near, values)  # a number too large to have decimals stays
    if kind == "count" and rounded:
        values = np.maximum(values, 0.0)
    if kind in ("count", "integer") and rounded:
        values = np.rint(values)
    if dtype.startswith("timedelta"):
        return pandas.Series(pandas.to_timedelta(values * DAY, unit="s")).astype(dtype)
    series = pandas.Series(values)
    is_whole = "int" in dtype.lower()
    if dtype in ("text", "category") or (is_whole and not rounded):
        return series
    return _with_dtype(series.round() if is_whole else series, dtype)


def _with_dtype(series: "pandas.Series[Any]", dtype: str) -> "pandas.Series[Any]":
    """A column with a type, or as it is where the type has no missing values and some are."""
    try:
        return series.astype(dtype)
    except (ValueError, TypeError, OverflowError):
        return series
