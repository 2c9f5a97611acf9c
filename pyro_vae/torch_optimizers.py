"""Optimizers of torch that do not import its compiler, which takes a second."""

import inspect
from typing import TypeVar

import torch

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
