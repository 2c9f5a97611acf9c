"""Tables and images from files, checked as they are read."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pyro_vae.data.annotated.annotated_rows import ANNOTATED_SUFFIXES, AnnotatedRows
from pyro_vae.data.annotated.fields import Fields
from pyro_vae.data.annotated.read_annotated import read_annotated, table_from_annotated
from pyro_vae.data.columns import Schema
from pyro_vae.data.frames import Frame, is_frame, read_frame, without_row_numbers
from pyro_vae.data.infer_columns import LABEL_COLUMNS
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.read_csv import COMPRESSED, read_text_table
from pyro_vae.data.read_excel import EXCEL_SUFFIXES, read_excel, split_sheet
from pyro_vae.data.sparse.read_sparse import is_sparse, read_sparse_npz, table_from_sparse
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table, encode_labels, label_schema, table_from_array, without_mask
from pyro_vae.errors import InputError

DEFAULT_FIELDS = Fields()
LABEL_ARRAYS = (*LABEL_COLUMNS, "y")
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm")


def read_file(path: Path, header: str = "auto", fields: Fields = DEFAULT_FIELDS) -> Table[Values] | Frame:
    """Read a file by its suffix, or a folder of images; `InputError` says what is wrong and what to try.

    Args:
        path: the file or folder.
        header: whether the first row of a text table holds the columns' names: `yes`, `no`, or `auto`, which looks.
        fields: which parts of annotated rows are read.

    Returns:
        The table of arrays, sparse rows, annotated rows and pictures, the data frame of a file of columns.
    """
    path, sheet = split_sheet(path)
    if not path.exists():
        raise InputError(f"no file or folder {path}; `pyro-vae datasets` lists the data sets that have names")
    if path.suffix.lower() in ANNOTATED_SUFFIXES:
        return read_annotated(path, fields)
    _require_no_layer(fields, f"{path}: ")
    if path.is_dir():
        return _read_parquet(path) if next(path.rglob("*.parquet"), None) else _read_image_folder(path)
    suffix = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()
    is_text = suffix in TEXT_SUFFIXES
    reader = READERS.get(suffix)
    if suffix in EXCEL_SUFFIXES and path.stat().st_size:
        return read_excel(path, sheet, header)
    if reader is None and not is_text and suffix not in EXCEL_SUFFIXES:
        if remedy := REMEDIES.get(path.suffix.lower()):
            raise InputError(f"{path}: cannot read a {path.suffix}; {remedy}")
        known = ", ".join([*READERS, *EXCEL_SUFFIXES, *ANNOTATED_SUFFIXES, *TEXT_SUFFIXES])
        raise InputError(
            f"{path}: cannot read a {path.suffix or 'file without an ending'}; try one of {known}, or a "
            "folder of images"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    read = _read_text(path, header) if reader is None else reader(path)
    if 0 in read.values.shape:
        raise InputError(f"{path}: no rows in it")
    return read


def read_memory(data: object, fields: Fields = DEFAULT_FIELDS) -> Table[Values] | Frame:
    """Rows in memory.

    Args:
        data: an array or tensor, (N, D) or (N, height, width), a sparse matrix (N, D), a data frame of any library, or
            annotated rows (`anndata.AnnData`).
        fields: which parts of annotated rows are read.

    Returns:
        The table, or the frame.
    """
    if isinstance(data, AnnotatedRows):
        return table_from_annotated(data, Path("the annotated rows"), fields)
    _require_no_layer(fields)
    if is_sparse(data):
        return table_from_sparse(data, Path("the sparse matrix"))
    if is_frame(data):
        return read_frame(data, Path("the data frame"))
    source = Path("the array")
    return table_from_array(without_mask(data, source), source)


def _require_no_layer(fields: Fields, source: str = "") -> None:
    if fields.layer is not None:
        raise InputError(f"{source}a layer is one of annotated rows (AnnData, .h5ad, .zarr): leave layer (--layer) out")


def _read_npy(path: Path) -> Table[Tensor]:
    array = _load_numpy(path)
    if isinstance(array, NpzFile):
        raise InputError(f"{path}: holds an archive, not one array; name it .npz")
    return table_from_array(array, path)


def _load_numpy(path: Path) -> Array | NpzFile:
    try:
        loaded: Array | NpzFile = np.load(path, allow_pickle=False)
        return loaded
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error


def _read_npz(path: Path) -> Table[Values]:
    archive = _load_numpy(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: holds one array, not an archive; name it .npy")
    names = list(archive.files)
    if {"format", "shape", "data"} <= set(names):  # as scipy.sparse.save_npz writes them
        return read_sparse_npz(path)
    label_arrays = [name for name in names if name.lower() in LABEL_ARRAYS]
    value_arrays = [name for name in names if name not in label_arrays]
    preferred = [name for name in value_arrays if name.lower() in ("x", "data")]
    if not preferred and len(value_arrays) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = table_from_array(_read_array(archive, (preferred or value_arrays)[0], path), path)
    if not label_arrays:
        return table
    labels, levels = encode_labels(_read_array(archive, label_arrays[0], path), path, len(table.values))
    return replace(table, labels=labels, schema=label_schema(label_arrays[0], levels))


def _read_array(archive: NpzFile, name: str, path: Path) -> Array:
    try:
        return np.asarray(archive[name])
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error


def _read_text(path: Path, header: str) -> Frame:
    frame, notes, has_names = read_text_table(path, header)
    return without_row_numbers(Frame(frame, path, notes, has_names))


def _read_parquet(path: Path) -> Frame:
    import pandas

    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    folders = {part.partition("=")[0] for file in path.rglob("*.parquet") for part in file.relative_to(path).parts[:-1]}
    named = [str(name) for name in frame.columns if name in folders]
    notes = (f"{', '.join(named)}: from the names of the folders",) if named else ()
    return without_row_numbers(Frame(frame.reset_index(drop=True), path, notes))


def _read_arrow(path: Path) -> Frame:
    """The table of a file of Arrow's, with random access (`.feather`) or a stream."""
    try:
        from pyarrow import ArrowInvalid, ipc, memory_map
    except ImportError as error:
        raise InputError(f"{path}: Arrow needs one more package; pip install 'pyro-vae[parquet]'") from error
    try:
        with memory_map(str(path)) as source:
            try:
                table = ipc.open_file(source).read_all()
            except ArrowInvalid:
                source.seek(0)
                table = ipc.open_stream(source).read_all()
            frame = table.to_pandas()
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable file of Arrow's ({error})") from error
    return without_row_numbers(Frame(frame.reset_index(drop=True), path))


