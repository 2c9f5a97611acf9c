"""A file's missing cells filled by a run's program, and written."""

import time
from dataclasses import dataclass
from pathlib import Path

from pyro_vae.data.formula_quotes import quote_formula
from pyro_vae.json_records import Record
from pyro_vae.workflows.fill_rows import Imputing
from pyro_vae.workflows.read_run import Run
from pyro_vae.workflows.row_writers import open_row_writer, require_not_read, require_writer
from pyro_vae.workflows.source_frames import IMPUTATION, INDEX


@dataclass(frozen=True)
class ImputedRows(Record):
    """A file of rows with their missing cells filled.

    `num_rows` are those of the file, `num_imputations` times as many as came in, of which `num_incomplete` had a
    missing cell; `num_filled` cells were filled in each imputation. `bad_rows` are the numbers of rows whose weights
    are bad, None where there is none; `zero_rows` of those whose observed values have density zero, which stay as they
    are.
    """

    run: str
    path: str
    num_rows: int
    num_columns: int
    num_incomplete: int
    num_filled: int
    num_imputations: int
    bootstrap: int
    method: str
    num_samples: int
    seconds: float
    bad_rows: list[int] | None = None
    zero_rows: list[int] | None = None


def impute_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    method: str = "draws",
    num_imputations: int = 1,
    num_samples: int = 1000,
    seed: int = 0,
    bootstrap: int = 0,
    program: str | None = None,
) -> tuple[ImputedRows, list[str]]:
    """Write rows with their missing cells filled: observed cells as they were, and of a text table as they are written.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.csv`, `.parquet` or `.npy` file, by default `imputed.csv` in the run's folder.
        method: draws, mean or mode, as in `impute_rows`.
        num_imputations: how often each missing cell is drawn; the file then has a column `imputation`, from 1.
        num_samples: weighted points of each row's latents.
        seed: seed of the draws.
        bootstrap: how many programs draw, each fitted to training rows drawn with replacement; 0 for the run's own.
        program: `FILE.py:FUNCTION` of a program of one's own.

    Returns:
        What was written, and what is wrong with some rows, in words.
    """
    run, began = Run(Path(folder), program), time.perf_counter()
    path = run.folder / "imputed.csv" if out is None else Path(out)
    require_writer(path)
    require_not_read(path, [None if data is None else Path(data), *run.source_files])
    how = Imputing(method, num_imputations, num_samples, seed, bootstrap)
    filled = run.fill(data, split, how, as_written=path.suffix == ".csv")
    frame, ids = filled.frame, [column.name for column in run.schema.ids]
    about = [name for name in frame.columns if name in (*ids, INDEX, IMPUTATION)]
    values = frame.drop(columns=about)
    levels = {text: quote_formula(text) for column in run.schema.columns for text in map(str, column.levels)}
    if path.suffix == ".csv" and (quoted := {text: new for text, new in levels.items() if text != new}):
        values = values.replace(quoted)  # a stranger's run may have filled a cell with one
    with open_row_writer(path, len(frame), as_read=data is not None) as writer:
        writer.write(frame[about], values)
    record = ImputedRows(
        run=str(run.folder),
        path=str(path),
        num_rows=len(frame),
        num_columns=len(values.columns),
        num_incomplete=filled.num_incomplete,
        num_filled=filled.num_filled,
        num_imputations=num_imputations,
        bootstrap=bootstrap,
        method=method,
        num_samples=num_samples,
        seconds=time.perf_counter() - began,
        bad_rows=list(filled.bad_rows) or None,
        zero_rows=list(filled.zero_rows) or None,
    )
    return record, filled.warnings()
