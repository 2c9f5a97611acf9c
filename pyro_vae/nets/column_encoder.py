"""The input of a network that reads a table: each column as its kind calls for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.data.columns import Column, Schema

MAX_ONE_HOT = 32  # levels; columns with more have an embedding
EMBEDDING_DIM = 8
TINY = 1e-6


@part
class ColumnEncoder(nn.Module):
    r"""A network of the columns of a table, each brought to the usual range of inputs.

    Real numbers, dates and whole numbers as they are (standardized), positive ones as logarithms with a flag for zero,
    shares as logits, counts as $\log(1 + x)$, levels one-hot, those of more than 32 as embeddings; a level that was
    never seen is no level. With a mask the values that are missing are 0, and the mask is an input too.

    Args:
        net: a network from (..., `ColumnEncoder.num_inputs(schema, masked)`).
        schema: the columns (`data.schema`).
        masked: whether x is followed by the mask of observed values, (..., 2D).
        num_appended: how many inputs follow the columns, as the indicator of a label does, and go to the network as
            they are; the mask has as many.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("customers", label="churned")
    >>> net = pv.nets.mlp(ColumnEncoder.num_inputs(data.schema), 16, 4)
    >>> ColumnEncoder(net, data.schema)(data.test.x[:5]).shape
    torch.Size([5, 4])
    """

    def __init__(self, net: nn.Module, schema: Schema, masked: bool = False, num_appended: int = 0) -> None:
        super().__init__()
        columns = schema.modelled
        self.net, self.masked, self.num_columns, self.num_appended = net, masked, len(columns), num_appended
        kinds = _by_transform(columns)
        for name in ("plain", "log", "zero", "logit", "count"):
            self.register_buffer(f"_{name}", torch.tensor(kinds[name], dtype=torch.long), persistent=False)
        self.register_buffer("_unit", torch.tensor([columns[i].scale for i in kinds["zero"]]), persistent=False)
        pairs = [(i, level) for i in kinds["one-hot"] for level in range(len(columns[i].levels))]
        self.register_buffer("_level_column", torch.tensor([i for i, _ in pairs], dtype=torch.long), persistent=False)
        self.register_buffer("_level", torch.tensor([float(level) for _, level in pairs]), persistent=False)
        sizes = torch.tensor([0] + [len(columns[i].levels) + 1 for i in kinds["embedded"]])
        self.register_buffer("_embedded", torch.tensor(kinds["embedded"], dtype=torch.long), persistent=False)
        self.register_buffer("_first", sizes.cumsum(0)[:-1], persistent=False)
        self.register_buffer("_last", sizes[1:] - 1, persistent=False)
        self.embedding = nn.Embedding(int(sizes.sum()), EMBEDDING_DIM) if kinds["embedded"] else None

    _plain: Tensor
    _log: Tensor
    _zero: Tensor
    _logit: Tensor
    _count: Tensor
    _unit: Tensor
    _level_column: Tensor
    _level: Tensor
    _embedded: Tensor
    _first: Tensor
    _last: Tensor

    @classmethod
    def num_inputs(cls, schema: Schema, masked: bool = False) -> int:
        """The number of inputs that the network gets for the columns of a schema.

        Args:
            schema: the columns.
            masked: whether the mask of observed values is an input too.

        Returns:
            The number of inputs.
        """
        columns = schema.modelled
        kinds = _by_transform(columns)
        numbers = sum(len(kinds[name]) for name in ("plain", "log", "logit", "count")) + 2 * len(kinds["zero"])
        levels = sum(len(columns[i].levels) for i in kinds["one-hot"])
        return numbers + levels + EMBEDDING_DIM * len(kinds["embedded"]) + masked * len(columns)

    def forward(self, x: Tensor) -> Tensor:
        width = self.num_columns + self.num_appended
        mask = x[..., width : width + self.num_columns] if self.masked else None
        x, appended = x[..., : self.num_columns], x[..., self.num_columns : width]
        transformed: list[tuple[Tensor, list[Callable[[Tensor], Tensor]]]] = [
            (self._plain, [lambda values: values]),
            (self._log, [lambda values: values.clamp(min=TINY).log()]),
            (self._zero, [self._log_or_zero, lambda values: (values == 0).to(x.dtype)]),
            (self._logit, [lambda values: torch.logit(values.clamp(TINY, 1 - TINY))]),
            (self._count, [lambda values: torch.log1p(values.clamp(min=0))]),
            (self._level_column, [lambda values: (values == self._level).to(x.dtype)]),
        ]
        parts = [
            self._observed(function(x.index_select(-1, columns)), mask, columns)
            for columns, functions in transformed
            if len(columns)
            for function in functions
        ]
        if self.embedding is not None:
            code = torch.minimum(x.index_select(-1, self._embedded).long().clamp(min=0), self._last)
            vectors = self.embedding(code + self._first)
            if mask is not None:
                vectors = vectors * mask.index_select(-1, self._embedded).unsqueeze(-1)
            parts.append(vectors.flatten(-2))
        if mask is not None:
            parts.append(mask)
        if self.num_appended:
            parts.append(appended)
        out: Tensor = self.net(torch.cat(parts, -1) if parts else x)  # x of no columns is of width 0
        return out

    def _log_or_zero(self, values: Tensor) -> Tensor:
        return (values / self._unit).clamp(min=TINY).log() * (values > 0)

    @staticmethod
    def _observed(values: Tensor, mask: Tensor | None, columns: Tensor) -> Tensor:
        return values if mask is None else values * mask.index_select(-1, columns)


def _by_transform(columns: Sequence[Column]) -> dict[str, list[int]]:
    """The numbers of the columns by the transform of their kind."""
    found: dict[str, list[int]] = {
        name: [] for name in ("plain", "log", "zero", "logit", "count", "one-hot", "embedded")
    }
    for number, column in enumerate(columns):
        name = {"positive": "log", "bounded": "logit", "count": "count"}.get(column.kind, "plain")
        if column.levels:
            name = "one-hot" if len(column.levels) <= MAX_ONE_HOT else "embedded"
        found["zero" if name == "log" and column.has_zeros else name].append(number)
    return found
