"""The training, validation and test tables of a data frame: the training rows decide what its columns are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.column_options import ColumnOptions
from pyro_vae.data.columns.infer_columns import infer_schema, rows_that_dwarf
from pyro_vae.data.frames import Frame
from pyro_vae.data.split_rows import Parts, complete_parts, parts_of_column, parts_of_groups, random_parts
from pyro_vae.data.table import Table, require_complete, table_from_frame
from pyro_vae.errors import InputError

MIN_ROWS = 10


@dataclass(frozen=True)
class FrameParts:
    """A data frame, and which of its rows train, validate and test.

    Attributes:
        frame: the frame.
        parts: the row numbers of the training, validation and test rows.
        notes: what was decided.
        index: the number of each row in its own file, where rows come from several.
        infer_label: whether a column that is called label, labels, target or class is taken for the labels.
    """

    frame: Frame
    parts: Parts
    notes: tuple[str, ...] = ()
    index: Tensor | None = None
    infer_label: bool = True


def split_frame(frame: Frame, options: ColumnOptions, seed: int) -> FrameParts:
    """Split the rows of a frame: by a column that says so, by groups, else at random.

    Args:
        frame: the frame.
        options: what the user says about columns.
        seed: the seed of the random order.

    Returns:
        The frame with its parts.
    """
    values, source = frame.values, str(frame.source)
    if len(values) < MIN_ROWS:
        raise InputError(
            f"{source}: {len(values)} rows are too few to train, validate and test on; {MIN_ROWS} are needed"
        )
    split, group = options.column_of("split"), options.column_of("group")
    for name in (split, group):
        if name is not None and name not in values:
            infer_schema(frame, ColumnOptions(kinds={name: "ignored"}))  # raises: it says which columns there are
    if split is not None and group is not None:
        raise InputError("a column of splits says where each row belongs: leave the column of groups out")
    if split is not None:
        return FrameParts(frame, *parts_of_column(values[split], seed, source))
    if group is not None:
        return FrameParts(frame, parts_of_groups(values[group], seed, source))
    held_out = max(1, len(values) // 10)
    return FrameParts(frame, random_parts(len(values), seed, held_out, held_out))


def stack_frames(frame: Frame, others: Mapping[str, Frame], options: ColumnOptions, seed: int) -> FrameParts:
    """The training rows with validation and test rows of their own below them.

    Args:
        frame: the training rows.
        others: the validation and test rows, by `valid` and `test`; one that is not there is taken from the training
            rows.
        options: what the user says about columns.
        seed: the seed of rows that are taken.

    Returns:
        The frame with its parts.
    """
    import pandas

    if options.column_of("split") is not None or options.column_of("group") is not None:
        raise InputError("files of their own say where each row belongs: leave the columns of splits and groups out")
    for other in others.values():
        if missing := [name for name in frame.values.columns if name not in other.values]:
            raise InputError(f"{other.source}: no column {', '.join(missing[:5])}, which {frame.source} has")
    frames = [frame, *others.values()]
    ends = torch.tensor([len(each.values) for each in frames]).cumsum(0).tolist()
    rows = dict(
        zip(
            ["train", *others],
            (torch.arange(end - len(f.values), end) for end, f in zip(ends, frames, strict=True)),
            strict=True,
        )
    )
    empty = torch.empty(0, dtype=torch.long)
    parts, notes = complete_parts(
        [rows.get(name, empty) for name in ("train", "valid", "test")], seed, str(frame.source)
    )
    values = pandas.concat([each.values[list(frame.values.columns)] for each in frames], ignore_index=True)
    index = torch.cat([torch.arange(len(each.values)) for each in frames])
    return FrameParts(replace(frame, values=values), parts, notes, index)


def tables_of_frame(parts: FrameParts, options: ColumnOptions, refuse_missing: bool) -> list[Table[Tensor]]:
    """The tables of a frame's parts.

    Args:
        parts: the frame and its parts.
        options: what the user says about columns.
        refuse_missing: whether a missing value is an error.

    Returns:
        The training, validation and test tables.
    """
    frame = parts.frame
    schema = infer_schema(frame, options, parts.parts[0].numpy(), parts.infer_label)
    if not schema.modelled:
        raise InputError(f"{frame.source}: no column is left to model: {'; '.join(schema.describe()[:5])}")
    table = table_from_frame(frame, schema)
    if refuse_missing:
        require_complete(table, frame.source)
    kept, dwarfing = _without_dwarfing_rows(table, parts.parts)
    notes = (*frame.notes, *_note_of_missing(table), *parts.notes, *dwarfing, *_note_of_codes(schema))
    table = replace(table, notes=notes, index=parts.index)
    return [table.take(rows) for rows in kept]


def _note_of_codes(schema: Schema) -> list[str]:
    if schema.coding != "one-hot":
        return []
    names = [column.name for column in schema.modelled if column.has_text or column.kind in ("categorical", "ordinal")]
    return [
        f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} coded as numbers, categories one-hot: densities are "
        "of these codes, and not of the table"
    ]


def _note_of_missing(table: Table[Tensor]) -> list[str]:
    names = [_name(table, i) for i in range(table.values.shape[1])]
    notes = [_count_missing(table.values, names, "the observed ones are modelled")]
    if table.given is not None:
        names = [column.name for column in table.schema.conditions]
        notes.append(_count_missing(table.given, names, "conditions, whose mask is an input too"))
    return list(filter(None, notes))


def _count_missing(values: Tensor, names: Sequence[str], what: str) -> str:
    per_column = values.isnan().sum(0)
    if not int(per_column.sum()):
        return ""
    shown = [f"{names[i]}: {int(per_column[i])}" for i in per_column.nonzero()[:3, 0].tolist()]
    more = ", …" if int((per_column > 0).sum()) > 3 else ""
    return f"{int(per_column.sum())} values are missing ({', '.join(shown)}{more}): {what}"


def _name(table: Table[Tensor], column: int) -> str:
    return table.columns[column] if table.columns else f"column {column}"


def _without_dwarfing_rows(table: Table[Tensor], parts: Parts) -> tuple[Parts, list[str]]:
    """The parts without the training and validation rows that hold a number which would decide a scale alone."""
    train, valid, test = parts
    both = torch.cat([train, valid])
    rows, notes = rows_that_dwarf(table.schema, table.values[both].numpy())
    if not len(rows):
        return parts, notes
    left_out = both[torch.from_numpy(rows)]
    notes = [f"{note} (row {', '.join(map(str, left_out.tolist()[:3]))})" for note in notes]
    return (train[~torch.isin(train, left_out)], valid[~torch.isin(valid, left_out)], test), notes


def frame_by_schema(frame: Frame, schema: Schema) -> Frame:
    """The columns of a schema in a frame, by their names, or by their places where one of them has no names.

    Args:
        frame: the frame, whose columns may be in any order.
        schema: the columns that are modelled, and others that may be absent.

    Returns:
        The frame with the columns called as in the schema; `InputError` where a modelled one is absent.
    """
    values = frame.values
    if not schema.has_names or not frame.has_names:
        for columns in (schema.columns, _without_roles(schema), schema.modelled):
            if len(columns) == values.shape[1]:
                return replace(frame, values=values.set_axis([column.name for column in columns], axis=1))
        expected = len(schema.modelled)
        raise InputError(
            f"{frame.source}: {values.shape[1]} columns, but this run was fitted to rows of {expected}; give rows of "
            "the same kind"
        )
    needed = [column.name for column in schema if column.is_modelled or column.given]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{frame.source}: no column {', '.join(missing)}; this run was fitted to {', '.join(needed)}")
    return replace(frame, values=values)


def _without_roles(schema: Schema) -> tuple[Column, ...]:
    return tuple(column for column in schema if column.is_modelled or column.given or column.constant is not None)
