"""A data set: disjoint training, validation and test splits with one measure."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.data.ondisk.rows_on_disk import RowsOnDisk
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.read_files import Table
from pyro_vae.data.reference_measure import Measure
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError


def make_split(name: str, table: Table, measure: Measure) -> Split:
    """A table's rows with a measure, as a `SplitOnDisk` where they are on disk."""
    split_class = SplitOnDisk if isinstance(table.values, RowsOnDisk) else Split
    return split_class(name, table.values, measure, table.labels, table.image_shape, table.index)


def as_split(data: "Split | Dataset | Tensor", name: str) -> Split:
    """Rows as a split: of a data set its split `name`, of a tensor (N, D) its values unchanged; a split as it is."""
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
    """Three disjoint splits of one data set: `train`, `valid` for choices, `test` to be scored once at the end."""

    name: str
    train: Split
    valid: Split
    test: Split
    description: str = ""
    columns: tuple[str, ...] = ()
    label_name: str | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test rows"
        return f"Dataset({self.name}: {sizes} of {self.num_features}; {self.measure})"

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
            split._update_digest(digest)
            digest.update(b"" if split.labels is None else split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
