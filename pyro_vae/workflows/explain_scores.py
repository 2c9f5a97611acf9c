"""The columns that make flagged rows improbable, beside their scores."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.diagnostics.anomaly_scores import Scores
from pyro_vae.diagnostics.strange_columns import explain_rows
from pyro_vae.distributed import process_group
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.report.explained_rows import NUM_COLUMNS, ExplainedRow, explained_rows
from pyro_vae.typing import Program

if TYPE_CHECKING:
    import pandas

MAX_EXPLAINED = 1000  # of a chunk's flagged rows, the least probable


def explain_flagged(
    program: Program,
    rows: Split,
    scores: Scores,
    preparation: Preparation,
    estimator: Estimator,
    places: Tensor | None = None,
) -> tuple["pandas.DataFrame", list[ExplainedRow]]:
    """What makes flagged rows improbable.

    Args:
        program: the program.
        rows: some rows (n).
        scores: their scores.
        preparation: how they were prepared.
        estimator: whose seed and memory are used.
        places: their indices (n,) in the training set, for programs that take them.

    Returns:
        A frame (n rows) with `column_1`, `nats_1`, … of the three strangest columns, empty for other rows; and the rows
        that were explained, the least probable first.
    """
    log_px = scores.found.log_px
    flagged = scores.anomaly.nonzero()[:, 0]
    index = flagged[log_px[flagged].argsort()][:MAX_EXPLAINED]
    explained: list[ExplainedRow] = []
    if len(index):
        part, own = rows.take(index), None if places is None else places[index]
        found = explain_rows(
            program,
            part,
            schema=preparation.schema,
            rows=own,
            memory_mib=estimator.memory_mib,
            seed=estimator.seed,
            group=process_group(),
        )
        explained = explained_rows(found, part, preparation, log_px[index])
    return _frame(len(rows), index, explained), explained


def _frame(num_rows: int, index: Tensor, explained: list[ExplainedRow]) -> "pandas.DataFrame":
    import pandas

    names: list[list[str | None]] = [[None] * num_rows for _ in range(NUM_COLUMNS)]
    nats = torch.full((NUM_COLUMNS, num_rows), torch.nan, dtype=torch.float64)
    for row, one in zip(index.tolist(), explained, strict=True):
        for place, each in enumerate(one.columns):
            names[place][row], nats[place, row] = each.column, each.nats
    columns: dict[str, object] = {}
    for place in range(NUM_COLUMNS):
        columns[f"column_{place + 1}"] = pandas.array(names[place], dtype="string")
        columns[f"nats_{place + 1}"] = nats[place].numpy()
    return pandas.DataFrame(columns)
