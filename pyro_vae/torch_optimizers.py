"""Optimizers of torch without what costs time around their steps: importing its compiler, and lists made anew."""

import inspect
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

METHODS = (
    "add_param_group",
    "load_state_dict",
    "state_dict",
    "zero_grad",
)  # whose decorators import it, as that of `step` does
Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


def without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    """An optimizer's class without the decorators that keep torch's compiler out of its methods; other classes as is.

    Steps and their hooks are the same.

    Args:
        cls: a class of `torch.optim`, or another.

    Returns:
        A subclass of the same name.

    >>> weights = torch.nn.Parameter(torch.ones(2))
    >>> weights.grad = torch.ones(2)
    >>> without_compiler(torch.optim.SGD)([weights], lr=0.5).step()
    >>> weights.tolist()
    [0.5, 0.5]
    """
    if not cls.__module__.startswith("torch.optim."):
        return cls
    methods = {name: inspect.unwrap(getattr(cls, name)) for name in METHODS}
    made: type[Optimizer] = type(cls.__name__, (cls,), methods | {"step": torch.no_grad()(inspect.unwrap(cls.step))})
    return made


class FusedAdamStep:
    """The fused step of torch's Adam or AdamW, on lists of tensors that `step` itself gathers and groups at each call.

    The numbers are the same; for small networks a step takes a third of the time. It is made of an optimizer that has
    taken a step on all its parameters, and made anew after its `load_state_dict` and `add_param_group`.

    Args:
        optimizer: the optimizer, of one group that `is_supported`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self._group,) = optimizer.param_groups
        self._parameters: list[Tensor] = self._group["params"]
        states = [optimizer.state[parameter] for parameter in self._parameters]
        self._means, self._squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        self._counts = torch.stack([state["step"] for state in states])  # all steps' counts are raised at once
        self._steps = list(self._counts)
        for state, step in zip(states, self._steps, strict=True):
            state["step"] = step
        own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        self._hooks = (*own, _global_optimizer_pre_hooks, _global_optimizer_post_hooks)
        self._function = torch._fused_adamw_ if self._group["decoupled_weight_decay"] else torch._fused_adam_

    @staticmethod
    def is_supported(optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer is fused and all its parameters, in one group, have had a step."""
        if not isinstance(optimizer, torch.optim.Adam) or len(optimizer.param_groups) != 1:
            return False
        (group,) = optimizer.param_groups
        others = any(group[name] for name in ("amsgrad", "capturable", "differentiable", "maximize"))
        kinds = {(parameter.device, parameter.dtype) for parameter in group["params"]}
        has_stepped = all(parameter in optimizer.state for parameter in group["params"])
        return bool(group["fused"]) and not others and len(kinds) == 1 and has_stepped

    @torch.no_grad()
    def __call__(self, learning_rate: float) -> bool:
        """Take a step.

        Args:
            learning_rate: its learning rate.

        Returns:
            Whether it was taken: not where a parameter has no gradient, or where hooks are to be called.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if len(gradients) < len(self._parameters) or any(self._hooks):
            return False
        self._counts.add_(1)
        beta1, beta2 = self._group["betas"]
        self._function(
            self._parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self._group["weight_decay"],
            eps=self._group["eps"],
            amsgrad=False,
            maximize=False,
        )
        return True
