"""One door for data frames: those of pandas, polars, pyarrow and others that narwhals knows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_columns

if TYPE_CHECKING:
    import pandas


@runtime_checkable
class DataFrame(Protocol):
    """What a data frame of any library has: columns with names, found by them."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def columns(self) -> Any: ...

    def __getitem__(self, name: Any, /) -> Any: ...


@dataclass(frozen=True)
class Frame:
    """A data frame that was read, and what was decided in reading it.

    Attributes:
        values: the frame.
        source: the file it comes from, or what it is.
        notes: what was decided that is not plain to see.
        has_names: whether its columns have names of their own.
    """

    values: "pandas.DataFrame"
    source: Path
    notes: tuple[str, ...] = field(default=())
    has_names: bool = True

    def __post_init__(self) -> None:
        """Names are text; `InputError` for more columns than can be looked at."""
        require_columns(len(self.values.columns), self.source)
        names = [str(name) for name in self.values.columns]
        object.__setattr__(self, "values", self.values.set_axis(names, axis=1))


def without_row_numbers(frame: Frame) -> Frame:
    """The frame without a first column that is another frame's index, written without a name, in any order."""
    values = frame.values
    if not frame.has_names or not len(values.columns):
        return frame
    name = values.columns[0]
    if not re.fullmatch(r"|Unnamed: \d+|__index_level_\d+__", name) or values.dtypes.iloc[0].kind not in "iu":
        return frame
    if not values[name].is_unique:
        return frame
    note = "the first column, without a name, left out: a data frame's row numbers"
    return replace(frame, values=values.iloc[:, 1:], notes=(*frame.notes, note))


def is_frame(data: object) -> bool:
    """Whether rows in memory are a data frame of a library that narwhals knows."""
    import narwhals.stable.v2 as nw

    return nw.dependencies.is_into_dataframe(data) or type(data).__name__ == "LazyFrame"


def read_frame(data: object, source: Path) -> Frame:
    """A data frame of any library as one of pandas.

    Args:
        data: the frame.
        source: what it is, for messages.

    Returns:
        The frame; `InputError` for one without rows in memory, or with two columns of one name.
    """
    import pandas

    if isinstance(data, pandas.DataFrame):
        has_names = not all(isinstance(name, int) for name in data.columns)
        return without_row_numbers(Frame(data.reset_index(drop=True), source, has_names=has_names))
    import narwhals.stable.v2 as nw

    require_eager(data, source)
    frame: nw.DataFrame[Any] = nw.from_native(cast(Any, data), eager_only=True)
    columns: Mapping[str, Any] = {name: _as_pandas(frame[name]) for name in frame.columns}
    return without_row_numbers(Frame(pandas.DataFrame(columns), source))


def require_eager(data: object, source: Path) -> None:
    """`InputError` for a lazy frame.

    Args:
        data: a frame of any library.
        source: what it is, for the message.
    """
    if type(data).__name__ == "LazyFrame":
        raise InputError(f"{source}: a lazy frame has no rows yet; collect it first (frame.collect())")


def _as_pandas(series: Any) -> Any:
    """A column of narwhals as one of pandas: with levels where it has them, whole numbers and gaps kept."""
    import narwhals.stable.v2 as nw
    import pandas

    kind = series.dtype
    if isinstance(kind, nw.Enum | nw.Categorical):
        levels = series.cat.get_categories().to_list()
        is_ordered = isinstance(kind, nw.Enum)
        used = levels if is_ordered else [level for level in levels if level in set(series.to_list())]
        return pandas.Series(pandas.Categorical(series.to_list(), used))
    if isinstance(
        kind, nw.List | nw.Struct | nw.Array | nw.String | nw.Object | nw.Binary | nw.Decimal | nw.Date | nw.Time
    ):
        return pandas.Series(series.to_list(), dtype=object)
    if series.null_count() and (kind.is_integer() or isinstance(kind, nw.Boolean)):
        return pandas.Series(series.to_list(), dtype="boolean" if isinstance(kind, nw.Boolean) else str(kind))
    if isinstance(kind, nw.Datetime):
        return (
            pandas.Series(pandas.DatetimeIndex(series.to_list()))
            if kind.time_zone
            else pandas.Series(series.to_numpy())
        )
    return pandas.Series(np.array(series.to_numpy()))


def frame_like(given: object, frame: "pandas.DataFrame") -> Any:
    """A frame of pandas as one of the library that another is of.

    Args:
        given: the other: a frame of any library; what is no frame gives pandas.
        frame: the frame.

    Returns:
        The frame.
    """
    import pandas

    if isinstance(given, pandas.DataFrame) or not is_frame(given):
        return frame
    import narwhals.stable.v2 as nw

    library = nw.get_native_namespace(cast(Any, given))
    columns = {str(name): [None if _is_na(cell) else cell for cell in frame[name].tolist()] for name in frame.columns}
    return nw.from_dict(columns, backend=library).to_native()


def _is_na(cell: object) -> bool:
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and cell != cell)
