"""A program's parameters: its own Pyro param store, its state, and the device and type it works in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.errors import InputError

STORED = "pyro.param/"  # the prefix, in a saved state, of parameters that live in a param store and in no module
_ENTERED: list[Any] = []


@contextmanager
def use_param_store(program: Any) -> Iterator[None]:
    """Inside, Pyro's param store holds this program's parameters; outside, whatever it held before.

    The store's three dictionaries are exchanged for the program's own rather than copied in and out by
    `ParamStoreDict.scope`, which strips the links that `SVI.step` follows after the model has returned.
    """
    if _ENTERED and _ENTERED[-1] is program:
        yield
        return
    own = program.__dict__.setdefault("param_store", ParamStoreDict())
    store = pyro.get_param_store()
    outside = store._params, store._param_to_name, store._constraints
    store._params, store._param_to_name, store._constraints = own._params, own._param_to_name, own._constraints
    _ENTERED.append(program)
    try:
        with ExitStack() as stack:
            if waiting := program.__dict__.get("_waiting"):
                stack.enter_context(_Restore(waiting))
            yield
    finally:
        _ENTERED.pop()
        own._params, own._param_to_name, own._constraints = store._params, store._param_to_name, store._constraints
        store._params, store._param_to_name, store._constraints = outside


class _Restore(Messenger):
    """Give each parameter its saved value when the program first makes it: only then is its constraint known."""

    def __init__(self, waiting: dict[str, Tensor]) -> None:
        super().__init__()
        self.waiting = waiting

    def _pyro_post_param(self, msg: Any) -> None:
        saved = self.waiting.get(msg["name"])
        if saved is None:
            return
        store = pyro.get_param_store()
        made = dict(store.named_parameters())[msg["name"]]
        if made.shape != saved.shape:
            del store[msg["name"]]
            raise InputError(
                f"parameter {msg['name']} was saved with shape {tuple(saved.shape)}, and is made with "
                f"{tuple(made.shape)}: "
                "the program is not the one that was saved, or x has another width"
            )
        with torch.no_grad():
            made.copy_(saved)
        del self.waiting[msg["name"]]
        msg["value"] = store[msg["name"]]


def named_parameters(program: Any) -> dict[str, Tensor]:
    """Every unconstrained parameter of a program by name: its modules' first, then those in its param store alone."""
    found: dict[str, Tensor] = dict(program.named_parameters()) if isinstance(program, nn.Module) else {}
    known = {id(parameter) for parameter in found.values()}
    with use_param_store(program):
        for name, value in pyro.get_param_store().named_parameters():
            if id(value) not in known:
                found[STORED + name] = value
    return found


class DeviceAndDtype(NamedTuple):
    """Where and in which floating type a program computes; `tensor.to(*device_and_dtype(program))` converts to both."""

    device: torch.device
    dtype: torch.dtype


def device_and_dtype(program: Any, like: Tensor | None = None) -> DeviceAndDtype:
    """The device and floating type of a program's parameters and buffers; those of `like` where it has none."""
    held = list(named_parameters(program).values()) + (
        list(program.buffers()) if isinstance(program, nn.Module) else []
    )
    default = torch.empty(0) if like is None else like
    example = next((value for value in held if value.is_floating_point()), default)
    return DeviceAndDtype(example.device, example.dtype)


def copy_state(program: Any) -> dict[str, Tensor]:
    """A copy of all that a program has learned: parameters and saved buffers, by name."""
    state = dict(program.state_dict()) if isinstance(program, nn.Module) else {}
    state |= {name: value for name, value in named_parameters(program).items() if name.startswith(STORED)}
    state |= {STORED + name: value for name, value in program.__dict__.get("_waiting", {}).items()}
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def load_state(program: Any, state: dict[str, Tensor]) -> None:
    """Put a state into a program; parameters that a function has yet to make get their values when it does."""
    if isinstance(program, nn.Module):
        try:
            program.load_state_dict({name: value for name, value in state.items() if not name.startswith(STORED)})
        except RuntimeError as error:
            raise InputError(
                f"the saved weights do not fit this program (a guide that makes its parameters at its first call, as "
                f"Pyro's autoguides do, has to be called once in the function that builds it): {error}"
            ) from error
    made = named_parameters(program)
    waiting = {}
    for name, value in state.items():
        if name in made and name.startswith(STORED):
            made[name].data = value.to(made[name].device, copy=True)
        elif name.startswith(STORED):
            waiting[name.removeprefix(STORED)] = value
    program.__dict__["_waiting"] = waiting


def register_parameters(part: Any, name: str) -> None:
    """Tell Pyro of a part's trainable parameters; frozen ones (`requires_grad_(False)`) stay out of sight.

    Unlike `pyro.module` it never leaves another module's tensor under the name: with that, the second of two models in
    one process trains the first one's weights.
    """
    if not isinstance(part, nn.Module):
        return
    store = pyro.get_param_store()
    for key, parameter in part.named_parameters():
        if parameter.requires_grad:
            if not parameter.is_contiguous():  # the store would keep a contiguous copy instead
                parameter.data = parameter.data.contiguous()
            full = f"{name}.{key}"
            if full in store and store[full] is not parameter:
                del store[full]
            pyro.param(full, parameter)
