"""One fused torch optimizer for all parameters, with the interface of Pyro's optimizers; learning-rate schedules."""

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
    """A `PyroOptim` with one torch optimizer for all parameters, where Pyro's own makes one for each.

    Before a step `reduce`, if set, replaces the gradients by those of the whole batch of all processes; the gradient
    of `penalty`, if set, is added, which no reported number includes; and gradients are clipped by their joint norm
    where `clip` is given. After the step they are None. Parameters keep the order in which they were added, so that
    sums over them have the same bits in each run. `has_stepped` tells whether the last call had any parameters.
    """

    def __init__(self, name: str, learning_rate: float, clip: float | None = None) -> None:
        if name not in OPTIMIZERS:
            raise InputError(f"no optimizer called {name!r}; try one of {', '.join(OPTIMIZERS)}")
        self._optimizer_class, self._options = OPTIMIZERS[name]
        self.learning_rate, self.clip = learning_rate, clip
        self.parameters: dict[str, Tensor] = {}
        self._known: set[int] = set()
        self._torch: torch.optim.Optimizer | None = None
        self.has_stepped = False
        self.penalty: Callable[[], Tensor] | None = None
        self.reduce: Callable[[list[Tensor]], None] | None = None

    def add_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Train these parameters too, by name; those that are known or frozen are left out."""
        new = {n: value for n, value in parameters.items() if value.requires_grad and id(value) not in self._known}
        if not new:
            return
        self.parameters |= new
        self._known |= {id(value) for value in new.values()}
        if self._torch is None:
            self._torch = self._optimizer_class(list(new.values()), lr=self.learning_rate, **self._options)  # type: ignore[call-arg]
        else:
            self._torch.add_param_group({"params": list(new.values())})

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        params = list(params)
        unknown = [value for value in params if id(value) not in self._known]
        self.has_stepped = bool(params)
        if unknown:
            store = pyro.get_param_store()
            self.add_parameters(dict(sorted({f"{store.param_name(value)}": value for value in unknown}.items())))
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
        """The optimizer's moments and step counts, each as `PARAMETER/KEY`."""
        if self._torch is None:
            return {}
        states = ((name, self._torch.state.get(value, {})) for name, value in self.parameters.items())
        return {
            f"{name}/{key}": torch.as_tensor(item).clone()
            for name, state in states
            for key, item in state.items()
            if item is not None
        }

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Load a state of `get_state`; torch moves each tensor to its parameter's device."""
        if self._torch is None:
            return
        indices = {name: i for i, name in enumerate(self.parameters)}
        moments: dict[int, dict[str, Tensor]] = {}
        for full_name, item in state.items():
            name, _, key = full_name.rpartition("/")
            if name not in indices:
                raise InputError(
                    f"the checkpoint has {name}, a parameter that this fit does not have at its start; start a new fit"
                )
            moments.setdefault(indices[name], {})[key] = item
        self._torch.load_state_dict({"state": moments, "param_groups": self._torch.state_dict()["param_groups"]})


def rate_factor(schedule: str, done: float) -> float:
    """The factor of the learning rate after a share `done`, in [0, 1], of all steps.

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
