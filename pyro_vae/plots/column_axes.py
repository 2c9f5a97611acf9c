"""Axes of columns with kinds: levels by their text, dates as dates, amounts on a logarithmic scale."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pyro_vae.data import Dataset
from pyro_vae.data.columns import NUMBERS, Column
from pyro_vae.plots import style

MAX_NAMED_LEVELS = 12  # on one axis


def shown_columns(data: Dataset) -> list[int]:
    """The two columns of a table that a plane shows: the first two of numbers, where some have other kinds.

    Args:
        data: the table.

    Returns:
        Their places, or one of a table with one column.
    """
    if data.schema.coding != "columns":
        return list(range(min(2, data.num_features)))
    modelled = data.schema.modelled
    numbers = [i for i, column in enumerate(modelled) if column.kind in NUMBERS]
    others = [i for i in range(len(modelled)) if i not in numbers]
    return [*numbers, *others][:2]


def format_column_axes(axes: Axes, data: Dataset, places: list[int]) -> None:
    """Bring the axes of a plane to the kinds of its columns.

    Args:
        axes: the axes, drawn in the units of the table.
        data: the table.
        places: the columns' places, of x and of y.
    """
    if data.schema.coding != "columns" or len(places) < 2:
        return
    for axis, scale, place in ((axes.xaxis, axes.set_xscale, places[0]), (axes.yaxis, axes.set_yscale, places[1])):
        column = data.schema.modelled[place]
        if column.kind == "positive" and not column.has_zeros:
            scale("log")
        else:
            _name_values(axis, column)


def _name_values(axis: Axis, column: Column) -> None:
    if column.kind == "datetime":
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(FuncFormatter(lambda day, _: str(np.datetime64(int(day), "D"))))
    elif column.levels and len(column.levels) <= MAX_NAMED_LEVELS:
        axis.set_major_locator(FixedLocator(list(range(len(column.levels)))))
        names = [style.escape_mathtext(str(level)) for level in column.levels]
        axis.set_major_formatter(FuncFormatter(lambda place, _: names[round(place)] if 0 <= place < len(names) else ""))
