"""The floating-point operations of a block of code, by the formulas of torch."""

from collections.abc import Callable, Mapping, Sequence

from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

from pyro_vae.context_managers import DispatchMode


class CountFlops(DispatchMode):
    """Counts as `torch.utils.flop_counter.FlopCounterMode` does: matrix products, convolutions and attention.

    >>> import torch
    >>> with CountFlops() as counted:
    ...     torch.ones(2, 3) @ torch.ones(3, 5)
    tensor([[3., 3., 3., 3., 3.],
            [3., 3., 3., 3., 3.]])
    >>> counted.total
    60
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        count = flop_registry.get(func.overloadpacket) if isinstance(func, OpOverload) else None
        if count is not None:
            self.total += int(count(*args, **keywords, out_val=result))
        return result
