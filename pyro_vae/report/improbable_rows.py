"""The least probable rows of a page, with their values and the columns that make them improbable."""

from dataclasses import dataclass

from torch import Tensor

from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns.choose_columns import column_slices
from pyro_vae.diagnostics.strange_columns import Explanations, explain_rows
from pyro_vae.errors import InputError
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.models.exact_density import rows_with_nan
from pyro_vae.report.explained_rows import NUM_COLUMNS, minus, plain_value, row_names, value_in_words
from pyro_vae.typing import Program

NUM_ROWS, MAX_SHOWN = 10, 12  # rows, and columns of them, that are shown


@dataclass(frozen=True)
class Cell:
    """A value in words; where it is improbable given the row's others, the nats below what is expected."""

    text: str
    nats: str = ""


@dataclass(frozen=True)
class ImprobableRow:
    """A row: its id or number, its log p(x), the share of the page's rows that are less probable, and its values."""

    name: str
    log_px: str
    percentile: str
    cells: list[Cell]


@dataclass(frozen=True)
class ImprobableRows:
    """The least probable rows, the columns that are shown of `num_columns`, and why none is marked, where none can.

    `are_numbers` says which columns hold numbers, and not text or dates.
    """

    columns: list[str]
    are_numbers: list[bool]
    num_columns: int
    rows: list[ImprobableRow]
    unexplained: str = ""


def improbable_rows(
    program: Program, data: Dataset, rows: Split, found: LogPx | None, seed: int = 0
) -> ImprobableRows | None:
    """The least probable rows of a table; None for pictures, and where no row has a number.

    Args:
        program: the program.
        data: its data set.
        rows: the rows of the page (N).
        found: their log p(x).
        seed: of the draws.

    Returns:
        At most ten rows, the least probable first.
    """
    if found is None or rows.image_shape is not None or not found.has_number.any():
        return None
    known = found.has_number.nonzero()[:, 0]
    index = known[found.log_px[known].argsort()][:NUM_ROWS]
    part, unexplained = rows.take(index), ""
    explained: Explanations | None = None
    try:
        places = index if rows.name == "train" else None
        explained = explain_rows(program, part, schema=data.schema, rows=places, seed=seed)
    except InputError as error:
        unexplained = str(error)
    names = list(column_slices(data.schema, rows.shape[1]))
    marked = [{} if explained is None else _marks(explained, row) for row in range(len(index))]
    shown = _shown(names, marked)
    values = data.preparation.to_frame(rows_with_nan(part, slice(None)))
    cells = [[_cell(values[name].iloc[row], marks.get(name)) for name in shown] for row, marks in enumerate(marked)]
    are_numbers = [values[name].dtype.kind in "fiu" for name in shown]
    named = _named(part, found.log_px, known, index, cells)
    return ImprobableRows(shown, are_numbers, len(names), named, unexplained)


def _marks(explained: Explanations, row: int) -> dict[str, float]:
    """The nats of a row's strange columns by name."""
    return {each.name: each.nats for each in explained.strangest(row, NUM_COLUMNS)}


def _shown(names: list[str], marked: list[dict[str, float]]) -> list[str]:
    """The columns that are shown, in their own order: all, or of many the strangest."""
    lowest = {name: min([marks.get(name, 0.0) for marks in marked]) for name in names}
    chosen = set(sorted(names, key=lowest.__getitem__)[:MAX_SHOWN])
    return [name for name in names if name in chosen]


def _cell(value: object, nats: float | None) -> Cell:
    return Cell(value_in_words(plain_value(value)), "" if nats is None else minus(nats))


def _named(part: Split, log_px: Tensor, known: Tensor, index: Tensor, cells: list[list[Cell]]) -> list[ImprobableRow]:
    lower = (log_px[known] < log_px[index][:, None]).double().mean(1) * 100
    triples = zip(row_names(part), log_px[index].tolist(), lower.tolist(), cells, strict=True)
    return [ImprobableRow(name, minus(number), f"{share:.1f}", own) for name, number, share, own in triples]
