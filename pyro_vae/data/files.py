"""The user's own data: tables and pictures from files, checked as they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

LABEL_COLUMNS = ("label", "labels", "target", "class", "y")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm")


class Table:
    """What a file held: `values` (N, D) as stored, `labels` (N,) or None, `image_shape` where the rows are pictures."""

    def __init__(
        self, values: Tensor, labels: Tensor | None = None, image_shape: tuple[int, int] | None = None
    ) -> None:
        self.values, self.labels, self.image_shape = values, labels, image_shape


def read_file(path: Path) -> Table:
    """Read a file or a folder of pictures by its ending; `InputError` says what is wrong with it, where, and what to
    try."""
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
    return table


def _read_npy(path: Path) -> Table:
    return _from_array(_numpy_load(path), path)


def _numpy_load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from error


def _read_npz(path: Path) -> Table:
    archive = _numpy_load(path)
    names = list(archive.files)
    of_labels = [name for name in names if name.lower() in LABEL_COLUMNS]
    of_values = [name for name in names if name not in of_labels]
    chosen = next(
        (name for name in of_values if name.lower() in ("x", "data")), of_values[0] if len(of_values) == 1 else None
    )
    if chosen is None:
        raise InputError(f"{path}: holds {', '.join(names) or 'nothing'}; name the rows 'x' (and their labels 'y')")
    table = _from_array(archive[chosen], path)
    if of_labels:
        table.labels = _labels(archive[of_labels[0]], path, len(table.values))
    return table


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
        flat = flat.astype(np.float32)
        _check_finite(flat, path, [f"column {i}" for i in range(flat.shape[1])])
    return Table(torch.from_numpy(np.ascontiguousarray(flat)), None, image_shape)


def _check_finite(values: np.ndarray, path: Path, columns: list[str]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{path}: {len(bad)} values are NaN or infinite, the first in row {row}, {columns[column]}; remove or fill "
            "those rows"
        )


def _labels(values: Any, path: Path, num_rows: int) -> Tensor:
    array = np.asarray(values).reshape(-1)
    if len(array) != num_rows:
        raise InputError(f"{path}: {len(array)} labels for {num_rows} rows")
    _, codes = np.unique(array, return_inverse=True)
    numbers = array.astype(np.int64) if array.dtype.kind in "iub" else codes
    return torch.from_numpy(np.ascontiguousarray(numbers.astype(np.int64)))


def _read_csv(path: Path) -> Table:
    import pandas

    try:
        frame = pandas.read_csv(path)
        if all(_is_number(name) for name in frame.columns):  # the first line was data, not names
            frame = pandas.read_csv(path, header=None)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable table ({str(error).strip().splitlines()[0]})") from error
    return _from_frame(frame, path)


def _read_parquet(path: Path) -> Table:
    import pandas

    try:
        return _from_frame(pandas.read_parquet(path, engine="pyarrow"), path)
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs one more package; pip install 'pyro-vae[parquet]'") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _is_number(text: Any) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _from_frame(frame: Any, path: Path) -> Table:
    names = [str(name) for name in frame.columns]
    of_labels = [name for name in frame.columns if str(name).lower() in LABEL_COLUMNS]
    values = frame.drop(columns=of_labels)
    texts = [str(name) for name in values.columns if values[name].dtype.kind not in "fiub"]
    if texts:
        raise InputError(
            f"{path}: {', '.join(texts[:3])}{' …' if len(texts) > 3 else ''} hold text; keep columns of numbers, "
            f"or name one of them 'label' to colour pictures by it (columns: {', '.join(names[:8])})"
        )
    array = values.to_numpy(dtype=np.float32)
    _check_finite(array, path, [f"column {name}" for name in values.columns])
    table = Table(torch.from_numpy(np.ascontiguousarray(array)))
    if of_labels:
        table.labels = _labels(frame[of_labels[0]].to_numpy(), path, len(array))
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
                grey = np.asarray(picture.convert("L"))
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{path}: not a readable picture") from error
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
