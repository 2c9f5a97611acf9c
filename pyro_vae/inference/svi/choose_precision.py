"""Whether a fit takes the products of its layers in bfloat16: where it is quicker, and changes gradients little."""

import logging
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.errors import InputError, PrecisionWarning
from pyro_vae.inference.compile.reduced_products import FindLayers, LayerMode
from pyro_vae.programs.parameters import DeviceAndDtype

MIN_SPEED_UP = 1.5  # of the products of a program's own sizes
MAX_GRADIENT_ERROR = 0.02  # ‖g₁₆ − g₃₂‖ / ‖g₃₂‖, of all parameters
NUM_TURNS = 5
log = logging.getLogger(__name__)


Run = Callable[[LayerMode], object]  # runs model and guide once, each inside a mode
Gradient = Sequence[Tensor | None]  # of each parameter, None where it has none


def choose_precision(given: str, target: DeviceAndDtype, run: Run, gradient: Callable[[str], Gradient]) -> str:
    """The type of the products of layers in a fit's steps.

    Warns (`PrecisionWarning`) where products in bfloat16, which were asked for, change the first gradient by more than
    2 % of its norm. Raises `InputError` where they were asked for a program of another type than float32, or for one
    that has no gradient with them.

    Args:
        given: the setting: "float32", "bfloat16", or "auto" to choose.
        target: the device and type of the program.
        run: runs model and guide once, each inside a mode.
        gradient: gives the first gradient with products of a type.

    Returns:
        "float32" or "bfloat16".
    """
    if given == "float32":
        return given
    if target.dtype != torch.float32:
        if given == "auto":
            return "float32"
        dtype = str(target.dtype).removeprefix("torch.")
        raise InputError(f"precision={given!r} is for programs in float32, and this one is in {dtype}: leave it out")
    exact = gradient("float32")  # an error of the program itself is raised here
    try:
        if given == "auto" and (ratio := speed_up(run, target.device)) < MIN_SPEED_UP:
            log.info("products in bfloat16 are %.2g times as quick as in float32 here, so they stay in float32", ratio)
            return "float32"
        error = gradient_error(exact, gradient("bfloat16"))
    except Exception as failure:  # a kernel that there is not, or layers that are run again outside the program
        reason = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
        if given == "auto":
            log.info("products stay in float32, since the program does not run with bfloat16 (%s)", reason)
            return "float32"
        raise InputError(f"the program does not run with precision={given!r} ({reason}): leave it out") from failure
    if error <= MAX_GRADIENT_ERROR:
        return "bfloat16"
    message = f"with products in bfloat16 the first gradient changes by {100 * error:.2g} % of its norm"
    if given == "auto":
        log.info("%s, so they stay in float32", message)
        return "float32"
    warnings.warn(f"{message}: compare a fit in float32", PrecisionWarning, stacklevel=2)
    return given


@torch.no_grad()
def speed_up(run: Run, device: torch.device) -> float:
    """How many times quicker the layers of a program are with products in bfloat16, casts included.

    Args:
        run: runs model and guide once, each inside a mode.
        device: where it runs.

    Returns:
        The ratio of the smallest of five times, taken in turn; 1 where there is no layer. Where the first
        turn is half as quick, that one's.
    """
    found = FindLayers()
    run(found)
    if not found.calls:
        return 1.0
    as_they_are, reduced = zip(*found.calls, strict=True)
    times: list[tuple[float, float]] = []
    for turn in range(1 + NUM_TURNS):
        pair = _seconds(as_they_are, device), _seconds(reduced, device)
        if turn == 0 and 2 * pair[0] < pair[1]:  # a processor without such products may take 40 times as long
            return pair[0] / pair[1]
        times.append(pair)
    return min(first for first, _ in times[1:]) / min(second for _, second in times[1:])


def _seconds(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    for call in calls:
        call()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gradient_error(exact: Gradient, reduced: Gradient) -> float:
    r"""The relative error of a gradient, $\|g' - g\| / \|g\|$ over all parameters together.

    Args:
        exact: the gradient g of each parameter, None where it has none.
        reduced: those of g'.

    Returns:
        The error; 0 where both are zero.

    >>> gradient_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
    0.1
    """
    pairs = [(a, b) for a, b in zip(exact, reduced, strict=True) if a is not None and b is not None]
    difference = sum(float((b.double() - a.double()).square().sum()) for a, b in pairs)
    norm = sum(float(a.double().square().sum()) for a, _ in pairs)
    return (difference / norm) ** 0.5 if norm else float(difference > 0)
