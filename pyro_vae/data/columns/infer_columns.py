"""The kind of each column of a table: decided by its training values, unless the user says it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.columns import ROLES, WITH_LEVELS, Column, Schema
from pyro_vae.data.columns.column_options import ALL_COUNTS, ColumnOptions, described_columns
from pyro_vae.data.columns.column_range import require_range, wide_enough
from pyro_vae.data.columns.column_values import (
    ISO_DATE,
    Level,
    decimals_of,
    dtype_name,
    factorize_levels,
    is_missing,
    is_text,
    precision_of,
    require_values,
    share_of_numbers,
    to_days,
    to_numbers,
)
from pyro_vae.data.frames import Frame
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.table import encode_labels, known_labels
from pyro_vae.errors import InputError

if TYPE_CHECKING:
    import pandas

LABEL_COLUMNS = ("label", "labels", "target", "class")
ID_NAME = re.compile(r"(.*[_ .-])?(id|uuid|guid|key|index|nr)", re.IGNORECASE)
MAX_LEVELS = 1000  # of a column that is taken for categories
MAX_COUNT = 1000  # years, codes and time stamps are whole numbers too
NEAR_ID = 0.9  # the share of different values above which text names its row
DWARFS = 1e4  # times the spread of the others: a value that would decide the column's scale alone
MAX_DWARFED = 0.01  # the share of rows with such a value
MIN_ZEROS = 0.02  # the share of zeros from which a positive column has a probability of 0
OWN_DISTRIBUTION = ("positive", "bounded", "count", "integer")  # kinds of numbers that have one, if they are said
REPEATED = 0.2  # the share of one value in a column of real numbers that is said
MIN_FOR_ID = 20  # rows
MAX_LOOKED_AT = 100_000  # training rows by which shapes of distributions are judged; ranges are those of all


def infer_schema(
    frame: Frame, options: ColumnOptions, training: Array | None = None, infer_label: bool = True
) -> Schema:
    """The columns of a frame with their kinds.

    Args:
        frame: the frame, of all rows.
        options: what the user says.
        training: the numbers of the training rows, by which kinds, levels and ranges are decided; all by default.
        infer_label: whether a column that is called label, labels, target or class is taken for the labels.

    Returns:
        The schema; `InputError` for names that the frame does not have, and for values that a kind cannot hold.
    """
    values, source = frame.values, str(frame.source)
    names = list(values.columns)
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"{source}: two columns are called {repeated[0]!r}; give each a name of its own")
    described = described_columns(options, names, source)
    rows = values if training is None else values.iloc[training]
    has_label = not infer_label or any(column.kind == "label" for column in described.values())
    columns = []
    for name in names:
        column = described.get(name) or Column(name, "")
        if not column.kind and not has_label and frame.has_names and name.lower() in LABEL_COLUMNS:
            column, has_label = replace(column, kind="label"), True
        columns.append(_completed(column, rows[name], values[name], source, frame.has_names))
        _require_condition(columns[-1], source)
    columns = _with_exposures(columns, options.exposures.get(ALL_COUNTS), source)
    schema = Schema(tuple(_with_equal_columns_noted(columns, rows)), frame.has_names)
    return schema.coded(_coding(schema, options))


def _coding(schema: Schema, options: ColumnOptions) -> str:
    """The coding: that by kinds where the user says one with a distribution of its own, or names a family."""
    if options.coding != "auto":
        return options.coding
    named = {name for name, text in options.kinds.items() if text.partition(":")[0] in OWN_DISTRIBUTION}
    has_kind = any(column.name in named or column.family for column in schema.modelled)
    are_counts = {column.kind for column in schema.modelled} == {"count"}  # as they are by default
    return "columns" if has_kind and not are_counts else "auto"


def _with_exposures(columns: Sequence[Column], of_all: str | None, source: str) -> list[Column]:
    """The columns with the exposure that all counts have which do not name their own; `InputError` for one of none."""
    names = [column.name for column in columns]
    if unknown := [column for column in columns if column.exposure and column.exposure not in names]:
        raise InputError(
            f"{source}: {unknown[0].name} has the exposure {unknown[0].exposure!r}, and no column is called so"
        )
    if of_all is None:
        return list(columns)
    are_counts = [column.kind == "count" and column.is_modelled for column in columns]
    if not any(are_counts):
        raise InputError(
            f"{source}: {of_all} is the exposure of counts, and no column is one; name one (--exposure COUNT={of_all}, "
            "or --column NAME=count)"
        )
    return [
        replace(column, exposure=column.exposure or of_all) if is_count else column
        for column, is_count in zip(columns, are_counts, strict=True)
    ]


def _require_condition(column: Column, source: str) -> None:
    """`InputError` for a column that is to be given and holds nothing that x could depend on."""
    if not column.given or (column.kind not in ROLES) or (column.kind == "label" and len(column.levels) > 1):
        return
    reason = column.note or ("it does not vary" if column.kind == "label" else f"it is {column.kind}")
    raise InputError(
        f"{source}: column {column.name} cannot be given: {reason}; a condition has numbers, levels or dates that vary"
    )


def _completed(
    column: Column, rows: "pandas.Series[Any]", all_rows: "pandas.Series[Any]", source: str, has_names: bool
) -> Column:
    """A column with its kind decided, where it is not given, and with what the training rows say of it."""
    column = replace(column, dtype=dtype_name(all_rows))
    if column.kind not in ("id", "ignored"):
        require_values(all_rows, source)
    is_inferred = not column.kind
    if is_inferred:
        column = _infer(column, rows, all_rows, source, has_names)
        if column.constant is not None and len(factorize_levels(all_rows)[1]) > 1:
            column = replace(column, note=f"{column.note} in the training rows")
    if column.kind in WITH_LEVELS and not column.levels:
        return replace(column, levels=_levels(column, rows, source))
    if column.kind in WITH_LEVELS:
        return replace(column, levels=_as_in(column.levels, rows))
    if column.kind == "label" and not column.levels:
        labels, levels = encode_labels(all_rows.to_numpy(), Path(source), len(all_rows))
        return replace(column, levels=levels or (known_labels(labels) if column.given else ()))
    if column.kind in ROLES:
        return column
    if column.kind == "datetime" and column.dtype == "text" and not column.format:
        column = replace(column, format=_format_of_dates(all_rows))
    numbers = to_days(rows, column.format, source) if column.kind == "datetime" else to_numbers(rows, source)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise InputError(f"{source}: column {column.name} has no value in any training row; leave it out")
    if column.kind in OWN_DISTRIBUTION:
        values = to_numbers(all_rows, source)
        if is_inferred:
            column = wide_enough(column, values)
        require_range(column, known, values[~np.isnan(values)], source)
    is_date = column.kind == "datetime"
    precision, decimals = (precision_of(known), None) if is_date else ("", decimals_of(known))
    has_zeros = column.has_zeros or bool((known == 0).any())
    column = replace(column, has_zeros=column.kind == "positive" and has_zeros)
    return replace(
        column, low=float(known.min()), high=float(known.max()), precision=precision, decimals=decimals or None
    )


def _format_of_dates(values: "pandas.Series[Any]") -> str:
    """The format of dates without times, where all of a column's text is written so; empty for ISO 8601."""
    cells = [str(cell).strip() for cell in values if not is_missing(cell)]
    return "%Y-%m-%d" if all(len(cell) == 10 and ISO_DATE.fullmatch(cell) for cell in cells) else ""


