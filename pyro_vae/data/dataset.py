"""A data set: disjoint training, validation and test splits with one measure; by name, by path or from memory.

>>> import pyro_vae as pv
>>> data = pv.load_data("digits")
>>> data.train.shape, data.valid.shape, data.test.shape, data.measure
(torch.Size([1437, 64]), torch.Size([180, 64]), torch.Size([180, 64]), 'counting measure on {0, 1}^64')
"""

import difflib
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.named_datasets import NAMED_DATASETS
from pyro_vae.data.ondisk.read_large_files import read_rows, split_rows
from pyro_vae.data.ondisk.rows_on_disk import Array, RowsOnDisk
from pyro_vae.data.prepare_rows import Preparation, make_split
from pyro_vae.data.reference_measure import Measure, infer_levels, infer_measure
from pyro_vae.data.split import Split
from pyro_vae.data.table import DataFrame, Table, table_from_memory
from pyro_vae.errors import InputError
from pyro_vae.option_registry import options_of

MIN_ROWS = 10


def as_split(data: "Split | Dataset | Tensor", name: str) -> Split:
    """Rows as a split.

    Args:
        data: a data set, a split, which is returned as it is, or a tensor (N, D), whose values are x unchanged.
        name: which split of a data set.

    Returns:
        The split.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Dataset):
        return data.split(name)
    x = torch.as_tensor(data)
    if x.dim() != 2 or 0 in x.shape:
        raise InputError(f"expected rows of shape (N, D), got {tuple(x.shape)}; flatten each observation to one row")
    return Split("given", x, Measure(given=True))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of one data set.

    Attributes:
        name: its name or path.
        train: the training rows.
        valid: the validation rows, by which choices are made.
        test: the test rows, to be scored once at the end.
        description: what it is, or where it comes from.
        columns: the columns' names; empty where they have none.
        label_name: the name of the column of labels.
        label_levels: the text of labels 0, 1, …; empty where labels are whole numbers, kept as they are.
        notes: what was decided in reading that is not plain to see.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    description: str = ""
    columns: tuple[str, ...] = ()
    label_name: str | None = None
    label_levels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test rows"
        parts = [f"{self.name}: {sizes} of {self.num_features}", self.measure, *self.notes]
        return f"Dataset({'; '.join(parts)})"

    @property
    def preparation(self) -> Preparation:
        """What new rows have to go through to be on this data set's measure."""
        return Preparation(
            self.train.measure,
            self.num_features,
            self.columns,
            self.label_levels,
            missing=any(split.mask is not None for split in (self.train, self.valid, self.test)),
        )

    def prepare(self, rows: str | Path | Tensor | Array | DataFrame, header: str = "auto") -> Split:
        """New rows as the training rows were prepared: the same columns, shifts, scales and labels.

        Loaded as a data set of their own they would be standardized by their own means.

        Args:
            rows: a file, an array or tensor (N, D), or a data frame, whose columns may be in any order.
            header: whether the first row of a text table holds names: yes, no or auto.

        Returns:
            The rows in their order; `InputError` for columns or values of another kind.

        >>> import numpy as np, pyro_vae as pv
        >>> table = np.random.default_rng(0).normal(5.0, 2.0, size=(100, 3))
        >>> data = pv.load_data(table)
        >>> new = data.prepare(table[:4])
        >>> bool((new.x == data.train.measure.draw(torch.as_tensor(table[:4]), torch.Generator())).all())
        True
        """
        return self.preparation(rows, header)

    @property
    def num_features(self) -> int:
        return self.train.shape[1]

    @property
    def image_shape(self) -> tuple[int, int] | None:
        return self.train.image_shape

    @property
    def measure(self) -> str:
        return self.train.measure_name

    def split(self, name: str) -> Split:
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stored values and the measure, 16 hexadecimal digits: equal data have equal fingerprints."""
        digest = hashlib.sha256(repr(self.train.measure).encode())
        for split in (self.train, self.valid, self.test):
            digest.update(f"{split.name}{tuple(split.shape)}{split.stored.dtype}".encode())
            digest.update(split.fingerprint_bytes())
            digest.update(b"" if split.labels is None else split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_data(
    name: str | Path | Tensor | Array | DataFrame = "mnist-5k",
    *,
    binarize: str | None = None,
    dequantize: bool = False,
    standardize: bool | None = None,
    missing: str = "refuse",
    image_shape: tuple[int, int] | None = None,
    header: str = "auto",
    root: str | Path | None = None,
    stream: bool | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by name, from a `.npy`, `.npz`, `.csv` or `.parquet` file or a folder of images, or from memory.

    Raises `InputError` for an unknown name, an unreadable or empty file, NaN (unless masked), columns that hold no
    numbers, too few rows, or options that contradict each other.

    Args:
        name: the name or path; in memory an array or tensor (N, D) or (N, height, width), or a data frame.
        binarize: stochastic, fixed, threshold or none; by default images are binarized stochastically, tables are not.
        dequantize: whether uniform noise is added to integers.
        standardize: whether each column's training mean is subtracted and the column divided by its training standard
            deviation; by default for tables of real numbers, not for images and counts. Every log-density reported
            counts the Jacobian.
        missing: what is done with NaN, a missing value: refuse; or mask, where splits have a `mask` and only observed
            values are modelled.
        image_shape: height and width, where the rows are images and do not say so.
        header: whether the first row of a text table holds the columns' names: yes, no, or auto, which looks.
        root: the folder of torchvision's data sets; by default the cache, downloading.
        stream: whether the training rows of a `.npy` or `.parquet` stay on disk, by default those of more than 1 GiB:
            memory does not grow with N, rows come in a block shuffle, and at most 10,000 rows each are held out
            (docs/big_data.md).
        seed: the seed of the order of rows before they are split (files: 80 % training, 10 % validation, 10 % test).

    Returns:
        The data set.
    """
    for option, value in {"missing": missing, "header": header}.items():
        options_of(DataConfig)[option].check(value)
    tables, levels, description = _read_tables(name, image_shape, root, seed, missing == "mask", stream, header)
    table = tables[0]
    _check_training_table(table)
    measure = infer_measure(table.values, levels, binarize, dequantize, standardize)
    names = ("train", "valid", "test")
    train, valid, test = (make_split(*pair, measure) for pair in zip(names, tables, strict=True))
    title = str(name) if isinstance(name, (str, Path)) else "memory"
    labels = table.label_name, table.label_levels
    return Dataset(title, train, valid, test, description, table.columns, *labels, table.notes)


