"""One fused torch optimizer for all parameters, with the interface of Pyro's optimizers."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.inference.svi.train_config import OPTIMIZERS, TrainConfig
from pyro_vae.torch_optimizers import FusedAdamStep, without_compiler

if TYPE_CHECKING:
    from pyro_vae.inference.svi.fit_method import Step


class FusedOptimizer(PyroOptim):
    """A `PyroOptim` with one torch optimizer for all parameters, where Pyro's own makes one for each.

    A fit method calls `start_step` before a batch. In a call, `reduce`, if set, replaces the gradients by those of the
    whole batch of all processes; then the gradient of `penalty`, if set, is added, which no reported number includes;
    then gradients are clipped by their joint norm where `clip` is given; then the parameters are changed, and their
    gradients are None. What comes after `reduce` has to be the same in all processes. Parameters keep the order in
    which they were added, so that sums over them have the same bits in each run. `has_stepped` tells whether the last
    call had any parameters.

    Args:
        name: the optimizer, an entry of `OPTIMIZERS`.
        learning_rate: of the first step; the attribute may change before each step.
        clip: the largest joint norm of the gradients; None for any.
    """

    def __init__(self, name: str, learning_rate: float, clip: float | None = None) -> None:
        self._entry = OPTIMIZERS[name]
        self.learning_rate, self.clip = learning_rate, clip
        self.parameters: dict[str, Tensor] = {}
        self._known: set[int] = set()
        self._torch: torch.optim.Optimizer | None = None
        self._fused: FusedAdamStep | None = None
        self.has_stepped = False
        self.penalty: Callable[[], Tensor] | None = None
        self.reduce: Callable[[list[Tensor]], None] | None = None

    @classmethod
    def from_config(cls, config: TrainConfig) -> "FusedOptimizer":
        """The optimizer that the training settings describe."""
        return cls(config.optimizer, config.learning_rate, clip=config.clip)

    def start_step(self, step: "Step") -> None:
        """Take the learning rate of a batch and, where settings need it, its epoch.

        Args:
            step: the batch and its place in the fit.
        """
        self.learning_rate = step.learning_rate

    def add_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Train these parameters too, by name; those that are known or frozen are left out."""
        new = {n: value for n, value in parameters.items() if value.requires_grad and id(value) not in self._known}
        if not new:
            return
        self.parameters |= new
        self._known |= {id(value) for value in new.values()}
        self._fused = None
        if self._torch is None:
            found: Callable[..., torch.optim.Optimizer] = self._entry.load()
            made: Callable[..., torch.optim.Optimizer] = without_compiler(found) if isinstance(found, type) else found
            self._torch = made(list(new.values()), lr=self.learning_rate, **self._entry.fixed)
        else:
            self._torch.add_param_group({"params": list(new.values())})

    def __call__(self, params: Iterable[Tensor], *args: object, **kwargs: object) -> None:
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
            penalty.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        if self._fused is None or not self._fused(self.learning_rate):
            for group in self._torch.param_groups:
                group["lr"] = self.learning_rate
            self._torch.step()
            self._fused = FusedAdamStep(self._torch) if FusedAdamStep.is_supported(self._torch) else None
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
        self._fused = None
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
