"""The page about a run: everything in its folder, and the page written from it."""

import json
from pathlib import Path

from pyro_vae.atomic_write import read_json_lines
from pyro_vae.errors import InputError
from pyro_vae.report.html_page import write_report
from pyro_vae.run_folder import EVALUATION, METRICS
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
    """Write one HTML file about a run, `report.html` in its folder by default; its path.

    Rows of `split` are shown, `num_rows` at most, each with log p(x) from `num_samples` draws.
    """
    path = None if out is None else Path(out)
    if path is not None and path.suffix not in (".html", ".htm"):
        raise InputError(f"{path}: a report is written as .html, not {path.suffix or 'a file without an ending'}")
    run = Run(Path(folder), program)
    evaluation = run.folder / EVALUATION
    return write_report(
        run.folder,
        run.program(),
        run.data(),
        config=run.config,
        records=json.loads(evaluation.read_text()) if evaluation.exists() else {},
        history=read_json_lines(run.folder / METRICS),
        split=split,
        num_rows=num_rows,
        num_samples=num_samples,
        out=path,
    )
