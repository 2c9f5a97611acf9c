"""One fused torch optimizer over all parameters, in the shape that Pyro's SVI asks for."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.errors import InputError

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
}
SCHEDULES = ("constant", "cosine", "one-cycle")


class FusedOptimizer(PyroOptim):
    """A `PyroOptim` that holds one torch optimizer, where Pyro's own makes one for each parameter.

    Where a fit is shared by processes, `reduce` replaces the gradients by those of the whole batch. The gradient of a
    `penalty` is added before the step, which no reported number counts. Gradients are clipped by
    their joint norm where `clip` is given, and set to None after the step. Parameters are kept
    in the order they were named in, so that two runs add up the same numbers in the same order.
    """

    def __init__(self, name: str, learning_rate: float, clip: float | None = None) -> None:
        if name not in OPTIMIZERS:
            raise InputError(f"no optimizer called {name!r}; try one of {', '.join(OPTIMIZERS)}")
        self.make, self.options = OPTIMIZERS[name]
        self.learning_rate, self.clip = learning_rate, clip
        self.parameters: dict[str, Tensor] = {}
        self._known: set[int] = set()
        self._torch: torch.optim.Optimizer | None = None
        self.has_stepped = False
        self.penalty: Callable[[], Tensor] | None = None
        self.reduce: Callable[[list[Tensor]], None] | None = None

    def add_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Train these parameters, each under its name, from now on."""
        fresh = {
            name: value for name, value in parameters.items() if value.requires_grad and id(value) not in self._known
        }
        if not fresh:
            return
        self.parameters |= fresh
        self._known |= {id(value) for value in fresh.values()}
        if self._torch is None:
            self._torch = self.make(list(fresh.values()), lr=self.learning_rate, **self.options)  # type: ignore[call-arg]
        else:
            self._torch.add_param_group({"params": list(fresh.values())})

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        params = list(params)
        late = [value for value in params if id(value) not in self._known]
        self.has_stepped = bool(params)
        if late:
            store = pyro.get_param_store()
            self.add_parameters(dict(sorted({f"{store.param_name(value)}": value for value in late}.items())))
        if self._torch is None:
            return
        if self.reduce is not None:
            self.reduce(list(self.parameters.values()))
        if self.penalty is not None and (penalty := self.penalty()).requires_grad:
            penalty.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        for group in self._torch.param_groups:
            group["lr"] = self.learning_rate
        self._torch.step()
        for parameter in self.parameters.values():
            parameter.grad = None

    def get_state(self) -> dict[str, Tensor]:
        """The optimizer's moments and counters, flat, named after the parameters."""
        if self._torch is None:
            return {}
        kept = ((name, self._torch.state.get(value, {})) for name, value in self.parameters.items())
        return {
            f"{name}/{key}": torch.as_tensor(item).clone()
            for name, state in kept
            for key, item in state.items()
            if item is not None
        }

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `get_state` gave; torch puts each piece on its parameter's device."""
        if self._torch is None:
            return
        places = {name: i for i, name in enumerate(self.parameters)}
        moments: dict[int, dict[str, Tensor]] = {}
        for full, item in state.items():
            name, _, key = full.rpartition("/")
            if name not in places:
                raise InputError(
                    f"the checkpoint holds {name}, a parameter this fit does not have at its start; begin anew"
                )
            moments.setdefault(places[name], {})[key] = item
        self._torch.load_state_dict({"state": moments, "param_groups": self._torch.state_dict()["param_groups"]})


def rate_factor(schedule: str, done: float) -> float:
    """What multiplies the learning rate when a share `done` in [0, 1] of all steps is over.

    `cosine` falls from 1 to 0; `one-cycle` rises from 1/25 to 1 over the first 30 % and falls to 0 (Smith & Topin,
    arXiv:1708.07120).

    >>> [round(rate_factor("cosine", t), 3) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "one-cycle":
        if done < 0.3:
            return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * done / 0.3))
        return 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    raise InputError(f"no schedule called {schedule!r}; try one of {', '.join(SCHEDULES)}")
