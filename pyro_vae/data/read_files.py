"""The user's own data: tables and pictures from files, checked as they are read."""

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
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm")


@dataclass
class Table:
    """What a file held: `values` (N, D) as stored, `labels` (N,) or None, `image_shape` where the rows are pictures.

    `values` is a tensor, or `RowsOnDisk`. `columns` are the columns' names, `label_name` that of the column taken for
    labels, `index` (N,) the rows' places in the file.
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
    """Read a file by its ending, or a folder of pictures; `InputError` says what is wrong and what to try.

    NaN, which stands for a missing value, is kept with `missing` and refused without.
    """
    if not path.exists():
        raise InputError(f"no file or folder {path}; `pyro-vae datasets` lists the data sets that have names")
    if path.is_dir():
        return _read_pictures(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: cannot read a {path.suffix or 'file without an ending'}; try one of {', '.join(READERS)}, or a "
            "folder of pictures"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    table = reader(path)
    if table.values.numel() == 0:
        raise InputError(f"{path}: no rows in it")
    return table if missing else _complete(table, path)


def table_of(data: Any, missing: bool = False) -> Table:
    """Rows that are in memory already: an array (N, D) or (N, height, width), a tensor, or a data frame."""
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        table, path = frame_table(data, Path("the data frame")), Path("the data frame")
    else:
        table, path = _from_array(np.asarray(data), Path("the array")), Path("the array")
    return table if missing else _complete(table, path)


def _complete(table: Table, path: Path) -> Table:
    """The table; `InputError` where values are missing."""
    if table.values.is_floating_point() and bool((gaps := table.values.isnan()).any()):
        row, column = (int(i) for i in gaps.nonzero()[0])
        name = f"column {table.columns[column] if table.columns else column}"
        raise InputError(
            f"{path}: {int(gaps.sum())} values are missing (NaN), the first in row {row} (counting from 0), {name}; "
            "fit with --missing mask (missing='mask') to model the observed values, or remove or fill those rows"
        )
    return table


def _read_npy(path: Path) -> Table:
    return _from_array(_numpy_load(path), path)


def _numpy_load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error


def _read_npz(path: Path) -> Table:
    archive = _numpy_load(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: holds one array, not an archive; name it .npy")
    names = list(archive.files)
    of_labels = [name for name in names if name.lower() in LABEL_ARRAYS]
    of_values = [name for name in names if name not in of_labels]
    named = [name for name in of_values if name.lower() in ("x", "data")]
    if not named and len(of_values) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = _from_array(_array(archive, (named or of_values)[0], path), path)
    if of_labels:
        table.labels = labels_of(_array(archive, of_labels[0], path), path, len(table.values))
        table.label_name = of_labels[0]
    return table


def _array(archive: Any, name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {name} cannot be read ({error})") from error


def _from_array(array: np.ndarray, path: Path) -> Table:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype} values; expected numbers")
    if array.ndim < 2:
        raise InputError(
            f"{path}: has shape {array.shape}; expected one row for each observation, (N, D) or (N, height, width)"
        )
    image_shape = (int(array.shape[1]), int(array.shape[2])) if array.ndim == 3 else None
    if array.ndim > 3:
        raise InputError(f"{path}: has shape {array.shape}; expected (N, D) or grey pictures (N, height, width)")
    flat = array.reshape(len(array), -1)
    if flat.dtype != np.uint8:
        flat = flat.astype(np.float64)  # until columns are standardized: time stamps are all one float32
        _check_finite(flat, path, [f"column {i}" for i in range(flat.shape[1])])
    return Table(torch.from_numpy(np.ascontiguousarray(flat)), None, image_shape)


def _check_finite(values: np.ndarray, path: Path, columns: list[str]) -> None:
    bad = np.argwhere(np.isinf(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{path}: {len(bad)} values are infinite, the first in row {row} (counting from 0), {columns[column]}; "
            "remove or fill those rows"
        )


def labels_of(values: Any, path: Path, num_rows: int) -> Tensor:
    array = np.asarray(values).reshape(-1)
    if len(array) != num_rows:
        raise InputError(f"{path}: {len(array)} labels for {num_rows} rows")
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f" and (array == np.round(array)).all():
        return torch.from_numpy(array.astype(np.int64))
    kinds = array if array.dtype.kind == "f" else array.astype(str)  # a missing label is a label called nan
    return torch.from_numpy(np.unique(kinds, return_inverse=True)[1].astype(np.int64))


def _read_csv(path: Path) -> Table:
    import pandas

    try:
        with path.open() as file:
            separator = max(",;\t", key=file.readline().count)
        one = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, sep=separator)
        first = one.iloc[0].str.strip().tolist()
        counted = len(first) > 2 and first == [str(i) for i in range(len(first))]  # a frame without names
        is_data = all(_is_number(cell) for cell in first) and not counted
        frame = pandas.read_csv(path, header=None if is_data else 0, skipinitialspace=True, sep=separator)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable table ({str(error).strip().splitlines()[0]})") from error
    if str(frame.columns[0]).startswith("Unnamed") and (frame.iloc[:, 0] == np.arange(len(frame))).all():
        frame = frame.iloc[:, 1:]  # an index that was written with the table
    return frame_table(frame, path)


def _read_parquet(path: Path) -> Table:
    import pandas

    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    return frame_table(frame, path)


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")  # an empty cell may be a missing number
    except ValueError:
        return False
    return True


def frame_table(frame: Any, path: Path) -> Table:
    names = [str(name) for name in frame.columns]
    of_labels = [name for name in frame.columns if str(name).lower() in LABEL_COLUMNS]
    values = frame.drop(columns=of_labels)
    texts = [str(name) for name in values.columns if values[name].dtype.kind not in "fiub"]
    if texts:
        raise InputError(
            f"{path}: text in {', '.join(texts[:3])}{' …' if len(texts) > 3 else ''}; keep columns of numbers, or "
            "name "
            f"one of them 'label' to colour pictures by it (columns: {', '.join(names[:8])})"
        )
    array = values.to_numpy(dtype=np.float64)
    _check_finite(array, path, [f"column {name}" for name in values.columns])
    named = () if all(isinstance(name, int) for name in values.columns) else tuple(str(name) for name in values.columns)
    table = Table(torch.from_numpy(np.array(array)), columns=named)
    if of_labels:
        table.labels, table.label_name = labels_of(frame[of_labels[0]].to_numpy(), path, len(array)), str(of_labels[0])
    return table


def _read_pictures(folder: Path) -> Table:
    from PIL import Image, UnidentifiedImageError

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"{folder}: no pictures in it (looked for {', '.join(PICTURES)})")
    rows, size = [], None
    for path in paths:
        try:
            with Image.open(path) as picture:
                mode, grey = picture.mode, np.asarray(picture.convert("L"))
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{path}: not a readable picture") from error
        if mode not in EIGHT_BITS:
            raise InputError(
                f"{path}: a picture of mode {mode}, with more than 8 bits a pixel; save it with 8, or as .npy"
            )
        size = size or grey.shape
        if grey.shape != size:
            raise InputError(
                f"{path}: {grey.shape[1]}×{grey.shape[0]} pixels, but {paths[0].name} has {size[1]}×{size[0]}; make "
                "them one size"
            )
        rows.append(grey.reshape(-1))
    assert size is not None
    names = [path.parent.name for path in paths]
    labels = (
        torch.from_numpy(np.unique(names, return_inverse=True)[1].astype(np.int64)) if len(set(names)) > 1 else None
    )
    return Table(torch.from_numpy(np.stack(rows)), labels, (int(size[0]), int(size[1])))


READERS: dict[str, Callable[[Path], Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
