"""Tables and images from files, checked as they are read."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.table import (
    LABEL_COLUMNS,
    Table,
    encode_labels,
    require_complete,
    table_from_array,
    table_from_frame,
)
from pyro_vae.errors import InputError

LABEL_ARRAYS = (*LABEL_COLUMNS, "y")
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm")


def read_file(path: Path, missing: bool = False) -> Table[Tensor]:
    """Read a file by its suffix, or a folder of images; `InputError` says what is wrong and what to try.

    Args:
        path: the file or folder.
        missing: whether NaN, a missing value, is kept; an error without.

    Returns:
        Its table.
    """
    if not path.exists():
        raise InputError(f"no file or folder {path}; `pyro-vae datasets` lists the data sets that have names")
    if path.is_dir():
        return _read_image_folder(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: cannot read a {path.suffix or 'file without an ending'}; try one of {', '.join(READERS)}, or a "
            "folder of images"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    table = reader(path)
    if table.values.numel() == 0:
        raise InputError(f"{path}: no rows in it")
    return table if missing else require_complete(table, path)


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


def _read_npz(path: Path) -> Table[Tensor]:
    archive = _load_numpy(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: holds one array, not an archive; name it .npy")
    names = list(archive.files)
    label_arrays = [name for name in names if name.lower() in LABEL_ARRAYS]
    value_arrays = [name for name in names if name not in label_arrays]
    preferred = [name for name in value_arrays if name.lower() in ("x", "data")]
    if not preferred and len(value_arrays) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = table_from_array(_read_array(archive, (preferred or value_arrays)[0], path), path)
    if not label_arrays:
        return table
    labels = encode_labels(_read_array(archive, label_arrays[0], path), path, len(table.values))
    return replace(table, labels=labels, label_name=label_arrays[0])


def _read_array(archive: NpzFile, name: str, path: Path) -> Array:
    try:
        return np.asarray(archive[name])
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error


def _read_csv(path: Path) -> Table[Tensor]:
    import pandas

    try:
        with path.open() as file:
            separator = max(",;\t", key=file.readline().count)
        first_line = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, sep=separator)
        cells = first_line.iloc[0].str.strip().tolist()
        is_numbered = len(cells) > 2 and cells == [str(i) for i in range(len(cells))]  # of a frame without names
        has_header = is_numbered or not all(_is_number(cell) for cell in cells)
        frame = pandas.read_csv(path, header=0 if has_header else None, skipinitialspace=True, sep=separator)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable table ({str(error).strip().splitlines()[0]})") from error
    if str(frame.columns[0]).startswith("Unnamed") and (frame.iloc[:, 0] == np.arange(len(frame))).all():
        frame = frame.iloc[:, 1:]  # the data frame's index, written as a column
    return table_from_frame(frame, path)


def _read_parquet(path: Path) -> Table[Tensor]:
    import pandas

    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    return table_from_frame(frame, path)


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")  # an empty cell may be a missing number
    except ValueError:
        return False
    return True


def _read_image_folder(folder: Path) -> Table[Tensor]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no images in it (looked for {', '.join(IMAGE_SUFFIXES)})")
    images = [_read_image(paths[0])]
    height, width = images[0].shape
    for path in paths[1:]:
        image = _read_image(path)
        if image.shape != (height, width):
            raise InputError(
                f"{path}: {image.shape[1]}×{image.shape[0]} pixels, but {paths[0].name} has {width}×{height}; make "
                "them one size"
            )
        images.append(image)
    folders = [path.parent.name for path in paths]
    labels = None
    if len(set(folders)) > 1:
        labels = torch.from_numpy(np.unique(folders, return_inverse=True)[1].astype(np.int64))
    return Table(torch.from_numpy(np.stack([image.reshape(-1) for image in images])), labels, (height, width))


def _read_image(path: Path) -> Array:
    """The grey levels of an image, (height, width) uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            mode, grey = image.mode, np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable image") from error
    if mode not in EIGHT_BIT_MODES:
        raise InputError(f"{path}: an image of mode {mode}, with more than 8 bits a pixel; save it with 8, or as .npy")
    return grey


READERS: dict[str, Callable[[Path], Table[Tensor]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
