"""A data set: disjoint training, validation and test splits with one measure; by name, by path or from memory.

>>> import pyro_vae as pv
>>> data = pv.load_data("digits")
>>> data.train.shape, data.valid.shape, data.test.shape, data.measure
(torch.Size([1437, 64]), torch.Size([180, 64]), torch.Size([180, 64]), 'counting measure on {0, 1}^64')
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.column_options import ColumnOptions, require_exposures, require_kinds, require_names
from pyro_vae.data.columns.conditions import scale_conditions
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.image_settings import AS_THEY_ARE, ImageSettings
from pyro_vae.data.image_shapes import ImageShape, as_image_shape, describe_shape
from pyro_vae.data.infer_measure import measure_of_table
from pyro_vae.data.load_tables import ReadOptions, Source, SplitSource, load_tables
from pyro_vae.data.prepare_rows import Preparation, draw_dense, make_split
from pyro_vae.data.split import Split
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError
from pyro_vae.options import Option, options_of

SEED = Option("seed", int, 0, "Seed of the order of rows.")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of one data set.

    Attributes:
        name: its name or path.
        train: the training rows.
        valid: the validation rows, by which choices are made.
        test: the test rows, to be scored once at the end.
        description: what it is, or where it comes from.
        schema: the columns with their kinds; without columns where they have no names, as in arrays and pictures.
        notes: what was decided in reading that is not plain to see.
        layer: the layer of annotated rows that holds the values; None for X, and for other data.
        holds_counts: whether the source says that its whole numbers are counts, of any size.
        images: how the images of a folder were read.
        check: rows set aside for checks of the fitted model, which chose nothing; None where there are none.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    description: str = ""
    schema: Schema = field(default_factory=Schema)
    notes: tuple[str, ...] = ()
    layer: str | None = None
    holds_counts: bool = False
    images: ImageSettings = AS_THEY_ARE
    check: Split | None = None

    def __post_init__(self) -> None:
        for name, given in (("training", self.train), ("validation", self.valid), ("test", self.test)):
            if not isinstance(given, Split):
                raise InputError(f"a data set's {name} rows are a pv.Split, got a {type(given).__name__}")

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test rows"
        sizes += "" if self.check is None else f", {len(self.check)} set aside for checks,"
        parts = [f"{self.name}: {sizes} of {self.num_features}", self.measure, *self.notes]
        return f"Dataset({'; '.join(parts)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values of a row; empty where they have none."""
        return self.schema.coded_names

    @property
    def label_name(self) -> str | None:
        """The name of the column of labels."""
        return self.schema.label.name if self.schema.label else None

    @property
    def label_levels(self) -> tuple[str, ...]:
        """The text of labels 0, 1, …; empty where labels are whole numbers, kept as they are."""
        return self.schema.label_levels

    @property
    def has_missing(self) -> bool:
        """Whether some value of some split is missing."""
        splits = (self.train, self.valid, self.test, self.check)
        return any(split is not None and split.mask is not None for split in splits)

    @property
    def preparation(self) -> Preparation:
        """What new rows have to go through to be on this data set's measure."""
        images = replace(self.images, fitted=self.image_shape, label_levels=self.label_levels)
        about = self.train.measure, self.num_features, self.schema
        return Preparation(*about, missing=self.has_missing, layer=self.layer, images=images)

    def prepare(self, rows: Source, header: str = "auto") -> Split:
        """New rows as the training rows were prepared: the same columns, shifts, scales and labels.

        Loaded as a data set of their own they would be standardized by their own means.

        Args:
            rows: a file, a folder of images, an array, tensor or sparse matrix (N, D), or a data frame or annotated
                rows (AnnData), whose columns may be in any order.
            header: whether the first row of a text table holds names: yes, no or auto.

        Returns:
            The rows in their order; `InputError` for columns or values of another kind.

        >>> import numpy as np, torch, pyro_vae as pv
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
    def image_shape(self) -> ImageShape | None:
        return self.train.image_shape

    @property
    def measure(self) -> str:
        return self.train.measure_name

    def split(self, name: str) -> Split:
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        if self.check is not None:
            splits["check"] = self.check
        if not isinstance(name, str) or name not in splits:
            raise InputError(f"no split called {name!r:.60}; try one of {', '.join(splits)}")
        return splits[name]

    def set_aside(self, num_rows: int, seed: int = 0) -> "Dataset":
        """The same data with some validation rows set aside for checks: they choose nothing in a fit.

        Args:
            num_rows: how many; 0 sets none aside.
            seed: of the choice.

        Returns:
            The data set with its `check` rows, and with as many validation rows less. Its fingerprint is the same.
        """
        if not num_rows:
            return self
        counted = torch.arange(len(self.valid)) if self.valid.counted is None else self.valid.counted
        if not 0 < num_rows < len(counted):
            raise InputError(
                f"check_rows {num_rows}: there are {len(counted)} validation rows, of which some have to choose the "
                "epoch"
            )
        order = torch.randperm(len(counted), generator=torch.Generator().manual_seed(seed))
        taken = counted[order[:num_rows]].sort().values
        is_kept = torch.ones(len(self.valid), dtype=torch.bool)
        is_kept[taken] = False
        kept = is_kept.nonzero()[:, 0]
        other = replace(self, valid=self.valid.keep(kept), check=self.valid.take(taken).with_fields(name="check"))
        other.__dict__["fingerprint"] = self.fingerprint
        return other

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
    name: SplitSource = "mnist-5k",
    *,
    binarize: str | None = None,
    dequantize: bool = False,
    standardize: bool | None = None,
    missing: str = "auto",
    image_shape: ImageShape | None = None,
    gray: bool = False,
    resize: tuple[int, int] | None = None,
    header: str = "auto",
    columns: Mapping[str, str] | None = None,
    label: str | None = None,
    id: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    weights: str | None = None,
    split: str | None = None,
    group: str | None = None,
    given: str | Sequence[str] = (),
    exposure: str | Mapping[str, str] = "",
    schema: str | Path | None = None,
    coding: str = "auto",
    valid: Source | None = None,
    test: Source | None = None,
    root: str | Path | None = None,
    stream: bool | None = None,
    layer: str | None = None,
    check_rows: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by name, from a file or a folder of images, or from memory.

    Raises `InputError` for an unknown name, an unreadable or empty file, missing values in an array, too few rows, or
    options that contradict each other.

    Args:
        name: the name or path; in memory an array or tensor (N, D) or (N, height, width), in colour (N, 3, height,
            width) or (N, height, width, 3), a sparse matrix (N, D), which stays sparse, a data frame of pandas, polars
            or pyarrow, or such a frame that is split already (`FrameParts`), or annotated rows (`anndata.AnnData`).
        binarize: stochastic, fixed, threshold or none; by default grey images are binarized stochastically, images in
            colour and tables are not.
        dequantize: whether uniform noise is added to integers.
        standardize: whether each column's training mean is subtracted and the column divided by its training standard
            deviation; by default for tables of real numbers, not for images and counts. Every log-density reported
            counts the Jacobian.
        missing: what is done with NaN, a missing value: refuse; mask, where splits have a `mask` and only observed
            values are modelled; or auto, which refuses it in arrays and masks it in tables of columns.
        image_shape: height and width, in colour the channels before them, where the rows are images and do not say so.
        gray: whether the images of a folder are read as grey levels (luma, ITU-R 601-2).
        resize: the height and width to which the images of a folder are brought, by Lanczos resampling.
        header: whether the first row of a text table holds the columns' names: yes, no, or auto, which looks.
        columns: the kinds of columns by name, in place of those that their training values suggest: real, positive,
            bounded, count, integer, binary, categorical, `ordinal:low<mid<high`, `datetime:%d.%m.%Y`, id or ignored.
        label: the column of labels; by default one called label, labels, target or class.
        id: the columns that name a row, which are not modelled and come back with it.
        drop: the columns that are left out.
        weights: the column of rows' weights.
        split: the column that says to which split a row belongs: train, valid or test.
        group: the column of groups, whose rows stay in one split.
        given: the columns that are conditions, or the labels: not modelled, inputs of model and guide, p(x | these).
        exposure: the column that the means of counts are proportional to (its logarithm is the offset of a generalized
            linear model), which becomes a condition; or that of each count by its name.
        schema: a file of kinds (`data.schema.to_toml`), or a run's `config.toml`.
        coding: how a row of columns with kinds is written as numbers: columns, a number for each, for
            `likelihoods.Columns` and `ColumnsMixture`; one-hot, for likelihoods of real numbers; plain, the numbers
            themselves, where there are no levels; auto, the first where some column is no real number, or is given a
            kind that has a distribution of its own.
        valid: the validation rows, where they are a file or frame of their own.
        test: the test rows, likewise.
        root: the folder of torchvision's data sets; by default the cache, downloading.
        stream: whether the training rows of a `.npy` or `.parquet` stay on disk, by default those of more than 1 GiB:
            memory does not grow with N, rows come in a block shuffle, and at most 10,000 rows each are held out
            (docs/big_data.md).
        layer: the layer of annotated rows that holds the values, `raw` for those of `adata.raw`; by default X.
        check_rows: how many validation rows are set aside for checks of the model, as `data.check`; None for none.
        seed: the seed of the order of rows before they are split (files: 80 % training, 10 % validation, 10 % test).

    Returns:
        The data set.
    """
    chosen: dict[str, object] = {"missing": missing, "header": header, "coding": coding, "image_shape": image_shape}
    chosen |= {"gray": gray, "resize": resize, "binarize": binarize, "dequantize": dequantize, "stream": stream}
    chosen |= {"standardize": standardize, "label": label, "weights": weights, "split": split, "group": group}
    for option, value in (
        chosen | {"layer": layer, "schema": schema, "data_root": root, "check_rows": check_rows}
    ).items():
        options_of(DataConfig)[option].check(value)
    SEED.check(seed)
    shape = None if image_shape is None else as_image_shape(image_shape)
    images = ImageSettings(gray, None if resize is None else (resize[0], resize[1]))
    about = ColumnOptions(
        require_kinds(columns),
        label,
        require_names(id),
        require_names(drop),
        weights,
        split,
        group,
        require_names(given),
        require_exposures(exposure),
        schema,
        coding,
    )
    options = ReadOptions(missing, shape, images, header, root, stream, seed, about, valid, test, layer)
    loaded = load_tables(name, options)
    _check_training_table(loaded.tables[0])
    table, *others = scale_conditions(loaded.tables)
    measure, columns_read = measure_of_table(table, loaded.levels, binarize, dequantize, standardize, others)
    measure = replace(measure, conditions=tuple(column.name for column in table.schema.conditions))
    tables, names = [draw_dense(each, measure) for each in (table, *others)], ("train", "valid", "test")
    first, second, third = (make_split(key, each, measure) for key, each in zip(names, tables, strict=True))
    title = str(name) if isinstance(name, (str, Path)) else "memory"
    said = loaded.description, columns_read, tables[0].notes
    data = Dataset(title, first, second, third, *said, layer, table.holds_counts, images)
    return data.set_aside(check_rows or 0)


def _check_training_table(table: Table[Values]) -> None:
    """`InputError` for a column without observed values, and for an image shape that does not fit the rows."""
    values, shape = table.values, table.image_shape
    if isinstance(values, Tensor) and values.is_floating_point() and bool((empty := values.isnan().all(0)).any()):
        raise InputError(
            f"column {int(empty.nonzero()[0])} (counting from 0) has no value in any training row; leave it out"
        )
    if shape and math.prod(shape) != values.shape[1]:
        raise InputError(
            f"images of {describe_shape(shape)} pixels have {math.prod(shape)} values, the rows have {values.shape[1]}"
        )
