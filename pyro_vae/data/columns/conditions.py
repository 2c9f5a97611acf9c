"""Conditions y of p(x | y): columns that are given as an input of a program, and values that a user gives them."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_values import Level
from pyro_vae.data.infer_measure import measure_of_columns, product_measure
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, condition_codes, known_labels, relabelled
from pyro_vae.errors import InputError

GIVEN = "given"  # the row input's name
LABEL = "label"  # of labels that have no name
Value = Level | np.generic | datetime.date | None  # of a condition, as a user says it


def give_label(tables: Sequence[Table[Values]], names: Sequence[str], source: str) -> list[Table[Values]]:
    """Tables whose columns have no kinds, with their labels as the condition.

    Args:
        tables: the training, validation and test tables.
        names: what is to be given.
        source: where they come from, for messages.

    Returns:
        The tables; `InputError` for another name than that of the labels.
    """
    if not names:
        return list(tables)
    schema = tables[0].schema
    label = schema.label or Column(LABEL, "label", "int64")
    if tables[0].labels is None or list(names) != [label.name]:
        there = "and no labels" if tables[0].labels is None else f"only labels (--given {label.name})"
        raise InputError(
            f"{source}: no column {', '.join(names)} to be given; there are no columns with kinds, {there}"
        )
    known = [table.labels for table in tables if table.labels is not None]
    levels = label.levels or known_labels(torch.cat(known))
    others = [column for column in schema if column.kind != "label"]
    schema = replace(schema, columns=(*others, replace(label, given=True, levels=levels)))
    schema = schema if others else replace(schema, has_names=False)
    return [_relabelled(table, label.levels, schema, source) for table in tables]


def _relabelled(table: Table[Values], levels: Sequence[Level], schema: Schema, source: str) -> Table[Values]:
    assert table.labels is not None
    assert schema.label is not None
    labels = relabelled(table.labels, [str(level) for level in levels], schema.label.levels)
    return replace(table, labels=labels, schema=schema, given=condition_codes(schema, labels, None, source))


def scale_conditions(tables: Sequence[Table[Values]]) -> list[Table[Values]]:
    """Tables whose schema knows the shifts and scales of their conditions, by training values, and which have gaps.

    Args:
        tables: the training, validation and test tables.

    Returns:
        The same tables with that schema.
    """
    schema, given = tables[0].schema, tables[0].given
    if given is None:
        return list(tables)
    _, scaled = measure_of_columns(schema.conditions, given)
    gaps = torch.stack([table.given.isnan().any(0) for table in tables if table.given is not None]).any(0)
    found = {
        column.name: (column.shift, column.scale, bool(has_missing))
        for column, has_missing in zip(scaled, gaps, strict=True)
    }
    columns = []
    for column in schema:
        if column.given:
            shift, scale, has_missing = found[column.name]
            column = replace(column, shift=shift, scale=scale, has_missing=has_missing)
        columns.append(column)
    return [replace(table, schema=replace(schema, columns=tuple(columns))) for table in tables]


def standardized(schema: Schema, codes: Tensor) -> Tensor:
    """Conditions as a program gets them, its row input `given`.

    Args:
        schema: the columns.
        codes: the codes of the conditions (N, C).

    Returns:
        Numbers shifted and scaled, and the places of levels, (N, C) float64, NaN where one is missing.
    """
    measure = product_measure(schema.conditions)
    return (codes - codes.new_tensor(measure.shift)) / codes.new_tensor(measure.scale)


def original_codes(schema: Schema, given: Tensor) -> Array:
    """The codes of conditions as a program gets them: the inverse of `standardized`.

    Args:
        schema: the columns.
        given: the row input (N, C).

    Returns:
        The codes (N, C), NaN where one is missing, and for levels that are not known.
    """
    codes = product_measure(schema.conditions).to_original_units(given.detach().cpu().double()).numpy()
    most = np.array([len(column.levels) or np.inf for column in schema.conditions])
    return np.where(codes < most, codes, np.nan)


def require_conditions(schema: Schema, codes: Tensor, source: str) -> None:
    """`InputError` for a gap in a condition that no row of the fit lacked.

    Args:
        schema: the columns of the fit.
        codes: the codes of the conditions (N, C).
        source: where they come from, for the message.
    """
    for column, values in zip(schema.conditions, codes.T, strict=True):
        if not column.has_missing and bool((gaps := values.isnan()).any()):
            raise InputError(
                f"{source}: {column.name} is missing in row {int(gaps.nonzero()[0])} (counting from 0); it is a "
                f"condition of p(x | {', '.join(each.name for each in schema.conditions)}) that no row of the fit "
                "lacked: fill it, or leave the row out"
            )


def parse_conditions(texts: Sequence[str], schema: Schema) -> dict[str, Value]:
    """NAME=VALUE texts as a mapping; `InputError` for one without `=`, and for a name given twice.

    Args:
        texts: as in `("segment=Retail", "age=40")`; a name may hold `=` itself, and no value is a missing one.
        schema: the columns.

    Returns:
        The values by name.
    """
    found: dict[str, Value] = {}
    for text in texts:
        names = [column.name for column in schema.conditions if text.startswith(f"{column.name}=")]
        name = max(names, key=len, default=text.partition("=")[0])
        if "=" not in text:
            raise InputError(f"--given {text}: expected NAME=VALUE; {_there_are(schema)}")
        if name in found:
            raise InputError(f"--given {name} is said twice, {found[name]} and {text[len(name) + 1 :]}; say it once")
        found[name] = text[len(name) + 1 :]
    return found


def given_codes(given: Mapping[str, Value], schema: Schema) -> Tensor:
    """The codes of conditions that are said by their values.

    Args:
        given: the value of each condition by name; None, NaN or no text for a missing one.
        schema: the columns.

    Returns:
        The codes (C,) float64; `InputError` for a name or a value that there is not, and for a condition that is not
        said.
    """
    for name in given:
        if name not in [column.name for column in schema.conditions]:
            is_modelled = name in [column.name for column in schema.modelled]
            reason = f"{name} is modelled, and not a condition" if is_modelled else f"no condition {name!r}"
            raise InputError(f"{reason}; {_there_are(schema)}")
    if absent := [column for column in schema.conditions if column.name not in given]:
        raise InputError(f"{absent[0].name} is not given; {_there_are(schema)}: give all, or none")
    return torch.tensor([_code(column, given[column.name]) for column in schema.conditions], dtype=torch.float64)


def _there_are(schema: Schema) -> str:
    conditions = schema.conditions
    if not conditions:
        return "this run has no conditions (pyro-vae fit --given NAME)"
    names = ", ".join(column.name for column in conditions)
    return f"the conditions of this run are {names}"


def _code(column: Column, value: Value) -> float:
    """The code of one value."""
    import pandas

    text = "" if value is None or value != value else str(value).strip()
    if not text:
        if column.has_missing:
            return np.nan
        raise InputError(f"{column.name} has no value, and no row of the fit lacked it; give {_values_of(column)}")
    by_text = {str(level): place for place, level in enumerate(column.levels)}
    if text in by_text:
        return by_text[text]
    try:
        code = float(column.encode(pandas.Series([value]), "given")[0])
    except InputError:
        code = np.nan
    is_whole = code == np.rint(code)
    outside = {
        "positive": not (code > 0 or (code == 0 and column.has_zeros)),
        "count": not (code >= 0 and is_whole),
        "integer": not is_whole,
    }.get(column.kind, code == len(column.levels) > 0)
    if np.isnan(code) or outside:
        raise InputError(f"{column.name} cannot be {text!r}; give {_values_of(column)}")
    return code


def _values_of(column: Column) -> str:
    """What a condition can be, in words."""
    if column.levels:
        shown = ", ".join(str(level) for level in column.levels[:12])
        return f"one of {shown}{', …' if len(column.levels) > 12 else ''}"
    kind = {"datetime": "a date", "count": "a whole number from 0", "integer": "a whole number"}
    return f"{kind.get(column.kind, 'a number')} (in the fit {column.values_in_words()})"
