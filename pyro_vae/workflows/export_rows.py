"""Rows drawn from a run's model, or passed through its guide, written to a file chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.data.columns.conditions import parse_conditions
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.inference.svi.progress import Style
from pyro_vae.json_records import Record
from pyro_vae.resource_limits import require_disk
from pyro_vae.typing import Program
from pyro_vae.workflows.read_run import CHUNK_ROWS, Run
from pyro_vae.workflows.row_frames import code_frame, describe_rows, latent_frame, reconstruction_frame
from pyro_vae.workflows.row_progress import RowProgress
from pyro_vae.workflows.row_writers import ANNOTATED, WRITERS, open_row_writer, require_not_read, require_writer

if TYPE_CHECKING:
    import pandas

VERBS = {"latents": "encoded", "reconstructions": "reconstructed"}
BYTES_PER_VALUE = 4  # at least, in a file of rows


@dataclass(frozen=True)
class ExportedRows(Record):
    """A file of rows that was written."""

    run: str
    path: str
    num_rows: int
    num_columns: int


def sample_run(
    folder: str | Path,
    num: int = 64,
    *,
    given: Sequence[str] = (),
    seed: int = 0,
    out: str | Path | None = None,
    program: str | None = None,
    progress: Style = "none",
) -> ExportedRows:
    """Draw rows from the model, z from the prior and x from the likelihood, in the data's units.

    Args:
        folder: the run's folder.
        num: how many rows.
        given: the value of each condition, as in `("segment=Retail", "age=40")`; by default rows have the conditions of
            training rows.
        seed: seed of the draws.
        out: a `.csv`, `.parquet` or `.npy` file; by default one in the run's folder, `.csv` where columns have names.
        program: `FILE.py:FUNCTION` of a program of one's own.
        progress: how progress is shown: `auto`, `bar`, `lines` or `none`.

    Returns:
        The file, with its number of rows and columns.
    """
    run = Run(Path(folder), program)
    path = run.folder / f"samples{_ending(run)}" if out is None else Path(out)
    require_writer(path)
    require_not_read(path, run.source_files)
    width = run.about["num_features"]
    require_disk(num * width * BYTES_PER_VALUE, path, f"{num:,} rows of {width}", "draw fewer (--num)")
    run.program()  # made before the seed: initial weights are drawn too
    conditions = parse_conditions(given, run.schema)
    apart = [] if run.schema.modelled else [column.name for column in run.schema.conditions]

    def parts() -> Iterator[tuple["pandas.DataFrame", "pandas.DataFrame"]]:
        with seeded(seed):
            for start in range(0, num, CHUNK_ROWS):
                rows = run.sample(min(CHUNK_ROWS, num - start), given=conditions)
                yield rows[apart], rows.drop(columns=apart)

    return _write(run, path, parts(), RowProgress("drawn", num, progress))


def reconstruct_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
    progress: Style = "none",
) -> ExportedRows:
    """Write E[x | z] at each row's posterior mean, in the data's units.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.csv`, `.parquet` or `.npy` file; by default one in the run's folder, `.csv` where columns have names.
        program: `FILE.py:FUNCTION` of a program of one's own.
        progress: how progress is shown: `auto`, `bar`, `lines` or `none`.

    Returns:
        The file, with its number of rows and columns.
    """
    run = Run(Path(folder), program)

    def reconstruct_part(own: Program, part: Split) -> "pandas.DataFrame":
        return reconstruction_frame(own, part, run.prepare)

    return _export(run, data, split, out, ("reconstructions", _ending(run)), reconstruct_part, progress)


def encode_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
    progress: Style = "none",
) -> ExportedRows:
    """Write each row's posterior mean of z, with its index and label, and the labels that the program predicts.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.csv`, `.parquet` or `.npy` file, by default one in the run's folder; or a `.h5ad`, a copy of `data`
            with the means alone in `obsm["X_vae"]`.
        program: `FILE.py:FUNCTION` of a program of one's own.
        progress: how progress is shown: `auto`, `bar`, `lines` or `none`.

    Returns:
        The file, with its number of rows and columns.
    """
    run, endings = Run(Path(folder), program), (*WRITERS, ANNOTATED)

    def encode_part(own: Program, part: Split) -> "pandas.DataFrame":
        is_annotated = out is not None and Path(out).suffix == ANNOTATED
        return latent_frame(own, part) if is_annotated else code_frame(own, part, run.prepare)

    return _export(run, data, split, out, ("latents", ".csv"), encode_part, progress, endings)


def _ending(run: Run) -> str:
    """The format of rows that have the columns of the data."""
    return ".csv" if run.schema.modelled else ".npy"


def _export(
    run: Run,
    data: str | None,
    split: str,
    out: str | Path | None,
    name: tuple[str, str],
    function: Callable[[Program, Split], "pandas.DataFrame"],
    progress: Style,
    endings: tuple[str, ...] = tuple(WRITERS),
) -> ExportedRows:
    """Write what a function makes of the run's program and each chunk of rows; `name` is a file's stem and ending."""
    stem, ending = name
    path = run.folder / f"{stem}{'' if data else f'-{split}'}{ending}" if out is None else Path(out)
    source = None if data is None else Path(data)
    require_writer(path, endings, source)
    require_not_read(path, [source, *run.source_files])
    rows, program = run.rows(data, split), run.program()
    chunks = rows.chunks(chunk_rows(rows.shape[1], CHUNK_ROWS))
    parts = ((describe_rows(part, run.prepare), function(program, part)) for part in chunks)
    return _write(run, path, parts, RowProgress(VERBS[stem], len(rows), progress), endings, source)


def _write(
    run: Run,
    path: Path,
    parts: Iterable[tuple["pandas.DataFrame", "pandas.DataFrame"]],
    shown: RowProgress,
    endings: tuple[str, ...] = tuple(WRITERS),
    source: Path | None = None,
) -> ExportedRows:
    with open_row_writer(path, shown.total, endings, source, "obsm") as writer, shown:
        for about, values in parts:
            writer.write(about, values)
            shown.advance(len(values))
    return ExportedRows(str(run.folder), str(path), shown.total, values.shape[1])