def _read_image_folder(folder: Path) -> Table[Tensor]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no images in it (looked for {', '.join(IMAGE_SUFFIXES)})")
    image, notes = _read_image(paths[0])
    images, (height, width) = [image], image.shape
    for path in paths[1:]:
        image, own = _read_image(path)
        notes += own
        if image.shape != (height, width):
            raise InputError(
                f"{path}: {image.shape[1]}×{image.shape[0]} pixels, but {paths[0].name} has {width}×{height}; make "
                "them one size"
            )
        images.append(image)
    folders = [path.parent.name for path in paths]
    labels = None
    levels: tuple[str, ...] = ()
    if len(set(folders)) > 1:
        labels, levels = encode_labels(np.array(folders), folder, len(folders))
    values = torch.from_numpy(np.stack([image.reshape(-1) for image in images]))
    schema = Schema() if labels is None else label_schema("folder", levels)
    return Table(values, labels, (height, width), schema, notes=tuple(dict.fromkeys(notes)))


def _read_image(path: Path) -> tuple[Array, tuple[str, ...]]:
    """The grey levels of an image, (height, width) uint8, and what was done to it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            mode, notes = image.mode, []
            is_transparent = "A" in mode or "transparency" in image.info
            if is_transparent:  # where it is transparent, its own colour, often black, is not what people see
                colours = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
                notes.append("transparent pictures put on white")
            if _has_colours(np.asarray(image.convert("RGB"))):
                notes.append("colours read as grey levels")
            grey = np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable image") from error
    if mode not in EIGHT_BIT_MODES:
        raise InputError(f"{path}: an image of mode {mode}, with more than 8 bits a pixel; save it with 8, or as .npy")
    return grey, tuple(notes)


def _has_colours(channels: Array) -> bool:
    """Whether the channels (height, width, 3) of a picture differ."""
    return bool((channels != channels[..., :1]).any())


TEXT_SUFFIXES = tuple(f"{text}{packed}" for packed in ("", *COMPRESSED) for text in (".csv", ".tsv"))
REMEDIES = {  # of files that people have: what to save instead
    ".xls": "save it as .xlsx",
    ".xlsb": "save it as .xlsx",
    ".ods": "save it as .xlsx or .csv",
    ".numbers": "save it as .xlsx or .csv",
    ".zip": "unpack it",
    ".gz": "unpack it",
    ".bz2": "unpack it",
    ".xz": "unpack it",
    ".zst": "unpack it",
    ".rds": "save it by write.csv, or as .parquet",
    ".pkl": "it may run code when it is read; save the rows as .npy, .npz or .parquet",
    ".mtx": "save it by scipy.sparse.save_npz",
}
READERS: dict[str, Callable[[Path], Table[Values] | Frame]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
    ".feather": _read_arrow,
    ".arrow": _read_arrow,
}