def _as_in(levels: Sequence[Level], rows: "pandas.Series[Any]") -> tuple[Level, ...]:
    """Levels that were written as text with the type that the values have."""
    by_text: dict[str, Level] = {str(level): level for level in factorize_levels(rows)[1]}
    return tuple(by_text.get(str(level), level) for level in levels)


def _levels(column: Column, rows: "pandas.Series[Any]", source: str) -> tuple[Level, ...]:
    """The levels of a column in their order: as declared, numbers by size, text by the alphabet."""
    import pandas

    if isinstance(rows.dtype, pandas.CategoricalDtype):
        declared = factorize_levels(pandas.Series(rows.cat.categories))[1]
        known = set(factorize_levels(rows)[1])
        levels = [level for level in declared if level in known or column.kind == "ordinal"]
    else:
        levels = sorted(factorize_levels(rows)[1], key=lambda level: (isinstance(level, str), level))
    if column.kind == "binary" and len(levels) != 2:
        raise InputError(f"{source}: column {column.name} has {len(levels)} values; binary takes two")
    if not levels:
        raise InputError(f"{source}: column {column.name} has no value in any training row; leave it out")
    return tuple(levels)


def _infer(
    column: Column, rows: "pandas.Series[Any]", all_rows: "pandas.Series[Any]", source: str, has_names: bool
) -> Column:
    """The kind of a column by its values."""
    import pandas

    known = rows[~rows.isna()] if not is_text(rows) else rows[[not is_missing(cell) for cell in rows]]
    if not len(known):
        return replace(column, kind="ignored", note="left out: no values")
    if isinstance(rows.dtype, pandas.CategoricalDtype):
        return _infer_levels(column, known, is_ordered=bool(rows.cat.ordered))
    if pandas.api.types.is_datetime64_any_dtype(rows.dtype) or column.dtype == "date":
        return replace(column, kind="datetime")
    if not is_text(rows):
        return _infer_numbers(column, to_numbers(known, source), all_rows, has_names)
    share = share_of_numbers(rows)
    if share == 1.0:
        return _infer_numbers(replace(column, dtype="text"), to_numbers(known, source), all_rows, has_names)
    if all(ISO_DATE.fullmatch(str(cell).strip()) for cell in known):
        return replace(column, kind="datetime")
    if share > 0.5:
        to_numbers(rows, source)  # which says what is no number
    return _infer_text(column, known)


