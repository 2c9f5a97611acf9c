"""A program's parameters: its Pyro param store, its state, and their device and dtype."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vae.context_managers import PYRO_LOCK
from pyro_vae.errors import InputError

PARAM_PREFIX = "pyro.param/"  # in a saved state, of parameters that are in a param store and in no module
_ACTIVE_PROGRAMS: list[object] = []  # whose param stores are in use, innermost last


@contextmanager
def use_param_store(program: object) -> Iterator[None]:
    """Within the context, Pyro's param store holds this program's parameters; after it, what it held before.

    Other threads wait at their own contexts meanwhile (`PYRO_LOCK`).
    The store's three dictionaries are exchanged for the program's own rather than copied in and out by
    `ParamStoreDict.scope`, which removes the attributes that `SVI.step` reads after the model has returned.
    """
    with PYRO_LOCK:
        if _ACTIVE_PROGRAMS and _ACTIVE_PROGRAMS[-1] is program:
            yield
        else:
            with _exchanged(program):
                yield


@contextmanager
def _exchanged(program: object) -> Iterator[None]:
    """Exchange the param store's dictionaries for the program's own."""
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
        if isinstance(program, ParamStoreModule):
            program.register_store(own)


class ParamStoreModule(nn.Module):
    """A module whose `pyro.param`s are its parameters, under `pyro.param/NAME`, unconstrained.

    So `state_dict`, `parameters()`, `to` and `double` mean what they mean for any module, and a copy by pickle,
    `copy.deepcopy` or `torch.save` has them. They exist once the functions have run; values that were loaded before
    are kept for them.
    """

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and `copy.deepcopy` take: without the weak references that Pyro leaves on parameters it saw."""
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        state = self.__dict__.copy()
        store: ParamStoreDict = state.pop("param_store", ParamStoreDict())
        own = [key.removeprefix(PARAM_PREFIX) for key in self._parameters if key.startswith(PARAM_PREFIX)]
        state["_constraints"] = {name: store._constraints[name] for name in own}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        constraints, store = state.pop("_constraints"), ParamStoreDict()
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        for name, constraint in constraints.items():
            value = self._parameters[PARAM_PREFIX + name]
            assert value is not None
            store._params[name], store._param_to_name[value], store._constraints[name] = value, name, constraint
        self.__dict__["param_store"] = store  # parameters of modules come back with the modules' next call

    def register_store(self, store: ParamStoreDict) -> None:
        """Make the parameters that are in a param store and in no module those of the program itself.

        They stay the tensors that they are, so that traces and optimizers which hold them go on with them.

        Args:
            store: the program's own.
        """
        known = {id(parameter) for parameter in self.parameters()}
        for name, value in store._params.items():
            if id(value) not in known:
                value.__class__ = nn.Parameter
                self._parameters[PARAM_PREFIX + name] = cast(nn.Parameter, value)
        for key in [key for key in self._parameters if key.startswith(PARAM_PREFIX)]:
            if store._params.get(key.removeprefix(PARAM_PREFIX)) is not self._parameters[key]:
                del self._parameters[key]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Parameters that were loaded and are not created yet are part of the state."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.__dict__.get("_pending", {}).items():
            destination[f"{prefix}{PARAM_PREFIX}{name}"] = value if keep_vars else value.detach()
        for name, value in self.__dict__.get("_waiting", {}).items():
            destination[f"{prefix}{name}"] = value

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Parameters of functions that have not run yet get their values when they are created."""
        own = f"{prefix}{PARAM_PREFIX}"
        names = [key for key in state_dict if key.startswith(own)]
        later = {key for key in names if key.removeprefix(prefix) not in self._parameters}
        now = {key: value for key, value in state_dict.items() if key not in later}
        super()._load_from_state_dict(now, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        unexpected_keys[:] = [key for key in unexpected_keys if key not in names]  # torch splits names at their dots
        if later:
            pending = {key.removeprefix(own): state_dict[key].detach().clone() for key in later}
            self.__dict__["_pending"] = self.__dict__.get("_pending", {}) | pending


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
    own = program.parameters() if isinstance(program, nn.Module) else iter(())
    for value in own:  # without the param store's lock
        if value.is_floating_point():
            return DeviceAndDtype(value.device, value.dtype)
    held = [*named_parameters(program).values(), *(program.buffers() if isinstance(program, nn.Module) else ())]
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
    own = state
    if isinstance(program, nn.Module) and not isinstance(program, ParamStoreModule):
        own = {name: value for name, value in state.items() if not name.startswith(PARAM_PREFIX)}
    if isinstance(program, nn.Module):
        try:
            program.load_state_dict(own)
        except RuntimeError as error:
            raise InputError(f"the saved weights do not fit this program: {error}") from error
    if isinstance(program, ParamStoreModule):
        return
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
