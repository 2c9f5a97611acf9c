"""A data set in three parts that never overlap, each knowing the measure its rows are meant on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.disk import RowsOnDisk, index_of
from pyro_vae.data.files import Table
from pyro_vae.data.measure import Measure
from pyro_vae.errors import InputError
from pyro_vae.shapes import Rows

DRAW_SEED = 0
ROWS_IN_A_DRAW = 16  # on disk: rows that share a seed
MOST_AT_ONCE = 2**30  # bytes of x that rows on disk may be asked for


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a data set: `stored` (N, D) as read (uint8 stays uint8), and the measure that turns them into x.

    `x` (N, D) float32 **is** the one draw of seed 0: every score refers to it. Training on a split with a random
    measure draws afresh by `batch`. A split can stand wherever rows are expected; `labels` (N,) or None, `index` (N,)
    the rows' places where they were read.
    """

    name: str
    stored: Tensor
    measure: Measure = field(default_factory=Measure)
    labels: Tensor | None = None
    image_shape: tuple[int, int] | None = None
    index: Tensor | None = None

    def __repr__(self) -> str:
        return f"Split({self.name}: {len(self)} rows of {self.shape[1]}; {self.measure_name})"

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> torch.Size:
        return self.stored.shape

    @cached_property
    def _drawn(self) -> Tensor:
        if self.measure.given:
            return self.stored
        generator = torch.Generator().manual_seed(DRAW_SEED)
        blocks = [self.measure.draw(self.stored[i : i + 4096], generator) for i in range(0, len(self), 4096)]
        x = torch.cat(blocks) if blocks else torch.zeros(self.shape)
        return x.to(torch.uint8) if self.measure.binarize != "none" else x

    @property
    def x(self) -> Rows:
        """The rows as every score sees them, (N, D)."""
        return self[:]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        x = self._drawn[rows]
        return x if x.is_floating_point() else x.to(torch.float32)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)

    def head(self, num_rows: int) -> "Split":
        """The first rows, the same draw of them."""
        labels, index = (None if value is None else value[:num_rows] for value in (self.labels, self.index))
        split = replace(self, stored=self.stored[:num_rows], labels=labels, index=index)
        split.__dict__["_drawn"] = self._drawn[:num_rows]  # another draw of fewer rows would be another draw
        return split

    @cached_property
    def mask(self) -> Tensor | None:
        """Which values were observed, (N, D), where some are missing; a missing value of x is 0, and means nothing."""
        may = self.stored.is_floating_point() and not self.measure.given
        gaps = self.stored.isnan() if may else None
        return None if gaps is None or not gaps.any() else ~gaps

    def extras(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """What belongs to some rows beside x: their `labels` and `mask`, where there are such."""
        kept = {"labels": self.labels, "mask": self.mask}
        return {name: value[rows] for name, value in kept.items() if value is not None}

    @cached_property
    def log_jacobian(self) -> Tensor:
        """Nats to add to each row's log-density of x to get one of the stored units, (N,) float64."""
        columns = self.measure.log_jacobian
        if not len(columns):
            return torch.zeros((), dtype=torch.float64).expand(len(self))
        return columns.sum().expand(len(self)) if self.mask is None else self.mask.double() @ columns

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The given rows for one training step; where the measure is random drawn afresh, on the generator's device."""
        if not self.measure.random:
            return self[rows]
        return self.measure.draw(self.stored[rows].to(generator.device), generator)

    @property
    def in_memory(self) -> int:
        """Bytes that the stored rows take in memory."""
        return self.stored.nbytes

    def copied_to(self, device: torch.device) -> "Split":
        """The same rows and the same draw of them, held on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        split = replace(self, stored=self.stored.to(device), labels=labels)
        known = {"_drawn": self._drawn.to(device), "mask": None if self.mask is None else self.mask.to(device)}
        split.__dict__.update(known | {"mean": self.mean, "log_jacobian": self.log_jacobian})
        return split

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, as indices (n,) for `batch`, in the order of one epoch: a permutation of all rows."""
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield order[start : start + batch_size]

    def places(self, rows: slice | Tensor) -> Tensor:
        """Where rows stood where they were read, (n,)."""
        places = index_of(rows, len(self))
        return places if self.index is None else self.index[places]

    def parts(self, num_rows: int) -> Iterator["Split"]:
        """The rows in order, some at a time, each part a split of its own with the same draw."""
        for start in range(0, len(self), num_rows):
            yield self._part(slice(start, min(len(self), start + num_rows)))

    def _part(self, rows: slice) -> "Split":
        labels = None if self.labels is None else self.labels[rows]
        split = Split(self.name, self.stored[rows], self.measure, labels, self.image_shape, self.places(rows))
        split.__dict__["_drawn"] = self._drawn[rows]
        split.__dict__["mask"] = None if self.mask is None else self.mask[rows]
        return split

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stored rows, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        self._tell(digest)
        return digest.hexdigest()[:16]

    def _tell(self, digest: Any) -> None:
        digest.update(self.stored.cpu().contiguous().numpy().tobytes())

    @cached_property
    def mean(self) -> Tensor:
        """The mean of x over rows, (D,) float32; of its distribution where x is drawn."""
        if self.mask is not None:
            return (self.x * self.mask).sum(0) / self.mask.sum(0).clamp(min=1)
        if self.measure.binarize in ("stochastic", "fixed"):
            return (self.stored.to(torch.float64).mean(0) / (self.measure.levels or 1)).to(torch.float32)
        return self.x.mean(0)

    @property
    def measure_name(self) -> str:
        name = self.measure.name(self.shape[1])
        return name if self.mask is None else f"{name}, observed values only"


@dataclass(frozen=True, eq=False, repr=False)
class SplitOnDisk(Split):
    """Rows that stay in their file: a split whose `stored` is read where it is asked for.

    Rows of a training step come in a block shuffle (`RowsOnDisk.order`). The one draw of x has a seed for every 16 rows
    of the file, so that a row's x is the same in whatever order rows are asked for. Raises `InputError` where all of x
    would have to be in memory and is larger than 1 GiB.
    """

    stored: RowsOnDisk  # type: ignore[assignment]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        index = index_of(rows, len(self))
        if len(index) * self.shape[1] * 4 > MOST_AT_ONCE:
            raise InputError(
                f"{len(index)} rows stay on disk, being too many to hold; take some of them (split[:10_000]), or go "
                "through them (split.parts(10_000))"
            )
        return self._x(self.stored[rows], index)

    def __iter__(self) -> Iterator[Tensor]:
        return (row for part in self.parts(10_000) for row in part.x)

    def head(self, num_rows: int) -> Split:
        labels, index = (None if value is None else value[:num_rows] for value in (self.labels, self.index))
        return replace(self, stored=self.stored.head(num_rows), labels=labels, index=index)

    @property
    def mask(self) -> None:  # type: ignore[override]
        """None: values are never missing here."""

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        stored = self.stored.near(rows)
        if not self.measure.random:
            return self._x(stored, rows)
        return self.measure.draw(stored.to(generator.device), generator)

    @property
    def in_memory(self) -> int:
        return 0

    def copied_to(self, device: torch.device) -> Split:
        return self  # what it reads goes there

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, as indices (n,) for `batch`, in a block shuffle: those of a block are met close together."""
        return self.stored.order(batch_size, generator)

    def places(self, rows: slice | Tensor) -> Tensor:
        return self.stored.places(index_of(rows, len(self)))

    def _part(self, rows: slice) -> Split:
        stored, labels = self.stored[rows], None if self.labels is None else self.labels[rows]
        split = Split(self.name, stored, self.measure, labels, self.image_shape, self.places(rows))
        split.__dict__["_drawn"] = self._x(stored, index_of(rows, len(self)))
        return split

    def _x(self, stored: Tensor, rows: Tensor) -> Tensor:
        """The one draw of some rows."""
        generator = torch.Generator()
        if not self.measure.random and not (self.measure.binarize == "fixed" and self._greys):
            return self.measure.draw(stored, generator)
        places, drawn = self.stored.places(rows), torch.empty(stored.shape)
        _, counts = (places // ROWS_IN_A_DRAW).unique_consecutive(return_counts=True)
        start = 0
        for end in counts.cumsum(0).tolist():
            within = places[start:end] % ROWS_IN_A_DRAW
            block = stored.new_zeros(ROWS_IN_A_DRAW, stored.shape[1])
            block[within] = stored[start:end]
            generator.manual_seed((DRAW_SEED + 2654435761 * int(places[start] // ROWS_IN_A_DRAW)) % 2**32)
            drawn[start:end] = self.measure.draw(block, generator)[within]
            start = end
        return drawn

    @property
    def _greys(self) -> bool:
        """Whether there are values between 0 and the highest level, of which a draw may make either."""
        return self.measure.levels != 1 or bool((self.stored.witness != self.stored.witness.round()).any())

    @cached_property
    def mean(self) -> Tensor:
        total, levels = torch.zeros(self.shape[1], dtype=torch.float64), self.measure.levels or 1
        binary = self.measure.binarize in ("stochastic", "fixed")
        for start in range(0, len(self), size := self.stored.block_rows):
            rows = slice(start, start + size)
            total += self.stored[rows].sum(0, dtype=torch.float64) / levels if binary else self[rows].double().sum(0)
        return (total / len(self)).to(torch.float32)

    def _tell(self, digest: Any) -> None:
        digest.update(f"{self.stored.digest} {tuple(self.shape)} {self.stored.left_out.tolist()}".encode())


def split_of(name: str, table: Table, measure: Measure) -> Split:
    """A table's rows under a measure, on disk or in memory as they are."""
    kind = SplitOnDisk if isinstance(table.values, RowsOnDisk) else Split
    return kind(name, table.values, measure, table.labels, table.image_shape, table.index)


def as_split(data: "Split | Dataset | Tensor", name: str) -> Split:
    """Rows in whatever form they came: a split as it is, the named split of a data set, a tensor (N, D) as given."""
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
        """SHA-256 over the stored values and the measure, 16 hexadecimal digits: the same data gives the same name."""
        digest = hashlib.sha256(repr(self.train.measure).encode())
        for split in (self.train, self.valid, self.test):
            digest.update(f"{split.name}{tuple(split.shape)}{split.stored.dtype}".encode())
            split._tell(digest)
            digest.update(b"" if split.labels is None else split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
