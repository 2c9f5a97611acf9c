"""The base of this package's objectives: a Pyro ELBO written as one differentiable loss."""

from collections.abc import Callable

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor

PyroFunction = Callable[..., object]  # a model or a guide
Arguments = tuple[object, ...]
Keywords = dict[str, object]


class DifferentiableELBO(Trace_ELBO):
    """An ELBO whose gradients are those of its loss; a subclass computes the loss from traces in `_loss_of`."""

    def tensor_loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor:
        """The differentiable loss, without the check for NaN, which reads its value.

        Args:
            model: a Pyro function.
            guide: another, of the same arguments.
            *args: their arguments.
            **kwargs: their keyword arguments.

        Returns:
            The loss (), nats.
        """
        return self._loss_of(list(self._get_traces(model, guide, args, kwargs)))

    def differentiable_loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor:
        loss = self.tensor_loss(model, guide, *args, **kwargs)
        warn_if_nan(loss, "loss")
        return loss

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> float:
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            torch.autograd.backward(loss, retain_graph=self.retain_graph)
        return torch_item(loss)
