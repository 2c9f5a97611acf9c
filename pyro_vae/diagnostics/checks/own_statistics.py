"""Statistics of a user's own, of arrays or of frames."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyro_vae.data import Split
from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.conditions import GIVEN, original_codes
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.row_statistics import Statistic, original_values
from pyro_vae.errors import InputError

OwnStatistic = Callable[[Any], float]


def statistics_of_arrays(
    statistics: Mapping[str, OwnStatistic], schema: Schema, rows: Split
) -> dict[str, Callable[[Array], float]]:
    """A user's statistics as functions of arrays, whether they are given arrays or frames.

    Args:
        statistics: by name functions of a data frame (n rows) with the columns of the data, levels as they are
            written, and the conditions; of an array (n, D) in original units where columns have no names.
        schema: the columns of the data.
        rows: the rows that are checked, whose conditions all sets have.

    Returns:
        The functions of arrays (n, D) by name.
    """
    if not schema.modelled:
        return dict(statistics)
    given = rows.inputs.get(GIVEN)
    codes = None if given is None else original_codes(schema, given)

    def of_array(function: OwnStatistic) -> Callable[[Array], float]:
        return lambda values: function(schema.decode(values, given=codes))

    return {name: of_array(function) for name, function in statistics.items()}


class OwnStatistics:
    """Statistics of a user's: functions of rows (n, D) in original units that return a number.

    Args:
        functions: the functions by name.
        scales: how large a difference of each matters; one without is small, however large it is.
    """

    def __init__(self, functions: Mapping[str, Callable[[Array], float]], scales: Mapping[str, float] | None = None):
        self.functions = functions
        known = scales or {}
        self.statistics = [Statistic(name, known.get(name, np.inf)) for name in functions]

    def __call__(self, rows: Array) -> Array:
        """The statistics of each set.

        Args:
            rows: sets of rows (R, n, D).

        Returns:
            The values (R, S).
        """
        found = np.asarray([[float(function(each)) for function in self.functions.values()] for each in rows])
        if not (finite := np.isfinite(found).all(0)).all():
            name = [*self.functions][int(np.argmin(finite))]
            raise InputError(f"statistic {name} is no finite number of some rows that are drawn from the model")
        return found


def require_numbers(statistics: Mapping[str, Callable[[Array], float]], rows: Split) -> None:
    """`InputError` for a statistic that is no number of the rows.

    Args:
        statistics: functions of rows (n, D) in original units by name.
        rows: the rows.
    """
    for name, function in statistics.items():
        found: object = function(original_values(rows))
        if not isinstance(found, (int, float, np.number)) or not math.isfinite(found):
            raise InputError(f"statistic {name}: it has to return a finite number, got {found!r:.60}")
