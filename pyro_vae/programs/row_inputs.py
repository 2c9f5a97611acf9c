"""Rows and what belongs to them, and how a model or guide is called with those of them that it asks for."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import Dataset
from pyro_vae.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Some rows and what belongs to them.

    `x` (n, D); `rows` (n,) the rows' places in the training set (None for rows held out); `labels` (n,) and `mask` (n,
    D), or None; `num_rows` the number N of training rows.
    """

    x: Tensor
    rows: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    num_rows: int = 0

    @property
    def row_inputs(self) -> dict[str, Any]:
        given = {
            "rows": self.rows,
            "labels": self.labels,
            "mask": self.mask,
            "num_rows": max(self.num_rows, len(self.x)),
        }
        return {key: value for key, value in given.items() if value is not None}

    def take(self, index: Tensor) -> "Batch":
        kept = {"rows": self.rows, "labels": self.labels, "mask": self.mask}
        taken: dict[str, Any] = {name: value[index] for name, value in kept.items() if value is not None}
        return replace(self, x=self.x[index], **taken)


def bind_supported_kwargs(function: Callable[..., Any]) -> Callable[[Tensor, dict[str, Any]], Any]:
    """The function as one of (x, row_inputs): each extra is passed only where the signature names it.

    A module's signature is that of its `forward`; a function that takes any keyword names none.
    """
    if getattr(function, "accepts_row_inputs", False):
        return lambda x, row_inputs: function(x, **row_inputs)
    kind: Any = type(function)
    needed, names = _keywords_of_module(kind) if isinstance(function, nn.Module) else _keywords(function)

    def called(x: Tensor, row_inputs: dict[str, Any]) -> Any:
        if missing := [name for name in needed if name not in row_inputs]:
            raise InputError(
                f"{getattr(function, '__qualname__', function)} asks for {', '.join(missing)}, which these rows do not "
                "have; a program may ask for rows (only training rows have a place in the training set; for a tensor "
                "give rows=…), labels, mask and num_rows"
            )
        return function(x, **{key: row_inputs[key] for key in names & row_inputs.keys()})

    return called


def _keywords(function: Callable[..., Any], before: int = 1) -> tuple[list[str], frozenset[str]]:
    """The names of a function's arguments after x: those it cannot do without, and all."""
    named = inspect.signature(function).parameters.values()
    after = [p for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][before:]
    return [p.name for p in after if p.default is p.empty], frozenset(p.name for p in after)


@cache
def _keywords_of_module(kind: Any) -> tuple[list[str], frozenset[str]]:
    return _keywords(kind.forward, before=2)  # self and x


def require_mask(program: Any, mask: Tensor | None) -> None:
    """`InputError` where values are missing and the model would not be told."""
    if mask is None:
        return
    model = program.model
    takes = (
        getattr(model, "accepts_row_inputs", False)
        or "mask" in _keywords(model.forward if isinstance(model, nn.Module) else model)[1]
    )
    if not takes:
        raise InputError(
            "values are missing, and the program's model takes no mask: give model(x, mask=None) a likelihood of the "
            "observed values (likelihood.masked(z, mask)), or fill them first"
        )


def probe_batch(data: Dataset) -> Batch:
    """Two training rows with all that belongs to them, for a first look at a program."""
    return Batch(data.train[:2], torch.arange(2), num_rows=len(data.train), **data.train.row_inputs(slice(2)))
