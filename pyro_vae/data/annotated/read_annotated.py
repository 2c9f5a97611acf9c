"""Annotated rows as tables: X or a layer as values, `var_names` as columns, a column of `obs` as labels."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data.annotated.annotated_rows import RAW, AnnotatedRows, open_annotated
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.annotated.read_matrix import EntryFiles, read_head, read_matrix
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.columns.infer_columns import LABEL_COLUMNS
from pyro_vae.data.infer_measure import observed_values
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, encode_labels
from pyro_vae.errors import InputError

OBS_NAME = "obs_name"  # of the column of `obs_names`
LOOKED_AT = 1000  # rows of other layers, for the note that names one of counts
NAMED = 5  # in a message


def read_annotated(path: Path, fields: Fields, on_disk: bool | None = None) -> Table[Values]:
    """The table in a `.h5ad` or `.zarr` file: X is read in blocks of rows, and stays sparse where it is.

    Args:
        path: the file.
        fields: which parts are read.
        on_disk: whether sparse entries stay on disk; None: those of more than 1 GiB.

    Returns:
        Its table; `InputError` for a file or parts that cannot be read.
    """
    with open_annotated(path) as rows:
        return table_from_annotated(rows, path, fields, EntryFiles.of(path, fields.layer), on_disk)


def table_from_annotated(
    data: AnnotatedRows,
    source: Path,
    fields: Fields,
    files: EntryFiles | None = None,
    on_disk: bool | None = None,
) -> Table[Values]:
    """The table of annotated rows.

    Args:
        data: the rows.
        source: where they come from, for messages.
        fields: which parts are read.
        files: where entries that are too many for memory are written to; None leaves them in memory.
        on_disk: whether sparse entries stay on disk; None: those of more than 1 GiB.

    Returns:
        Its table; whole numbers from 0 are counts, of any size.
    """
    matrix, columns = _matrix(data, source, fields.layer)
    _require_apart((*columns, OBS_NAME), source)
    table = read_matrix(matrix, source, files, on_disk)
    if 0 in table.values.shape:
        raise InputError(f"{source}: no rows in it")
    are_counts = _are_whole(table.values)
    notes = () if are_counts else (_note_of_no_counts(data, source, fields.layer),)
    names = np.array(_names(data.obs_names), dtype=object)
    kinds = [Column(OBS_NAME, "id", "str"), *(Column(name, "count" if are_counts else "real") for name in columns)]
    table = replace(table, schema=Schema(tuple(kinds)), ids={OBS_NAME: names}, notes=(*table.notes, *notes))
    return _with_labels(replace(table, holds_counts=are_counts), data, source, fields)


def _matrix(data: AnnotatedRows, source: Path, layer: str | None) -> tuple[object, tuple[str, ...]]:
    """The matrix that holds the rows, and the names of its columns."""
    others = _other_matrices(data)
    known = ", ".join(others) or "none"
    if layer is None:
        if data.X is None:
            raise InputError(f"{source}: has no X; name the layer that holds the rows (--layer, layer=): {known}")
        return data.X, _names(data.var_names)
    if layer not in others:
        raise InputError(f"{source}: no layer {layer!r}; there is X (without --layer), and of layers {known}")
    if layer == RAW and RAW not in data.layers and data.raw is not None:
        return data.raw.X, _names(data.raw.var_names)
    return others[layer], _names(data.var_names)


def _other_matrices(data: AnnotatedRows) -> Mapping[str, object]:
    """The layers, and as `raw` the matrix of `adata.raw`."""
    raw = {} if data.raw is None else {RAW: data.raw.X}
    return raw | {name: data.layers[name] for name in data.layers}


def _names(names: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, names))


def _require_apart(columns: tuple[str, ...], source: Path) -> None:
    if len(set(columns)) == len(columns):
        return
    repeated = next(name for name, number in Counter(columns).items() if number > 1)
    raise InputError(f"{source}: two variables are called {repeated!r}; adata.var_names_make_unique() names them apart")


def _are_whole(values: Values) -> bool:
    """Whether all values are whole numbers from 0."""
    known = observed_values(values)
    known = known[~known.isnan()] if known.is_floating_point() else known
    return len(known) > 0 and bool((known >= 0).all() and (known == known.round()).all())


def _note_of_no_counts(data: AnnotatedRows, source: Path, layer: str | None) -> str:
    """That values are no counts, with the layers that hold counts."""
    others: dict[str | None, object] = {None: data.X} if data.X is not None and layer else {}
    others |= {name: matrix for name, matrix in _other_matrices(data).items() if name != layer}
    counts = [name for name, matrix in others.items() if _are_whole(read_head(matrix, LOOKED_AT, source).values)]
    where = "X" if layer is None else f"the layer {layer}"
    note = f"{where} holds numbers that are not whole, or below 0: values that were normalized, and no counts"
    if not counts:
        return f"{note}; a negative-binomial or Poisson likelihood needs counts"
    found = " and ".join("X (without --layer)" if name is None else f"--layer {name}" for name in counts)
    return f"{note}; {found} {'hold' if len(counts) > 1 else 'holds'} counts"


def _with_labels(table: Table[Values], data: AnnotatedRows, source: Path, fields: Fields) -> Table[Values]:
    names = [str(name) for name in data.obs.columns]
    label = fields.label or next((name for name in names if name.lower() in LABEL_COLUMNS), None)
    if label is None:
        return replace(table, notes=(*table.notes, *_note_of_labels(data, names)))
    if label not in names:
        if not fields.needs_label:
            return table
        shown = ", ".join(names[: 2 * NAMED]) + (" …" if len(names) > 2 * NAMED else "")
        raise InputError(f"{source}: obs has no column {label!r}; it has {shown or 'none'}")
    if label in table.columns:
        raise InputError(f"{source}: {label!r} is a column of obs and a variable too; give one of them another name")
    labels, levels = encode_labels(data.obs[label].to_numpy(), source, len(table.values))
    column = Column(label, "label", "text" if levels else "int64", levels)
    return replace(table, labels=labels, schema=replace(table.schema, columns=(*table.schema.columns, column)))


def _note_of_labels(data: AnnotatedRows, names: list[str]) -> tuple[str, ...]:
    """The columns of `obs` that could be labels."""
    found = [name for name in names if data.obs[name].dtype.kind not in "fiu"]
    if not found:
        return ()
    shown = ", ".join(found[:NAMED]) + (" …" if len(found) > NAMED else "")
    return (f"no labels; --label takes a column of obs: {shown}",)
