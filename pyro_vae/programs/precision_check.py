"""How many nats rounding costs: a few rows' log densities in the program's dtype against the same in float64."""

import copy
import math
import weakref
from dataclasses import dataclass
from typing import TypeVar, cast

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.utils import lazy_property

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.programs.log_densities import sum_over_plates
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import Site, sample_sites
from pyro_vae.typing import Program

CHECKED_ROWS = 8
ABSOLUTE, RELATIVE = 1e-3, 1e-4  # of a row's log density at a site, nats
Value = TypeVar("Value")


@dataclass(frozen=True)
class PrecisionCheck:
    """The row and site whose log density loses most to rounding, nats.

    Attributes:
        site: the name of the site; empty where nothing was compared.
        row: the row's number among those given.
        found: its log density there in the program's dtype.
        true: the same with inputs and parameters as they are, in float64.
        dtype: the program's.
        is_data_rounded: whether the rows given have digits that the dtype does not hold.
    """

    site: str = ""
    row: int = 0
    found: float = 0.0
    true: float = 0.0
    dtype: torch.dtype = torch.float32
    is_data_rounded: bool = False

    @property
    def error(self) -> float:
        """By how much the program's number is off, nats."""
        if self.found == self.true:
            return 0.0
        return math.inf if math.isnan(self.found) else abs(self.found - self.true)

    @property
    def message(self) -> str:
        """A warning with the error and the remedy; empty where the error is below 1e-3 nats and 1e-4 of the number."""
        if self.error <= max(ABSOLUTE, RELATIVE * abs(self.true)):
            return ""
        name = str(self.dtype).removeprefix("torch.")
        reason = f" (the rows have digits that {name} does not hold)" if self.is_data_rounded else ""
        return (
            f"rounding to {name} changes log densities: at site {self.site!r} row {self.row} has {self.found:.6g} nats "
            f"instead of {self.true:.6g}{reason}; use --dtype float64 (dtype=torch.float64), or another scale of the "
            "values (--standardize)"
        )


@torch.no_grad()
def check_precision(
    program: Program, plates: PlateStructure, batch: Batch, exact_rows: Tensor | None = None
) -> PrecisionCheck:
    """Compare each site's log density of some rows with the same density in float64, by one run of the program.

    The run is in the program's dtype. Its sites' distributions are then evaluated at the same values and parameters in
    float64, so that the networks do not count, and where a site observes x, at the rows before they were rounded. The
    random state and the parameters stay as they are. A site that cannot be evaluated in float64 is left out.

    Args:
        program: any program.
        plates: its plates.
        batch: rows (n, D) in the program's dtype, with their inputs; the first eight are taken.
        exact_rows: the same rows in their own dtype; by default `batch.x`.

    Returns:
        The worst site and row.
    """
    dtype = batch.x.dtype
    if dtype == torch.float64 or batch.x.device.type == "mps":
        return PrecisionCheck(dtype=dtype)
    checked = plates.num_rows or min(CHECKED_ROWS, len(batch.x))
    few = batch.take(torch.arange(checked, device=batch.x.device))
    exact = few.x.double() if exact_rows is None else exact_rows[: len(few.x)].to(few.x.device).double()
    rounds = bool((exact != few.x).any())
    worst = PrecisionCheck(dtype=dtype)
    for site in _sites(program, few):
        for found in _compare(site, plates, few.x, exact, rounds):
            if found.error > worst.error:
                worst = found
    return worst


def _sites(program: Program, batch: Batch) -> list[Site]:
    """The sample sites of a run of the guide, and of the model at its draws."""
    model, guide = (bind_supported_kwargs(each) for each in (program.model, program.guide))
    with use_param_store(program), seeded(0), evaluating(program), pyro.validation_enabled(False):
        drawn = poutine.trace(guide).get_trace(batch.x, batch.row_inputs)
        scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch.x, batch.row_inputs)
    return [*sample_sites(scored).values(), *sample_sites(drawn).values()]


def _compare(site: Site, plates: PlateStructure, x: Tensor, exact: Tensor, rounds: bool) -> list[PrecisionCheck]:
    """A site's row with the largest error, or nothing where the density cannot be evaluated in float64."""
    value, fn = site["value"], site["fn"]
    is_x = rounds and site["is_observed"] and value.shape == x.shape and bool((value == x).all())
    wide = cast(Site, {**site, "fn": in_float64(fn), "value": exact if is_x else in_float64(value)})
    keep = set[int]() if plates.row_plate_frame(site) is None else {cast(int, plates.row_dim)}
    try:
        sums = [
            sum_over_plates(cast(Site, {**each, "unscaled_log_prob": each["fn"].log_prob(each["value"])}), keep)
            for each in (wide, site)
        ]
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return []
    true, found = (each.double().flatten().cpu() for each in sums)
    if true.shape != found.shape or not (known := true.isfinite()).any():
        return []
    error = torch.where(known, (found - true).abs().nan_to_num(nan=math.inf, posinf=math.inf), 0.0)
    row = int(error.argmax())
    return [PrecisionCheck(site["name"], row, float(found[row]), float(true[row]), x.dtype, is_x)]


def in_float64(value: Value) -> Value:
    """A distribution, transform or tensor, with every floating tensor in it in float64; the given one is not changed.

    Args:
        value: anything; what holds no floating tensor is returned as it is.

    Returns:
        The same kind of object.
    """
    return cast(Value, _convert(value, {}))


def _convert(value: object, converted: dict[int, object]) -> object:
    """The value in float64; `converted` holds, by id, the objects that are done, which may refer to each other."""
    if id(value) in converted:
        return converted[id(value)]
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).double()
    if isinstance(value, weakref.ref):  # a transform's inverse, which is made again
        return None
    if type(value) in (list, tuple):
        parts = [_convert(part, converted) for part in cast(list[object] | tuple[object, ...], value)]
        return parts if isinstance(value, list) else tuple(parts)
    if not isinstance(value, Distribution | Transform):
        return value
    wide = converted[id(value)] = copy.copy(value)
    for name, part in vars(value).items():
        if _is_computed(value, name, part):
            vars(wide).pop(name)
        else:
            empty = isinstance(value, Transform) and name == "_cached_x_y"
            vars(wide)[name] = (None, None) if empty else _convert(part, converted)
    return wide


def _is_computed(fn: object, name: str, part: object) -> bool:
    """Whether an attribute was computed, in the given parameter's dtype, from the parameter of a distribution."""
    own = getattr(fn, "_param", None)
    return own is not None and part is not own and isinstance(vars(_owner(fn, name)).get(name), lazy_property)


def _owner(value: object, name: str) -> type:
    """The class that defines a name, or `object`."""
    return next((each for each in type(value).__mro__ if name in vars(each)), object)
