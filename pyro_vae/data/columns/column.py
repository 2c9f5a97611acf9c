"""The columns of a table and their kinds: how each is coded as numbers, and how numbers become its values again."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.constructor_args import part
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError

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
        exposure: of a count, the name of the given column that its mean is proportional to; of such a column among the
            conditions of a program, its own name; empty for others.
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
    exposure: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.family and self.family not in self._families:
            known = ", ".join(self._families) or "one family only"
            raise InputError(f"column {self.name}: family {self.family!r}; a {self.kind} column has {known}")
        if self.exposure and self.kind != "count" and self.exposure != self.name:
            raise InputError(
                f"column {self.name}: exposure {self.exposure!r}; only counts have one, and it is of kind {self.kind} "
                f"(--column {self.name}=count)"
            )

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
        from pyro_vae.data.columns.column_values import factorize_levels, to_days, to_numbers

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
        from pyro_vae.data.columns import column_values

        if self.kind == "datetime":
            return column_values.as_dates(codes, self.dtype, self.format, self.precision)
        if not (self.kind in NUMBERS or (as_numbers and self.is_numeric)):
            return column_values.as_levels(codes, self.levels, self.dtype, self.kind == "ordinal")
        if self.kind == "bounded" and rounded and self.low is not None and self.high is not None:
            codes = np.clip(codes, min(0.0, self.low), max(1.0, self.high))  # without the margin that its ends have
        return column_values.as_numbers(codes, self.dtype, self.kind, rounded, self.decimals)

    def describe(self, width: int = 0) -> str:
        """One line: name, kind, and range or levels.

        Args:
            width: of the name.

        Returns:
            The line.
        """
        role = "given, not modelled" if self.given else f"mean proportional to {self.exposure}" if self.exposure else ""
        words = "; ".join(filter(None, (self.values_in_words(), role, self.note)))
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
