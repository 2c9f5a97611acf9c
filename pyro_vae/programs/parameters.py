"""A program's parameters: its Pyro param store, its state, and their device and dtype."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vae.errors import InputError

PARAM_PREFIX = "pyro.param/"  # in a saved state, of parameters that are in a param store and in no module
_ACTIVE_PROGRAMS: list[object] = []  # whose param stores are in use, innermost last


@contextmanager
def use_param_store(program: object) -> Iterator[None]:
    """Within the context, Pyro's param store holds this program's parameters; after it, what it held before.

    The store's three dictionaries are exchanged for the program's own rather than copied in and out by
    `ParamStoreDict.scope`, which removes the attributes that `SVI.step` reads after the model has returned.
    """
    if _ACTIVE_PROGRAMS and _ACTIVE_PROGRAMS[-1] is program:
        yield
        return
    own = program.__dict__.setdefault("param_store", ParamStoreDict())
    store = pyro.get_param_store()
    outside = store._params, store._param_to_name, store._constraints
    store._params, store._param_to_name, store._constraints = own._params, own._param_to_name, own._constraints
    _ACTIVE_PROGRAMS.append(program)
    try:
        with ExitStack() as stack:
            if pending := program.__dict__.get("_pending"):
                stack.enter_context(_RestorePending(pending))
            yield
    finally:
        _ACTIVE_PROGRAMS.pop()
        own._params, own._param_to_name, own._constraints = store._params, store._param_to_name, store._constraints
        store._params, store._param_to_name, store._constraints = outside


class _RestorePending(Messenger):
    """Set each parameter to its saved value when the program first creates it: only then is its constraint known."""

    def __init__(self, pending: dict[str, Tensor]) -> None:
        super().__init__()
        self.pending = pending

    def _pyro_post_param(self, msg: Message[..., Tensor]) -> None:
        name = msg["name"]
        if name is None or name not in self.pending:
            return
        saved, store = self.pending[name], pyro.get_param_store()
        created = dict(store.named_parameters())[name]
        if created.shape != saved.shape:
            del store[name]
            raise InputError(
                f"parameter {name} was saved with shape {tuple(saved.shape)}, and is created with "
                f"{tuple(created.shape)}: the program is not the one that was saved, or x has another width"
            )
        with torch.no_grad():
            created.copy_(saved)
        del self.pending[name]
        msg["value"] = store[name]


def named_parameters(program: object) -> dict[str, Tensor]:
    """Every unconstrained parameter of a program by name: its modules' first, then those only in its param store."""
    found: dict[str, Tensor] = dict(program.named_parameters()) if isinstance(program, nn.Module) else {}
    known = {id(parameter) for parameter in found.values()}
    with use_param_store(program):
        for name, value in pyro.get_param_store().named_parameters():
            if id(value) not in known:
                found[PARAM_PREFIX + name] = value
    return found


class DeviceAndDtype(NamedTuple):
    """Where and in which floating type a program computes; `tensor.to(*device_and_dtype(program))` converts to both."""

    device: torch.device
    dtype: torch.dtype


def device_and_dtype(program: object, like: Tensor | None = None) -> DeviceAndDtype:
    """The device and floating type of a program's parameters and buffers.

    Args:
        program: any program.
        like: a tensor whose device and type count where the program has neither parameters nor buffers.

    Returns:
        Both, in the order of the arguments of `Tensor.to`.
    """
    held = list(named_parameters(program).values()) + (
        list(program.buffers()) if isinstance(program, nn.Module) else []
    )
    default = torch.empty(0) if like is None else like
    example = next((value for value in held if value.is_floating_point()), default)
    return DeviceAndDtype(example.device, example.dtype)


def copy_state(program: object) -> dict[str, Tensor]:
    """A copy of a program's state: parameters and saved buffers, by name."""
    state = dict(program.state_dict()) if isinstance(program, nn.Module) else {}
    state |= {name: value for name, value in named_parameters(program).items() if name.startswith(PARAM_PREFIX)}
    state |= {PARAM_PREFIX + name: value for name, value in program.__dict__.get("_pending", {}).items()}
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def load_state(program: object, state: dict[str, Tensor]) -> None:
    """Load a state into a program; parameters that do not exist yet get their values when they are created.

    Args:
        program: any program; `InputError` where the state does not fit it.
        state: its parameters and saved buffers by name, as `copy_state` gives them.
    """
    if isinstance(program, nn.Module):
        try:
            program.load_state_dict({name: value for name, value in state.items() if not name.startswith(PARAM_PREFIX)})
        except RuntimeError as error:
            raise InputError(
                f"the saved weights do not fit this program (a guide that creates its parameters at its first call, as "
                f"Pyro's autoguides do, has to be called once in the function that builds it): {error}"
            ) from error
    existing = named_parameters(program)
    pending = {}
    for name, value in state.items():
        if name in existing and name.startswith(PARAM_PREFIX):
            existing[name].data = value.to(existing[name].device, copy=True)
        elif name.startswith(PARAM_PREFIX):
            pending[name.removeprefix(PARAM_PREFIX)] = value
    program.__dict__["_pending"] = pending


def register_parameters(part: object, name: str) -> None:
    """Register a part's trainable parameters with Pyro; frozen ones (`requires_grad_(False)`) are not registered.

    Unlike `pyro.module` it replaces another module's tensor of the same name: otherwise the second of two models in
    one process would train the first one's weights.

    Args:
        part: a part; one that is no module has no parameters to register.
        name: the prefix of their names in the param store.
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