def _check_training_table(table: Table[Tensor | RowsOnDisk]) -> None:
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
    name: str | Path | Tensor | Array | DataFrame,
    image_shape: tuple[int, int] | None,
    root: str | Path | None,
    seed: int,
    missing: bool,
    stream: bool | None,
    header: str,
) -> tuple[list[Table[Tensor | RowsOnDisk]], int | None, str]:
    """The training, validation and test tables, the largest value of a pixel, and the description."""
    is_named = isinstance(name, str) and name in NAMED_DATASETS
    if stream and (is_named or not isinstance(name, (str, Path))):
        raise InputError("only the rows of a file can stay on disk: leave stream (--stream) out")
    if isinstance(name, str) and is_named:
        if image_shape is not None:
            raise InputError(f"the image shape of {name} is known: leave the image shape out")
        named = NAMED_DATASETS[name]
        return list(named.load()(root, seed, **named.fixed)), named.levels, named.help
    if isinstance(name, (str, Path)):
        _require_path(name)
        table, source = read_rows(Path(name), missing, stream, header), str(name)
    else:
        table, source = table_from_memory(name, missing), "the data"
    _check_rows(table, image_shape, source)
    table = replace(table, image_shape=table.image_shape or image_shape or _square_shape(table))
    return split_rows(table, seed, max(1, len(table.values) // 10)), infer_levels(table), source


def _require_path(name: str | Path) -> None:
    """`InputError` for what is neither a file nor written as a path, with the nearest name of a data set."""
    if isinstance(name, Path) or Path(name).exists() or Path(name).suffix or "/" in name:
        return
    near = difflib.get_close_matches(name, NAMED_DATASETS, n=1)
    raise InputError(
        f"no data set or file called {name!r}; try one of {', '.join(NAMED_DATASETS)}, or the path of a file"
        f"{f'; did you mean {near[0]!r}?' if near else ''}"
    )


def _check_rows(table: Table[Tensor | RowsOnDisk], image_shape: tuple[int, int] | None, source: str) -> None:
    """`InputError` for too few rows, and for images of another shape than `image_shape`."""
    num_rows = len(table.values)
    if num_rows < MIN_ROWS:
        raise InputError(f"{source}: {num_rows} rows are too few to train, validate and test on; {MIN_ROWS} are needed")
    if image_shape and table.image_shape and image_shape != table.image_shape:
        found, expected = ("×".join(map(str, shape)) for shape in (table.image_shape, image_shape))
        raise InputError(f"{source}: holds images of {found}, not of {expected}; leave the shape out")


def _square_shape(table: Table[Tensor | RowsOnDisk]) -> tuple[int, int] | None:
    """The image shape of rows of bytes that can only be square images of 8×8 pixels or more."""
    side = round(table.values.shape[1] ** 0.5)
    is_square = table.values.dtype == torch.uint8 and side * side == table.values.shape[1] and side >= 8
    return (side, side) if is_square else None
