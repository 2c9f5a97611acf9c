"""Batches of rows with their inputs (`rows`, `labels`, `mask`, `num_rows`), and calls with those a function takes."""

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
    """Some rows and their inputs.

    `x` (n, D); `rows` (n,) the rows' indices in the training set (None for rows held out); `labels` (n,) and `mask` (n,
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
    """The function as one of (x, row_inputs): each input is passed only where the signature names it.

    A module's signature is that of its `forward`; a function that takes any keyword names none.
    """
    if getattr(function, "accepts_row_inputs", False):
        return lambda x, row_inputs: function(x, **row_inputs)
    kind: Any = type(function)
    needed, names = _keywords_of_module(kind) if isinstance(function, nn.Module) else _keywords(function)

    def call(x: Tensor, row_inputs: dict[str, Any]) -> Any:
        if missing := [name for name in needed if name not in row_inputs]:
            raise InputError(
                f"{getattr(function, '__qualname__', function)} asks for {', '.join(missing)}, which these rows do not "
                "have; a program may ask for rows (only training rows have an index in the training set; for a tensor "
                "give rows=…), labels, mask and num_rows"
            )
        return function(x, **{key: row_inputs[key] for key in names & row_inputs.keys()})

    return call


def _keywords(function: Callable[..., Any], before: int = 1) -> tuple[list[str], frozenset[str]]:
    """The names of a function's arguments after x: the required ones, and all."""
    named = inspect.signature(function).parameters.values()
    after = [p for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][before:]
    return [p.name for p in after if p.default is p.empty], frozenset(p.name for p in after)


@cache
def _keywords_of_module(kind: Any) -> tuple[list[str], frozenset[str]]:
    return _keywords(kind.forward, before=2)  # self and x


def require_mask(program: Any, mask: Tensor | None) -> None:
    """`InputError` where values are missing and the model takes no mask."""
    if mask is None:
        return
    model = program.model
    takes_mask = (
        getattr(model, "accepts_row_inputs", False)
        or "mask" in _keywords(model.forward if isinstance(model, nn.Module) else model)[1]
    )
    if not takes_mask:
        raise InputError(
            "values are missing, and the program's model takes no mask: give model(x, mask=None) a likelihood of the "
            "observed values (likelihood.masked(z, mask)), or fill them first"
        )


def probe_batch(data: Dataset) -> Batch:
    """Two training rows with their inputs, for a first run of a program."""
    return Batch(data.train[:2], torch.arange(2), num_rows=len(data.train), **data.train.row_inputs(slice(2)))
