"""A split: rows of a data set, and the measure that turns the stored values into x."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.image_shapes import ImageShape, describe_shape
from pyro_vae.data.ondisk.rows_on_disk import Array, as_index
from pyro_vae.data.reference_measure import GIVEN_WORDS, Measure
from pyro_vae.data.row_weights import check_weights, relative_weights
from pyro_vae.data.stored_rows import StoredRows
from pyro_vae.errors import InputError
from pyro_vae.typing import Rows

DRAW_SEED = 0
OBSERVED_ONLY = ", observed values only"  # what the name of a measure ends with where values are missing
RESERVED_INPUTS = {"x", "rows", "labels", "mask", "num_rows"}
MAX_ROUNDING = 1e-3  # of a column's standard deviation


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set as read (uint8 stays uint8), and the measure that turns them into x.

    `x` (N, D) is the fixed draw of seed 0, to which every score refers: float32, and float64 where float32 would round
    a table's values by a thousandth of their deviation. Training on a split with a random measure draws x again for
    every `batch`. A split is accepted wherever rows are.

    Attributes:
        name: train, valid or test, or another.
        stored: the rows as read (N, D).
        measure: how they become x.
        labels: the labels (N,), or None.
        image_shape: (height, width) where the rows are grey images, (channels, height, width) where they have colours.
        index: the row numbers in the source, the file or array (N,), or None.
        inputs: further inputs of each row by name, (N, …) each, for a program whose model or guide has an argument of
            that name: lengths, totals, covariates.
        ids: what names each row, by column, (N,) each, which comes back with it.
        weights: how much each row counts (N,), float64, up to a factor: a survey weight, an exposure, a number of
            copies. They multiply a row's ELBO, and its share of means and standard errors; a row of weight 0 counts
            nowhere. No model or guide sees them. None where all rows count alike.
    """

    name: str
    stored: Tensor
    measure: Measure = field(default_factory=Measure)
    labels: Tensor | None = None
    image_shape: ImageShape | None = None
    index: Tensor | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    ids: Mapping[str, Array] = field(default_factory=dict)
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.measure, Measure):
            raise InputError(f"a split's measure is a Measure, got {self.measure!r:.60}")
        if not isinstance(self.stored, StoredRows) and (not isinstance(self.stored, Tensor) or self.stored.dim() != 2):
            found = tuple(self.stored.shape) if isinstance(self.stored, Tensor) else f"{self.stored!r:.60}"
            raise InputError(f"a split holds rows, a tensor (N, D), got {found}; pv.data.as_split takes others")
        self.measure.require_width(self.shape[1])
        if self.weights is not None:
            object.__setattr__(self, "weights", check_weights(self.weights, len(self.stored)))
        self._check_image_shape()
        if not isinstance(self.inputs, Mapping):
            raise InputError(f"a split's inputs are tensors by name, got {self.inputs!r:.60}")
        if taken := self.inputs.keys() & RESERVED_INPUTS:
            raise InputError(f"inputs may not be called {', '.join(sorted(taken))}, which have a place of their own")
        others = {"labels": self.labels, "index": self.index, **self.inputs, **self.ids}
        known = {name: value for name, value in others.items() if value is not None}
        if wrong := [name for name, value in known.items() if not isinstance(value, (Tensor, np.ndarray))]:
            raise InputError(f"a split's {wrong[0]} must be a tensor, got {known[wrong[0]]!r:.60}")
        if wrong := [f"{len(value)} {name}" for name, value in known.items() if len(value) != len(self.stored)]:
            raise InputError(f"expected one for each of the {len(self.stored)} rows of x, got {', '.join(wrong)}")

    def _check_image_shape(self) -> None:
        """`InputError` for an image shape of another number of values than a row has."""
        shape = self.image_shape
        if shape is not None and math.prod(shape) != self.shape[1]:
            raise InputError(f"images of {describe_shape(shape)} pixels are no rows of {self.shape[1]} values")

    def __repr__(self) -> str:
        return f"Split({self.name}: {len(self)} rows of {self.shape[1]}; {self.measure_name})"

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> torch.Size:
        return self.stored.shape

    @cached_property
    def _fixed_draw(self) -> Tensor:
        if self.measure.given:
            return self.stored
        generator = torch.Generator().manual_seed(DRAW_SEED)
        dtype = torch.float64 if self._needs_float64 else torch.float32
        blocks = [self.measure.draw(self.stored[i : i + 4096], generator, dtype) for i in range(0, len(self), 4096)]
        x = torch.cat(blocks) if blocks else torch.zeros(self.shape)
        return x.to(torch.uint8) if self.measure.binarize != "none" else x

    @property
    def _needs_float64(self) -> bool:
        """Whether float32 would round values that are taken as they are by a thousandth of their column's deviation."""
        measure, x = self.measure, self.stored
        if x.dtype != torch.float64 or measure.binarize != "none" or measure.levels or measure.scale:
            return False
        lost = (x - x.to(torch.float32)).abs().nan_to_num(nan=0.0).amax(0)
        deviation = (x - x.nanmean(0)).square().nanmean(0).sqrt()
        return bool((lost > MAX_ROUNDING * deviation).logical_and(deviation > 0).any())

    @property
    def x(self) -> Rows:
        """The fixed draw of all rows, to which every score refers, (N, D)."""
        return self[:]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        x = self._fixed_draw[rows]
        return x if x.is_floating_point() else x.to(torch.float32)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """x as an array, which `numpy.asarray` asks for."""
        return np.asarray(self.x.cpu().numpy(), dtype=dtype)

    def __dlpack__(self, **options: Any) -> object:
        """x by the protocol that `torch.as_tensor` and other libraries ask for."""
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self.x.__dlpack_device__()

    def with_fields(self, **fields: Any) -> "Split":
        """The same rows with other fields; their fixed draw is kept where it is one of the same measure.

        `dataclasses.replace` would draw the rows of a part of a split anew.

        Args:
            **fields: the fields that differ, apart from `stored`.

        Returns:
            The split.
        """
        other = replace(self, **fields)
        if other.measure == self.measure:
            kept = ("_fixed_draw", "mask", "_dtype")  # what a part of a split has from the whole of it
            other.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return other

    def head(self, num_rows: int) -> "Split":
        """The first rows, with the same fixed draw."""
        split = self._with_rows(slice(num_rows), self.stored[:num_rows])
        split.__dict__["_fixed_draw"] = self._fixed_draw[:num_rows]  # drawing fewer rows would give other numbers
        return split

    def _row_fields(self, of: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The fields that hold something for each row, apart from the rows themselves, as a function gives each."""
        single = {"labels": self.labels, "index": self.index, "weights": self.weights}
        fields: dict[str, Any] = {name: None if value is None else of(value) for name, value in single.items()}
        return fields | {"inputs": {name: of(value) for name, value in self.inputs.items()}}

    def _with_rows(self, rows: slice | Tensor, stored: Any, kind: "type[Split] | None" = None, **other: Any) -> "Split":
        """A split of some rows, as they are stored; `other` has the fields that are not sliced."""
        fields = self._row_fields(lambda value: value[rows]) | {"ids": self.ids_of(rows)} | other
        weights = fields.pop("weights")
        split = (kind or type(self))(self.name, stored, self.measure, image_shape=self.image_shape, **fields)
        split.__dict__["weights"] = weights  # not checked again: those of some rows may all be 0
        return split

    @cached_property
    def mask(self) -> Tensor | None:
        """Which values were observed, (N, D), where some are missing: x is 0 there. None where no value is missing."""
        can_be_missing = self.stored.is_floating_point() and not self.measure.given
        missing = self.stored.isnan() if can_be_missing else None
        return None if missing is None or not missing.any() else ~missing

    def row_inputs(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """The other inputs of some rows: `labels` and `mask`, where the split has them, and its `inputs`."""
        inputs = {"labels": self.labels, "mask": self.mask, **self.inputs}
        return {name: value[rows] for name, value in inputs.items() if value is not None}

    @cached_property
    def log_jacobian(self) -> Tensor:
        """Nats to add to each row's log-density of x to get that in the stored units, (N,) float64."""
        columns = self.measure.log_jacobian
        if not len(columns):
            return torch.zeros((), dtype=torch.float64).expand(len(self))
        return columns.sum().expand(len(self)) if self.mask is None else self.mask.double() @ columns

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The rows of one training step; x is drawn again where the measure is random.

        Args:
            rows: their index (n,).
            generator: of the draw, on the device where x is wanted.

        Returns:
            x of these rows, (n, D).
        """
        if not self.measure.is_random:
            return self[rows]
        return self.measure.draw_again(rows_at(self.stored, rows).to(generator.device), generator)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the stored rows take in memory."""
        return self.stored.nbytes

    def to_device(self, device: torch.device) -> "Split":
        """The same rows with the same fixed draw, on a device."""
        fields = self._row_fields(lambda value: value.to(device)) | {"index": self.index, "weights": self.weights}
        split = replace(self, stored=self.stored.to(device), **fields)
        cached = {
            "_fixed_draw": self._fixed_draw.to(device),
            "mask": None if self.mask is None else self.mask.to(device),
        }
        split.__dict__.update(cached | {"mean": self.mean, "log_jacobian": self.log_jacobian})
        return split

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every row once, in the order of one epoch: a permutation of all rows.

        Args:
            batch_size: the number of rows of each batch; the last may have fewer.
            generator: of the permutation.

        Yields:
            Tensor: the batches' indices (n,), for `batch`.
        """
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield order[start : start + batch_size]

    def source_index(self, rows: slice | Tensor) -> Tensor:
        """The row numbers (n,) of some rows in the source."""
        index = as_index(rows, len(self))
        return index if self.index is None else self.index[index]

    def chunks(self, num_rows: int) -> Iterator["Split"]:
        """The rows in order as splits of `num_rows` rows each, with the same fixed draw."""
        for start in range(0, len(self), num_rows):
            yield self._chunk(slice(start, min(len(self), start + num_rows)))

    def take(self, index: Tensor) -> "Split":
        """The rows at some indices (n,), with the same fixed draw."""
        return self._chunk(index)

    def _chunk(self, rows: slice | Tensor) -> "Split":
        split = self._with_rows(rows, self.stored[rows], index=self.source_index(rows))
        split.__dict__["_fixed_draw"] = self._fixed_draw[rows]
        split.__dict__["mask"] = None if self.mask is None else self.mask[rows]
        return split

    def with_draw(self, x: Tensor) -> "Split":
        """As many other rows with the measure, the gaps and the inputs of these, as draws of a model have them.

        Args:
            x: the rows, as a program sees them (N, D).

        Returns:
            A split in memory, whose fixed draw they are.
        """
        split = self._with_rows(slice(None), x, Split)
        drawn = x if self.mask is None else torch.where(self.mask, x, 0.0)
        split.__dict__.update(_fixed_draw=drawn, mask=self.mask)
        return split

    def with_mask(self, observed: Tensor) -> "Split":
        """The same rows and the same fixed draw, as if only some of the values had been observed.

        Args:
            observed: booleans (N, D), true for the values that stay.

        Returns:
            A split in memory.
        """
        stored = self.stored if isinstance(self.stored, Tensor) else self.x
        split = self._with_rows(slice(None), stored, Split)
        split.__dict__.update(_fixed_draw=torch.where(observed, self.x, 0.0), mask=observed)
        return split

    def ids_of(self, rows: slice | Tensor) -> dict[str, Array]:
        """What names some rows, by column, (n,) each."""
        index = rows if isinstance(rows, slice) else rows.cpu().numpy()
        return {name: value[index] for name, value in self.ids.items()}

    @cached_property
    def counted(self) -> Tensor | None:
        """The indices (n,) of the rows whose weight is above 0; None where that is all of them."""
        if self.weights is None or bool((self.weights > 0).all()):
            return None
        return self.weights.cpu().nonzero()[:, 0]

    def without_uncounted(self) -> "Split":
        """The rows whose weight is above 0, with the same fixed draw; `InputError` where there is none."""
        if self.counted is None:
            return self
        check_weights(torch.as_tensor(self.weights), len(self))
        return self.keep(self.counted)

    def keep(self, rows: Tensor) -> "Split":
        """The rows at some indices (n,) in order, on disk where these are, with the same fixed draw."""
        return self.take(rows)

    @property
    def relative_weights(self) -> Tensor | None:
        """The weights divided by their mean, (N,) float64; None where all rows count alike."""
        return relative_weights(self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stored rows, 16 hexadecimal digits."""
        return hashlib.sha256(self.fingerprint_bytes()).hexdigest()[:16]

    def fingerprint_bytes(self) -> bytes:
        """What the fingerprint is a hash of: the stored values, and weights and inputs where there are any."""
        return self.stored.cpu().contiguous().numpy().tobytes() + self._other_bytes

    @property
    def _other_bytes(self) -> bytes:
        others = [*([] if self.weights is None else [self.weights]), *self.inputs.values()]
        return b"".join(value.cpu().contiguous().numpy().tobytes() for value in others)

    @cached_property
    def mean(self) -> Tensor:
        """The weighted mean of x over rows, (D,) float32; where x is drawn, the mean of its distribution."""
        if self.counted is not None:
            return self.without_uncounted().mean
        weights = self.relative_weights
        w = None if weights is None else weights[:, None]
        if self.mask is not None:
            counts = self.mask if w is None else self.mask * w
            return ((self.x * counts).sum(0) / counts.sum(0).clamp(min=1)).to(torch.float32)
        if self.measure.binarize in ("stochastic", "fixed"):
            stored = self.stored.to(torch.float64)
            return ((stored if w is None else stored * w).mean(0) / (self.measure.levels or 1)).to(torch.float32)
        return self.x.mean(0) if w is None else (self.x * w).mean(0).to(torch.float32)

    @property
    def measure_name(self) -> str:
        name = self.measure.name(self.shape[1])
        return name if self.mask is None else f"{name}{OBSERVED_ONLY}"


def density_name(measure: str | None) -> str:
    """What a density is called by the name of its measure: log p(x), or with conditions as in log p(x | segment).

    >>> density_name("Lebesgue measure on R^2 (original units), given segment, age, observed values only")
    'log p(x | segment, age)'
    """
    names = (measure or "").partition(GIVEN_WORDS)[2].removesuffix(OBSERVED_ONLY)
    first, second, more = [*names.split(", ", 2), "", ""][:3]
    names = f"{first}, {second}, …" if more else names
    return f"log p(x | {names})" if names else "log p(x)"


def rows_at(values: Tensor | StoredRows, rows: Tensor) -> Tensor:
    """Some rows, by their index (n,): in one device's memory by `index_select`, which copies bytes ten times as fast.

    Args:
        values: the rows (N, D).
        rows: the index.

    Returns:
        The rows (n, D).
    """
    is_plain = isinstance(values, Tensor) and values.device == rows.device and rows.dtype == torch.int64
    if is_plain and bool((rows >= 0).all()):
        assert isinstance(values, Tensor)
        return values.index_select(0, rows)
    return values[rows]
