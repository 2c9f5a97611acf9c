"""At which conditions the explorer decodes: labels or columns that are given, the same for all points of a plane."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns.conditions import GIVEN, original_codes
from pyro_vae.data.label_text import label_text
from pyro_vae.errors import InputError
from pyro_vae.programs.program_defaults import decoder_of
from pyro_vae.programs.row_inputs import bind_supported_kwargs, takes_row_input
from pyro_vae.report.latent_planes import BasePoint
from pyro_vae.typing import Program, RowLatents

NO_DECODER = "this program has no decode(z), so E[x | z] is not known at points that are no row's"
MAX_LEVELS = 10  # of a condition that has a start for each


@dataclass(frozen=True)
class Conditions:
    """What a program's `decode` takes beside z: row inputs of one row, (1, …) each, and these in words."""

    words: str = ""
    row_inputs: Mapping[str, Tensor] = field(default_factory=dict)


def decode_given(program: Program, z: RowLatents, conditions: Conditions) -> Tensor:
    """E[x | z, y] by a program's own `decode`.

    Args:
        program: the program.
        z: points (n, K).
        conditions: y, the same for all points.

    Returns:
        The decodings (n, D); `InputError` where there is no `decode`, or it needs more.
    """
    if (decode := decoder_of(program)) is None:
        raise InputError(NO_DECODER)
    inputs = {
        name: value.to(z.device).expand(len(z), *value.shape[1:]) for name, value in conditions.row_inputs.items()
    }
    return bind_supported_kwargs(decode)(z, inputs)


def given_starts(
    program: Program, data: Dataset, split: Split, points: list[BasePoint]
) -> list[tuple[BasePoint, Conditions]]:
    """The points that planes go through, each with conditions: rows with their own.

    The mean of all rows has the most usual ones, once for each level of a condition with few; then it stands alone.

    Args:
        program: the program.
        data: its data set.
        split: the rows.
        points: the mean of all rows, and rows.

    Returns:
        Pairs of a point, whose name says its conditions, and the conditions.
    """
    decode, inputs = decoder_of(program), split.row_inputs(slice(None))
    taken = [name for name in (GIVEN, "labels") if name in inputs and decode and takes_row_input(decode, name)]
    if not taken:
        return [(point, Conditions()) for point in points]
    name, values = taken[0], inputs[taken[0]]
    mean, *rows = points
    usual = _usual(data, values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])
    found = [(mean, one) for one in usual.split(1)]
    if len(usual) == 1:
        found += [(point, values[[point.row]]) for point in rows]
    return [_named(point, Conditions(_in_words(data, name, one), {name: one})) for point, one in found]


def _named(point: BasePoint, conditions: Conditions) -> tuple[BasePoint, Conditions]:
    return replace(point, name=f"{point.name}; {conditions.words}"), conditions


def _usual(data: Dataset, values: Tensor) -> Tensor:
    """The most usual conditions, (n, C): one row, or one for each level of the first condition with few levels.

    Args:
        data: the data set.
        values: labels or conditions of rows, (N, C).

    Returns:
        The most frequent levels, and medians of numbers; the most frequent level of that condition first.
    """
    has_levels = [bool(column.levels) for column in data.schema.conditions] or [True]
    columns = [each[each == each] for each in values.T]  # NaN is missing
    usual = torch.stack([_middle(*pair) for pair in zip(columns, has_levels, strict=True)])
    for place, (each, levels) in enumerate(zip(columns, has_levels, strict=True)):
        kinds = each.unique()
        if levels and 1 < len(kinds) <= MAX_LEVELS:
            usual = usual.repeat(len(kinds), 1)
            usual[1:, place] = kinds[kinds != usual[0, place]]
            return usual
    return usual[None]


def _middle(values: Tensor, has_levels: bool) -> Tensor:
    if not len(values):
        return values.new_full((), math.nan)
    middle: Tensor = (values.mode() if has_levels else values.median(0)).values
    return middle


def _in_words(data: Dataset, name: str, value: Tensor) -> str:
    if name == GIVEN:
        frame = data.schema.conditions.decode(original_codes(data.schema, value))
        return ", ".join(f"{column} = {frame[column].iloc[0]}" for column in frame)
    return f"label {label_text(int(value), data.label_levels)}"
