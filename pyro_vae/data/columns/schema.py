"""The columns of a table in their order: how a row is coded as numbers, and how numbers become a row again."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.constructor_args import part
from pyro_vae.data.columns.column import (
    KINDS,
    Column,
    Level,
)
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError
from pyro_vae.json_records import require_types
from pyro_vae.option_registry import require_known

if TYPE_CHECKING:
    import pandas

MAX_LINES = 40  # of a description, one a column


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
        names = [column.name if column.name in self.exposures else "" for column in given]
        columns = [
            replace(column, kind=kind, given=False, exposure=name)
            for column, kind, name in zip(given, kinds, names, strict=True)
        ]
        return Schema(tuple(columns), self.has_names, "columns")

    @cached_property
    def exposures(self) -> tuple[str, ...]:
        """The names of the columns that means of counts are proportional to, in their order."""
        used = {column.exposure for column in self.columns if column.exposure}
        return tuple(column.name for column in self.columns if column.name in used)

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
            coding = "columns" if self.is_mixed or self.exposures else "plain"
        if self.exposures and coding != "columns":
            raise InputError(
                f"{self.exposures[0]} is the exposure of counts, whose distribution a row of codes does not have: take "
                "--likelihood columns, or leave --exposure out"
            )
        if coding == "plain" and self.is_mixed:
            raise InputError("columns with levels are no plain numbers: take --coding columns, or one-hot")
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
