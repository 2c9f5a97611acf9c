"""The map from stored values to x, and the reference measure of the densities of x."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.data_config import DataConfig
from pyro_vae.errors import InputError
from pyro_vae.json_records import require_types
from pyro_vae.option_registry import require_known
from pyro_vae.options import options_of

UNSET = (("coded", False), ("num_with_zeros", 0))
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

    def draw_again(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """One more draw of x, for a step of a fit: `draw`'s distribution, by fewer random numbers where x is 8 bits.

        Args:
            stored: the values (n, D).
            generator: of the draw.

        Returns:
            x (n, D).
        """
        if (
            self.binarize == "stochastic"
            and self.levels == 255
            and stored.dtype == torch.uint8
            and stored.device.type == "cpu"
        ):
            below = _bytes_below_255(stored.numel(), generator).view(stored.shape)
            return torch.lt(below, stored, out=torch.empty(stored.shape, dtype=torch.float32, device=stored.device))
        return self.draw(stored, generator)

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


def _bytes_below_255(number: int, generator: torch.Generator) -> Tensor:
    """Independent bytes (number,), uniform on 0 … 254: eight of each 64 random bits, those of 255 drawn once more."""
    words = torch.empty(-(-number // 8), dtype=torch.int64, device="cpu").random_(-(2**63), None, generator=generator)
    drawn = words.view(torch.uint8)[:number]
    again = torch.from_numpy(np.flatnonzero(drawn.numpy() == 255))  # NumPy takes an eighth of torch's time
    other = torch.randint(0, 255, again.shape, dtype=torch.uint8, device="cpu", generator=generator)
    return drawn.index_copy_(0, again, other)