def _infer_text(column: Column, known: "pandas.Series[Any]") -> Column:
    num_levels = known.nunique()
    if num_levels == len(known) > MIN_FOR_ID or (num_levels > NEAR_ID * len(known) and len(known) > MIN_FOR_ID):
        each = "" if num_levels == len(known) else f"nearly ({num_levels:,} values in {len(known):,} rows) "
        return replace(column, kind="id", note=f"{each}each row has a value of its own: not modelled")
    if num_levels > MAX_LEVELS:
        return replace(column, kind="ignored", note=f"left out: {num_levels:,} levels (more than {MAX_LEVELS:,})")
    return _infer_levels(column, known)


def _infer_levels(column: Column, known: "pandas.Series[Any]", is_ordered: bool = False) -> Column:
    num_levels = known.nunique()
    if num_levels == 1:
        only = factorize_levels(known)[1][0]
        return replace(column, kind="ignored", constant=only, note="left out: it does not vary")
    kind = "ordinal" if is_ordered else "binary" if num_levels == 2 else "categorical"
    return replace(column, kind=kind)


def _infer_numbers(column: Column, known: Array, all_rows: "pandas.Series[Any]", has_names: bool) -> Column:
    """The kind of a column of numbers."""
    low, high = float(known.min()), float(known.max())
    if low == high:
        if not has_names:  # rows of an instrument or a picture
            return replace(column, kind="real", note="it does not vary")
        only = factorize_levels(all_rows[~all_rows.isna()])[1][0]
        return replace(column, kind="ignored", constant=only, note="left out: it does not vary")
    is_whole = bool((known == np.rint(known)).all())
    if is_whole and has_names and _are_ids(column.name, all_rows):
        return replace(column, kind="id", note="each row has a whole number of its own: not modelled")
    if column.dtype == "bool" or (len(np.unique(known[:1000])) <= 2 and len(np.unique(known)) == 2):
        return replace(column, kind="binary", levels=())
    if is_whole:
        is_count = low >= 0 and low <= 2 and high <= MAX_COUNT
        return replace(column, kind="count" if is_count else "integer")
    note = _note_of_repeats(known)
    some = known[:MAX_LOOKED_AT]
    if low == 0 and (known == 0).mean() > MIN_ZEROS and _skewness(some[some > 0]) > 1:
        return replace(column, kind="positive", has_zeros=True)
    if low > 0 and _skewness(some) > 1 and abs(_skewness(np.log(some))) < _skewness(some):
        return replace(column, kind="positive", note=note)
    is_share = low >= 0 and high <= 1 and low < 0.05 and high > 0.95
    return replace(column, kind="bounded" if is_share else "real", note=note)


