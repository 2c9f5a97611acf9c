"""The columns of a table and their kinds: how each is coded as numbers, and how numbers become its values again."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.constructor_args import part
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError
from pyro_vae.json_records import require_types
from pyro_vae.option_registry import require_known

if TYPE_CHECKING:
    import pandas

NUMBERS = ("real", "positive", "bounded", "count", "integer")
WITH_LEVELS = ("binary", "categorical", "ordinal")
MODELLED = (*NUMBERS, *WITH_LEVELS, "datetime")
ROLES = ("id", "label", "weights", "split", "group", "ignored")  # of columns that are not modelled
KINDS = (*MODELLED, *ROLES)
WHOLE = ("count", "integer")
ZERO_OR_LOG_NORMAL = "zero or log-normal"
FAMILIES: dict[str, tuple[str, ...]] = {  # of distributions, by kind; the first where none is named
    "real": ("normal", "student-t"),
    "datetime": ("normal", "student-t"),
    "positive": ("log-normal", "gamma"),
    "bounded": ("logit-normal", "beta"),
    "count": ("negative-binomial", "zero-inflated"),
    "integer": ("logistic",),
    "binary": ("levels",),
    "categorical": ("levels",),
    "ordinal": ("ordinal",),
}
Level = str | int | float | bool
DAY = 86_400.0  # seconds; dates are days since 1970-01-01, time spans days
DEFAULTS = (
    ("dtype", "float64"), ("has_zeros", False), ("shift", 0.0), ("scale", 1.0), ("given", False), ("has_missing", False)
)  # fmt: skip
MAX_LINES = 40  # of a description, one a column


@part
@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        kind: one of `KINDS`; the last six are not modelled.
        dtype: the type of its values as pandas names it, which those that are written get too.
        levels: the values of a binary, categorical or ordinal column, or of labels, in their order; their places are
            its codes. Empty for labels that are whole numbers, kept as they are.
        low: the smallest training value; None without numbers.
        high: the largest training value.
        constant: the only value of a column that is left out because it does not vary, else None.
        format: how text holds a date, as `datetime.strptime` has it; empty where the column has a type of dates.
        precision: the unit of time in which all dates are whole: D, h, min, s, ms or us.
        decimals: the number of decimals of all training values; None where it is above four.
        has_zeros: whether a positive column has zeros too, a share of its rows.
        shift: what is subtracted from its numbers before they are divided by `scale`, where columns have kinds.
        scale: what they are divided by; of a positive column with zeros the unit of its logarithms.
        note: what is unusual about it, in words.
        family: the family of its distribution, for `likelihoods.Columns`; the first of its kind in `FAMILIES` if empty.
        given: whether it is a condition: not modelled, and an input of a model p(x | conditions).
        has_missing: of a condition, whether some rows lacked it, so that new ones may.
    """

    name: str
    kind: str
    dtype: str = "float64"
    levels: Sequence[Level] = ()
    low: float | None = None
    high: float | None = None
    constant: Level | None = None
    format: str = ""
    precision: str = ""
    decimals: int | None = None
    has_zeros: bool = False
    shift: float = 0.0
    scale: float = 1.0
    note: str = ""
    family: str = ""
    given: bool = False
    has_missing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.family and self.family not in self._families:
            known = ", ".join(self._families) or "one family only"
            raise InputError(f"column {self.name}: family {self.family!r}; a {self.kind} column has {known}")

    @property
    def _families(self) -> tuple[str, ...]:
        return (ZERO_OR_LOG_NORMAL,) if self.kind == "positive" and self.has_zeros else FAMILIES.get(self.kind, ())

    @property
    def distribution(self) -> str:
        """The name of the family of its distribution: the one that is named, else the first of its kind."""
        return self.family or self._families[0]

    @property
    def is_modelled(self) -> bool:
        return self.kind in MODELLED and not self.given

    @property
    def has_text(self) -> bool:
        """Whether its values are no numbers."""
        return self.kind == "datetime" or any(isinstance(level, str) for level in self.levels)

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, and not levels of text, of more than two, or dates."""
        return self.kind in NUMBERS or (self.kind == "binary" and not self.has_text)

    @property
    def is_counted(self) -> bool:
        """Whether single values have probabilities: a distribution of its kind has no density."""
        return self.kind in WITH_LEVELS or self.kind in WHOLE

    @cached_property
    def places(self) -> dict[Level, int]:
        """The code of each level."""
        return {level: place for place, level in enumerate(self.levels)}

    def encode(self, values: "pandas.Series[Any]", source: str, as_numbers: bool = False) -> Array:
        """Its values as numbers.

        Args:
            values: the values (N,).
            source: where they come from, for messages.
            as_numbers: whether a binary column of numbers keeps them, in place of 0 and 1.

        Returns:
            The numbers (N,) float64: those of a numeric column as they are, the places of levels, days since
            1970-01-01; NaN where a value is missing, the number of levels for a level that is not known.
        """
        from pyro_vae.data.column_values import factorize_levels, to_days, to_numbers

        if self.kind == "datetime":
            return to_days(values, self.format, source)
        if self.kind in NUMBERS or (as_numbers and self.is_numeric):
            return to_numbers(values, source)
        places, found = factorize_levels(values, self.levels)
        codes = np.array([*(self.places.get(level, len(self.levels)) for level in found), math.nan], np.float64)
        return codes[places]  # −1, a missing value, is the last

    def decode(self, codes: Array, rounded: bool = True, as_numbers: bool = False) -> "pandas.Series[Any]":
        """Numbers as values of the column.

        Args:
            codes: the numbers (N,), as `encode` gives them; of levels the nearest place is taken.
            rounded: whether numbers become whole, or have the column's decimals, where the column's have; means stay as
                they are without.
            as_numbers: whether a binary column of numbers keeps them, in place of 0 and 1.

        Returns:
            The values (N,), missing where a number is NaN.
        """
        from pyro_vae.data import column_values

        if self.kind == "datetime":
            return column_values.as_dates(codes, self.dtype, self.format, self.precision)
        if not (self.kind in NUMBERS or (as_numbers and self.is_numeric)):
            return column_values.as_levels(codes, self.levels, self.dtype, self.kind == "ordinal")
        return column_values.as_numbers(codes, self.dtype, self.kind, rounded, self.decimals)

    def describe(self, width: int = 0) -> str:
        """One line: name, kind, and range or levels.

        Args:
            width: of the name.

        Returns:
            The line.
        """
        given = "given, not modelled" if self.given else ""
        words = "; ".join(filter(None, (self.values_in_words(), given, self.note)))
        return f"{self.name:<{width}}  {self.kind:<11}  {words}".rstrip()

    def values_in_words(self) -> str:
        """Its range or its first levels."""
        if self.constant is not None:
            return f"always {self.constant}"
        if self.kind == "datetime" and self.low is not None and self.high is not None:
            first, last = (str(np.datetime64(math.floor(day), "D")) for day in (self.low, self.high))
            return f"{first} to {last}"
        if self.levels:
            shown = ", ".join(str(level) for level in self.levels[:4])
            return f"{len(self.levels)} levels: {shown}{', …' if len(self.levels) > 4 else ''}"
        return "" if self.low is None else f"{self.low:g} to {self.high:g}"

    def to_dict(self) -> dict[str, object]:
        """What differs from the defaults, as TOML can hold it."""
        values = asdict(self) | {"levels": list(self.levels)}
        return {"kind": self.kind} | {
            name: value
            for name, value in values.items()
            if name not in ("name", "kind") and (name, value) not in DEFAULTS and value not in (None, "", [])
        }


@part
@dataclass(frozen=True)
class Schema:
    """The columns of a table in their order.

    Attributes:
        columns: the columns; empty where rows have none with a name or kind of their own, as in arrays and pictures.
        has_names: whether the columns have names; where not, they are known by their place.
        coding: how a row is written as numbers: `plain`, each column's own; `columns`, a number for each column by its
            kind, for `likelihoods.Columns`; `one-hot`, each column's own, and for categories one for each level.
    """

    columns: Sequence[Column] = ()
    has_names: bool = True
    coding: str = "plain"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __bool__(self) -> bool:
        return bool(self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise InputError(f"no column {name!r}; there are {', '.join(column.name for column in self.columns)}")

    @cached_property
    def modelled(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.is_modelled)

    @property
    def label(self) -> Column | None:
        return self.role("label")

    @property
    def label_levels(self) -> tuple[str, ...]:
        """The text of labels 0, 1, …; empty where labels are whole numbers, kept as they are, or there are none."""
        return tuple(str(level) for level in self.label.levels) if self.label else ()

    @cached_property
    def conditions(self) -> "Schema":
        """The columns that are given, as a table of their own; labels are levels there."""
        given = [column for column in self.columns if column.given]
        kinds = ["categorical" if column.kind == "label" else column.kind for column in given]
        columns = [replace(column, kind=kind, given=False) for column, kind in zip(given, kinds, strict=True)]
        return Schema(tuple(columns), self.has_names, "columns")

    @cached_property
    def ids(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind == "id")

    def role(self, kind: str) -> Column | None:
        """The first column of a kind, if there is one."""
        return next((column for column in self.columns if column.kind == kind), None)

    @property
    def is_mixed(self) -> bool:
        """Whether some column has no density of real numbers: levels of text, more than two levels, dates, or bits
        beside other numbers."""
        kinds = {column.kind for column in self.modelled}
        has_levels = any(column.has_text or column.kind in ("categorical", "ordinal") for column in self.modelled)
        return has_levels or ("binary" in kinds and kinds != {"binary"})

    @property
    def is_coded(self) -> bool:
        """Whether a row is written as codes of the columns' kinds."""
        return self.coding != "plain"

    @cached_property
    def coded_names(self) -> tuple[str, ...]:
        """The names of the numbers of a row: one for each column, of a categorical one in a coded table one a level."""
        if not self.has_names and not self.is_coded:
            return ()
        return tuple(name for column in self.modelled for name in self._names_of(column))

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers of a row each modelled column has."""
        return tuple(len(self._names_of(column)) for column in self.modelled)

    def _names_of(self, column: Column) -> list[str]:
        is_one_hot = self._is_one_hot(column)
        return [f"{column.name}={level}" for level in column.levels] if is_one_hot else [column.name]

    def _is_one_hot(self, column: Column) -> bool:
        return self.coding == "one-hot" and column.kind == "categorical"

    def encode(self, frame: "pandas.DataFrame", source: str) -> Array:
        """The modelled columns of a frame as numbers.

        Args:
            frame: the frame, with the columns that are modelled.
            source: where it comes from, for messages.

        Returns:
            The numbers (N, D) float64, NaN for missing values.
        """
        plain = self.coding == "plain"
        parts = [self._one_hot(column, column.encode(frame[column.name], source, plain)) for column in self.modelled]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(frame), 0))

    def _one_hot(self, column: Column, codes: Array) -> Array:
        if not self._is_one_hot(column):
            return codes[:, None]
        known = (codes[:, None] == np.arange(len(column.levels))).astype(np.float64)
        known[np.isnan(codes)] = math.nan
        return known

    def decode(self, values: Array, rounded: bool = True, given: Array | None = None) -> "pandas.DataFrame":
        """Numbers as a frame with the columns' own names, order and types; what never varied comes back too.

        Args:
            values: the numbers (N, D), as `encode` gives them; of a category the largest is taken.
            rounded: whether numbers become whole where the column's are.
            given: the codes of the conditions (N, C), whose columns are left out without.

        Returns:
            The frame (N rows).
        """
        import pandas

        series, start = {}, 0
        conditions = {} if given is None else dict(self.conditions.decode(given).items())
        for column in self.columns:
            if column.name in conditions:
                series[column.name] = conditions[column.name]
            elif column.is_modelled:
                width = len(self._names_of(column))
                codes = values[:, start : start + width]
                one = codes.argmax(1).astype(np.float64) if self._is_one_hot(column) else codes[:, 0]
                series[column.name] = column.decode(one, rounded, self.coding == "plain")
                start += width
            elif column.constant is not None:
                dtype = None if column.dtype == "text" else column.dtype
                series[column.name] = pandas.Series([column.constant] * len(values), dtype=dtype)
        return pandas.DataFrame(series)

    def coded(self, coding: str) -> "Schema":
        """The schema with a coding; `auto` is that by kinds where some column is no real number."""
        if coding == "auto":
            coding = "columns" if self.is_mixed else "plain"
        if coding == "one-hot" and not self.is_mixed:  # real numbers and counts are their own codes
            coding = "plain"
        return replace(self, coding=coding)

    def describe(self) -> list[str]:
        """One line a column; of very many, how many there are of each kind."""
        if len(self.columns) <= MAX_LINES:
            width = max((len(column.name) for column in self.columns), default=0)
            return [column.describe(width) for column in self.columns]
        kinds: dict[str, list[str]] = {}
        for column in self.columns:
            kinds.setdefault(column.kind, []).append(column.name)
        lines = [f"{len(names)} {kind}: {', '.join(names[:3])}, …" for kind, names in kinds.items() if len(names) > 3]
        lines += [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if len(names) <= 3]
        return lines + [column.describe() for column in self.columns if column.note][:MAX_LINES]

    def with_label_levels(self, levels: Sequence[Level]) -> "Schema":
        """The schema with the levels of its label."""
        columns = [replace(each, levels=tuple(levels)) if each.kind == "label" else each for each in self.columns]
        return replace(self, columns=tuple(columns))

    def to_dict(self) -> dict[str, Any]:
        """The schema as `schema.toml` and a run's `config.toml` hold it."""
        kept = {column.name: column.to_dict() for column in self.columns}
        about: dict[str, Any] = {} if self.has_names else {"has_names": False}
        about |= {} if self.coding == "plain" else {"coding": self.coding}
        return about | {"columns": kept}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema that `to_dict` gave; `InputError` for what is none, which a file may hold."""
        require_types(cls, {"columns": []} | {name: values[name] for name in values if name != "columns"}, "a schema")
        about_columns = values.get("columns", {})
        for name, about in about_columns.items() if isinstance(about_columns, Mapping) else [("columns", None)]:
            require_types(Column, about, f"column {name}")
        columns = [
            _known_column(name, {**about, "levels": tuple(about.get("levels", ()))})
            for name, about in about_columns.items()
        ]
        return cls(tuple(columns), bool(values.get("has_names", True)), str(values.get("coding", "plain")))

    def to_toml(self, path: str | Path) -> None:
        """Write the schema to a file, which can be edited and given to `load_data` and `pyro-vae fit --schema`."""
        from pyro_vae.atomic_write import write_toml

        write_toml(Path(path), self.to_dict(), to_edit=True)


def _known_column(name: str, about: dict[str, Any]) -> Column:
    """The column that a file describes; `InputError` for an unknown kind, or settings that a column does not have."""
    require_known(about, [each.name for each in fields(Column)], f"column {name}")
    if about.get("kind") not in KINDS:
        raise InputError(f"column {name}: no kind called {about.get('kind')!r}; try one of {', '.join(KINDS)}")
    return Column(name, **about)
