"""The training, validation and test tables of a data set: by name, from a file, or from memory."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.annotated.annotated_rows import AnnotatedRows
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.annotated.read_annotated import OBS_NAME
from pyro_vae.data.columns.column_options import ColumnOptions
from pyro_vae.data.columns.conditions import give_label
from pyro_vae.data.frame_tables import MIN_ROWS, FrameParts, split_frame, stack_frames, tables_of_frame
from pyro_vae.data.frames import DataFrame, Frame
from pyro_vae.data.image_settings import AS_THEY_ARE, ImageSettings
from pyro_vae.data.image_shapes import ImageShape, describe_shape
from pyro_vae.data.infer_measure import infer_levels
from pyro_vae.data.named_datasets import NAMED_DATASETS
from pyro_vae.data.ondisk.read_large_files import read_rows, split_rows
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.read_files import read_memory, require_no_image_settings
from pyro_vae.data.sparse.read_sparse import SparseMatrix, keep_or_make_dense
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, require_complete
from pyro_vae.errors import InputError
from pyro_vae.file_names import require_path

Source = str | Path | Tensor | Array | DataFrame | SparseMatrix | AnnotatedRows
SplitSource = Source | FrameParts


@dataclass(frozen=True)
class ReadOptions:
    """How rows are read and split.

    Attributes:
        missing: what is done with missing values: refuse, mask, or auto: mask in tables of columns, refuse in arrays.
        image_shape: height and width, in colour the channels before them, where the rows are images and do not say so.
        images: how the images of a folder are read.
        header: whether the first row of a text table holds names: yes, no or auto.
        root: the folder of torchvision's data sets.
        stream: whether the training rows stay on disk; None: those of more than 1 GiB.
        seed: the seed of the order of rows before they are split.
        columns: what the user says about columns.
        valid: the file or frame of the validation rows, where they are apart.
        test: the file or frame of the test rows.
        layer: the layer of annotated rows that holds the values.
    """

    missing: str = "auto"
    image_shape: ImageShape | None = None
    images: ImageSettings = AS_THEY_ARE
    header: str = "auto"
    root: str | Path | None = None
    stream: bool | None = None
    seed: int = 0
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    valid: Source | None = None
    test: Source | None = None
    layer: str | None = None

    @property
    def fields(self) -> Fields:
        """Which parts of annotated rows are read."""
        return Fields(self.columns.label, self.layer)


@dataclass(frozen=True)
class LoadedTables:
    """The training, validation and test tables, the largest value of a pixel, and what the data set is."""

    tables: Sequence[Table[Values]]
    levels: int | None
    description: str


def load_tables(name: SplitSource, options: ReadOptions) -> LoadedTables:
    """The tables of a data set.

    Args:
        name: the name or path; in memory an array or tensor of rows or images, a sparse matrix, a data frame, one that
            is split already, or annotated rows.
        options: how rows are read and split.

    Returns:
        The three tables.
    """
    is_named = isinstance(name, str) and name in NAMED_DATASETS
    if options.stream and (is_named or not isinstance(name, (str, Path))):
        raise InputError("only the rows of a file can stay on disk: leave stream (--stream) out")
    if isinstance(name, str) and is_named:
        return _load_named(name, options)
    if isinstance(name, FrameParts):
        return _from_parts(name, str(name.frame.source), options)
    read, source = _read(name, options)
    if isinstance(read, Frame):
        return _from_frame(read, source, options)
    _require_no_columns(_without_label(options) if OBS_NAME in read.ids else options, source)
    read = keep_or_make_dense(read, Path(source), options.missing == "mask")
    _check_rows(read, options.image_shape, source)
    if options.missing != "mask":
        require_complete(read, Path(source))
    table = replace(read, image_shape=read.image_shape or options.image_shape or _square_shape(read))
    tables = split_rows(table, options.seed, max(1, len(table.values) // 10))
    return LoadedTables(give_label(tables, options.columns.given, source), infer_levels(table), source)


def _load_named(name: str, options: ReadOptions) -> LoadedTables:
    if options.image_shape is not None:
        raise InputError(f"the image shape of {name} is known: leave the image shape out")
    if options.layer is not None:
        raise InputError(f"{name} has no layers: leave layer (--layer) out")
    require_no_image_settings(Path(name), options.images)
    named = NAMED_DATASETS[name]
    loaded = named.load()(options.root, options.seed, **named.fixed)
    if isinstance(loaded, Frame):
        return replace(_from_frame(loaded, name, options), description=named.help)
    _require_no_columns(options, name)
    return LoadedTables(give_label(loaded, options.columns.given, name), named.levels, named.help)


def _read(name: Source, options: ReadOptions) -> tuple[Table[Values] | Frame, str]:
    if isinstance(name, (str, Path)):
        _require_path(name)
        is_masked = options.missing == "mask" or bool(options.columns) or options.valid is not None
        how = options.stream, options.header, options.fields, options.images
        return read_rows(Path(name), is_masked, *how), str(name)
    require_no_image_settings(Path("the data"), options.images)
    return read_memory(name, options.fields), "the data"


def _without_label(options: ReadOptions) -> ReadOptions:
    """The options without the column of labels, which annotated rows have too."""
    return replace(options, columns=replace(options.columns, label=None))


def _require_no_columns(options: ReadOptions, source: str) -> None:
    """`InputError` for options about columns, where rows have none with names; labels may be given."""
    if replace(options.columns, given=()) or options.valid is not None or options.test is not None:
        raise InputError(
            f"{source}: columns are named, and rows of other files given, for tables only: a .csv, .parquet or another "
            "file of columns, or a data frame"
        )


def _from_frame(frame: Frame, source: str, options: ReadOptions) -> LoadedTables:
    """The tables of a frame, alone or with the frames of the validation and test rows."""
    given = {"valid": options.valid, "test": options.test}
    others = {name: _read_other(name, rows, options) for name, rows in given.items() if rows is not None}
    parts = (
        stack_frames(frame, others, options.columns, options.seed)
        if others
        else split_frame(frame, options.columns, options.seed)
    )
    return _from_parts(parts, source, options)


def _from_parts(parts: FrameParts, source: str, options: ReadOptions) -> LoadedTables:
    tables = tables_of_frame(parts, options.columns, options.missing == "refuse")
    if options.image_shape is not None:
        tables = [replace(table, image_shape=options.image_shape) for table in tables]
    return LoadedTables(tables, None if tables[0].schema.is_coded else infer_levels(tables[0]), source)


def _read_other(name: str, rows: Source, options: ReadOptions) -> Frame:
    read, source = _read(rows, options)
    if not isinstance(read, Frame):
        raise InputError(f"{source}: the training rows are a table of columns; give the {name} rows as one too")
    return read


def _require_path(name: str | Path) -> None:
    """`InputError` for what is neither a file nor written as a path, with the nearest name of a data set."""
    require_path(Path(name))
    if isinstance(name, Path) or Path(name).exists() or Path(name).suffix or "/" in name:
        return
    near = difflib.get_close_matches(name, NAMED_DATASETS, n=1)
    raise InputError(
        f"no data set or file called {name!r}; try one of {', '.join(NAMED_DATASETS)}, or the path of a file"
        f"{f'; did you mean {near[0]!r}?' if near else ''}"
    )


def _check_rows(table: Table[Values], image_shape: ImageShape | None, source: str) -> None:
    """`InputError` for too few rows, and for images of another shape than `image_shape`."""
    num_rows = len(table.values)
    if num_rows < MIN_ROWS:
        raise InputError(f"{source}: {num_rows} rows are too few to train, validate and test on; {MIN_ROWS} are needed")
    if image_shape and table.image_shape and image_shape != table.image_shape:
        found, expected = (describe_shape(shape) for shape in (table.image_shape, image_shape))
        raise InputError(f"{source}: holds images of {found}, not of {expected}; leave the shape out")


def _square_shape(table: Table[Values]) -> tuple[int, int] | None:
    """The image shape of rows of bytes that can only be square images of 8×8 pixels or more."""
    side = round(table.values.shape[1] ** 0.5)
    is_square = table.values.dtype == torch.uint8 and side * side == table.values.shape[1] and side >= 8
    return (side, side) if is_square else None