def _are_ids(name: str, values: "pandas.Series[Any]") -> bool:
    """Whether whole numbers name their rows: each once, none missing, and called so or counted from 0 or 1."""
    if (
        "int" not in str(values.dtype).lower()
        or len(values) < MIN_FOR_ID
        or not values.is_unique
        or bool(values.isna().any())
    ):
        return False
    numbers = values.to_numpy(np.float64)
    is_counted = numbers.min() in (0, 1) and numbers.max() - numbers.min() == len(numbers) - 1
    return bool(ID_NAME.fullmatch(name)) or bool(is_counted and (np.diff(numbers) > 0).all())


def _skewness(values: Array) -> float:
    centred = values - values.mean()
    deviation = centred.std()
    return float(((centred / deviation) ** 3).mean()) if deviation > 0 else 0.0


def _note_of_repeats(values: Array) -> str:
    """What is said where one value makes up much of a column of real numbers: a density there has no limit."""
    found, counts = np.unique(values[:MAX_LOOKED_AT], return_counts=True)
    share = float(counts.max()) / counts.sum()
    most = found[counts.argmax()]
    return f"{share:.0%} of the values are {most:g}" if share > REPEATED and len(found) > 2 else ""


def _with_equal_columns_noted(columns: list[Column], rows: "pandas.DataFrame") -> list[Column]:
    """The columns, one that equals an earlier one in every row noted."""
    import pandas

    first: dict[int, str] = {}
    noted = []
    for column in columns:
        if column.is_modelled:
            some = rows[column.name].head(MAX_LOOKED_AT)
            key = hash(pandas.util.hash_pandas_object(some, index=False).to_numpy().tobytes())
            if key in first and rows[column.name].equals(rows[first[key]]):
                column = replace(column, note=f"equals {first[key]} in every training row; --drop {column.name}")
            first.setdefault(key, column.name)
        noted.append(column)
    return noted


def rows_that_dwarf(schema: Schema, values: Array) -> tuple[Array, list[str]]:
    """The rows that hold a number so large that it alone would decide its column's scale, and a note for each column.

    Args:
        schema: the columns; only kinds of real numbers are looked at.
        values: the training values (N, D), as `Schema.encode` gives them.

    Returns:
        The numbers of the rows (n,), and the notes.
    """
    found, notes, start = set[int](), [], 0
    for column in schema.modelled:
        numbers = values[:, start]
        start += len(schema._names_of(column))
        if column.kind not in ("real", "positive", "integer"):
            continue
        known = numbers[~np.isnan(numbers)]
        low, middle, high = np.quantile(known[:MAX_LOOKED_AT], [0.05, 0.5, 0.95])
        with np.errstate(over="ignore"):  # of the largest numbers that there are
            spread = high - low
            distance = np.abs(np.nan_to_num(numbers, nan=middle) - middle)
        rows = np.flatnonzero(distance / DWARFS > spread) if spread > 0 else np.empty(0, int)
        if not len(rows) or len(rows) > max(1, MAX_DWARFED * len(known)):
            continue
        found |= set(rows.tolist())
        shown = ", ".join(f"{numbers[row]:g}" for row in rows[:3])
        notes.append(
            f"{column.name}: {shown}, more than {DWARFS:,.0f} times the spread of the others; not "
            "in the rows that the fit sees"
        )
    return np.array(sorted(found), dtype=int), notes
