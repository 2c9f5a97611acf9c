"""What the user says about the columns of a table: kinds, roles, and files of kinds."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyro_vae.data.columns import KINDS, NUMBERS, Column, Schema
from pyro_vae.errors import InputError

ALL_COUNTS = "*"  # in place of a count's name


@dataclass(frozen=True)
class ColumnOptions:
    """What the user says about columns.

    Attributes:
        kinds: by name the kind, with what a kind takes after a colon: `ordinal:low<mid<high`, `datetime:%d.%m.%Y`.
        label: the column of labels.
        ids: columns that name a row.
        drop: columns that are left out.
        weights: the column of rows' weights.
        split: the column that says to which split a row belongs.
        group: the column of groups, whose rows stay in one split.
        given: the columns that are conditions, which keep their kinds, or are labels.
        exposures: by the name of a count the column that its mean is proportional to; by `ALL_COUNTS` that of the
            other counts.
        coding: how a row is written as numbers, as in `Schema`, or auto.
        schema: a file of kinds, as `Schema.to_toml` writes it, or a run's config.toml.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    ids: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    weights: str | None = None
    split: str | None = None
    group: str | None = None
    given: tuple[str, ...] = ()
    exposures: Mapping[str, str] = field(default_factory=dict)
    schema: str | Path | None = None
    coding: str = "auto"

    @property
    def roles(self) -> dict[str, str]:
        """The kind that each column is given, by name; `InputError` for two kinds of one column."""
        given = [
            *self.kinds.items(),
            *((name, "id") for name in self.ids),
            *((name, "ignored") for name in self.drop),
            *((name, role) for role, name in self._named_roles if name is not None),
        ]
        found: dict[str, str] = {}
        for name, kind in given:
            if found.setdefault(name, kind) != kind:
                raise InputError(f"column {name} is given two kinds, {found[name]} and {kind}; give it one")
        return found

    def column_of(self, role: str) -> str | None:
        """The column that has a role, whether an option names it, its kind says so, or the file of kinds; else None."""
        kinds = {} if self.schema is None else {column.name: column.kind for column in read_schema(self.schema)}
        kinds |= {name: text.partition(":")[0] for name, text in self.roles.items()}
        return next((name for name, kind in kinds.items() if kind == role), None)

    @property
    def _named_roles(self) -> list[tuple[str, str | None]]:
        return [("label", self.label), ("weights", self.weights), ("split", self.split), ("group", self.group)]

    def __bool__(self) -> bool:
        return bool(self.roles or self.schema or self.given or self.exposures)


def require_kinds(columns: Mapping[str, str] | None) -> Mapping[str, str]:
    """Kinds by name as they were given; `InputError` for what is none."""
    if columns is not None and not _are_texts(columns):
        raise InputError(f"columns must be kinds by name, as in {{'age': 'count'}}, got {columns!r:.60}")
    return columns or {}


def require_exposures(exposure: str | Mapping[str, str]) -> Mapping[str, str]:
    """The exposure of each count by its name, `ALL_COUNTS` for one of all; `InputError` for what is none."""
    if isinstance(exposure, str):
        return {ALL_COUNTS: exposure} if exposure else {}
    if not _are_texts(exposure):
        raise InputError(
            f"exposure must be the name of a column, or names by that of a count, as in {{'claims': 'days'}}; got "
            f"{exposure!r:.60}"
        )
    return exposure


