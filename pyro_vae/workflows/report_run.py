"""The page about a run: everything in its folder, and the page written from it."""

from pathlib import Path

from pyro_vae.atomic_write import read_json, read_json_lines
from pyro_vae.errors import InputError
from pyro_vae.report.html_page import write_report
from pyro_vae.run_folder import CHECK, EVALUATION, METRICS, lock_run
from pyro_vae.workflows.read_run import Run


def report_run(
    folder: str | Path,
    *,
    split: str = "valid",
    num_rows: int = 500,
    num_samples: int = 200,
    out: str | Path | None = None,
    program: str | None = None,
) -> Path:
    """Write one HTML file about a run.

    Args:
        folder: the run's folder.
        split: the split whose rows are shown.
        num_rows: so many of them at most.
        num_samples: draws for log p(x) of each of them.
        out: the file to write, `report.html` in the run's folder by default.
        program: `FILE.py:FUNCTION` that builds the program, where it is the user's own.

    Returns:
        The path of the page.
    """
    path = None if out is None else Path(out)
    if path is not None and path.suffix not in (".html", ".htm"):
        raise InputError(f"{path}: a report is written as .html, not {path.suffix or 'a file without an ending'}")
    with lock_run(Path(folder), path):
        run = Run(Path(folder), program)
        evaluation = run.folder / EVALUATION
        is_finished = evaluation.exists()
        return write_report(
            run.folder,
            run.program(),
            run.data(),
            config=run.config,
            records=read_json(evaluation) if is_finished else {},
            check=read_json(run.folder / CHECK) if (run.folder / CHECK).exists() else None,
            history=read_json_lines(run.folder / METRICS, complete=is_finished),
            split=split,
            num_rows=num_rows,
            num_samples=num_samples,
            out=path,
        )
