"""The map from stored values to x, the reference measure of the densities of x, and its choice from the values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.stored_rows import Values
from pyro_vae.data.table import Table
from pyro_vae.errors import InputError
from pyro_vae.json_records import require_types
from pyro_vae.option_registry import options_of, require_known

ROUNDING = 16 * torch.finfo(torch.float64).eps
UNSET = (("coded", False), ("num_with_zeros", 0))
MAX_COUNT = 1000  # years, codes and time stamps are whole numbers too
GIVEN_WORDS = ", given "  # before the names of conditions, in the name of a measure


@dataclass(frozen=True)
class Measure:
    r"""How stored values v become x, and the reference measure of densities of x.

    Attributes:
        levels: the largest stored value of an image (255 for 8 bits, 1 for floats), or None for a table.
        binarize: how pixels become 0 or 1: `stochastic` draws $x_d \sim \mathrm{Bernoulli}(v_d/\text{levels})$ at each
            use in training, `fixed` draws once, `threshold` sets $x_d = [v_d > \text{levels}/2]$, `none` leaves grey
            levels v/levels.
        dequantize: whether uniform noise is added to integers, $x = (v + u)/(\text{levels} + 1)$ for images and
            $v + u$ for counts.
        shift: what is subtracted from each column (D,) before it is divided; empty where columns are not standardized.
        scale: what each column (D,) is divided by, $x \to (x - \text{shift})/\text{scale}$.
        given: whether the rows are a plain tensor, whose values are x unchanged.
        coded: whether some columns are codes of categories or dates, whose density is none of the table.
        counted: whether each column (D,) has probabilities and no density, so that its scale has no Jacobian; empty
            where all have a density, or the values are bits or grey levels.
        num_with_zeros: how many columns have a density and a probability of 0.
        conditions: the names of the columns that are given: densities are p(x | these).
    """

    levels: int | None = None
    binarize: str = "none"
    dequantize: bool = False
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    given: bool = False
    coded: bool = field(default=False, repr=False)  # fingerprints hold the text of the others
    counted: tuple[bool, ...] = field(default=(), repr=False)
    num_with_zeros: int = field(default=0, repr=False)
    conditions: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """`InputError` for values that no measure has, which a file of a stranger may hold."""
        require_types(Measure, vars(self), "the measure")
        options_of(DataConfig)["binarize"].check(self.binarize)
        if self.levels is not None and self.levels <= 0:
            raise InputError(f"the measure: levels must be positive, got {self.levels}")
        if len(self.shift) != len(self.scale) or len(self.counted) not in (0, len(self.scale)):
            raise InputError(
                f"the measure: {len(self.shift)} shifts, {len(self.scale)} scales and {len(self.counted)} counted: "
                "one of each for each column"
            )
        if not all(math.isfinite(shift) for shift in self.shift):
            raise InputError("the measure: every shift must be finite")
        if not all(math.isfinite(scale) and scale > 0 for scale in self.scale):
            raise InputError("the measure: every scale must be positive and finite")

    def require_width(self, num_features: int) -> None:
        """`InputError` for rows of another width than the measure has scales for."""
        if self.scale and len(self.scale) != num_features:
            raise InputError(f"the measure has {len(self.scale)} scales for {num_features} columns; give each one")

    @property
    def is_random(self) -> bool:
        """Whether training draws x again at each use."""
        return self.binarize == "stochastic" or self.dequantize

    def draw(self, stored: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """One draw of x from stored values.

        Args:
            stored: the values (n, D).
            generator: of the draw.
            dtype: the floating type of x, of values that are not binarized.

        Returns:
            x (n, D).
        """
        if self.binarize in ("stochastic", "fixed"):
            return self._bernoulli(stored, generator)
        if self.binarize == "threshold":
            return (stored > (self.levels or 1) / 2).to(torch.float32)
        if self.given:
            return stored
        x = stored if stored.is_floating_point() else stored.to(torch.float32)
        if self.dequantize:
            noise = torch.rand(x.shape, generator=generator, device=x.device)
            x = (x + noise) / ((self.levels + 1) if self.levels else 1)
        elif self.levels:
            x = x / self.levels
        if self.scale:
            wide = torch.float32 if x.device.type == "mps" else torch.float64
            x = (x.to(wide) - x.new_tensor(self.shift, dtype=wide)) / x.new_tensor(self.scale)
        return x.to(dtype).nan_to_num(nan=0.0)  # missing values, which the mask excludes

    def _bernoulli(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        if stored.dtype == torch.uint8:  # P(r < v) = v / levels exactly, for r uniform on 0 … levels − 1
            levels, device = self.levels or 1, stored.device
            drawn = torch.randint(0, levels, stored.shape, dtype=torch.uint8, generator=generator, device=device)
            return (drawn < stored).to(torch.float32)
        uniform = torch.rand(stored.shape, generator=generator, device=stored.device)
        return (uniform < stored / (self.levels or 1)).to(torch.float32)

    def to_original_units(self, x: Tensor) -> Tensor:
        """x in the units of the stored values: the inverse of standardizing."""
        if not self.scale:
            return x
        x = x.double()  # in float32 all time stamps would be equal
        return x * x.new_tensor(self.scale) + x.new_tensor(self.shift)

    @property
    def log_jacobian(self) -> Tensor:
        """log |dx_model / dx_reported| of each column, nats: their sum turns a log-density of x into original units."""
        log_scale = torch.tensor(self.scale, dtype=torch.float64).log()
        return -(log_scale * ~torch.tensor(self.counted) if self.counted else log_scale)

    def name(self, num_features: int) -> str:
        """The measure's name: only densities with the same measure, given the same columns, may be compared."""
        return self._name(num_features) + self.given_words

    @property
    def given_words(self) -> str:
        """How the name ends where columns are given."""
        return f"{GIVEN_WORDS}{', '.join(self.conditions)}" if self.conditions else ""

    def _name(self, num_features: int) -> str:
        if self.given:
            return f"as given: {num_features} columns of a tensor"
        if self.counted:
            return self._product_name()
        if self.coded:
            return f"coded columns: Lebesgue measure on R^{num_features}, with codes for categories and dates"
        if self.binarize != "none":
            return f"counting measure on {{0, 1}}^{num_features}"
        if self.levels:
            kind = "dequantized grey levels" if self.dequantize else "grey levels, not dequantized"
            return f"Lebesgue measure on [0, 1]^{num_features} ({kind})"
        kind = "dequantized, original units" if self.dequantize else "original units"
        return f"Lebesgue measure on R^{num_features} ({kind})"

    def _product_name(self) -> str:
        """Of columns with kinds: how many have a density, and how many probabilities."""
        counted = sum(self.counted)
        real = len(self.counted) - counted
        parts = [f"Lebesgue measure on R^{real} (original units)"] if real else []
        parts += [f"counting measure on {counted} column{'s' * (counted > 1)}"] if counted else []
        zeros = f", {self.num_with_zeros} with a probability of 0" if self.num_with_zeros else ""
        return f"{'product of ' if len(parts) > 1 else ''}{' and '.join(parts)}{zeros}"

    def to_dict(self) -> dict[str, object]:
        """The measure as plain values, for a run's `config.toml`."""
        values = asdict(self) | {name: list(getattr(self, name)) for name in ("shift", "scale")}
        values |= {name: list(getattr(self, name)) for name in ("counted", "conditions")}
        unset = {"coded": False, "conditions": []}
        return {name: value for name, value in values.items() if value is not None and unset.get(name) != value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Measure":
        require_types(cls, values, "the measure")
        require_known(values, [each.name for each in fields(cls)], "the measure")
        lists = {name: tuple(values.get(name, ())) for name in ("shift", "scale", "counted", "conditions")}
        return cls(**{**values, **lists})

    def check(self) -> "Measure":
        """This measure; `InputError` where its options contradict each other."""
        if self.binarize != "none" and (self.dequantize or self.scale):
            raise InputError(
                "binarized pixels can be neither dequantized nor standardized; add binarize='none' (--binarize none)"
            )
        return self


def infer_measure(
    values: Values,
    levels: int | None,
    binarize: str | None,
    dequantize: bool,
    standardize: bool | None,
    coded: bool = False,
    is_colour: bool = False,
) -> Measure:
    """The measure of training values (N, D); options that are None are chosen by the values.

    By default grey images are binarized, images in colour and counts left unchanged, tables of real numbers
    standardized. Raises `InputError` for options that the values or the other options rule out.

    Args:
        values: the training values (N, D), as stored.
        levels: the largest value of a pixel, or None for a table.
        binarize: how pixels become 0 or 1, or None.
        dequantize: whether uniform noise is added to integers.
        standardize: whether columns are standardized, or None.
        coded: whether some columns are codes of categories or dates; then columns are standardized by default.
        is_colour: whether rows are images in colour.

    Returns:
        The measure.
    """
    if coded and (dequantize or binarize not in (None, "none")):
        raise InputError("some columns are codes of categories or dates: they can be neither binarized nor dequantized")
    binarize = "none" if coded else binarize
    standardize = True if coded and standardize is None else standardize
    observed = observed_values(values)
    if binarize is None:
        is_binary = bool(((observed == 0) | (observed == 1)).all())
        is_kept = levels is None or dequantize or standardize or (is_colour and not is_binary)
        binarize = "none" if is_kept else "fixed" if is_binary else "stochastic"
    if binarize != "none" and levels is None:
        levels = 255 if values.dtype == torch.uint8 else _unit_levels(observed, binarize)
    if dequantize and not bool((observed == observed.round()).all()):
        raise InputError("dequantize adds noise to integers, but the values are not whole numbers; leave it out")
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    if standardize or (standardize is None and binarize == "none" and levels is None and not are_counts(values)):
        mean, deviation, largest = _column_moments(values, levels)
        if len(wrong := (~(mean.isfinite() & deviation.isfinite())).nonzero()[:, 0]):
            raise InputError(
                f"column {int(wrong[0])} (counting from 0) has values too large to standardize, up to "
                f"{float(largest[wrong[0]]):g}; correct them, leave them empty where they mark missing ones, or rescale"
            )
        shift = tuple(mean.tolist())
        varies = deviation > ROUNDING * largest  # rounding gives a constant column a deviation above 0
        scale = tuple(torch.where(varies, deviation, torch.ones_like(deviation)).tolist())
    return Measure(levels, binarize, dequantize, shift, scale, coded=coded).check()


def measure_of_columns(schema: Schema, values: Tensor) -> tuple[Measure, Schema]:
    """The measure of columns with kinds, from their training values, and the schema with their shifts and scales.

    Real numbers and dates are standardized, positive ones divided by their geometric mean, shares brought to (0, 1),
    whole numbers standardized in steps; counts and levels stay as they are.

    Args:
        schema: the columns.
        values: the training values (N, D), NaN where one is missing.

    Returns:
        The measure, and the schema.
    """
    found = {column.name: _with_scale(column, values[:, i]) for i, column in enumerate(schema.modelled)}
    schema = replace(schema, columns=tuple(found.get(column.name, column) for column in schema.columns))
    return product_measure(schema), schema


def product_measure(schema: Schema) -> Measure:
    """The measure of columns with kinds by the shifts and scales that they have.

    Args:
        schema: the columns.

    Returns:
        The measure.
    """
    columns = schema.modelled
    scaled = [(0.0, 1.0) if column.has_zeros else (column.shift, column.scale) for column in columns]
    shift, scale = zip(*scaled, strict=True)
    counted = tuple(column.is_counted for column in columns)
    num_with_zeros = sum(column.has_zeros for column in columns)
    return Measure(shift=shift, scale=scale, counted=counted, num_with_zeros=num_with_zeros)


def _with_scale(column: Column, values: Tensor) -> Column:
    """A column with the shift and scale of its training values (N,)."""
    known = values[~values.isnan()]
    if column.kind in ("real", "datetime", "integer"):
        mean, deviation, largest = (each.item() for each in _column_moments(known[:, None], None))
        scale = deviation if deviation > ROUNDING * largest else 1.0
        return replace(column, shift=round(mean) if column.kind == "integer" else mean, scale=scale)
    if column.kind == "positive":
        return replace(column, scale=float(known[known > 0].log().mean().exp()))
    if column.kind == "bounded":
        low, high = min(0.0, float(known.min())), max(1.0, float(known.max()))
        last = high - torch.finfo(torch.float32).eps * (high - low)  # beyond it float32 knows the end only
        margin = (high - low) / (2 * len(known)) if bool(((known <= low) | (known >= last)).any()) else 0.0
        return replace(column, shift=low - margin, scale=high - low + 2 * margin)
    return column


def _unit_levels(observed: Tensor, binarize: str) -> int:
    """1, the largest value that is binarized; `InputError` unless all values are in [0, 1]."""
    low, high = observed.min().item(), observed.max().item()
    if low < 0 or high > 1:
        raise InputError(
            f"binarize={binarize!r} needs values in [0, 1], found {low:.3g} to {high:.3g}; leave it out, or rescale "
            "the columns"
        )
    return 1


def infer_levels(table: Table[Values]) -> int | None:
    """The largest value that a pixel can have: 255 for 8-bit images, 1 for float images and for values all 0 or 1.

    None where the rows are a table.
    """
    values = observed_values(table.values)
    if not len(values):
        return None
    if bool(((values == 0) | (values == 1)).all()):
        return 1
    if values.dtype == torch.uint8 and table.image_shape:
        return 255
    if table.image_shape and bool(((values >= 0) & (values <= 255) & (values == values.round())).all()):
        return 255
    in_unit_interval = bool((values.min() >= 0) & (values.max() <= 1))
    return 1 if table.image_shape and in_unit_interval else None


def observed_values(values: Values) -> Tensor:
    """The values that are not missing, flat where some are; of rows on disk or sparse their `representative_values`."""
    if not isinstance(values, Tensor):
        return values.representative_values
    missing = values.isnan() if values.is_floating_point() else None
    return values if missing is None or not missing.any() else values[~missing]


def are_counts(values: Values) -> bool:
    """Whether all values are whole numbers from 0 to at most 1000, and not all of them 0 or 1."""
    values = observed_values(values)
    return bool((values >= 0).all() and 1 < values.max() <= MAX_COUNT and (values == values.round()).all())


def _column_moments(values: Values, levels: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and largest magnitude of each column's observed values, (D,), in units of `levels`."""
    if not isinstance(values, Tensor):
        mean, deviation, largest = values.column_moments()
        return mean / (levels or 1), deviation / (levels or 1), largest / (levels or 1)
    x = values.double()
    if levels:
        x = x / levels
    mean, largest = x.nanmean(0), x.abs().nan_to_num(nan=0.0).amax(0)
    deviation = (x - mean).square().nanmean(0).sqrt()
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    in_units = ((x / unit) - (mean / unit)).square().nanmean(0).sqrt() * unit
    is_lost = (deviation == 0) | ~deviation.isfinite()  # squares of 1e-200 are 0, and of 1e200 infinite
    return mean, torch.where(is_lost, in_units, deviation), largest
