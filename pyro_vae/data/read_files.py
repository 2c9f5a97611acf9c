"""Tables and images from files and from memory, checked as they are read."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

LABEL_COLUMNS = ("label", "labels", "target", "class")
LABEL_ARRAYS = (*LABEL_COLUMNS, "y")
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm")


@dataclass
class Table:
    """Rows and labels as read: `values` (N, D), `labels` (N,) or None, `image_shape` where the rows are images.

    `values` is a tensor or `RowsOnDisk`. `columns` are the columns' names, `label_name` is the name of the column of
    labels, `index` (N,) the row numbers in the source.
    """

    values: Any
    labels: Tensor | None = None
    image_shape: tuple[int, int] | None = None
    columns: tuple[str, ...] = ()
    label_name: str | None = None
    index: Tensor | None = None

    def take(self, rows: Tensor) -> "Table":
        index = rows if self.index is None else self.index[rows]
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, values=self.values[rows], labels=labels, index=index)


def read_file(path: Path, missing: bool = False) -> Table:
    """Read a file by its suffix, or a folder of images; `InputError` says what is wrong and what to try.

    NaN, a missing value, is kept with `missing` and an error without.
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
    return table if missing else _require_complete(table, path)


def table_from_memory(data: Any, missing: bool = False) -> Table:
    """The table of an array or tensor, (N, D) or (N, height, width), or of a data frame."""
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        source = Path("the data frame")
        table = table_from_frame(data, source)
    else:
        source = Path("the array")
        table = _table_from_array(np.asarray(data), source)
    return table if missing else _require_complete(table, source)


def _require_complete(table: Table, path: Path) -> Table:
    """The table; `InputError` where values are missing."""
    if table.values.is_floating_point() and bool((missing := table.values.isnan()).any()):
        row, column = (int(i) for i in missing.nonzero()[0])
        name = f"column {table.columns[column] if table.columns else column}"
        raise InputError(
            f"{path}: {int(missing.sum())} values are missing (NaN), the first in row {row} (counting from 0), {name}; "
            "fit with --missing mask (missing='mask') to model the observed values, or remove or fill those rows"
        )
    return table


def _read_npy(path: Path) -> Table:
    return _table_from_array(_load_numpy(path), path)


def _load_numpy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error


def _read_npz(path: Path) -> Table:
    archive = _load_numpy(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: holds one array, not an archive; name it .npy")
    names = list(archive.files)
    label_arrays = [name for name in names if name.lower() in LABEL_ARRAYS]
    value_arrays = [name for name in names if name not in label_arrays]
    preferred = [name for name in value_arrays if name.lower() in ("x", "data")]
    if not preferred and len(value_arrays) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = _table_from_array(_read_array(archive, (preferred or value_arrays)[0], path), path)
    if label_arrays:
        table.labels = encode_labels(_read_array(archive, label_arrays[0], path), path, len(table.values))
        table.label_name = label_arrays[0]
    return table


def _read_array(archive: Any, name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error


def _table_from_array(array: np.ndarray, path: Path) -> Table:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    if array.ndim < 2:
        raise InputError(
            f"{path}: has shape {array.shape}; expected one row for each observation, (N, D) or (N, height, width)"
        )
    image_shape = (int(array.shape[1]), int(array.shape[2])) if array.ndim == 3 else None
    if array.ndim > 3:
        raise InputError(f"{path}: has shape {array.shape}; expected (N, D) or grey images (N, height, width)")
    flat = array.reshape(len(array), -1)
    if flat.dtype != np.uint8:
        flat = flat.astype(np.float64)  # for standardizing: in float32 all time stamps would be equal
        _check_finite(flat, path, [f"column {i}" for i in range(flat.shape[1])])
    return Table(torch.from_numpy(np.ascontiguousarray(flat)), None, image_shape)


def _check_finite(values: np.ndarray, path: Path, columns: list[str]) -> None:
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, column = infinite[0]
        raise InputError(
            f"{path}: {len(infinite)} values are infinite, the first in row {row} (counting from 0), "
            f"{columns[column]}; remove or fill those rows"
        )


def encode_labels(values: Any, path: Path, num_rows: int) -> Tensor:
    """Labels (N,) as integers: whole numbers unchanged, other values by their rank among the sorted distinct ones."""
    array = np.asarray(values).reshape(-1)
    if len(array) != num_rows:
        raise InputError(f"{path}: {len(array)} labels for {num_rows} rows")
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f" and (array == np.round(array)).all():
        return torch.from_numpy(array.astype(np.int64))
    classes = array if array.dtype.kind == "f" else array.astype(str)  # a missing label becomes the class nan
    return torch.from_numpy(np.unique(classes, return_inverse=True)[1].astype(np.int64))


def _read_csv(path: Path) -> Table:
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


def _read_parquet(path: Path) -> Table:
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


def table_from_frame(frame: Any, path: Path) -> Table:
    """The table of a data frame: a column called label, target or class holds the labels, the others numbers."""
    names = [str(name) for name in frame.columns]
    label_columns = [name for name in frame.columns if str(name).lower() in LABEL_COLUMNS]
    values = frame.drop(columns=label_columns)
    text_columns = [str(name) for name in values.columns if values[name].dtype.kind not in "fiub"]
    if text_columns:
        shown = ", ".join(text_columns[:3]) + (" …" if len(text_columns) > 3 else "")
        raise InputError(
            f"{path}: text in {shown}; keep columns of numbers, or name one of them 'label' to colour figures by it "
            f"(columns: {', '.join(names[:8])})"
        )
    array = values.to_numpy(dtype=np.float64)
    _check_finite(array, path, [f"column {name}" for name in values.columns])
    is_unnamed = all(isinstance(name, int) for name in values.columns)
    columns = () if is_unnamed else tuple(str(name) for name in values.columns)
    table = Table(torch.from_numpy(np.array(array)), columns=columns)
    if label_columns:
        table.labels = encode_labels(frame[label_columns[0]].to_numpy(), path, len(array))
        table.label_name = str(label_columns[0])
    return table


def _read_image_folder(folder: Path) -> Table:
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


def _read_image(path: Path) -> np.ndarray:
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


READERS: dict[str, Callable[[Path], Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