def require_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns, of which one may be given as a text; `InputError` for what is none."""
    if not isinstance(given, (str, list, tuple)) or not all(isinstance(name, str) for name in given):
        raise InputError(f"id and drop must be names of columns, got {given!r:.60}")
    return (given,) if isinstance(given, str) else tuple(given)


def _are_texts(given: object) -> bool:
    return isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair)


def parse_kinds(texts: Sequence[str]) -> dict[str, str]:
    """NAME=KIND texts as a mapping; `InputError` for one without `=`, and for a name given twice.

    Args:
        texts: as in `("age=count", "size=ordinal:S<M<L")`; a name may hold `=` itself.

    Returns:
        The kinds by name.
    """
    kinds: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(rf"(.+?)=((?:{'|'.join(KINDS)})(?::.*)?)", text)
        if match is None:
            raise InputError(f"--column {text}: expected NAME=KIND, with a kind of {', '.join(KINDS)}")
        if match[1] in kinds and kinds[match[1]] != match[2]:
            raise InputError(f"--column {match[1]} is given twice, {kinds[match[1]]} and {match[2]}; give it once")
        kinds[match[1]] = match[2]
    return kinds


def parse_exposures(texts: Sequence[str]) -> dict[str, str]:
    """COLUMN and COUNT=COLUMN texts as a mapping; `InputError` for two exposures of one count.

    >>> parse_exposures(("days", "claims=insured"))
    {'*': 'days', 'claims': 'insured'}
    """
    exposures: dict[str, str] = {}
    for text in texts:
        count, _, column = text.rpartition("=")
        count, column = count.strip() or ALL_COUNTS, column.strip()
        if not column:
            raise InputError(f"--exposure {text}: expected COLUMN, or COUNT=COLUMN")
        if exposures.setdefault(count, column) != column:
            of = "all counts" if count == ALL_COUNTS else count
            raise InputError(f"--exposure is given twice for {of}, {exposures[count]} and {column}; give it once")
    return exposures


def split_names(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns from one text or several, each of which holds one name, or some with commas between them.

    >>> split_names(("segment,age", "city"))
    ('segment', 'age', 'city')
    """
    texts = (texts,) if isinstance(texts, str) else texts
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def described_columns(options: ColumnOptions, names: list[str], source: str) -> dict[str, Column]:
    """The columns about which the user says something, by name.

    Args:
        options: what the user says.
        names: the columns that there are.
        source: where they come from, for messages.

    Returns:
        The columns by name; `InputError` for a name that no column has, and for a kind that does not exist.
    """
    columns: dict[str, Column] = {}
    if options.schema is not None:
        columns = {column.name: column for column in read_schema(options.schema)}
    for name, text in options.roles.items():
        kind, _, detail = text.partition(":")
        _require_kind(name, kind, detail)
        levels = tuple(detail.split("<")) if kind == "ordinal" and detail else ()
        columns[name] = Column(name, kind, levels=levels, format=detail if kind == "datetime" else "")
    columns |= {name: replace(columns.get(name) or Column(name, ""), given=True) for name in options.given}
    for count, name in options.exposures.items():
        if count != ALL_COUNTS:
            column = columns.get(count) or Column(count, "")
            columns[count] = replace(column, kind=column.kind or "count", exposure=name)
        columns.setdefault(name, Column(name, ""))
    for name in {column.exposure for column in columns.values() if column.exposure} | set(options.exposures.values()):
        if name in columns:
            columns[name] = _as_exposure(columns[name])
    if unknown := [name for name in columns if name not in names]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{source}: no column {unknown[0]!r}{hint} (columns: {', '.join(names[:8])})")
    return columns


def _as_exposure(column: Column) -> Column:
    """A column that means of counts are proportional to: a positive number that is given."""
    if column.kind not in ("", *NUMBERS):
        raise InputError(f"column {column.name}: an exposure is a positive number, and the column is {column.kind}")
    return replace(column, kind="positive", given=True)


def _require_kind(name: str, kind: str, detail: str) -> None:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise InputError(
            f"column {name}: no kind called {kind!r}{f'; did you mean {near[0]!r}?' if near else ''} (kinds: "
            f"{', '.join(KINDS)})"
        )
    if detail and kind not in ("ordinal", "datetime"):
        raise InputError(f"column {name}: {kind} takes nothing after a colon, got {detail!r}")


def read_schema(path: str | Path) -> Schema:
    """The schema in a `schema.toml`, or in a run's `config.toml`; `InputError` where it cannot be read."""
    from pyro_vae.atomic_write import read_toml

    content = read_toml(Path(path))
    content = content.get("schema", content)
    columns = content.get("columns")
    if not isinstance(columns, dict) or not all(isinstance(about, dict) for about in columns.values()):
        raise InputError(
            f"{path}: no columns in it; expected a table for each, as in [columns.age] with kind = 'count'"
        )
    for name, about in columns.items():
        _require_kind(name, str(about.get("kind")), "")
    try:
        return Schema.from_dict(content)
    except TypeError as error:
        raise InputError(
            f"{path}: a column has an unknown key ({error}); a column has a kind, levels, format, given, exposure"
        ) from error
